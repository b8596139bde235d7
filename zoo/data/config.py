"""Which data set is read, and how."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.console import check_range

TORCHVISION = ("cifar10", "cifar100", "fashion_mnist", "kmnist", "mnist")
EVENTS = ("cifar10_dvs", "dvs_gesture")
NAMES = ("digits", *TORCHVISION, "image_folder", "imagenet", *EVENTS)
KINDS = ("folder", "hfds", "wds")  # before a slash, as in timm
ANY_SIZE = ("imagenet", *KINDS)  # read during training
SENSOR = 128  # pixels a side, of both event cameras
FOR = {  # data sets that an option has an effect on
    "size": (*ANY_SIZE, *EVENTS),
    "frames": EVENTS,
    "download": (*TORCHVISION, *EVENTS),
}
Split = Literal["train", "test"]
SPLITS = {  # their names elsewhere, the first that is found is taken
    "train": ("train", "training"),
    "test": ("val", "validation", "valid", "eval", "test"),
}
CENTRE = 0.875  # of the shorter side of an ImageNet image is measured


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    name: str = "cifar10"
    """digits, cifar10, cifar100, fashion_mnist, kmnist or mnist, also as torch/NAME; image_folder:
    train/CLASS/*.jpg and test/CLASS/*.jpg of one size, held in memory; of any size and read during
    training imagenet or folder/NAME: train/CLASS and val/CLASS, wds/NAME: shards of WebDataset,
    hfds/REPO: a data set of the Hub or of its library; cifar10_dvs, dvs_gesture: event streams."""
    root: str = "data"
    """The folder where it lies; of folder/NAME, wds/NAME and hfds/NAME also the folder around
    NAME, and for hfds/REPO where a download is cached."""
    download: bool = False
    """Let torchvision or tonic download the data set into root."""
    size: int = 224
    """Height and width of images of any size and of event frames, in pixels; at most 128 for
    these."""
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
        object.__setattr__(self, "name", self.name.removeprefix("torch/"))  # one name for each set
        if self.name not in NAMES and self.kind not in KINDS:
            raise ValueError(
                f"data.name: expected one of {', '.join(NAMES)}, torch/NAME of these, folder/NAME, "
                f"wds/NAME or hfds/NAME, got {self.name!r}; streams (hfids/, tfds/) have no order "
                "that a run could resume in"
            )
        for key, least in (("holdout", 0), ("limit", 0), ("size", 1), ("frames", 1)):
            check_range(f"data.{key}", getattr(self, key), least)
        for key, least in (("mean", 0), ("std", 1)):
            for value in getattr(self, key):
                check_range(f"data.{key}", value, least, 256)
        if self.streams:
            check_range("data.size", self.size, 1, SENSOR + 1)
        for key, names in FOR.items():
            if self.kind not in names and getattr(self, key) != getattr(DataConfig, key):
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
    def kind(self) -> str:
        """What stands before the slash, or the whole name."""
        return self.name.partition("/")[0]

    @property
    def place(self) -> Path:
        """The folder of a set: that of its name in root, or root itself."""
        named = Path(self.root, self.name.partition("/")[2])
        return named if named.is_dir() else Path(self.root)

    @property
    def tag(self) -> str:
        """The data set in ``arch.tag``: cifar10 for "CIFAR-10 (JPEG)"."""
        return re.sub(r"\(.*?\)|\W", "", self.title or self.name.rpartition("/")[2]).lower()

    @property
    def streams(self) -> bool:
        """Whether the samples are event streams."""
        return self.name in EVENTS

    @property
    def any_classes(self) -> bool:
        """Whether there may be any number of classes."""
        return self.kind in ("image_folder", *ANY_SIZE)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How images are prepared for measuring, by pretrained_cfg's keys."""
        crop = (CENTRE, "bicubic") if self.kind in ANY_SIZE else (1.0, "bilinear")
        return {
            "mean": tuple(value / 255 for value in self.mean),
            "std": tuple(value / 255 for value in self.std),
            "crop_pct": crop[0],
            "interpolation": crop[1],
        }

    @property
    def usual(self) -> tuple[tuple[int, ...], int]:
        """Shape of a sample and number of classes; your own images may have others."""
        if self.kind in ANY_SIZE:
            return (3, self.size, self.size), 1000
        frames = (self.frames, 2, self.size, self.size)
        return {
            "digits": ((1, 8, 8), 10),
            "cifar10": ((3, 32, 32), 10),
            "cifar100": ((3, 32, 32), 100),
            "fashion_mnist": ((1, 28, 28), 10),
            "kmnist": ((1, 28, 28), 10),
            "mnist": ((1, 28, 28), 10),
            "image_folder": ((3, 32, 32), 10),
            "cifar10_dvs": (frames, 10),
            "dvs_gesture": (frames, 11),
        }[self.name]


def pixel_values(fractions: Iterable[float]) -> tuple[int, ...]:
    """A pretrained_cfg's mean or std, which are fractions of 255, in whole pixel values."""
    return tuple(round(255 * value) for value in fractions)
