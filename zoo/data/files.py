"""Images in files of any size, read by timm when they are needed: ImageNet.

Shapes: B images of a batch, C channels, H height, W width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.data import ImageDataset
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from torch import Tensor
from torchvision.transforms import v2

from zoo.data.config import DataConfig, Split

SPLITS = {"train": "train", "test": "val"}
CENTRE = 0.875  # of the shorter side is seen in a measured image


@dataclass(frozen=True)
class ImageFiles:
    """What ImageSet is, for images that stay in their files; random crops where a seed is given."""

    dataset: ImageDataset
    indices: Tensor
    classes: tuple[str, ...]
    size: int

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    def subset(self, indices: Tensor) -> "ImageFiles":
        return ImageFiles(self.dataset, self.indices[indices], self.classes, self.size)

    def take(
        self, indices: Sequence[int], seed: Callable[[int], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        images, labels = [], []
        for index in indices:
            image, label = self.dataset[int(self.indices[index])]
            if seed is None:
                side = round(self.size / CENTRE)
                image = v2.functional.center_crop(v2.functional.resize(image, side), self.size)
            else:
                seed(index)
                image = v2.RandomResizedCrop(self.size, antialias=True)(image)
            images.append(v2.functional.pil_to_tensor(image))
            labels.append(label)
        return torch.stack(images), torch.tensor(labels)


def image_files(config: DataConfig, split: Split) -> ImageFiles:
    """A split of a folder, or of a folder of tar archives, by timm's own readers."""
    place = Path(config.root) / SPLITS[split]
    archive = place.with_suffix(".tar")
    try:
        if archive.is_file():  # timm would cache a large archive's index as a pickle
            reader = ReaderImageInTar(str(archive), cache_tarinfo=False)
            numbers = reader.class_name_to_idx
        else:
            reader = ReaderImageFolder(str(place))
            numbers = reader.class_to_idx
    except (AssertionError, RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"data.root: expected {config.root!r} with train/CLASS/IMAGE and val/CLASS/IMAGE, or "
            f"train.tar and val.tar of such, found none ({error}); ImageNet comes from "
            "https://image-net.org/download-images on request"
        ) from None
    names = tuple(sorted(numbers, key=numbers.get))
    dataset = ImageDataset(str(place), reader=reader)
    return ImageFiles(dataset, torch.arange(len(dataset)), names, config.size)
