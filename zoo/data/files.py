"""Images in CLASS/IMAGE folders: decoded once into memory, or read during training (ImageNet).

Shapes: B images of a batch, C channels, H height, W width.
"""

import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import torch
from timm.utils.misc import natural_key
from torch import Tensor
from torchvision.datasets.folder import make_dataset
from torchvision.transforms import v2

from zoo.console import watched
from zoo.data.config import CENTRE, DataConfig, Split
from zoo.data.sets import ImageSet
from zoo.inference.image import decode, middle

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
BICUBIC = v2.InterpolationMode.BICUBIC


@dataclass(frozen=True)
class ImageFiles:
    """Images that stay in their files; the counterpart of ImageSet."""

    paths: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]
    size: int

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, [C, H, W]."""
        return (3, self.size, self.size)

    def subset(self, indices: Tensor) -> "ImageFiles":
        """The images at int64 indices [N]."""
        paths = tuple(self.paths[index] for index in indices.tolist())
        return ImageFiles(paths, self.labels[indices], self.classes, self.size)

    def take(
        self, indices: Sequence[int], seed: Callable[[int], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read images and their labels.

        Args:
            indices: B of these images.
            seed: Seeds torch for an index before its random crop; without it the middle is taken.

        Returns:
            uint8 [B, 3, size, size] and int64 [B].

        Raises:
            ValueError, OSError: A file cannot be read; the message names it.
        """
        images = []
        for index in indices:
            with open(self.paths[index], "rb") as file:
                image = decode(file, "data.root", self.paths[index]).convert("RGB")
            if seed is None:
                image = middle(image, self.size, self.size, CENTRE, BICUBIC)
            else:
                seed(index)
                image = v2.RandomResizedCrop(self.size, interpolation=BICUBIC)(image)
            images.append(v2.functional.pil_to_tensor(image))
        return torch.stack(images), self.labels[list(indices)]


def image_files(config: DataConfig, split: Split) -> ImageFiles:
    """A split in ImageNet's layout: train/CLASS/IMAGE and val/CLASS/IMAGE."""
    place = Path(config.root) / ("train" if split == "train" else "val")
    # timm's order of classes: class2 comes before class10.
    samples, classes = list_images(place, key=lambda name: (natural_key(name), name))
    paths, labels = zip(*samples, strict=True)
    return ImageFiles(paths, torch.tensor(labels), classes, config.size)


def image_folder(config: DataConfig, split: Split) -> ImageSet:
    """A split of small images of one size, from a folder or a tar archive, decoded into memory."""
    root = Path(config.root)
    read = _read_archive if root.is_file() else _read_folder
    found: list[tuple[str, str, Tensor]] = []
    for name, file, content in watched(read(root, split), f"decoding {split} images"):
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
        raise FileNotFoundError(f"data.root: {root} has no images in {split}/CLASS/")
    # An archive has no order of its own, and which images are held out follows from the order.
    names, _, images = zip(*sorted(found, key=lambda entry: entry[:2]), strict=True)
    classes = tuple(sorted(set(names)))
    labels = torch.tensor([classes.index(name) for name in names])
    return ImageSet(torch.stack(images), labels, classes)


def list_images(
    place: Path, key: Callable[[str], Any] | None = None
) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """Paths and labels of the images in place/CLASS/, by class and file name; and the classes.

    Args:
        key: Sorts the classes.

    Raises:
        FileNotFoundError: There is no such folder, or a class has no images.
    """
    folders = [path.name for path in place.iterdir() if path.is_dir()] if place.is_dir() else []
    classes = sorted((name for name in folders if not name.startswith(".")), key=key)
    if not classes:
        raise FileNotFoundError(f"data.root: {place} has no folders of images, one for each class")
    numbers = {name: label for label, name in enumerate(classes)}
    samples = make_dataset(str(place), numbers, SUFFIXES)
    return sorted(samples, key=lambda s: (s[1], PurePath(s[0]).name)), tuple(classes)


def _read_folder(root: Path, split: Split) -> Iterator[tuple[str, str, bytes]]:
    """Class, file name and content of each image."""
    samples, classes = list_images(root / split)
    for path, label in samples:
        yield classes[label], PurePath(path).name, Path(path).read_bytes()


def _read_archive(root: Path, split: Split) -> Iterator[tuple[str, str, bytes]]:
    """As _read_folder, of a tar archive with split/CLASS/IMAGE at any depth."""
    try:
        with tarfile.open(root, "r|*") as archive:
            for member in archive:
                folder, name, file = ("", "", "", *PurePath(member.name).parts)[-3:]
                wanted = folder == split and file.lower().endswith(SUFFIXES)
                if wanted and member.isfile():
                    yield name, file, archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"data.root: expected a tar archive, got {str(root)!r}: {error}") from None
