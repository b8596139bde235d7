"""python -m zoo.diagnostics MODEL --data.root FOLDER [--num-images 100 ...]"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

import zoo
from zoo import hub
from zoo.console import check_output, check_range, named_first, said_in_a_line, watched
from zoo.data import DataConfig, load_images, normalise, pixel_values
from zoo.diagnostics import count_operations, firing_rates, gradients
from zoo.diagnostics.report import Report
from zoo.hub.files import write

DESCRIPTION = (
    "Gradients, firing rates, operations and energy of a network, layer by layer. "
    "MODEL is a name for zoo.create_model: arch.tag, a run, another folder and "
    "hf-hub:org/name have weights; a bare architecture has random ones, and norms of the images."
)
BATCH = 50
HEAD_WEIGHT = 0.25  # of the loss whose gradients are shown beside those without heads


@dataclass(frozen=True, kw_only=True)
class Options:
    data: DataConfig = field(default_factory=DataConfig)
    """Test images; by default those of the set that a network was trained on."""
    random_pixels: bool = False
    """Measure on random pixels and classes instead."""
    num_images: int = 100
    """Images to measure rates and operations on; gradients are those of the first 50."""
    output: str = ""
    """Folder for diagnostics.json; runs/diagnostics/MODEL if empty."""

    def __post_init__(self):
        check_range("num_images", self.num_images, 1)


def short_name(name: str) -> str:
    """A name without the place that it is loaded from."""
    return Path(name.rpartition(":")[2]).resolve().name


def pretrained_name(name: str) -> str | None:
    """The name of weights for zoo.create_model, or None for a bare architecture."""
    return None if name.removesuffix(f".{hub.UNTRAINED}") in zoo.list_models() else name


def trained_on(name: str) -> DataConfig:
    """The data set that a network was trained on, if recorded, with its mean and std."""
    if pretrained := pretrained_name(name):
        try:
            config = hub.read_config(hub.locate(pretrained, (hub.CONFIG,)))
        except (ValueError, OSError):  # create_model explains it better
            return DataConfig()
        cfg, data = config["pretrained_cfg"], config.get("training", {}).get("data", {})
    else:
        cfg, data = timm.get_pretrained_cfg(name).to_dict(), {}
    pixels = {key: pixel_values(cfg[key]) for key in ("mean", "std")}
    return DataConfig.recorded(pixels | data)


def diagnose(name: str, options: Options) -> Report:
    """Load a network and images, and measure."""
    torch.manual_seed(0)
    data, pretrained = options.data, pretrained_name(name)
    if pretrained:  # before the images, to complain about an unknown name first
        model = zoo.create_model(pretrained, pretrained=True)
    found = None if options.random_pixels else load_images(data, "test")
    if not pretrained:
        args = {"num_classes": len(found.classes), "in_chans": found.shape[-3]} if found else {}
        if found and data.streams:
            args["time_steps"] = data.frames
        model = zoo.create_model(name, shortcut_heads=True, **args)
    elif found and len(found.classes) > model.num_classes:
        raise ValueError(
            f"data: expected {model.num_classes} classes, those of {short_name(name)}, got "
            f"{len(found.classes)}"
        )
    if found:
        pixels, labels = found.take(torch.randperm(len(found))[: options.num_images].tolist())
        x, images = (
            normalise(pixels, data.mean, data.std),
            f"test images of {data.title or data.name}",
        )
    else:
        size = model.pretrained_cfg["input_size"][1:]
        x, images = torch.randn(options.num_images, model.in_chans, *size), "random images"
        labels = torch.randint(model.num_classes, (len(x),))
    if x.ndim == 5:
        x = x.transpose(0, 1)  # [T, B, C, H, W]
    batches = x.split(BATCH, dim=-4)
    if not pretrained:
        _settle(model, batches[0])
    weights = "its own weights" if pretrained else "random weights"
    T = len(x) if x.ndim == 5 else model.time_steps
    head_weights = [0.0] if model.shortcut_heads is None else [0.0, HEAD_WEIGHT]
    return Report(
        f"{short_name(name)}, {weights}, T = {T}, {len(labels)} {images}",
        {weight: gradients(model, batches[0], labels[:BATCH], weight) for weight in head_weights},
        firing_rates(model, watched(batches, "firing rates")),
        count_operations(model, watched(batches, "operations")),
    )


@torch.no_grad()
def _settle(model: nn.Module, x: Tensor) -> None:
    """Give the norms of an untrained network the statistics of images; else it hardly fires."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # the mean over all batches
    model.train()(x)
    model.eval()


def main(prog: str = "python -m zoo.diagnostics") -> None:
    shown = {"prog": f"{prog} MODEL", "description": DESCRIPTION}
    name = named_first(Options, "the network", **shown)
    with said_in_a_line():
        default = Options(data=trained_on(name))
        options = tyro.cli(Options, default=default, args=sys.argv[2:], **shown)
        folder = Path(options.output or f"runs/diagnostics/{short_name(name)}")
        check_output(folder)
        report = diagnose(name, options)
        report.print(Console())
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "diagnostics.json"
        write(path, json.dumps(report.values(), indent=2) + "\n")
        print(path)


if __name__ == "__main__":
    main()
