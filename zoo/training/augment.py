"""Augmentation: of single images as they are read, and of whole batches on the device.

All draw from torch's own generator, which the feed seeds for each image and each step.
Shapes: B batch, C channels, H height, W width, K classes; event frames fold their T into C.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import v2

from zoo.console import check_range

AutoAugment = Literal["none", "autoaugment_cifar10", "autoaugment_imagenet", "randaugment"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    auto: AutoAugment = "none"
    """torchvision's AutoAugment or RandAugment, for each image."""
    crop_padding: int = 4
    """Pixels added on each side before a random crop; 0 adds none."""
    crop_size: int = 0
    """Side of that crop in pixels; 0 is the size of the images. Whole images are measured."""
    flip: bool = True
    """Mirror half of the images."""
    roll: int = 0
    """Shift each image around its edges by at most this many pixels."""
    cutout: int = 0
    """Side in pixels of a square of each image that is set to the mean."""
    mixup: float = 0.0
    """Beta parameter of mixup; 0 does not mix."""
    cutmix: float = 0.0
    """Beta parameter of CutMix; with mixup too, each piece of a step draws one of both."""

    def __post_init__(self):
        for key in ("crop_padding", "crop_size", "roll", "cutout", "mixup", "cutmix"):
            check_range(f"augment.{key}", getattr(self, key), 0)


def image_policy(name: AutoAugment, mean: Sequence[int]) -> v2.Transform | None:
    """The policy for single images, uint8 [C, H, W]; uncovered borders are filled with the mean."""
    policies, fill = v2.AutoAugmentPolicy, list(mean)
    return {
        "none": lambda: None,
        "autoaugment_cifar10": lambda: v2.AutoAugment(policies.CIFAR10, fill=fill),
        "autoaugment_imagenet": lambda: v2.AutoAugment(policies.IMAGENET, fill=fill),
        "randaugment": lambda: v2.RandAugment(fill=fill),
    }[name]()


def augment(
    config: AugmentConfig, images: Tensor, labels: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Augment normalised images [B, ..., H, W]; mixing turns labels [B] into shares [B, K]."""
    shape, images = images.shape, images.flatten(1, -3)
    if config.crop_padding or config.crop_size:
        images = random_crop(images, config.crop_padding, config.crop_size)
    if config.flip:
        images = random_flip(images)
    if config.roll:
        images = random_roll(images, config.roll)
    if config.cutout:
        images = cutout(images, config.cutout)
    if config.mixup or config.cutmix:
        mixes = [v2.MixUp(alpha=config.mixup, num_classes=num_classes)] if config.mixup else []
        if config.cutmix:
            mixes.append(v2.CutMix(alpha=config.cutmix, num_classes=num_classes))
        images, labels = mixes[int(torch.randint(len(mixes), ()))](images, labels)
    return images.unflatten(1, shape[1:-2]), labels


def random_crop(images: Tensor, padding: int, side: int = 0) -> Tensor:
    """Pad with zeros and crop at a random place each, [B, C, H, W].

    Args:
        side: Height and width of the crop; 0 is the size of the images.
    """
    B, _, H, W = images.shape
    h, w = (side, side) if side else (H, W)
    check_range("augment.crop_size", side, 0, min(H, W) + 2 * padding + 1)
    y = torch.randint(0, H - h + 2 * padding + 1, (B, 1))
    x = torch.randint(0, W - w + 2 * padding + 1, (B, 1))
    return _gather(pad(images, [padding] * 4), y + torch.arange(h), x + torch.arange(w))


def random_roll(images: Tensor, most: int) -> Tensor:
    """Shift each image around its edges by up to `most` pixels each way, [B, C, H, W]."""
    B, _, H, W = images.shape
    y, x = torch.randint(-most, most + 1, (2, B, 1))
    return _gather(images, (y + torch.arange(H)) % H, (x + torch.arange(W)) % W)


def random_flip(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability 1/2, [B, C, H, W]."""
    mirrored = torch.rand(len(images)) < 0.5
    return torch.where(_beside(images, mirrored)[:, None, None, None], images.flip(3), images)


def cutout(images: Tensor, side: int) -> Tensor:
    """Set a square around a random pixel of each image to zero, [B, C, H, W]."""
    B, _, H, W = images.shape
    y, x = torch.randint(H, (B, 1)), torch.randint(W, (B, 1))
    rows = (torch.arange(H) - y + side // 2).div(side, rounding_mode="floor") == 0
    columns = (torch.arange(W) - x + side // 2).div(side, rounding_mode="floor") == 0
    rows, columns = _beside(images, rows), _beside(images, columns)
    hole = rows[:, None, :, None] & columns[:, None, None, :]
    return images.masked_fill(hole, 0.0)


def _gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """images [B, C, ...] at each image's rows [B, H] and columns [B, W]."""
    rows, columns = _beside(images, rows), _beside(images, columns)
    batch = torch.arange(len(images), device=images.device)
    picked = images[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def _beside(images: Tensor, drawn: Tensor) -> Tensor:
    """Move what was drawn on the CPU to the images' device, without waiting for it."""
    return drawn.to(images.device, non_blocking=True)
