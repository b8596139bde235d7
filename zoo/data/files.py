"""Images in files of any size, read by timm when they are needed: ImageNet.

Shapes: B images of a batch, C channels, H height, W width.
"""

import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from timm.data.readers.reader import Reader
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from torch import Tensor
from torchvision.transforms import v2

from zoo.data.config import CENTRE, DataConfig, Split

SPLITS = {"train": "train", "test": "val"}
BICUBIC = v2.InterpolationMode.BICUBIC


@dataclass(frozen=True)
class ImageFiles:
    """What ImageSet is, for images that stay in their files; random crops where a seed is given."""

    reader: Reader
    indices: Tensor
    classes: tuple[str, ...]
    size: int

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    def subset(self, indices: Tensor) -> "ImageFiles":
        return ImageFiles(self.reader, self.indices[indices], self.classes, self.size)

    def take(
        self, indices: Sequence[int], seed: Callable[[int], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        images, labels = [], []
        for index in indices:
            image, label = self._read(int(self.indices[index]))
            if seed is None:
                side = round(self.size / CENTRE)
                image = v2.functional.resize(image, [side], BICUBIC)
                image = v2.functional.center_crop(image, [self.size])
            else:
                seed(index)
                image = v2.RandomResizedCrop(self.size, interpolation=BICUBIC)(image)
            images.append(v2.functional.pil_to_tensor(image))
            labels.append(label)
        return torch.stack(images), torch.tensor(labels)

    def _read(self, index: int) -> tuple[Image.Image, int]:
        file, label = self.reader[index]  # timm's dataset would pass over a broken file in silence
        try:
            return Image.open(file).convert("RGB"), int(label)
        except (OSError, SyntaxError) as error:  # the latter is PIL's of a damaged PNG
            name = self.reader.filename(index, absolute=True)
            raise ValueError(f"data.root: expected an image, got {name}: {error}") from None


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
    except (AssertionError, RuntimeError, OSError, ValueError, tarfile.TarError) as error:
        raise FileNotFoundError(
            f"data.root: expected {config.root!r} with train/CLASS/IMAGE and val/CLASS/IMAGE, or "
            f"train.tar and val.tar of such, found none ({error}); ImageNet comes from "
            "https://image-net.org/download-images on request"
        ) from None
    names = tuple(sorted(numbers, key=numbers.get))
    return ImageFiles(reader, torch.arange(len(reader)), names, config.size)
