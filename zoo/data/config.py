"""Which data set is read, and how."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zoo.console import check_range

DatasetName = Literal[
    "digits",
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "image_folder",
    "imagenet",
    "cifar10_dvs",
    "dvs_gesture",
]
EVENTS = ("cifar10_dvs", "dvs_gesture")
SENSOR = 128  # pixels a side, of both event cameras
FOR = {  # data sets that an option has an effect on
    "size": ("imagenet", *EVENTS),
    "frames": EVENTS,
    "download": ("cifar10", "cifar100", "fashion_mnist", *EVENTS),
}
Split = Literal["train", "test"]
CENTRE = 0.875  # of the shorter side of an ImageNet image is measured


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    name: DatasetName = "cifar10"
    """The data set. image_folder reads train/CLASS/*.jpg and test/CLASS/*.jpg of one size into
    memory; imagenet reads train/CLASS and val/CLASS, of any size, during training; *_dvs and dvs_*
    are event streams."""
    root: str = "data"
    """The folder where it lies."""
    download: bool = False
    """Let torchvision or tonic download the data set into root."""
    size: int = 224
    """Height and width of ImageNet images and of event frames, in pixels; at most 128 for these."""
    frames: int = 10
    """Frames of an event stream: the time steps of the network."""
    mean: tuple[int, ...] = (125, 123, 114)
    """Mean of each channel, in whole pixel values."""
    std: tuple[int, ...] = (63, 62, 67)
    """Standard deviation of each channel, in whole pixel values."""
    holdout: int = 0
    """Training images held out to measure each epoch on; with 0 the test images are measured."""
    limit: int = 0
    """Training images to use, drawn once; 0 uses all that are not held out."""
    title: str = ""
    """The data set's name on model cards, if it differs: "CIFAR-10 (JPEG)"."""

    def __post_init__(self):
        for key, least in (("holdout", 0), ("limit", 0), ("size", 1), ("frames", 1)):
            check_range(f"data.{key}", getattr(self, key), least)
        for key, least in (("mean", 0), ("std", 1)):
            for value in getattr(self, key):
                check_range(f"data.{key}", value, least, 256)
        if self.streams:
            check_range("data.size", self.size, 1, SENSOR + 1)
        for key, names in FOR.items():
            if self.name not in names and getattr(self, key) != getattr(DataConfig, key):
                raise ValueError(
                    f"data.{key}: has no effect on {self.name}; it is for {', '.join(names)}"
                )

    @classmethod
    def recorded(cls, data: Mapping[str, Any]) -> "DataConfig":
        """The data of a run as config.json has it; keys of other versions are ignored."""
        known = {key: data[key] for key in cls.__dataclass_fields__.keys() & data.keys()}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()})

    def check_channels(self, channels: int) -> None:
        """Raise ValueError unless there is a mean and a std for each channel."""
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(
                f"data.mean and data.std: expected {channels} values each, one per channel of "
                f"{self.name}, got {self.mean} and {self.std}"
            )

    def check_time_steps(self, name: str, time_steps: int) -> None:
        """Raise ValueError unless a network has one time step per frame."""
        if time_steps != self.frames:
            raise ValueError(f"{name}: expected the {self.frames} of data.frames, got {time_steps}")

    @property
    def tag(self) -> str:
        """The data set in ``arch.tag``: cifar10 for "CIFAR-10 (JPEG)"."""
        return re.sub(r"\(.*?\)|\W", "", self.title or self.name).lower()

    @property
    def streams(self) -> bool:
        """Whether the samples are event streams."""
        return self.name in EVENTS

    @property
    def folders(self) -> bool:
        """Whether the classes are folders, of any number."""
        return self.name in ("image_folder", "imagenet")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How images are prepared for measuring, by pretrained_cfg's keys."""
        crop = (CENTRE, "bicubic") if self.name == "imagenet" else (1.0, "bilinear")
        return {
            "mean": tuple(value / 255 for value in self.mean),
            "std": tuple(value / 255 for value in self.std),
            "crop_pct": crop[0],
            "interpolation": crop[1],
        }

    @property
    def usual(self) -> tuple[tuple[int, ...], int]:
        """Shape of a sample and number of classes; your own images may have others."""
        frames = (self.frames, 2, self.size, self.size)
        return {
            "digits": ((1, 8, 8), 10),
            "cifar10": ((3, 32, 32), 10),
            "cifar100": ((3, 32, 32), 100),
            "fashion_mnist": ((1, 28, 28), 10),
            "image_folder": ((3, 32, 32), 10),
            "imagenet": ((3, self.size, self.size), 1000),
            "cifar10_dvs": (frames, 10),
            "dvs_gesture": (frames, 11),
        }[self.name]


def pixel_values(fractions: Iterable[float]) -> tuple[int, ...]:
    """A pretrained_cfg's mean or std, which are fractions of 255, in whole pixel values."""
    return tuple(round(255 * value) for value in fractions)
