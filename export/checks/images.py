"""The images that a network is verified on.

Shapes: N images, B batch, C channels, H height, W width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from zoo.console import watched
from zoo.data import DataConfig, load_images, normalise
from zoo.deployment.fold import deploy
from zoo.deployment.grid import whole_pixels
from zoo.deployment.layers import FoldedLIF
from zoo.layers.hooks import hooks

DATASETS = {  # names on the Hub and for people
    "cifar10": ("uoft-cs/cifar10", "CIFAR-10"),
    "cifar100": ("uoft-cs/cifar100", "CIFAR-100"),
    "fashion_mnist": ("zalando-datasets/fashion_mnist", "Fashion-MNIST"),
    "digits": (None, "scikit-learn digits"),
    "image_folder": (None, "an image folder"),
    "imagenet": ("ILSVRC/imagenet-1k", "ImageNet"),
}
CLOSE = 2.0**-16  # of a threshold: a few steps of the grid


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
    return DATASETS.get(data["name"], (None, data["name"]))


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


@torch.inference_mode()
def random_images(model: nn.Module, count: int) -> Images:
    """Noise, blobs and flat colours, seed 0.

    Half of them are chosen from four times as many because their potentials are close to a
    threshold, where one bit flips a spike.
    """
    deployed = deploy(model, exact=False)
    C, H, W = model.pretrained_cfg["input_size"]
    draw = torch.Generator().manual_seed(0)
    sides = ((H, W), (4, 4), (1, 1))
    drawn = (torch.rand(count, C, *side, generator=draw) for side in sides)
    spread = (F.interpolate(values, (H, W), mode="bilinear") for values in drawn)
    pixels = torch.cat([values.mul_(255).round_().to(torch.uint8) for values in spread])
    pixels = pixels[torch.randperm(len(pixels), generator=draw)][: 2 * count + count // 2]
    plain, candidates = pixels[: count - count // 2], pixels[count - count // 2 :]
    parts = watched(candidates.split(50), "looking for close calls")
    close = torch.cat([_close_calls(deployed, part) for part in parts])
    chosen = candidates[close.argsort(descending=True)[: count // 2]]
    pixels = torch.cat([plain, chosen])
    source = "random images, seed 0, half of them chosen for potentials close to a threshold"
    return Images(pixels, _normalised(model, pixels), None, source)


def _close_calls(deployed: fx.GraphModule, pixels: Tensor) -> Tensor:
    """How many potentials of each image lie within CLOSE of a threshold, [B]."""
    calls = torch.zeros(len(pixels))

    def count(layer: FoldedLIF, inputs: tuple[Tensor], _) -> None:
        steps = layer.potentials(inputs[0]) * (layer.levels / layer.v_threshold)
        distance = (steps - steps.round().clamp(1, layer.levels)).abs()
        calls.add_((distance <= CLOSE).transpose(0, 1).flatten(1).sum(1))

    layers = [module for module in deployed.modules() if isinstance(module, FoldedLIF)]
    counted = hooks(*(layer.register_forward_hook(count) for layer in layers))
    with counted, torch.backends.nnpack.flags(enabled=False):  # as in logits_of
        deployed(pixels)
    return calls


def _normalised(model: nn.Module, pixels: Tensor) -> Tensor:
    cfg = model.pretrained_cfg
    return normalise(pixels, *(whole_pixels(key, cfg[key]) for key in ("mean", "std")))
