"""A rehearsal of a recipe: everything is built, and two steps are taken on noise."""

import dataclasses
import math
from contextlib import closing
from typing import Any

import torch
from rich.progress import Progress

from zoo import hub
from zoo.console import watched
from zoo.data import ImageSet
from zoo.training.config import Config
from zoo.training.engine import evaluate
from zoo.training.feed import Feed
from zoo.training.learner import Learner
from zoo.training.machine import against_slow_bf16
from zoo.training.prepare import (
    build_model,
    check_architecture,
    check_images_fit,
    start_folder,
)
from zoo.training.processes import end, make_accelerator
from zoo.training.run_folder import check_run_folder
from zoo.training.stop import StopSignal

DECIDED = ("shortcut_heads", "in_chans", "num_classes")  # by the loss and by the images


def rehearse(config: Config) -> list[float]:
    """Two steps of two images (for each piece of a step) of the recipe's shape, and a measurement,
    from random weights; no data are read and nothing is written.

    Returns:
        The loss of each step.

    Raises:
        ValueError, FloatingPointError: As train.
    """
    check_architecture(config)
    check_run_folder(config)
    shape, num_classes = config.data.usual
    if config.data.name == "image_folder":  # whose images may be larger
        side = max(shape[-1], config.augment.crop_size)
        shape = (shape[0], side, side)
    config.data.check_channels(shape[-3])
    accelerator = make_accelerator(config)
    first = accelerator.is_main_process
    if first and (advice := against_slow_bf16(config, accelerator.device)):
        print(f"warning: {advice}")
    batch = 2 * config.gradient_accumulation * accelerator.num_processes
    draw = torch.Generator().manual_seed(0)
    images = ImageSet(
        torch.randint(256, (2 * batch, *shape), generator=draw, dtype=torch.uint8),
        torch.arange(2 * batch) % num_classes,
        tuple(str(name) for name in range(num_classes)),
    )
    config = dataclasses.replace(
        config,
        model_args=_as_started(config, images),
        start_from="",
        epochs=1,
        batch_size=batch,
        workers=min(config.workers, 1),
        optim=dataclasses.replace(config.optim, warmup_epochs=0.0),
    )
    feed = Feed(config, images, accelerator.process_index, accelerator.num_processes)
    torch.manual_seed(config.seed)
    learner = Learner(config, build_model(config, images), feed.steps, accelerator)
    losses = []
    with closing(feed.epoch(0)) as steps:
        watching = watched(steps, "two steps on noise", feed.steps) if first else steps
        for step, chunks in enumerate(watching):
            sums = accelerator.reduce(learner.step(chunks, step, batch), "sum")
            losses.append(float(sums[0]) / batch)
    unseen = Progress(disable=True)
    evaluate(config, learner.measured, images, accelerator, StopSignal(), unseen)
    del learner
    end(accelerator)
    if not all(map(math.isfinite, losses)):
        raise FloatingPointError(f"expected finite losses, got {losses}")
    return losses


def _as_started(config: Config, images: ImageSet) -> dict[str, Any]:
    """The network's arguments, with those that the weights which the run begins with bring.

    Raises:
        ValueError: They are of a network for other images; folders of images may be any classes.
    """
    given = config.model_args.get("spike_layer", {})
    if not (config.start_from and isinstance(given, dict)):
        return config.model_args
    try:
        folder = start_folder(config)
    except FileNotFoundError:  # not trained yet
        return config.model_args
    network = hub.network_asked_for(folder)
    classes = network.num_classes if config.data.folders else len(images.classes)
    check_images_fit(network, images.shape[-3], classes)
    theirs = hub.read_config(folder)["model_args"]
    shape = {key: value for key, value in theirs.items() if key not in DECIDED}
    return {**shape, **config.model_args, "spike_layer": theirs["spike_layer"] | given}
