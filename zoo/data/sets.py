"""Images in memory, and their normalisation.

Shapes: N images, B images of a batch, T frames, C channels, H height, W width.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """uint8 images [N, C, H, W] or frames [N, T, C, H, W], int64 labels [N], and class names."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, [C, H, W], or of one stream, [T, C, H, W]."""
        return tuple(self.images.shape[1:])

    def subset(self, indices: Tensor) -> "ImageSet":
        """The images at int64 indices [N]."""
        return ImageSet(self.images[indices], self.labels[indices], self.classes)

    def take(
        self, indices: Sequence[int], seed: Callable[[int], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images [B, ...] and labels [B]; seed is for ImageFiles, which crop at random."""
        return self.images[indices], self.labels[indices]


def normalise(images: Tensor, mean: Iterable[int], std: Iterable[int]) -> Tensor:
    """uint8 pixels [..., C, H, W] -> floats (pixel - mean) / std; mean and std in pixel values."""
    shape = (-1, 1, 1)
    mean, std = (
        torch.tensor(tuple(values), dtype=torch.float32)
        .view(shape)
        .to(images.device, non_blocking=True)
        for values in (mean, std)
    )
    return (images.float() - mean) / std
