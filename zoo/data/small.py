"""Sets of small images, decoded once and held as whole bytes."""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.io import ImageReadMode, decode_image

from zoo.data.archive import StrictHeader
from zoo.data.config import DataConfig, Split
from zoo.data.sets import ImageSet
from zoo.progress import watched

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def digits(split: Split) -> ImageSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise FileNotFoundError(
            "data: digits come with scikit-learn; pip install short-bp-zoo[train]"
        ) from None
    found = load_digits()
    images = torch.from_numpy(found.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(found.target)
    # The set has no split of its own; a fixed fifth, drawn once, is the test split.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = order[360:] if split == "train" else order[:360]
    return ImageSet(images[chosen], labels[chosen], tuple(str(name) for name in found.target_names))


TORCHVISION = {
    "cifar10": (datasets.CIFAR10, "cifar-10-batches-py/"),
    "cifar100": (datasets.CIFAR100, "cifar-100-python/"),
    "fashion_mnist": (datasets.FashionMNIST, "FashionMNIST/raw/*-ubyte, unpacked"),
}


def torchvision_set(config: DataConfig, split: Split) -> ImageSet:
    kind, layout = TORCHVISION[config.name]
    try:
        found = kind(config.root, train=split == "train", download=config.download)
    except RuntimeError as error:
        if config.download:
            cause = " ".join(str(error).split())
            raise FileNotFoundError(
                f"data.root: expected to fetch {config.name} into {config.root!r}, got: {cause}"
            ) from None
        raise FileNotFoundError(
            f"data.root: expected {layout} in {config.root!r}, found none; "
            "set data.download: true, or unpack the original archive there"
        ) from None
    images = torch.as_tensor(found.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return ImageSet(images.contiguous(), torch.as_tensor(found.targets), tuple(found.classes))


def image_folder(config: DataConfig, split: Split) -> ImageSet:
    root = Path(config.root)
    if not root.exists():
        raise FileNotFoundError(
            f"data.root: expected a folder or a tar archive with {split}/CLASS/IMAGE, "
            f"found nothing at {str(root)!r}"
        )
    files = _folder_files(root, split) if root.is_dir() else _tar_files(root, split)
    found: list[tuple[str, str, Tensor]] = []
    for name, file, content in watched(files, f"decoding {split} images"):
        place = f"{split}/{name}/{file}"
        try:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            image = decode_image(data, ImageReadMode.RGB)
        except (RuntimeError, ValueError) as error:  # the latter is torch's of an empty file
            raise ValueError(f"data.root: expected an image, got {place}: {error}") from None
        if image.dtype != torch.uint8:
            raise ValueError(f"data.root: expected 8 bits a channel, got {image.dtype} in {place}")
        found.append((name, file, image))
    if not found:
        raise ValueError(
            f"data.root: expected {split}/CLASS/IMAGE in {str(root)!r}, found no image"
        )
    # One order, however it is packed: what is held out follows from it.
    found.sort(key=itemgetter(0, 1))
    names, images = ([entry[i] for entry in found] for i in (0, 2))
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) != 1:
        raise ValueError(
            f"data.root: expected images of one size in {str(root)!r}, {split}/, got "
            f"{sorted(sizes)[:3]}"
        )
    classes = tuple(sorted(set(names)))
    index = {name: i for i, name in enumerate(classes)}
    return ImageSet(torch.stack(images), torch.tensor([index[name] for name in names]), classes)


def _folder_files(root: Path, split: Split) -> Iterator[tuple[str, str, bytes]]:
    """Class, name and content of each image."""
    for path in (root / split).glob("*/*"):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            yield path.parent.name, path.name, path.read_bytes()


def _tar_files(root: Path, split: Split) -> Iterator[tuple[str, str, bytes]]:
    try:
        with tarfile.open(root, "r|*", tarinfo=StrictHeader) as archive:
            for member in archive:
                path = Path(member.name)
                *_, folder, name, _ = ("", "", "", *path.parts)
                if folder != split or path.suffix.lower() not in IMAGE_SUFFIXES:
                    continue
                if member.islnk() or member.issym():
                    raise ValueError(
                        f"data.root: expected images themselves, got a link, {member.name} in "
                        f"{str(root)!r}; pack with tar --dereference --hard-dereference"
                    )
                if member.isfile():
                    yield name, path.name, archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"data.root: expected a tar archive, got {str(root)!r}: {error}") from None
