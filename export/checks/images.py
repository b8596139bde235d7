"""The images that a network is verified on.

Shapes: N images, C channels, H height, W width.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.data import DataConfig, load_images, normalise, pixel_values

ON_THE_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # and no folder
DATASETS = {  # names on the Hub and for people
    "cifar10": ("uoft-cs/cifar10", "CIFAR-10"),
    "cifar100": ("uoft-cs/cifar100", "CIFAR-100"),
    "fashion_mnist": ("zalando-datasets/fashion_mnist", "Fashion-MNIST"),
    "kmnist": (None, "KMNIST"),
    "mnist": ("ylecun/mnist", "MNIST"),
    "digits": (None, "scikit-learn digits"),
    "image_folder": (None, "an image folder"),
    "imagenet": ("ILSVRC/imagenet-1k", "ImageNet"),
}


@dataclass(frozen=True)
class Images:
    """Images to verify a network on.

    Args:
        pixels: uint8, [N, C, H, W].
        values: The pixels normalised, [N, C, H, W].
        labels: [N]; None for random images.
        source: Where they come from, for people: "test images of CIFAR-10".
    """

    pixels: Tensor
    values: Tensor
    labels: Tensor | None
    source: str

    def report(self) -> dict[str, Any]:
        """Their entry in verification.json."""
        count = len(self.pixels)
        return {"count": count, "source": self.source, "random": self.labels is None}


def describe_images(images: Mapping[str, Any]) -> str:
    """Count and source of images in a verification.json."""
    return f"{images['count']} {images['source']}"


def dataset_names(data: Mapping[str, Any], classes: int) -> tuple[str | None, str]:
    """The name on the Hub, if any, and the name for people of a recorded data set."""
    if data.get("title"):
        return None, data["title"]
    if data["name"] == "imagenet" and classes != 1000:
        return None, "a folder in ImageNet's layout"
    kind, _, name = data["name"].partition("/")
    if kind == "hfds" and ON_THE_HUB.fullmatch(name):
        return name, name
    return DATASETS.get(kind, (None, name or kind))


def check_asked(count: int, data_root: str = "", random: bool = False) -> None:
    """Raise unless these options of a command go together."""
    if count < 1:
        raise ValueError(f"--num-images: expected at least 1, got {count}")
    if random and data_root:
        raise ValueError("--random-images and --data-root: expected only one of them")


def images_of(
    model: nn.Module, config: dict[str, Any], data_root: str, count: int, random: bool = False
) -> Images:
    """Test images of a network's data set if data_root names it or it is digits, else random ones.

    Args:
        config: The network's config.json.
        random: Take random images in any case.
    """
    name = config.get("training", {}).get("data", {}).get("name")
    if not random and (data_root or name == "digits"):
        return data_images(model, config, data_root, count)
    return random_images(model, count)


def data_images(model: nn.Module, config: dict[str, Any], data_root: str, count: int) -> Images:
    """Test images of the data set that a network was trained on, drawn once with seed 0.

    Args:
        config: The network's config.json.
        data_root: Where the set lies; where it was trained if empty.
    """
    if "training" not in config:
        raise ValueError("config.json names no data set: verify with --random-images")
    recorded = config["training"]["data"]
    data = DataConfig.recorded(recorded)
    try:
        found = load_images(replace(data, root=data_root or data.root, download=False), "test")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; --data-root says where the images are, and to_onnx.py and verify.py also "
            "take --random-images"
        ) from None
    if list(found.classes) != config.get("label_names"):
        raise ValueError(
            f"{data_root or data.root}: expected images of the classes "
            f"{config.get('label_names')}, got {list(found.classes)}"
        )
    chosen = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    pixels, labels = found.take(chosen[:count].tolist())
    _, title = dataset_names(recorded, config["num_classes"])
    return Images(pixels, _normalised(model, pixels), labels, f"test images of {title}")


def random_images(model: nn.Module, count: int) -> Images:
    """Noise, blobs and flat colours, drawn with seed 0."""
    C, H, W = model.pretrained_cfg["input_size"]
    draw = torch.Generator().manual_seed(0)
    drawn = (torch.rand(count, C, *side, generator=draw) for side in ((H, W), (4, 4), (1, 1)))
    spread = (F.interpolate(values, (H, W), mode="bilinear") for values in drawn)
    pixels = torch.cat([values.mul_(255).round_().to(torch.uint8) for values in spread])
    pixels = pixels[torch.randperm(len(pixels), generator=draw)[:count]]
    return Images(pixels, _normalised(model, pixels), None, "random images, seed 0")


def _normalised(model: nn.Module, pixels: Tensor) -> Tensor:
    cfg = model.pretrained_cfg
    return normalise(pixels, pixel_values(cfg["mean"]), pixel_values(cfg["std"]))
