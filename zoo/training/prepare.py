"""What a run begins with: its images, and its network, random or with another run's weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo import create_model, hub, list_models
from zoo.data import DataConfig, ImageFiles, ImageSet, load_images
from zoo.hub import files as disk
from zoo.hub import run_folder as runs
from zoo.training.checkpoint import read_state
from zoo.training.config import Config

WHOLE = "training_images"  # what a checkpoint's config.json calls Data.whole


@dataclass(frozen=True)
class Data:
    """Training images, the images to measure on, what those are called ("test" or "holdout"), and
    how many training images there are, with those that are held out or left out.
    """

    train: ImageSet | ImageFiles
    measured: ImageSet | ImageFiles
    name: str
    whole: int

    def __post_init__(self):
        if f"{self.name}_accuracy" not in runs.MEASURED:
            raise ValueError(f"name: expected test or holdout, got {self.name!r}")
        if not all(isinstance(name, str) for name in self.train.classes):
            raise ValueError(f"train: expected classes with names, got {self.train.classes}")


def check_network(config: Config) -> None:
    """Raise where there is no such network, or nothing to start from, before any image is read.

    Raises:
        FileNotFoundError, ValueError: As start_folder; the name is none, or the run to start from
            has not ended.
    """
    check_architecture(config)
    if config.start_from:
        _check_ended(start_folder(config), Path(config.start_from))


def check_architecture(config: Config) -> None:
    """Raise ValueError where the network's name is none, or one of trained weights."""
    if config.model not in list_models():
        create_model(config.model)  # says which names are close
        raise ValueError(
            f"model: expected a name from zoo.list_models(), got {config.model}; start_from begins "
            "with trained weights"
        )


def _check_ended(folder: Path, run: Path) -> None:
    """Raise where a run is named that may still go on: a chain of recipes would begin the next one
    with half-trained weights.
    """
    if folder == run:  # a checkpoint that is named itself is meant
        return
    epoch = read_state(folder)["position"]["epoch"]
    epochs = hub.read_config(folder)["training"]["epochs"]
    if epoch < epochs:
        raise ValueError(
            f"start_from: expected a run that has ended, got {run} after {epoch} of {epochs} "
            f"epochs; let it go on, or name its checkpoint, {folder}"
        )


def load_data(config: Config) -> Data:
    """What the config says, with images held out where it says so.

    Raises:
        FileNotFoundError: The data are not where the config says.
        ValueError: More are held out or asked for than there are, or train and test differ in
            their classes or sizes.
    """
    train_set = load_images(config.data, "train")
    whole = len(train_set)
    if config.data.holdout >= whole:
        raise ValueError(
            f"data.holdout: expected fewer than the {whole} training images, "
            f"got {config.data.holdout}"
        )
    # Of the set, not of the run: every seed holds out the same images.
    order = torch.randperm(whole, generator=torch.Generator().manual_seed(0))
    held_out, order = order[: config.data.holdout], order[config.data.holdout :]
    if config.data.holdout:
        other, name = train_set.subset(held_out), "holdout"
    else:
        other, name = load_images(config.data, "test"), "test"
        if other.classes != train_set.classes:
            alone = sorted({*train_set.classes} ^ {*other.classes})
            raise ValueError(
                f"data.root: expected the same classes in train and test, got {len(alone)} that "
                f"only one of them has: {', '.join(alone[:3])}"
            )
        if other.shape != train_set.shape:
            raise ValueError(
                f"data.root: expected images of one size in train and test, got "
                f"{[*train_set.shape]} and {[*other.shape]}"
            )
    if config.data.limit > len(order):
        raise ValueError(
            f"data.limit: expected at most the {len(order)} training images that there are, got "
            f"{config.data.limit}"
        )
    if config.data.holdout or config.data.limit:
        train_set = train_set.subset(order[: config.data.limit or None])
    return Data(train_set, other, name, whole)


def build_model(config: Config, images: ImageSet | ImageFiles) -> nn.Module:
    """The network of a config for a set of images, with heads where the loss needs them.

    Raises:
        FileNotFoundError: The weights to begin with are not there.
        ValueError: No network, or none with these weights, for these images and this loss; the
            message names the option.
    """
    if "shortcut_heads" in config.model_args:
        raise ValueError(
            "model_args.shortcut_heads: expected no such key, the loss decides; "
            "set loss.name: vanilla for a network without heads"
        )
    for key in ("num_classes", "in_chans"):
        if key in config.model_args:
            raise ValueError(f"model_args.{key}: expected no such key, the images decide")
    if taken := sorted(hub.TAKEN & config.model_args.keys()):
        raise ValueError(f"model_args.{taken[0]}: expected arguments of a network, timm takes that")
    args = config.model_args
    if config.data.streams:
        args = {"time_steps": config.data.frames, **args}
        config.data.check_time_steps("model_args.time_steps", args["time_steps"])
    C, H, W = images.shape[-3:]
    cfg = {
        "tag": config.data.tag,
        "input_size": (C, H, W),
        "mean": tuple(value / 255 for value in config.data.mean),
        "std": tuple(value / 255 for value in config.data.std),
        **config.data.seen,
    }
    name = config.model
    if config.start_from:
        folder = start_folder(config)
        check_images_fit(hub.network_asked_for(folder), C, len(images.classes))
        name = f"local-dir:{folder}"
    else:
        cfg["num_classes"] = len(images.classes)
    try:
        model = create_model(
            name,
            pretrained=bool(config.start_from),
            shortcut_heads=config.loss.needs_heads,
            pretrained_cfg_overlay=cfg,
            **args,
        )
    except (TypeError, AssertionError) as error:  # timm asserts
        raise ValueError(
            f"model_args: expected arguments of {config.model}, got {config.model_args} ({error})"
        ) from None
    if config.loss.needs_heads and not model.shortcut_heads.heads:
        raise ValueError(
            f"loss.name: expected vanilla for a network without heads, got {config.loss.name}"
        )
    if hub.neuron_constants(model).get("levels", 1) > 1:
        model.pretrained_cfg["tag"] += hub.RATES
    return model


def check_images_fit(model: nn.Module, channels: int, classes: int) -> None:
    """Raise ValueError where a network that a run begins with is for other images."""
    if (model.in_chans, model.num_classes) != (channels, classes):
        raise ValueError(
            f"start_from: expected a network for images of {channels} channels and {classes} "
            f"classes, got one for {model.in_chans} channels and {model.num_classes} classes; "
            f"zoo.create_model(NAME, pretrained=True, num_classes={classes}, in_chans={channels}) "
            "is one, and zoo.hub.save_pretrained writes it"
        )


def _check_classes(folder: Path, classes: tuple[str, ...]) -> None:
    """Raise where a folder's network knows these classes in another order."""
    known = hub.read_config(folder).get("label_names")
    if not isinstance(known, list) or known == list(classes) or {*map(str, known)} != {*classes}:
        return
    first = next(i for i, (a, b) in enumerate(zip(known, classes, strict=False)) if a != b)
    raise ValueError(
        f"start_from: expected the classes of {folder} in their order, got {classes[first]!r} for "
        f"{known[first]!r}; another reader may sort class names in another order"
    )


def start_folder(config: Config, whole: int | None = None) -> Path:
    """The folder of the weights that a run begins with.

    Args:
        whole: Data.whole, where the data are there.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It holds another architecture, or weights that images were used for which this
            run holds out.
    """
    folder = Path(config.start_from)
    folder = runs.newest_checkpoint(folder) or folder
    if not (folder / hub.WEIGHTS).is_file():
        raise FileNotFoundError(
            f"start_from: expected a run with a checkpoint, or a folder with {hub.CONFIG} and "
            f"{hub.WEIGHTS}, got {folder}"
        )
    found = hub.read_config(folder)
    if (architecture := found["architecture"]) != config.model:
        raise ValueError(f"start_from: expected {config.model}, got {architecture} in {folder}")
    _check_held_out(config, found.get("training"), whole)
    return folder


def _check_held_out(config: Config, training: dict[str, Any] | None, whole: int | None) -> None:
    """Raise where the weights to begin with, or those that they began with, were trained on images
    that this run would measure. Each run sets aside the first ones of one order, which is another
    of another number of images; runs of before that was written say no number.
    """
    own = config.data
    for run in runs.all_runs(training):
        data = DataConfig.recorded(run["data"])
        same = data.tag == own.tag
        if same and own.holdout and data.name != own.name:
            raise ValueError(
                f"data.holdout: expected none, since the weights of start_from were trained on "
                f"{data.name}, whose images are these in another order, got {own.holdout}; if they "
                "are others, give them another data.title"
            )
        if same and data.holdout < own.holdout:
            raise ValueError(
                f"data.holdout: expected at most {data.holdout}, as many as the weights of "
                f"start_from were not trained on, got {own.holdout}; if these are other images, "
                "give them another data.title"
            )
        before = run.get(WHOLE, whole)
        if same and own.holdout and whole and before != whole:
            raise ValueError(
                f"data.holdout: expected the {before} training images that start_from was trained "
                f"on, of which the same are held out, got {whole}; take those images, or hold none "
                "out; if these are other images, give them another data.title"
            )


def origin(config: Config, found: Path | None, data: Data) -> dict[str, Any]:
    """How many training images there are, and the weights that a run began with, by their hash, and
    how those were trained in their turn, from its own checkpoint if it has one; without the latter
    where they were random.

    Raises:
        ValueError, FileNotFoundError: As start_folder; the weights know the images' classes in
            another order.
    """
    if found:
        before = hub.read_config(found)["training"]
        return {key: before[key] for key in ("began_with", WHOLE) if key in before}
    if not config.start_from:
        return {WHOLE: data.whole}
    folder = start_folder(config, data.whole)
    _check_classes(folder, data.train.classes)
    weights, source = disk.file_sha256(folder / hub.WEIGHTS), hub.read_config(folder)
    began = {"sha256": weights, "training": source.get("training")}
    if notes := source["pretrained_cfg"].get("notes"):
        began["notes"] = notes
    return {WHOLE: data.whole, "began_with": began}


def against_a_seed_again(seed: int, training: dict[str, Any]) -> str | None:
    """What is to be said of a seed that a run had which this one's weights come from."""
    *before, _ = runs.all_runs(training)
    if seed not in (run.get("seed") for run in before):
        return None
    return (
        f"seed: {seed} was that of a run before this one; what is drawn for an image in an epoch, "
        "its order and its augmentation, is drawn again: take another --seed"
    )
