"""Random images for networks of 8 x 8 digits: pixels, and as the recipe normalises them."""

import torch

from zoo.data import normalise

PIXELS = torch.randint(
    256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
IMAGES = normalise(PIXELS, (78,), (96,))
