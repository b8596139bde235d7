"""What a run starts with: its images, and its network with random weights or another run's."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from zoo import create_model, hub, list_models
from zoo.console import check_range
from zoo.data import DataConfig, ImageFiles, ImageSet, drawn_order, load_images, measured_images
from zoo.hub import files as disk
from zoo.hub import run_folder as runs
from zoo.training.checkpoint import read_state
from zoo.training.config import Config
from zoo.training.run_folder import WHOLE


@dataclass(frozen=True)
class Data:
    """The images of a run.

    Args:
        measured: The images to measure on.
        name: What these are: "test" or "holdout".
        whole: Number of training images, with those that are held out or left out.
    """

    train: ImageSet | ImageFiles
    measured: ImageSet | ImageFiles
    name: str
    whole: int


def load_data(config: Config) -> Data:
    """Load the images, and hold out some if the config says so.

    Raises:
        FileNotFoundError: The data are not where the config says.
        ValueError: More images are held out or asked for than there are, or the classes of train
            and test differ.
    """
    data = config.data
    train = load_images(data, "train")
    whole = len(train)
    check_range("data.holdout", data.holdout, 0, whole)
    check_range("data.limit", data.limit, 0, whole - data.holdout + 1)
    measured, name = measured_images(data, train)
    if alone := sorted({*train.classes} ^ {*measured.classes}):
        raise ValueError(f"data.root: only one of train and test has the classes {alone[:3]}")
    if data.holdout or data.limit:
        order = drawn_order(whole)[data.holdout :]
        train = train.subset(order[: data.limit or None])
    return Data(train, measured, name, whole)


def check_network(config: Config) -> None:
    """Check the network's name and the run to start from, before any image is read.

    Raises:
        FileNotFoundError, ValueError: As start_folder; or the name is unknown, or the run to start
            from has not finished.
    """
    if config.model not in list_models():
        close = difflib.get_close_matches(config.model, list_models(), n=3)
        raise ValueError(f"model: unknown architecture {config.model!r}, closest names: {close}")
    if not config.start_from:
        return
    folder = start_folder(config)
    if folder.parent.parent == Path(config.start_from):  # a run, and not a checkpoint
        epoch = read_state(folder)["position"]["epoch"]
        epochs = hub.read_config(folder)["training"]["epochs"]
        if epoch < epochs:
            raise ValueError(
                f"start_from: {config.start_from} has trained {epoch} of {epochs} epochs; let it "
                f"finish, or start from its checkpoint {folder}"
            )


def build_model(config: Config, images: ImageSet | ImageFiles) -> nn.Module:
    """The network of a config for a set of images, with heads if the loss needs them.

    Raises:
        FileNotFoundError: The weights to start from are not there.
        ValueError: The network's arguments are wrong, or the weights are for other images.
    """
    for key in ("shortcut_heads", "num_classes", "in_chans"):
        if key in config.model_args:
            raise ValueError(f"model_args.{key}: leave it out, the loss and the images set it")
    args, name = config.model_args, config.model
    if config.data.streams:
        args = {"time_steps": config.data.frames, **args}
        config.data.check_time_steps("model_args.time_steps", args["time_steps"])
    channels, classes = images.shape[-3], len(images.classes)
    cfg = {"tag": config.data.tag, "input_size": images.shape[-3:], **config.data.preprocessing}
    if config.start_from:
        folder = start_folder(config)
        found = hub.network_asked_for(folder)
        if (found.in_chans, found.num_classes) != (channels, classes):
            raise ValueError(
                f"start_from: the network in {folder} is for {found.in_chans} channels and "
                f"{found.num_classes} classes, and the images have {channels} and {classes}"
            )
        name = f"local-dir:{folder}"
    else:
        cfg["num_classes"] = classes
    try:
        model = create_model(
            name,
            pretrained=bool(config.start_from),
            shortcut_heads=config.loss.needs_heads,
            pretrained_cfg_overlay=cfg,
            **args,
        )
    except (TypeError, AssertionError) as error:  # timm asserts
        raise ValueError(f"model_args: {config.model} cannot take {args}: {error}") from None
    if hub.neuron_constants(model).get("levels", 1) > 1:
        model.pretrained_cfg["tag"] += hub.RATES
    return model


def start_folder(config: Config) -> Path:
    """The folder of the weights to start from.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It holds another architecture.
    """
    try:
        folder = hub.locate(config.start_from, (hub.CONFIG, hub.WEIGHTS))
        found = hub.read_config(folder)["architecture"]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"start_from: {error}; train it first") from None
    if found != config.model:
        raise ValueError(f"start_from: expected {config.model}, got {found} in {folder}")
    return folder


def origin(config: Config, found: Path | None, data: Data) -> dict[str, Any]:
    """The number of training images, and the history of the weights that the run started from.

    Args:
        found: The run's own newest checkpoint, if it has one.

    Raises:
        ValueError: The weights were trained on images that this run holds out.
    """
    if found:
        before = hub.read_config(found)["training"]
        return {key: before[key] for key in ("began_with", WHOLE) if key in before}
    if not config.start_from:
        return {WHOLE: data.whole}
    folder = start_folder(config)
    source = hub.read_config(folder)
    check_held_out(config.data, source.get("training"), data.whole)
    began = {
        "sha256": disk.file_sha256(folder / hub.WEIGHTS),
        "training": source.get("training"),
    }
    if notes := source["pretrained_cfg"].get("notes"):
        began["notes"] = notes
    return {WHOLE: data.whole, "began_with": began}


def check_held_out(data: DataConfig, training: dict[str, Any] | None, whole: int) -> None:
    """Raise ValueError if weights were trained on images that a run would hold out.

    The same images are held out of the same data set, read in the same way, of the same size.
    """
    for run in runs.all_runs(training):
        before = DataConfig.recorded(run["data"])
        same = (before.name, run.get(WHOLE, whole)) == (data.name, whole)
        if before.tag == data.tag and data.holdout > (before.holdout if same else 0):
            raise ValueError(
                f"data.holdout: the weights of start_from were trained on images that this run "
                f"would hold out; hold out at most {before.holdout if same else 0}, or give other "
                "images another data.title"
            )
