"""Event streams as frames, by tonic: CIFAR10-DVS and DVS Gesture.

A frame's pixel is the number of events of one polarity there, at most 255, so that frames are whole
numbers as other images are.
Shapes: N streams, T frames, H height, W width; 2 channels, one for each polarity.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from zoo.data.config import DataConfig, Split
from zoo.data.sets import ImageSet

TONIC = {"cifar10_dvs": "CIFAR10DVS", "dvs_gesture": "DVSGesture"}
TEST_SHARE = 10  # of CIFAR10-DVS, which has no split: every tenth stream of a class


def frames(events: np.ndarray, sensor: Sequence[int], count: int, size: int) -> Tensor:
    """A stream in tonic's structured array -> uint8 frames [T, 2, size, size], of equal length.

    Args:
        sensor: Width, height and polarities of the sensor.
        count: T.
    """
    from tonic import transforms

    smaller = transforms.Downsample(sensor_size=tuple(sensor), target_size=(size, size))
    to_frames = transforms.ToFrame(sensor_size=(size, size, 2), n_time_bins=count)
    return torch.from_numpy(to_frames(smaller(events)).clip(0, 255).astype(np.uint8))


def event_frames(config: DataConfig, split: Split) -> ImageSet:
    """Every stream of a split, counted into frames once and held."""
    dataset = _dataset(config, split)
    chosen = range(len(dataset))
    if config.name == "cifar10_dvs":
        chosen = _share(dataset.targets, split)
    console = Console(stderr=True)
    pixels = [
        frames(dataset[i][0], dataset.sensor_size, config.frames, config.size)
        for i in track(
            chosen,
            f"counting {split} events",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
    ]
    labels = torch.tensor([dataset.targets[i] for i in chosen])
    return ImageSet(torch.stack(pixels), labels, _classes(dataset))


def _dataset(config: DataConfig, split: Split) -> Any:
    try:
        from tonic import datasets
    except ImportError:
        raise FileNotFoundError(
            f"data: {config.name} is read by tonic; pip install short-bp-zoo[events]"
        ) from None
    kind = getattr(datasets, TONIC[config.name])

    def refuse(dataset: Any) -> None:
        place = Path(config.root) / TONIC[config.name]
        raise FileNotFoundError(
            f"data.root: expected {dataset.filename} and what is in it in {str(place)!r}, found "
            f"none; set data.download: true, or fetch it from {dataset.url}"
        )

    if not config.download:
        kind = type(kind.__name__, (kind,), {"download": refuse})
    separate = {} if config.name == "cifar10_dvs" else {"train": split == "train"}
    return kind(save_to=config.root, **separate)


def _share(targets: Sequence[int], split: Split) -> list[int]:
    """Streams of one split: in each class every tenth is a test stream."""
    seen: dict[int, int] = {}
    chosen = []
    for i, target in enumerate(targets):
        seen[target] = seen.get(target, 0) + 1
        if (seen[target] % TEST_SHARE == 0) == (split == "test"):
            chosen.append(i)
    return chosen


def _classes(dataset: Any) -> tuple[str, ...]:
    names = dataset.classes
    return tuple(sorted(names, key=names.get)) if isinstance(names, dict) else tuple(names)
