"""The training loop: from a recipe to a run folder, and on from wherever that folder stands."""

import dataclasses
import json
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from zoo import hub
from zoo.console import PatientConsole
from zoo.data import ImageFiles, ImageSet, normalise
from zoo.hub import files as disk
from zoo.hub import run_folder as runs
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
        log = Run(config, data, accelerator, stop).train()
        end(accelerator)
    if stop.came is signal.SIGINT:  # so that no script goes on as if the run had ended
        raise KeyboardInterrupt
    return log[-1] if log else {}


class Run:
    """One process's part in a run: what it trains, how far it has come, and what it says of that.

    Raises:
        ValueError: As train, of what is built or what the newest checkpoint says.
    """

    def __init__(self, config: Config, data: Data, accelerator: Accelerator, stop: StopSignal):
        self.config, self.data, self.accelerator, self.stop = config, data, accelerator, stop
        self.folder = Path(config.output)
        self.feed = Feed(config, data.train, accelerator.process_index, accelerator.num_processes)
        self.found = runs.newest_checkpoint(self.folder)
        check_shared(accelerator, self.found)
        torch.manual_seed(config.seed)
        if accelerator.device.type == "cuda":  # a process may train more than once
            torch.cuda.reset_peak_memory_stats(accelerator.device)
        self.training = dataclasses.asdict(config) | origin(config, self.found, data)
        # A run goes on with the arguments that it began with, of which some may be start_from's.
        begun = dataclasses.replace(config, start_from=str(self.found)) if self.found else config
        network = build_model(begun, data.train)
        self.learner = Learner(config, network, self.feed.steps, accelerator)
        self.training["built_with"] = {
            "time_steps": self.learner.model.time_steps,
            "spike_layer": hub.neuron_constants(self.learner.model),
        }
        self.fed = {
            "images": len(data.train),
            "classes": list(data.train.classes),
            "pieces of a step": self.feed.chunks,
        }
        self.position = self._go_on_from(self.found) if self.found else Position()
        self.progress = _progress(accelerator)
        self.bar = self.progress.add_task(
            "", total=config.epochs * self.feed.steps, completed=self._iteration
        )
        self.stopping = False

    def _go_on_from(self, checkpoint: Path) -> Position:
        """Put the learner where a checkpoint left it; each process has its share of the sums."""
        trainer, state = load_checkpoint(checkpoint)
        before, now = _each(state["fed"]), _each(self.fed)
        for key in before | now:
            if before.get(key) != now.get(key):
                raise ValueError(
                    f"output: {self.folder} began with {key}: {before.get(key)}; expected the same "
                    f"data, and as many processes as then, got {now.get(key)}; or choose another "
                    "--output"
                )
        position = Position(**state["position"])
        if position.epoch < self.config.epochs:  # an ended run may be of an earlier version
            self.learner.load_state_dict(trainer)
        position.sums = [total / self.accelerator.num_processes for total in position.sums]
        return position

    def train(self) -> list[dict[str, Any]]:
        """The epochs that are left, or those until a process is asked to end; the run's log."""
        config, accelerator = self.config, self.accelerator
        if accelerator.is_main_process:
            disk.write(self.folder / RESOLVED, json.dumps(dataclasses.asdict(config), indent=2))
            write_log(self.folder, self.position.log)
        accelerator.wait_for_everyone()
        if config.trackers:
            accelerator.init_trackers(self.folder.name)
        with self.progress:
            self._say_where_it_stands()
            self.saved = time.perf_counter()
            for epoch in range(self.position.epoch, config.epochs):
                self._take_steps(epoch)
                if not self.stopping:
                    self._end_epoch()
                if self.stopping:
                    break
            if self.stopping and self.position.epoch < config.epochs:
                by = self.stop.came.name if self.stop.came else "a signal to another"
                self._say(f"stopped on {by} {self._so_far}; the same command goes on from there")
        return self.position.log

    def _take_steps(self, epoch: int) -> None:
        """The steps of an epoch that are left, with checkpoints on the way."""
        config, feed, learner, position = self.config, self.feed, self.learner, self.position
        # Where asking costs nothing every step asks whether it is the last for now.
        cheap = self.accelerator.num_processes == 1 or self.accelerator.device.type == "cpu"
        began = time.perf_counter() - position.seconds
        sums = self._tensor(position.sums or [0.0] * (2 + learner.heads))
        with closing(feed.epoch(epoch, position.step)) as steps:
            for step, chunks in enumerate(steps, position.step):
                iteration = epoch * feed.steps + step
                sums += learner.step(chunks, iteration, feed.images_of(step))
                last = step + 1 == feed.steps  # a checkpoint follows, unless measuring is put off
                glance = last or step % GLANCE == 0
                if glance:
                    self._show(epoch, step, sums, began)
                if glance or cheap:
                    due = (
                        time.perf_counter() - self.saved > 60 * config.checkpoint_minutes
                        and not last
                    )
                    due, self.stopping = agreed(self.accelerator, due, bool(self.stop.came))
                    if last or due or self.stopping:
                        position.step, position.sums = step + 1, sums.tolist()  # waits for a GPU
                        position.seconds = time.perf_counter() - began
                    if due or self.stopping:
                        self._save()
                        if not self.progress.console.is_terminal:  # where no bar moves
                            self._print(self.progress.tasks[self.bar].description)
                    if self.stopping:
                        break

    def _end_epoch(self) -> None:
        """Measure the network, and log the epoch; put off where the run is asked to end meanwhile,
        and trains alone.
        """
        config, data, learner, position = self.config, self.data, self.learner, self.position
        measured = evaluate(
            config, learner.measured, data.measured, self.accelerator, self.stop, self.progress
        )
        if measured is None:
            self.stopping = True
            self._save()
            return
        accuracy, rates = measured
        loss, correct, *heads = (self._sums() / self.feed.seen).tolist()
        entry = {
            "epoch": position.epoch + 1,
            "loss": loss,
            "accuracy": 100 * correct,
            f"{data.name}_accuracy": accuracy,
            "head_accuracies": [100 * head for head in heads],
            "learning_rate": learner.learning_rate,
            "head_weight": learner.head_weight((position.epoch + 1) * self.feed.steps - 1),
            "firing_rates": rates,
            "images_per_second": self.feed.seen / position.seconds,
            "seconds": position.seconds,
            "peak_mib": peak_memory(self.accelerator.device),
            "machine": machine(self.accelerator.device, self.accelerator.num_processes),
        }
        for line in _told(entry, data.name):
            self._print(line)
        self.accelerator.log(flat(entry), step=entry["epoch"])
        self.position = Position(epoch=entry["epoch"], log=[*position.log, entry])
        self._save()
        (self.stopping,) = agreed(self.accelerator, bool(self.stop.came))

    def _save(self) -> None:
        """Write a checkpoint of this position, for all processes."""
        position = dataclasses.replace(self.position, sums=self._sums().tolist())
        if self.accelerator.is_main_process:
            if broken := _not_finite(self.learner.model):
                raise FloatingPointError(
                    f"{self._so_far}: expected finite weights, got others in {broken[0]} and "
                    f"{len(broken) - 1} more; try a lower optim.lr or precision: fp32"
                )
            save_checkpoint(
                self.folder,
                self.learner.measured,
                self.learner.state_dict(),
                {
                    "iteration": self._iteration,
                    "fed": self.fed,
                    "position": dataclasses.asdict(position),
                },
                label_names=self.fed["classes"],
                training=self.training | {"log": [in_short(entry) for entry in position.log]},
            )
            write_log(self.folder, position.log)
        self.saved = time.perf_counter()

    def _sums(self) -> Tensor:
        """Position's over all processes."""
        return self.accelerator.reduce(self._tensor(self.position.sums), "sum")

    def _tensor(self, sums: list[float]) -> Tensor:
        return torch.tensor(sums, dtype=torch.float64, device=self.accelerator.device)

    @property
    def _iteration(self) -> int:
        return self.position.epoch * self.feed.steps + self.position.step

    @property
    def _so_far(self) -> str:
        return f"after epoch {self.position.epoch}, step {self.position.step}"

    def _show(self, epoch: int, step: int, sums: Tensor, began: float) -> None:
        """Move the bar, and say beside it how the epoch goes."""
        seen = min((step + 1) * self.config.batch_size, self.feed.seen)
        share = self.accelerator.num_processes / seen
        self.progress.update(
            self.bar,
            completed=epoch * self.feed.steps + step + 1,
            description=f"epoch {epoch + 1}/{self.config.epochs}  "
            f"loss {share * sums[0]:.3f}  accuracy {100 * share * sums[1]:.2f} %  "
            f"{seen / (time.perf_counter() - began):.0f} images/s  "
            f"{peak_memory(self.accelerator.device):.0f} MiB",
        )

    def _say_where_it_stands(self) -> None:
        """What is known before the first step, or that there is none left."""
        config = self.config
        if self.position.epoch == config.epochs:
            self._say(
                f"has ended after {config.epochs} epochs; another --output, and --start-from "
                f"{self.folder}, begin with its weights"
            )
            return
        if self.found:
            self._say(f"going on {self._so_far}")
        for advice in (
            against_slow_bf16(config, self.accelerator.device),
            against_a_seed_again(config.seed, self.training),
        ):
            if advice:
                self._print(f"warning: {advice}")

    def _say(self, what: str) -> None:
        self._print(f"{self.folder}: {what}")

    def _print(self, line: str) -> None:
        self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


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
    batches = measured_batches(config, images, *share)
    with first_firing_rates(model) as rates, closing(batches):
        for pixels, labels in batches:
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


def _each(fed: dict[str, Any]) -> dict[str, Any]:
    """What a run is fed with, its classes one by one: there may be a thousand."""
    classes = {f"class {index}": name for index, name in enumerate(fed["classes"])}
    return {key: value for key, value in fed.items() if key != "classes"} | classes


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


def _progress(accelerator: Accelerator) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=PatientConsole(quiet=not accelerator.is_main_process),
    )
