"""Augmentation: of single images as they are read, and of whole batches on the device.

All of it draws from torch's own generator, which the feed seeds for each image and each step.
Shapes: B batch, C channels, H height, W width, K classes; event frames fold their T into C.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import v2

LEAST_BETA = 1e-6  # below, torch draws from no Beta; here every share is 0 or 1 already
AutoAugment = Literal["none", "autoaugment_cifar10", "autoaugment_imagenet", "randaugment"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    auto: AutoAugment = "none"
    """Policy for each image, on whole pixels: torchvision's AutoAugment or RandAugment."""
    crop_padding: int = 4
    """Pixels added on each side before a random crop back to size; 0 does not crop, but to a
    crop_size."""
    crop_size: int = 0
    """Side of that crop in pixels; 0 is the images' own. A smaller one trains faster, and the
    network is measured on whole images all the same."""
    flip: bool = True
    """Mirror half of the images."""
    roll: int = 0
    """Shift each image around its edges by up to so many pixels."""
    cutout: int = 0
    """Side in pixels of a square that is set to the mean, in each image."""
    mixup: float = 0.0
    """Beta parameter of mixup; 0 does not mix."""
    cutmix: float = 0.0
    """Beta parameter of CutMix; where mixup is set too, each piece of a step draws one."""

    def __post_init__(self):
        for key in ("crop_padding", "crop_size", "roll", "cutout", "mixup", "cutmix"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ValueError(
                    f"augment.{key}: expected a finite number >= 0, got {getattr(self, key)}"
                )
        for key in ("mixup", "cutmix"):
            if 0 < getattr(self, key) < LEAST_BETA:
                raise ValueError(
                    f"augment.{key}: expected 0 or at least {LEAST_BETA}, got {getattr(self, key)}"
                )


def image_policy(name: AutoAugment, mean: Sequence[int]) -> v2.Transform | None:
    """What is done to single images, uint8 [C, H, W]; what is moved in from outside of an image is
    the mean, as beside a crop and in a hole, and as AutoAugment's own code has it.
    """
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
    """Normalised images [B, ..., H, W] and labels [B] -> the same, augmented; labels become
    [B, K], shares of the classes, where images are mixed.
    """
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
        side: Height and width of what is left; 0 keeps those of the images.

    Raises:
        ValueError: The padded images are smaller than that.
    """
    B, _, H, W = images.shape
    h, w = (side, side) if side else (H, W)
    room = min(H - h, W - w) + 2 * padding
    if room < 0:
        raise ValueError(
            f"augment.crop_size: expected at most {min(H, W) + 2 * padding} pixels of padded "
            f"images, got {side}"
        )
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
    """What was drawn on the CPU, where images are, without waiting for a GPU's other work."""
    return drawn.to(images.device, non_blocking=True)
