"""The images that a network is verified on.

Shapes: N images, B batch, C channels, H height, W width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from zoo.console import watched
from zoo.data import DataConfig, load_images, normalise
from zoo.data.config import DatasetName
from zoo.deployment.fold import deploy
from zoo.deployment.grid import whole_pixels
from zoo.deployment.layers import FoldedLIF
from zoo.layers.hooks import hooks

LAYOUT = "a folder in ImageNet's layout"
MOST_IMAGES = 2**20  # more than any set has to test on
CLOSE = 2.0**-16  # of the threshold, or a step of the stairs: a few steps of the grid


@dataclass(frozen=True)
class Images:
    """Pixels uint8 [N, C, H, W], their normalised values, labels [N] if they have any, and what
    they are.
    """

    pixels: Tensor
    values: Tensor
    labels: Tensor | None
    are: str


def in_a_layout(data: Mapping[str, Any], classes: int) -> bool:
    """Whether a set that was read as ImageNet is another in its layout, by its classes."""
    return data["name"] == "imagenet" and classes != 1000


def check_asked(count: int, data_root: str = "", random: bool = False) -> None:
    """Raise unless these options of a command go together."""
    if not 1 <= count <= MOST_IMAGES:
        raise ValueError(f"--num-images: expected 1 to {MOST_IMAGES}, got {count}")
    if random and data_root:
        raise ValueError("--random-images: expected no --data-root beside it, got one")


def images_of(model: nn.Module, config: dict[str, Any], data_root: str, count: int) -> Images:
    """Images of the set that a network was trained on where it is at hand, else random ones.

    Args:
        config: Its config.json.
        data_root: Where the set lies; empty if that is not known.
    """
    training = config.get("training", {})
    if data_root or training.get("data", {}).get("name") == "digits":
        return data_images(model, config, data_root, count)
    return random_images(model, count)


def data_images(model: nn.Module, config: dict[str, Any], data_root: str, count: int) -> Images:
    """Test images of the set that a network was trained on, drawn once with seed 0.

    Args:
        config: Its config.json.
        data_root: Where the set lies; where it was trained if empty.

    Raises:
        FileNotFoundError, ValueError: The set is not there, or is another.
    """
    if not config.get("training"):
        raise ValueError(
            "config.json: expected the data set that the network was trained on, found none; "
            "verify on random images"
        )
    recorded = config["training"]["data"]
    try:
        data = DataConfig.recorded(recorded)
    except ValueError as error:
        raise ValueError(f"{error}; verify on random images") from None
    if data.name not in get_args(DatasetName):
        raise ValueError(
            f"config.json: expected one of the sets that are read here, got {data.name!r:.100}; "
            "verify on random images"
        )
    if data_root and data.name == "digits":
        raise ValueError(
            "--data-root: expected none for digits, which come with scikit-learn, got "
            f"{data_root!r}"
        )
    try:
        found = load_images(replace(data, root=data_root or data.root, download=False), "test")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; --data-root says where the images are, --random-images of to_onnx.py and "
            "verify.py does without"
        ) from None
    if list(found.classes) != config.get("label_names"):
        raise ValueError(
            f"config.json: expected images of {config.get('label_names')}, got classes "
            f"{list(found.classes)}"
        )
    chosen = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    pixels, labels = found.take(chosen[:count].tolist())
    layout = in_a_layout(recorded, config["num_classes"])
    called = data.title or (LAYOUT if layout else data.name)
    are = f"{len(pixels)} test images of {called}"
    return Images(pixels, _normalised(model, pixels), labels, are)


@torch.inference_mode()
def random_images(model: nn.Module, count: int) -> Images:
    """Noise, blobs and flat colours, seed 0; half of them chosen from four times as many for their
    potentials at the threshold, where a last bit flips a spike.
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
    looked_at = watched(candidates.split(50), "looking for close calls")
    close = torch.cat([_close_calls(deployed, part) for part in looked_at])
    chosen = candidates[close.argsort(descending=True)[: count // 2]]
    pixels = torch.cat([plain, chosen])
    are = f"{count} random images, seed 0, {count // 2} of them chosen for close calls"
    return Images(pixels, _normalised(model, pixels), None, are)


def _close_calls(deployed: fx.GraphModule, pixels: Tensor) -> Tensor:
    """How many potentials of each image lie within CLOSE of where they count as more, [B]."""
    calls = torch.zeros(len(pixels))

    def count(layer: FoldedLIF, inputs: tuple[Tensor], _) -> None:
        steps = layer.potentials(inputs[0]) * (layer.levels / layer.v_threshold)
        distance = (steps - steps.round().clamp(1, layer.levels)).abs()
        calls.add_((distance <= CLOSE).transpose(0, 1).flatten(1).sum(1))

    layers = [module for module in deployed.modules() if isinstance(module, FoldedLIF)]
    counted = hooks(*(layer.register_forward_hook(count) for layer in layers))
    with counted, torch.backends.nnpack.flags(enabled=False):  # as in export.checks
        deployed(pixels)
    return calls


def _normalised(model: nn.Module, pixels: Tensor) -> Tensor:
    cfg = model.pretrained_cfg
    return normalise(pixels, *(whole_pixels(key, cfg[key]) for key in ("mean", "std")))
