"""The training loop: from a recipe to a run folder, and on from wherever that folder stands."""

import dataclasses
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from zoo import disk, hub, runs
from zoo.data import ImageFiles, ImageSet, normalise
from zoo.progress import PatientConsole
from zoo.training.checkpoint import load_checkpoint, put_back, save_checkpoint
from zoo.training.config import Config, flat
from zoo.training.feed import Feed, measured_batches
from zoo.training.learner import GLANCE, Learner
from zoo.training.machine import against_slow_bf16, machine, peak_memory
from zoo.training.prepare import (
    Data,
    against_a_seed_again,
    build_model,
    check_network,
    load_data,
    origin,
)
from zoo.training.processes import agreed, end, make_accelerator
from zoo.training.run_folder import (
    RESOLVED,
    alone,
    check_run_folder,
    check_shared,
    in_short,
    write_log,
)
from zoo.training.stop import StopSignal
from zoo.training.watch import first_firing_rates


@dataclass
class Position:
    """How far a run has come."""

    epoch: int = 0
    """Whole epochs."""
    step: int = 0
    """Steps of the epoch after those."""
    sums: list[float] = field(default_factory=list)
    """Learner.step's, over these steps."""
    seconds: float = 0.0
    """Time that these steps took."""
    log: list[dict[str, Any]] = field(default_factory=list)


def train(config: Config, data: Data | None = None) -> dict[str, Any]:
    """Train a network, or go on where the run folder's newest checkpoint stands.

    Args:
        data: The images, where they are not what the config says.

    Returns:
        The last line of the run's log; empty after a SIGTERM in the first epoch.

    Raises:
        ValueError: The config asks for what cannot be, or the run folder holds another run, or one
            that another process trains.
        FileNotFoundError: The data are not where the config says.
        FloatingPointError: The loss is not finite any more.
        OSError: A checkpoint could not be written; those before it stand.
        KeyboardInterrupt: Ctrl-C, once a checkpoint is written.
    """
    run = Path(config.output)
    check_run_folder(config)
    if not runs.checkpoints(run):  # a run goes on without what it began with
        check_network(config)
    accelerator = make_accelerator(config)
    if data is None:
        with accelerator.main_process_first():  # it may download them
            data = load_data(config)
    with alone(run, accelerator), StopSignal() as stop:
        if accelerator.is_main_process:
            put_back(run)
        accelerator.wait_for_everyone()
        check_run_folder(config)  # another run may have begun in it while the data were read
        entry = _train(config, data, accelerator, stop)
        end(accelerator)
    if stop.came is signal.SIGINT:  # so that no script goes on as if the run had ended
        raise KeyboardInterrupt
    return entry


def _train(
    config: Config, data: Data, accelerator: Accelerator, stop: StopSignal
) -> dict[str, Any]:
    run = Path(config.output)
    feed = Feed(config, data.train, accelerator.process_index, accelerator.num_processes)
    found = runs.newest_checkpoint(run)
    check_shared(accelerator, found)
    torch.manual_seed(config.seed)
    if accelerator.device.type == "cuda":  # a process may train more than once
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    training = dataclasses.asdict(config) | origin(config, found, data)
    # A run goes on with the arguments that it began with, of which some may be start_from's.
    begun = dataclasses.replace(config, start_from=str(found)) if found else config
    learner = Learner(config, build_model(begun, data.train), feed.steps, accelerator)
    training["built_with"] = {
        "time_steps": learner.model.time_steps,
        "spike_layer": hub.neuron_constants(learner.model),
    }
    position = Position()
    fed = {
        "images": len(data.train),
        "classes": list(data.train.classes),
        "pieces of a step": feed.chunks,
    }
    if found:
        trainer, state = load_checkpoint(found)
        for key, before in state["fed"].items():
            if fed[key] != before:
                raise ValueError(
                    f"output: {run} began with {key}: {before}; expected the same data, and as "
                    f"many processes as then, got {fed[key]}; or choose another --output"
                )
        learner.load_state_dict(trainer)
        position = Position(**state["position"])
    if accelerator.is_main_process:
        disk.write(run / RESOLVED, json.dumps(dataclasses.asdict(config), indent=2))
        write_log(run, position.log)
    accelerator.wait_for_everyone()
    if config.trackers:
        accelerator.init_trackers(run.name)

    def save() -> None:
        """Write a checkpoint of this position, for all processes."""
        own = torch.tensor(position.sums, dtype=torch.float64, device=accelerator.device)
        sums = accelerator.reduce(own, "sum")
        if not accelerator.is_main_process:
            return
        if broken := _not_finite(learner.model):
            raise FloatingPointError(
                f"after epoch {position.epoch}, step {position.step}: expected finite weights, got "
                f"others in {broken[0]} and {len(broken) - 1} more; "
                "try a lower optim.lr or precision: fp32"
            )
        now = dataclasses.replace(position, sums=sums.tolist())
        save_checkpoint(
            run,
            learner.measured,
            learner.state_dict(),
            {
                "iteration": position.epoch * feed.steps + position.step,
                "fed": fed,
                "position": dataclasses.asdict(now),
            },
            label_names=list(data.train.classes),
            training=training | {"log": [in_short(entry) for entry in position.log]},
        )
        write_log(run, position.log)

    with _progress(accelerator) as progress:
        say = partial(progress.console.print, markup=False, highlight=False, soft_wrap=True)
        done = position.epoch * feed.steps + position.step
        bar = progress.add_task("", total=config.epochs * feed.steps, completed=done)
        ended = position.epoch == config.epochs
        if ended:
            say(
                f"{run}: has ended after {config.epochs} epochs; another --output, and "
                f"--start-from {run}, begin with its weights"
            )
        elif found:
            say(f"{run}: going on after epoch {position.epoch}, step {position.step}")
        if not ended and (advice := against_slow_bf16(config, accelerator.device)):
            say(f"warning: {advice}")
        if not ended and (advice := against_a_seed_again(config.seed, training)):
            say(f"warning: {advice}")
        saved, stopping = time.perf_counter(), False
        # Where asking costs nothing every step asks whether it is the last for now.
        cheap = accelerator.num_processes == 1 or accelerator.device.type == "cpu"
        for epoch in range(position.epoch, config.epochs):
            began = time.perf_counter() - position.seconds
            sums = _sums_of(position, learner)
            for step, chunks in enumerate(feed.epoch(epoch, position.step), position.step):
                iteration = epoch * feed.steps + step
                sums += learner.step(chunks, iteration, feed.images_of(step))
                last = step + 1 == feed.steps  # a checkpoint follows, unless measuring is put off
                if last or step % GLANCE == 0:
                    seen = min((step + 1) * config.batch_size, feed.seen)
                    speed = seen / (time.perf_counter() - began)
                    share = accelerator.num_processes / seen
                    progress.update(
                        bar,
                        completed=iteration + 1,
                        description=f"epoch {epoch + 1}/{config.epochs}  "
                        f"loss {share * sums[0]:.3f}  accuracy {100 * share * sums[1]:.2f} %  "
                        f"{speed:.0f} images/s  {peak_memory(accelerator.device):.0f} MiB",
                    )
                if last or cheap or step % GLANCE == 0:
                    due = time.perf_counter() - saved > 60 * config.checkpoint_minutes and not last
                    due, stopping = agreed(accelerator, due, bool(stop.came))
                    if due or stopping:
                        position.step, position.sums = step + 1, sums.tolist()
                        position.seconds = time.perf_counter() - began
                        save()
                        saved = time.perf_counter()
                        if not progress.console.is_terminal:  # where no bar moves
                            say(progress.tasks[bar].description)
                    if stopping:
                        break
            if stopping:
                break
            loss, correct, *heads = (accelerator.reduce(sums, "sum") / feed.seen).tolist()
            seconds = time.perf_counter() - began  # behind what waits for a GPU
            measured = evaluate(
                config, learner.measured, data.measured, accelerator, stop, progress
            )
            if measured is None:
                position.step, position.sums, position.seconds = feed.steps, sums.tolist(), seconds
                save()
                stopping = True
                break
            accuracy, rates = measured
            entry = {
                "epoch": epoch + 1,
                "loss": loss,
                "accuracy": 100 * correct,
                f"{data.name}_accuracy": accuracy,
                "head_accuracies": [100 * head for head in heads],
                "learning_rate": learner.learning_rate,
                "head_weight": learner.head_weight((epoch + 1) * feed.steps - 1),
                "firing_rates": rates,
                "images_per_second": feed.seen / seconds,
                "seconds": seconds,
                "peak_mib": peak_memory(accelerator.device),
                "machine": machine(accelerator.device, accelerator.num_processes),
            }
            for line in _told(entry, data.name):
                say(line)
            accelerator.log(flat(entry), step=epoch + 1)
            position = Position(epoch=epoch + 1, log=[*position.log, entry])
            save()
            saved = time.perf_counter()
            (stopping,) = agreed(accelerator, bool(stop.came))
            if stopping:
                break
        if stopping and position.epoch < config.epochs:
            say(
                f"{run}: stopped on {stop.came.name if stop.came else 'a signal to another'} after "
                f"epoch {position.epoch}, step {position.step}; the same command goes on from there"
            )
    return position.log[-1] if position.log else {}


@torch.inference_mode()
def evaluate(
    config: Config,
    model: nn.Module,
    images: ImageSet | ImageFiles,
    accelerator: Accelerator,
    stop: StopSignal,
    progress: Progress,
) -> tuple[float, dict[str, float]] | None:
    """Top-1 accuracy in percent, and each layer's firing rate over this process's first images;
    None where a process that trains alone was asked to end meanwhile.
    """
    model.eval()
    if accelerator.num_processes > 1:  # norms' statistics: every process measures what is saved
        broadcast(list(model.buffers()))
    correct = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    share = accelerator.process_index, accelerator.num_processes
    bar = progress.add_task("measuring", total=len(images))
    with first_firing_rates(model) as rates:
        for pixels, labels in measured_batches(config, images, *share):
            if stop.came and accelerator.num_processes == 1:
                progress.remove_task(bar)
                return None
            batch = normalise(pixels.to(accelerator.device), config.data.mean, config.data.std)
            logits = model(batch.transpose(0, 1) if batch.ndim == 5 else batch)
            correct += (logits.argmax(1) == labels.to(accelerator.device)).sum()
            progress.advance(bar, len(labels) * accelerator.num_processes)
    progress.remove_task(bar)
    return 100 * accelerator.reduce(correct, "sum").item() / len(images), rates


def _not_finite(model: nn.Module) -> list[str]:
    """Names of the tensors that hold infinities or NaN."""
    return [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]


def _told(entry: dict[str, Any], measured: str) -> Iterator[str]:
    """What is said of an epoch, and of layers in which it left no neuron that fires."""
    epoch, rates = entry["epoch"], entry["firing_rates"]
    yield (
        f"epoch {epoch:>3}  loss {entry['loss']:.4f}  train {entry['accuracy']:.2f} %  "
        f"{measured} {entry[f'{measured}_accuracy']:.2f} %  "
        f"{entry['images_per_second']:.0f} images/s"
    )
    if silent := [name for name, rate in rates.items() if rate == 0]:
        names = ", ".join(silent[:3]) + (", ..." if silent[3:] else "")
        yield (
            f"warning: after epoch {epoch} no neuron fires in {len(silent)} of {len(rates)} "
            f"layers: {names}"
        )


def _sums_of(position: Position, learner: Learner) -> Tensor:
    """Where the sums of an epoch begin: each process has its share of those of a checkpoint."""
    sums = position.sums or [0.0] * (2 + learner.heads)
    total = torch.tensor(sums, dtype=torch.float64, device=learner.accelerator.device)
    return total / learner.accelerator.num_processes


def _progress(accelerator: Accelerator) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=PatientConsole(quiet=not accelerator.is_main_process),
    )
