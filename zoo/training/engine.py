"""The training loop.

Shapes: B batch, C channels, H height, W width, K classes.
"""

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from zoo import create_model, hub
from zoo.data import ImageSet, load_images, normalise
from zoo.training.augment import random_crop, random_flip
from zoo.training.checkpoint import load_checkpoint, save_checkpoint
from zoo.training.config import Config
from zoo.training.losses import classification_loss, head_weight

LOG, RESOLVED = "log.jsonl", "config.json"
EVAL_BATCH = 250


def train(config: Config) -> dict[str, Any]:
    """Train a network, or go on where the run folder's newest checkpoint stands.

    Returns:
        The last line of the run's log.

    Raises:
        ValueError: The config asks for what cannot be, or the run folder holds another run.
        FileNotFoundError: The data are not where the config says.
    """
    run, resolved = Path(config.output), json.dumps(dataclasses.asdict(config), indent=2)
    _check_run_folder(run, resolved)
    accelerator = _accelerator(config)
    torch.manual_seed(config.seed)

    train_set, eval_set, eval_name = _data(config, accelerator.device)
    found = hub.checkpoints(run)
    # A run goes on with the arguments that it began with, of which some may be start_from's.
    begun = dataclasses.replace(config, start_from=str(found[-1])) if found else config
    model = build_model(begun, train_set)
    model.to(accelerator.device, memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(
        model, opt=config.optim.name, lr=config.optim.lr, weight_decay=config.optim.weight_decay
    )
    steps = math.ceil(len(train_set) / config.batch_size)
    schedule = LambdaLR(optimizer, _cosine(config, steps))
    first_epoch, log = 0, []
    if found:
        trainer, state = load_checkpoint(found[-1])
        optimizer.load_state_dict(trainer["optimizer"])
        schedule.load_state_dict(trainer["schedule"])
        first_epoch, log = state["epoch"], state["log"]
    run.mkdir(parents=True, exist_ok=True)
    _write(run / RESOLVED, resolved)
    _write_log(run, log)

    with _progress() as progress:
        bar = progress.add_task("", total=config.epochs * steps, completed=first_epoch * steps)
        if first_epoch:
            progress.console.print(f"{run}: going on after epoch {first_epoch}")
        for epoch in range(first_epoch, config.epochs):
            start = time.perf_counter()
            torch.manual_seed(config.seed * 100_003 + epoch)  # so that an epoch can be repeated
            model.train()
            loss_sum = correct = 0
            for step, (images, labels) in enumerate(_batches(config, train_set)):
                iteration = epoch * steps + step
                weight = head_weight(config.loss, iteration, config.epochs * steps)
                with accelerator.autocast():
                    outputs = model(images)
                    logits, side_logits = outputs if config.loss.needs_heads else (outputs, None)
                    loss = classification_loss(config.loss, logits, side_logits, labels, weight)
                optimizer.zero_grad(set_to_none=True)
                accelerator.backward(loss)
                optimizer.step()
                schedule.step()

                loss_sum += loss.detach() * len(images)
                correct += (logits.detach().argmax(1) == labels).sum()
                if step % 10 == 0:
                    seen = step * config.batch_size + len(images)
                    progress.update(
                        bar,
                        completed=iteration + 1,
                        description=f"epoch {epoch + 1}/{config.epochs}  "
                        f"loss {loss_sum / seen:.3f}  accuracy {100 * correct / seen:.2f} %  "
                        f"{seen / (time.perf_counter() - start):.0f} images/s",
                    )
            seconds = time.perf_counter() - start
            entry = {
                "epoch": epoch + 1,
                "loss": float(loss_sum / len(train_set)),
                "accuracy": float(100 * correct / len(train_set)),
                f"{eval_name}_accuracy": evaluate(config, model, eval_set),
                "learning_rate": schedule.get_last_lr()[0],
                "head_weight": weight if config.loss.needs_heads else 0.0,
                "images_per_second": len(train_set) / seconds,
                "seconds": seconds,
            }
            if not math.isfinite(entry["loss"]):
                raise FloatingPointError(
                    f"epoch {epoch + 1}: expected a finite loss, got {entry['loss']}; "
                    "try a lower optim.lr or precision: fp32"
                )
            log.append(entry)
            progress.console.print(
                f"epoch {epoch + 1:>3}  loss {entry['loss']:.4f}  train {entry['accuracy']:.2f} %  "
                f"{eval_name} {entry[f'{eval_name}_accuracy']:.2f} %  "
                f"{entry['images_per_second']:.0f} images/s",
                highlight=False,
            )
            save_checkpoint(
                run,
                model,
                {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()},
                {"epoch": epoch + 1, "log": log},
                label_names=list(train_set.classes),
                training=dataclasses.asdict(config),
            )
            _write_log(run, log)
    return log[-1]


def build_model(config: Config, images: ImageSet) -> nn.Module:
    """The network of a config for a set of images, with heads where the loss needs them."""
    if "shortcut_heads" in config.model_args:
        raise ValueError(
            "model_args.shortcut_heads: expected no such key, the loss decides; "
            "set loss.name: vanilla for a network without heads"
        )
    _, C, H, W = images.images.shape
    cfg = {
        "tag": config.data.tag,
        "input_size": (C, H, W),
        "num_classes": len(images.classes),
        "mean": tuple(value / 255 for value in config.data.mean),
        "std": tuple(value / 255 for value in config.data.std),
    }
    try:
        return create_model(
            config.model if not config.start_from else f"local-dir:{_start(config)}",
            pretrained=bool(config.start_from),
            shortcut_heads=config.loss.needs_heads,
            pretrained_cfg_overlay=cfg,
            **config.model_args,
        )
    except TypeError as error:
        raise ValueError(
            f"model_args: expected arguments of {config.model}, got {config.model_args} ({error})"
        ) from None


def _start(config: Config) -> Path:
    """The folder of the weights that a run begins with."""
    folder = Path(config.start_from)
    if found := hub.checkpoints(folder):
        folder = found[-1]
    architecture = hub.read_config(folder)["architecture"]
    if architecture != config.model:
        raise ValueError(f"start_from: expected {config.model}, got {architecture} in {folder}")
    return folder


@torch.inference_mode()
def evaluate(config: Config, model: nn.Module, images: ImageSet) -> float:
    """Top-1 accuracy in percent."""
    model.eval()
    correct = 0
    for batch, labels in zip(
        images.images.split(EVAL_BATCH), images.labels.split(EVAL_BATCH), strict=True
    ):
        logits = model(normalise(batch, config.data.mean, config.data.std))
        correct += (logits.argmax(1) == labels).sum()
    return float(100 * correct / len(images))


def _check_run_folder(run: Path, resolved: str) -> None:
    path = run / RESOLVED
    if path.exists() and path.read_text() != resolved:
        raise ValueError(
            f"output: expected a new folder or a run of this very config, got {run} with another "
            "config; choose another --output"
        )


def _accelerator(config: Config) -> Accelerator:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected a CUDA device, found none; use auto or cpu")
    AcceleratorState._reset_state(reset_partial_state=True)  # a process may train more than once
    precision = "bf16" if config.precision == "bf16" else "no"
    return Accelerator(mixed_precision=precision, cpu=config.device == "cpu")


def _data(config: Config, device: torch.device) -> tuple[ImageSet, ImageSet, str]:
    """Training images, the images to measure on, and what those are called."""
    train_set = load_images(config.data, "train")
    if config.data.holdout >= len(train_set):
        raise ValueError(
            f"data.holdout: expected fewer than the {len(train_set)} training images, "
            f"got {config.data.holdout}"
        )
    # Of the set, not of the run: every seed holds out the same images.
    order = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(0))
    held_out, order = order[: config.data.holdout], order[config.data.holdout :]
    if config.data.holdout:
        eval_set, eval_name = train_set.subset(held_out), "holdout"
    else:
        eval_set, eval_name = load_images(config.data, "test"), "test"
        if eval_set.classes != train_set.classes:
            raise ValueError(
                f"data.root: expected the same classes in train and test, got "
                f"{train_set.classes} and {eval_set.classes}"
            )
    if config.data.holdout or config.data.limit:
        train_set = train_set.subset(order[: config.data.limit or None])
    return train_set.to(device), eval_set.to(device), eval_name


def _batches(config: Config, images: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in a new order: normalised, augmented images [B, C, H, W] and labels [B]."""
    generator = torch.Generator().manual_seed(torch.initial_seed())
    order = torch.randperm(len(images), generator=generator)
    for chosen in order.to(images.labels.device).split(config.batch_size):
        batch = normalise(images.images[chosen], config.data.mean, config.data.std)
        if config.augment.crop_padding:
            batch = random_crop(batch, config.augment.crop_padding, generator)
        if config.augment.flip:
            batch = random_flip(batch, generator)
        yield batch.contiguous(memory_format=torch.channels_last), images.labels[chosen]


def _cosine(config: Config, steps: int):
    """Factor on the learning rate by iteration: linear warm-up, then half a cosine to 0."""
    warmup, total = config.optim.warmup_epochs * steps, config.epochs * steps

    def factor(iteration: int) -> float:
        if iteration < warmup:
            return (iteration + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / max(1, total - warmup)))

    return factor


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )


def _write_log(run: Path, log: list[dict[str, Any]]) -> None:
    _write(run / LOG, "".join(json.dumps(entry) + "\n" for entry in log))


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
