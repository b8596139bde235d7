"""Sets of small images, decoded once and held as whole bytes."""

import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms import v2

from zoo.console import watched
from zoo.data.archive import StrictHeader
from zoo.data.config import DataConfig, Split
from zoo.data.sets import ImageSet
from zoo.data.suffixes import check_classes, is_image, refuse_dangling
from zoo.inference.image import decode

SPLITS = get_args(Split)
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def digits(split: Split) -> ImageSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise FileNotFoundError(
            "data: expected scikit-learn, which digits come with; pip install scikit-learn"
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
    except (RuntimeError, OSError) as error:  # the latter where there is no network
        if config.download:
            cause = " ".join(str(error).split())
            raise FileNotFoundError(
                f"data.root: expected to fetch {config.name} into {config.root!r}, got: {cause}"
            ) from None
        raise FileNotFoundError(
            f"data.root: expected {layout} in {config.root!r}, found none, or another one; "
            "set data.download: true (--data.download), or unpack the original archive there"
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
    folders: set[str] = set()
    read = _folder_files if root.is_dir() else _tar_files
    files = read(root, split, folders)
    found: list[tuple[str, str, Tensor]] = []
    for name, file, content in watched(files, f"decoding {split} images"):
        place = f"{split}/{name}/{file}"
        image = decode(io.BytesIO(content), "data.root", place).convert("RGB")
        image = v2.functional.pil_to_tensor(image)
        if found and image.shape != found[0][2].shape:
            raise ValueError(
                f"data.root: expected images of one size in {str(root)!r}, got {[*image.shape]} in "
                f"{place} and {[*found[0][2].shape]} before; data.name: imagenet takes any size"
            )
        found.append((name, file, image))
    if not found:
        raise ValueError(
            f"data.root: expected {split}/CLASS/IMAGE in {str(root)!r}, found no image"
        )
    # One order, however it is packed: what is held out follows from it.
    found.sort(key=itemgetter(0, 1))
    for (*one, _), (*other, _) in pairwise(found):
        if one == other:
            raise ValueError(
                f"data.root: expected each image once, got {split}/{'/'.join(one)} twice"
            )
    names, images = ([entry[i] for entry in found] for i in (0, 2))
    classes = tuple(sorted(set(names)))
    check_classes(folders, classes, f"{split}/CLASS/IMAGE in {str(root)!r}")
    index = {name: i for i, name in enumerate(classes)}
    return ImageSet(torch.stack(images), torch.tensor([index[name] for name in names]), classes)


def _folder_files(root: Path, split: Split, folders: set[str]) -> Iterator[tuple[str, str, bytes]]:
    """Class, name and content of each image; names of the folders of classes go into folders."""

    def refuse(error: OSError) -> None:
        raise error  # a folder that may not be read would be left out

    if not (root / split).is_dir():
        return
    for place, inside, files in os.walk(root / split, onerror=refuse, followlinks=True):
        if Path(place) == root / split:
            folders.update(inside)
        for path in (Path(place, file) for file in files):
            if not is_image(path, IMAGE_SUFFIXES):
                refuse_dangling(path)
                continue
            if len((below := path.relative_to(root)).parts) != 3:
                raise ValueError(f"data.root: expected {split}/CLASS/IMAGE, got {below}")
            yield path.parent.name, path.name, path.read_bytes()


def _tar_files(root: Path, split: Split, folders: set[str]) -> Iterator[tuple[str, str, bytes]]:
    """As _folder_files, of a split at any depth."""
    try:
        with tarfile.open(root, "r|*", tarinfo=StrictHeader) as archive:
            for member in archive:
                path = Path(member.name)
                *_, folder, name, _ = ("", "", "", *path.parts)
                if member.isdir() and name == split:
                    folders.add(path.name)
                nearest = next((p for p in reversed(path.parts[:-1]) if p in SPLITS), None)
                if folder == split:
                    folders.add(name)
                elif folder in SPLITS or nearest != split:
                    continue
                shows = is_image(path, IMAGE_SUFFIXES)
                if member.issym() or (shows and member.islnk()):  # it may be a whole class
                    raise ValueError(
                        f"data.root: expected images themselves, got a link, {member.name} in "
                        f"{str(root)!r}; pack with tar --dereference --hard-dereference"
                    )
                if not shows:
                    continue
                if folder != split:
                    raise ValueError(f"data.root: expected {split}/CLASS/IMAGE, got {member.name}")
                if member.isfile():
                    yield name, path.name, archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"data.root: expected a tar archive, got {str(root)!r}: {error}") from None
