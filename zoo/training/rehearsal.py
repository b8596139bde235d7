"""A rehearsal of a recipe: everything is built and written, on four images that are noise."""

import dataclasses
import tempfile

import torch

from zoo.data import ImageSet
from zoo.training.config import Config
from zoo.training.engine import Data, train


def rehearse(config: Config) -> None:
    """Train for two steps of two images of the recipe's shape, in a folder that is thrown away.

    Raises:
        ValueError: As train.
    """
    shape, num_classes = config.data.usual
    draw = torch.Generator().manual_seed(0)
    chunks = config.gradient_accumulation
    images = ImageSet(
        torch.randint(256, (4 * chunks, *shape), generator=draw, dtype=torch.uint8),
        torch.arange(4 * chunks) % num_classes,
        tuple(str(name) for name in range(num_classes)),
    )
    data = dataclasses.replace(config.data, holdout=0, limit=0)
    with tempfile.TemporaryDirectory(prefix="rehearsal_") as output:
        short = {"epochs": 1, "batch_size": 2 * chunks, "data": data, "output": output}
        train(dataclasses.replace(config, **short, trackers=()), Data(images, images, "noise"))
