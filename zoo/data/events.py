"""Event streams as frames, by tonic: CIFAR10-DVS and DVS Gesture.

A cell of a frame counts the events of one polarity there, rounded and at most 255: frames are
whole numbers, as other images are.
Shapes: N streams, T frames, H height, W width; 2 channels, one for each polarity.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.console import watched
from zoo.data.config import DataConfig, Split
from zoo.data.sets import ImageSet

TONIC = {"cifar10_dvs": "CIFAR10DVS", "dvs_gesture": "DVSGesture"}
TEST_SHARE = 10  # CIFAR10-DVS has no split: every tenth stream of a class is for testing


def frames(events: np.ndarray, sensor: Sequence[int], count: int, size: int) -> Tensor:
    """Events in tonic's structured array -> uint8 frames [T, 2, size, size], of equal duration.

    All cells have the same area: a cell that ends within a pixel gets that share of its events.

    Args:
        sensor: Width and height of the sensor, and polarities.
        count: T.
    """
    width, height, _ = sensor
    # tonic's ToFrame counts in 16 bits, and a hot pixel overflows to 0.
    x, y, p, t = (events[key].astype(np.int64) for key in ("x", "y", "p", "t"))
    frame = (t - t.min()) * count // (t.max() - t.min() + 1) if len(t) else t
    pixel = ((frame * 2 + p) * height + y) * width + x
    counted = np.bincount(pixel, minlength=count * 2 * height * width)
    counted = counted.reshape(count, 2, height, width)
    cells = _shares(height, size) @ counted @ _shares(width, size).T
    return torch.from_numpy(cells.round().clip(max=255).astype(np.uint8))


def _shares(pixels: int, cells: int) -> np.ndarray:
    """Share of each pixel of a row in each cell, [cells, pixels]."""
    edges, starts = np.arange(cells + 1) * pixels / cells, np.arange(pixels)
    within = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return within.clip(min=0)


def event_frames(config: DataConfig, split: Split) -> ImageSet:
    """Every stream of a split, counted into frames once and held in memory."""
    dataset = _dataset(config, split)
    # tonic lists files in the disk's order.
    chosen = sorted(range(len(dataset)), key=lambda i: str(dataset.data[i]))
    if config.name == "cifar10_dvs":
        chosen = _share(chosen, dataset.targets, split)
    shape = (len(chosen), config.frames, 2, config.size, config.size)
    pixels = torch.empty(shape, dtype=torch.uint8)
    for place, i in enumerate(watched(chosen, f"counting {split} events")):
        pixels[place] = frames(dataset[i][0], dataset.sensor_size, config.frames, config.size)
    labels = torch.tensor([dataset.targets[i] for i in chosen])
    names = dataset.classes
    classes = sorted(names, key=names.get) if isinstance(names, dict) else names
    return ImageSet(pixels, labels, tuple(classes))


def _dataset(config: DataConfig, split: Split) -> Any:
    from tonic import datasets  # optional, and slow to import

    kind = getattr(datasets, TONIC[config.name])

    class Local(kind):
        """The data set without its download."""

        def download(self) -> None:
            raise FileNotFoundError(
                f"data.root: {config.name} is not in {config.root!r}; --data.download fetches it, "
                f"or download it from {self.url}"
            )

    Local.__name__ = kind.__name__  # tonic's name of the folder in root
    separate = {} if config.name == "cifar10_dvs" else {"train": split == "train"}
    return (kind if config.download else Local)(save_to=config.root, **separate)


def _share(streams: Sequence[int], targets: Sequence[int], split: Split) -> list[int]:
    """The streams of one split: in each class every tenth is a test stream."""
    seen: dict[int, int] = {}
    chosen = []
    for i in streams:
        seen[targets[i]] = seen.get(targets[i], 0) + 1
        if (seen[targets[i]] % TEST_SHARE == 0) == (split == "test"):
            chosen.append(i)
    return chosen
