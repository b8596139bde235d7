"""Images in files: decoded once into memory, or read during training (ImageNet).

Shapes: B images of a batch, C channels, H height, W width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import IO, Any

import torch
from timm.utils.misc import natural_key
from torch import Tensor
from torchvision.datasets.folder import make_dataset
from torchvision.transforms import v2

from zoo.console import watched
from zoo.data.config import CENTRE, SPLITS, DataConfig, Split
from zoo.data.sets import ImageSet
from zoo.inference.image import decode, middle

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
BICUBIC = v2.InterpolationMode.BICUBIC


@dataclass(frozen=True)
class ImageFiles:
    """Images of any size that stay in their files; the counterpart of ImageSet.

    Args:
        open: The file of an image by its number in the data set, and its place for errors.
        numbers: Of these images, [N].
        labels: Theirs, [N].
        size: Height and width to which they are brought.
    """

    open: Callable[[int], tuple[IO[bytes], str]]
    numbers: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    size: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, [C, H, W]."""
        return (3, self.size, self.size)

    def subset(self, indices: Tensor) -> "ImageFiles":
        """The images at int64 indices [N]."""
        return replace(self, numbers=self.numbers[indices], labels=self.labels[indices])

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
            file, place = self.open(int(self.numbers[index]))
            with file:
                image = decode(file, "data.root", place).convert("RGB")
            if seed is None:
                image = middle(image, self.size, self.size, CENTRE, BICUBIC)
            else:
                seed(index)
                image = v2.RandomResizedCrop(self.size, interpolation=BICUBIC)(image)
            images.append(v2.functional.pil_to_tensor(image))
        return torch.stack(images), self.labels[list(indices)]


def image_files(config: DataConfig, split: Split) -> ImageFiles:
    """A split in ImageNet's layout: train/CLASS/IMAGE and val/CLASS/IMAGE."""
    places = [config.place / name for name in SPLITS[split]]
    place = next(filter(Path.is_dir, places), places[0])
    # timm's order of classes: class2 comes before class10.
    samples, classes = list_images(place, key=lambda name: (natural_key(name), name))
    paths, labels = zip(*samples, strict=True)
    numbers = torch.arange(len(paths))
    return ImageFiles(partial(_opened, paths), numbers, torch.tensor(labels), classes, config.size)


def _opened(paths: Sequence[str], number: int) -> tuple[IO[bytes], str]:
    return open(paths[number], "rb"), paths[number]


def class_names(labels: Tensor, names: Sequence[str] | None, place: str) -> tuple[str, ...]:
    """The names of the classes, by default their numbers.

    Raises:
        ValueError: A label is no number of a class.
    """
    low, high = int(labels.min()), int(labels.max())
    classes = tuple(map(str, range(high + 1)) if names is None else names)
    if not 0 <= low <= high < len(classes):
        raise ValueError(
            f"data.root: expected labels from 0 to {len(classes) - 1} in {place}, got {low} to "
            f"{high}"
        )
    return classes


def image_folder(config: DataConfig, split: Split) -> ImageSet:
    """A split of small images of one size, decoded into memory."""
    samples, classes = list_images(Path(config.root) / split)
    images: list[Tensor] = []
    for path, _ in watched(samples, f"decoding {split} images"):
        with open(path, "rb") as file:
            image = v2.functional.pil_to_tensor(decode(file, "data.root", path).convert("RGB"))
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"data.root: expected images of one size, got {[*image.shape]} in {path} and "
                f"{[*images[0].shape]} before; data.name: folder takes any size"
            )
        images.append(image)
    return ImageSet(torch.stack(images), torch.tensor([label for _, label in samples]), classes)


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
