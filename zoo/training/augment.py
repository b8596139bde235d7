"""Augmentation of whole batches on the device.

Shapes: B batch, C channels, H height, W width.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Pad with zeros and crop back at a random place each, [B, C, H, W]."""
    B, _, H, W = images.shape
    padded = pad(images, [padding] * 4)
    y, x = torch.randint(0, 2 * padding + 1, (2, B, 1), generator=generator)
    rows = (y + torch.arange(H)).to(images.device)  # [B, H]
    columns = (x + torch.arange(W)).to(images.device)  # [B, W]
    batch = torch.arange(B, device=images.device)
    cropped = padded[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2, [B, C, H, W]."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)
