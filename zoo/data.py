"""Sets of small images, decoded once and held as whole bytes.

Shapes: N images, C channels, H height, W width.
"""

import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torchvision import datasets
from torchvision.io import ImageReadMode, decode_image

DatasetName = Literal["digits", "cifar10", "cifar100", "fashion_mnist", "image_folder"]
Split = Literal["train", "test"]
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "digits": ((1, 8, 8), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "fashion_mnist": ((1, 28, 28), 10),
    "image_folder": ((3, 32, 32), 10),
}
"""Shape of an image and number of classes; of image_folder just what is usual here."""
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    name: DatasetName = "cifar10"
    """Which set. image_folder reads train/CLASS/*.jpg and test/CLASS/*.jpg."""
    root: str = "data"
    """Where it lies: a folder, or for image_folder also a .tar, .tar.gz or .tar.xz."""
    download: bool = False
    """Let torchvision fetch cifar10, cifar100 or fashion_mnist into root."""
    mean: tuple[int, ...] = (125, 123, 114)
    """Mean of each channel, in pixel values; whole, so that a normalised pixel is still a pixel."""
    std: tuple[int, ...] = (63, 62, 67)
    """Deviation of each channel, in pixel values."""
    holdout: int = 0
    """Training images set aside to measure each epoch on, so that test images choose nothing."""
    limit: int = 0
    """Training images to use of those that are not set aside, drawn once; 0 uses all."""
    title: str = ""
    """What cards call the set, where its name says too little: "CIFAR-10 (JPEG)"."""

    def __post_init__(self):
        for key in ("holdout", "limit"):
            if getattr(self, key) < 0:
                raise ValueError(f"data.{key}: expected a number >= 0, got {getattr(self, key)}")
        if min(self.std, default=1) <= 0:
            raise ValueError(f"data.std: expected numbers > 0, got {self.std}")

    @property
    def tag(self) -> str:
        """The set in a network's name, arch.tag."""
        return re.sub(r"\W+", "_", self.title or self.name).strip("_").lower()


@dataclass(frozen=True)
class ImageSet:
    """Images [N, C, H, W] and labels [N], as uint8 and int64, with the names of the classes."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "ImageSet":
        return ImageSet(self.images.to(device), self.labels.to(device), self.classes)

    def subset(self, indices: Tensor) -> "ImageSet":
        return ImageSet(self.images[indices], self.labels[indices], self.classes)


def normalise(images: Tensor, mean: Iterable[int], std: Iterable[int]) -> Tensor:
    """uint8 pixels [N, C, H, W] -> floats (pixel - mean) / std; mean and std in pixel values."""
    shape = (1, -1, 1, 1)
    mean = torch.tensor(tuple(mean), dtype=torch.float32, device=images.device).view(shape)
    std = torch.tensor(tuple(std), dtype=torch.float32, device=images.device).view(shape)
    return (images.float() - mean) / std


def load_images(config: DataConfig, split: Split) -> ImageSet:
    """Decode one split of a set.

    Raises:
        FileNotFoundError: The set is not at config.root; the message says what to do.
        ValueError: Images of several sizes, no images, or mean and std for other channels.
    """
    if config.name == "digits":
        found = _digits(split)
    elif config.name == "image_folder":
        found = _image_folder(Path(config.root), split)
    else:
        found = _torchvision(config, split)
    channels = found.images.shape[1]
    if not len(config.mean) == len(config.std) == channels:
        raise ValueError(
            f"data.mean and data.std: expected {channels} values each, one per channel of "
            f"{config.name}, got {config.mean} and {config.std}"
        )
    return found


def _digits(split: Split) -> ImageSet:
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


def _torchvision(config: DataConfig, split: Split) -> ImageSet:
    kind, layout = TORCHVISION[config.name]
    try:
        found = kind(config.root, train=split == "train", download=config.download)
    except RuntimeError:
        raise FileNotFoundError(
            f"data.root: expected {layout} in {config.root!r}, found none; "
            "set data.download: true, or unpack the original archive there"
        ) from None
    images = torch.as_tensor(found.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return ImageSet(images.contiguous(), torch.as_tensor(found.targets), tuple(found.classes))


def _image_folder(root: Path, split: Split) -> ImageSet:
    if not root.exists():
        raise FileNotFoundError(
            f"data.root: expected a folder or a tar archive with {split}/CLASS/IMAGE, "
            f"found nothing at {str(root)!r}"
        )
    files = _folder_files(root, split) if root.is_dir() else _tar_files(root, split)
    images: list[Tensor] = []
    names: list[str] = []
    console = Console(stderr=True)
    for name, content in track(
        files,
        f"decoding {split} images",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ):
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        try:
            images.append(decode_image(data, ImageReadMode.RGB))
        except RuntimeError as error:
            place = f"image {len(images)} of {split}/, class {name}"
            raise ValueError(f"data.root: expected an image, got {place}: {error}") from None
        names.append(name)
    if not images:
        raise ValueError(
            f"data.root: expected {split}/CLASS/IMAGE in {str(root)!r}, found no image"
        )
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) != 1:
        raise ValueError(
            f"data.root: expected images of one size in {str(root)!r}, {split}/, got "
            f"{sorted(sizes)[:3]}"
        )
    classes = tuple(sorted(set(names)))
    index = {name: i for i, name in enumerate(classes)}
    return ImageSet(torch.stack(images), torch.tensor([index[name] for name in names]), classes)


def _folder_files(root: Path, split: Split) -> Iterator[tuple[str, bytes]]:
    for path in sorted((root / split).glob("*/*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            yield path.parent.name, path.read_bytes()


def _tar_files(root: Path, split: Split) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(root, "r|*") as archive:
            for member in archive:
                path = Path(member.name)
                if member.isfile() and path.suffix.lower() in IMAGE_SUFFIXES:
                    *_, folder, name, _ = ("", "", *path.parts)
                    if folder == split:
                        yield name, archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"data.root: expected a tar archive, got {str(root)!r}: {error}") from None
