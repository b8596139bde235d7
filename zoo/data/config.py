"""Which set of images, and how it is read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

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
SENSOR = 128  # pixels a side, of both
# Which sets an option has an effect on, where it has none on others.
FOR = {
    "size": ("imagenet", *EVENTS),
    "frames": EVENTS,
    "download": ("cifar10", "cifar100", "fashion_mnist", *EVENTS),
}
Split = Literal["train", "test"]
CENTRE = 0.875  # of the shorter side of an image of imagenet is seen where it is measured


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    name: DatasetName = "cifar10"
    """Which set. image_folder reads train/CLASS/*.jpg and test/CLASS/*.jpg of one size whole;
    imagenet reads train/CLASS and val/CLASS, of any sizes, as they are needed; *_dvs and dvs_* are
    event streams."""
    root: str = "data"
    """Where it lies: a folder, or for image_folder also a .tar, .tar.gz or .tar.xz."""
    download: bool = False
    """Let torchvision or tonic fetch the set into root, where they can; of several nodes into one
    that they share."""
    size: int = 224
    """Height and width of imagenet's images and of event frames, these at most 128, in pixels."""
    frames: int = 10
    """Frames that the events of a stream are counted into: the time steps of the network."""
    mean: tuple[int, ...] = (125, 123, 114)
    """Mean of each channel, in pixel values; whole, so that a normalised pixel is still a pixel."""
    std: tuple[int, ...] = (63, 62, 67)
    """Deviation of each channel, in pixel values."""
    holdout: int = 0
    """Training images set aside to measure each epoch on, so that test images choose nothing."""
    limit: int = 0
    """Training images to use of those that are not set aside, drawn once; 0 uses all."""
    title: str = ""
    """What cards call the set, where its name says too little: "CIFAR-10 (JPEG)"."""

    def __post_init__(self):
        for key, least in (("holdout", 0), ("limit", 0), ("size", 1), ("frames", 1)):
            if getattr(self, key) < least:
                raise ValueError(
                    f"data.{key}: expected a number >= {least}, got {getattr(self, key)}"
                )
        for key, names in FOR.items():
            usual = type(self).__dataclass_fields__[key].default
            if self.name not in names and getattr(self, key) != usual:
                raise ValueError(
                    f"data.{key}: expected none for {self.name}, got {getattr(self, key)}; it is "
                    f"for {', '.join(names)}"
                )
        if self.streams and self.size > SENSOR:
            raise ValueError(
                f"data.size: expected at most the {SENSOR} pixels of the sensor of {self.name}, "
                f"got {self.size}"
            )
        if min(self.std, default=1) <= 0:
            raise ValueError(f"data.std: expected numbers > 0, got {self.std}")

    @classmethod
    def recorded(cls, data: Mapping[str, Any]) -> "DataConfig":
        """What a run wrote of its data into config.json; what no field is called is left out.

        Raises:
            ValueError: It is not what a run writes.
        """
        known = {f.name for f in fields(cls)}
        told = {key: value for key, value in data.items() if key in known}
        told = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}
        try:
            return cls(**told)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"config.json: expected the data of a training, got {data!r:.200} ({error})"
            ) from None

    def check_channels(self, channels: int) -> None:
        """Raise unless mean and std are of so many channels."""
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(
                f"data.mean and data.std: expected {channels} values each, one per channel of "
                f"{self.name}, got {self.mean} and {self.std}"
            )

    def check_time_steps(self, name: str, time_steps: int) -> None:
        """Raise unless a network for these events has a time step for each frame."""
        if time_steps != self.frames:
            raise ValueError(f"{name}: expected the {self.frames} of data.frames, got {time_steps}")

    @property
    def tag(self) -> str:
        """The set in a network's name, arch.tag; of "CIFAR-10 (JPEG)" it is cifar10."""
        return re.sub(r"\(.*?\)|\W", "", self.title or self.name).lower()

    @property
    def streams(self) -> bool:
        """Whether these are events and not images."""
        return self.name in EVENTS

    @property
    def folders(self) -> bool:
        """Whether the classes are folders, so that how many there are is read."""
        return self.name in ("image_folder", "imagenet")

    @property
    def seen(self) -> dict[str, Any]:
        """What an image goes through before it is measured, by pretrained_cfg's keys."""
        if self.name == "imagenet":
            return {"crop_pct": CENTRE, "interpolation": "bicubic"}
        return {"crop_pct": 1.0, "interpolation": "bilinear"}

    @property
    def usual(self) -> tuple[tuple[int, ...], int]:
        """Shape of an image and number of classes; where these are folders, only what is usual."""
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
