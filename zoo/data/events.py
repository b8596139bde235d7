"""Event streams as frames, by tonic: CIFAR10-DVS and DVS Gesture.

A frame's cell is the number of events of one polarity there, rounded and at most 255, so that
frames are whole numbers as other images are.
Shapes: N streams, T frames, H height, W width; 2 channels, one for each polarity.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.console import watched
from zoo.data.config import DataConfig, Split
from zoo.data.sets import ImageSet

TONIC = {"cifar10_dvs": "CIFAR10DVS", "dvs_gesture": "DVSGesture"}
STREAMS = 1000  # of each class of CIFAR10-DVS
# Of DVS Gesture as tonic has it: https://github.com/neuromorphs/tonic/issues/270
GESTURES = {"train": 1077, "test": 264}
TEST_SHARE = 10  # of CIFAR10-DVS, which has no split: every tenth stream of a class


def frames(events: np.ndarray, sensor: Sequence[int], count: int, size: int) -> Tensor:
    """A stream in tonic's structured array -> uint8 frames [T, 2, size, size], of equal duration.

    Cells are of equal area: where one ends within a pixel of the sensor, it gets that share of the
    pixel's events.

    Args:
        sensor: Width and height of the sensor, and polarities.
        count: T.
    """
    width, height, _ = sensor
    # Not tonic's ToFrame: it counts in 16 bits, and a hot pixel comes out as 0.
    x, y, p, t = (events[key].astype(np.int64) for key in ("x", "y", "p", "t"))
    frame = (t - t.min()) * count // (t.max() - t.min() + 1) if len(t) else t
    pixel = ((frame * 2 + p) * height + y) * width + x
    counted = np.bincount(pixel, minlength=count * 2 * height * width)
    counted = counted.reshape(count, 2, height, width)
    cells = _shares(height, size) @ counted @ _shares(width, size).T
    return torch.from_numpy(cells.round().clip(max=255).astype(np.uint8))


def _shares(pixels: int, cells: int) -> np.ndarray:
    """How much of each pixel of a row lies in each of cells of equal length, [cells, pixels]."""
    edges, starts = np.arange(cells + 1) * pixels / cells, np.arange(pixels)
    within = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return within.clip(min=0)


def event_frames(config: DataConfig, split: Split) -> ImageSet:
    """Every stream of a split, counted into frames once and held."""
    dataset = _dataset(config, split)
    _check_whole(config, dataset, split)
    # tonic lists files as the disk does.
    chosen = sorted(range(len(dataset)), key=lambda i: str(dataset.data[i]))
    if config.name == "cifar10_dvs":
        chosen = _share(chosen, dataset.targets, split)
    shape = (len(chosen), config.frames, 2, config.size, config.size)
    pixels = torch.empty(shape, dtype=torch.uint8)
    for place, i in enumerate(watched(chosen, f"counting {split} events")):
        pixels[place] = frames(dataset[i][0], dataset.sensor_size, config.frames, config.size)
    labels = torch.tensor([dataset.targets[i] for i in chosen])
    return ImageSet(pixels, labels, _classes(dataset))


def _dataset(config: DataConfig, split: Split) -> Any:
    try:
        import aedat  # noqa: F401  which tonic imports when it reads CIFAR10-DVS, and not before
        from tonic import datasets
    except ImportError:
        raise FileNotFoundError(
            f"data: {config.name} is read by tonic and aedat; pip install tonic aedat"
        ) from None
    kind = getattr(datasets, TONIC[config.name])

    def refuse(dataset: Any) -> None:
        place = Path(config.root) / TONIC[config.name]
        raise FileNotFoundError(
            f"data.root: expected {dataset.filename} and what is in it in {str(place)!r}, found "
            f"none; set data.download: true (--data.download), or fetch it from {dataset.url}"
        )

    if not config.download:
        kind = type(kind.__name__, (kind,), {"download": refuse})
    separate = {} if config.name == "cifar10_dvs" else {"train": split == "train"}
    return kind(save_to=config.root, **separate)


def _check_whole(config: DataConfig, dataset: Any, split: Split) -> None:
    """Raise where streams are missing: tonic takes what a killed unpacking has left for the set."""
    found = Counter(dataset.targets)
    if config.name == "cifar10_dvs":
        parts = [(STREAMS, name, found[i]) for i, name in enumerate(_classes(dataset))]
    else:
        parts = [(GESTURES[split], f"the {split} split", found.total())]
    for least, part, count in parts:
        if count < least:
            place = Path(config.root) / TONIC[config.name]
            raise ValueError(
                f"data.root: expected {least} streams or more of {part} in {str(place)!r}, got "
                f"{count}; delete that folder, and fetch and unpack the set anew"
            )


def _share(streams: Sequence[int], targets: Sequence[int], split: Split) -> list[int]:
    """Of streams in order those of one split: in each class every tenth is a test stream."""
    seen: dict[int, int] = {}
    chosen = []
    for i in streams:
        seen[targets[i]] = seen.get(targets[i], 0) + 1
        if (seen[targets[i]] % TEST_SHARE == 0) == (split == "test"):
            chosen.append(i)
    return chosen


def _classes(dataset: Any) -> tuple[str, ...]:
    names = dataset.classes
    return tuple(sorted(names, key=names.get)) if isinstance(names, dict) else tuple(names)
