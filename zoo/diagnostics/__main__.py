"""python -m zoo.diagnostics MODEL --data.root FOLDER [--num-images 100 ...]"""

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
from zoo.console import check_output, named_first, said_in_a_line, watched
from zoo.data import DataConfig, load_images, normalise
from zoo.diagnostics import count_operations, firing_rates, gradients
from zoo.diagnostics.report import JSON, PICTURE, Report

HELP = {
    "prog": "python -m zoo.diagnostics MODEL",
    "description": "Gradients, firing rates, operations and energy of a network, layer by layer. "
    "MODEL is a run folder or a name for zoo.create_model: a run, arch.tag, local-dir:FOLDER and "
    "hf-hub:org/name have weights; a bare architecture has random ones, and norms of the images.",
}
BATCH = 50
HEAD_WEIGHT = 0.25


@dataclass(frozen=True, kw_only=True)
class Options:
    data: DataConfig = field(default_factory=DataConfig)
    """Test images; by default those of the set that a network was trained on."""
    random_pixels: bool = False
    """Measure on random pixels and classes instead."""
    num_images: int = 100
    """Images to measure rates and operations on."""
    batch_size: int = BATCH
    """Images of the training step whose gradients are shown."""
    head_weight: float | None = None
    """Show gradients also with the shortcut heads at this weight; 0.25 by default with heads."""
    time_steps: int = 0
    """T of a network without weights; 0 takes its own, or data.frames of event streams."""
    output: str = ""
    """Folder for diagnostics.json and diagnostics.png; runs/diagnostics/MODEL if empty."""

    def __post_init__(self):
        for key, least in (("num_images", 1), ("batch_size", 2), ("head_weight", 0)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise ValueError(f"{key}: expected at least {least}, got {value}")


def short_name(name: str) -> str:
    """A name without the place that it is loaded from."""
    return Path(name.rpartition(":")[2]).resolve().name


def pretrained_name(name: str) -> str | None:
    """The name of weights for zoo.create_model, or None for a bare architecture."""
    if Path(name).is_dir():
        return f"local-dir:{name}"
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
    pixels = {key: tuple(round(255 * value) for value in cfg[key]) for key in ("mean", "std")}
    return DataConfig.recorded(pixels | data)


def diagnose(name: str, options: Options) -> Report:
    """Load a network and images, and measure."""
    torch.manual_seed(0)
    pretrained = pretrained_name(name)
    if pretrained:  # before the images, to complain about an unknown name first
        model, weights = zoo.create_model(pretrained, pretrained=True), "its own weights"
        if options.time_steps:
            raise ValueError(
                f"time_steps: the weights are for T = {model.time_steps}; only a bare architecture "
                "takes another"
            )
    try:
        found = None if options.random_pixels else load_images(options.data, "test")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; --random-pixels measures without images") from None
    if pretrained and found and len(found.classes) > model.num_classes:
        raise ValueError(
            f"data: expected {model.num_classes} classes, those of {short_name(name)}, got "
            f"{len(found.classes)}"
        )
    if not pretrained:
        args = {"time_steps": options.time_steps} if options.time_steps else {}
        if found and options.data.streams:
            args = {"time_steps": options.data.frames} | args
            options.data.check_time_steps("time_steps", args["time_steps"])
        if found:
            args |= {"num_classes": len(found.classes), "in_chans": found.shape[-3]}
        model, weights = zoo.create_model(name, shortcut_heads=True, **args), "random weights"
    count = max(options.num_images, options.batch_size)
    if found:
        pixels, labels = found.take(torch.randperm(len(found))[:count].tolist())
        images = f"test images of {options.data.title or options.data.name}"
        x = normalise(pixels, options.data.mean, options.data.std)
    else:
        x, labels = _random(model, count)
        images = "images of random pixels"
    if x.ndim == 5:
        x = x.transpose(0, 1)  # [T, B, C, H, W]
    if not pretrained:
        _settle(model, x[..., : options.batch_size, :, :, :])
    batches = x[..., : options.num_images, :, :, :].split(BATCH, dim=-4)

    head_weight = options.head_weight
    if head_weight is None:
        head_weight = 0.0 if model.shortcut_heads is None else HEAD_WEIGHT
    weighed = [0.0, head_weight] if head_weight else [0.0]
    step = x[..., : options.batch_size, :, :, :], labels[: options.batch_size]
    T = len(x) if x.ndim == 5 else model.time_steps
    shown = min(options.num_images, x.shape[-4])
    return Report(
        f"{short_name(name)}, {weights}, T = {T}, {shown} {images}",
        {weight: gradients(model, *step, weight) for weight in weighed},
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


def _random(model: nn.Module, count: int) -> tuple[Tensor, Tensor]:
    cfg = model.pretrained_cfg
    shape = (count, model.in_chans, *cfg["input_size"][1:])
    pixels = torch.randint(256, shape, dtype=torch.uint8)
    whole = [[round(255 * value) for value in cfg[key]] for key in ("mean", "std")]
    mean, std = (values if len(values) == model.in_chans else values[:1] for values in whole)
    return normalise(pixels, mean, std), torch.randint(model.num_classes, (count,))


def main() -> None:
    name = named_first(Options, "the network", **HELP)
    with said_in_a_line():
        default = Options(data=trained_on(name))
        options = tyro.cli(Options, default=default, args=sys.argv[2:], **HELP)
        folder = Path(options.output or f"runs/diagnostics/{short_name(name)}")
        check_output(folder)
        report = diagnose(name, options)
        try:
            report.write(folder)
        finally:  # show the figures even if the disk is full
            report.print(Console())
        print(f"{folder / JSON} and {folder / PICTURE}")


if __name__ == "__main__":
    main()
