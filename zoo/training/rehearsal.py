"""A dry run of a recipe: build everything, and take two steps on noise."""

import dataclasses
from contextlib import closing
from pathlib import Path

import torch

from zoo import hub
from zoo.data import ImageSet
from zoo.training.config import Config
from zoo.training.engine import evaluate
from zoo.training.feed import Feed
from zoo.training.learner import Learner
from zoo.training.prepare import build_model, check_network, start_folder
from zoo.training.processes import end, make_accelerator
from zoo.training.run_folder import check_run_folder


def rehearse(config: Config) -> list[float]:
    """Take two steps and measure, on noise of the recipe's shape; read and write no data.

    Returns:
        The loss of each step.

    Raises:
        ValueError, FloatingPointError: As train.
    """
    start = config.start_from
    if start and ":" not in start and "/" in start and not Path(start).is_dir():
        start = ""  # a run that is not trained yet
    config = dataclasses.replace(config, start_from=start)
    check_network(config)
    check_run_folder(config)
    shape, num_classes = config.data.usual
    if config.data.name == "image_folder":  # may have larger images
        side = max(shape[-1], config.augment.crop_size)
        shape = (shape[0], side, side)
    if start and config.data.any_classes:
        num_classes = hub.read_config(start_folder(config))["num_classes"]
    config.data.check_channels(shape[-3])
    accelerator = make_accelerator(config)
    batch = 2 * config.gradient_accumulation * accelerator.num_processes
    draw = torch.Generator().manual_seed(0)
    images = ImageSet(
        torch.randint(256, (2 * batch, *shape), generator=draw, dtype=torch.uint8),
        torch.arange(2 * batch) % num_classes,
        tuple(map(str, range(num_classes))),
    )
    config = dataclasses.replace(
        config,
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
        for step, chunks in enumerate(steps):
            sums = accelerator.reduce(learner.step(chunks, step, batch), "sum")
            losses.append(float(sums[0]) / batch)
    evaluate(config, learner.measured, images, accelerator)
    del learner
    end(accelerator)
    return losses
