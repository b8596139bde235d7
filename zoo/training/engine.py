"""The training loop: from a recipe to a run folder, resuming from its newest checkpoint."""

import dataclasses
import json
import shlex
import signal
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from zoo import hub
from zoo.console import watched
from zoo.data import ImageFiles, ImageSet, normalise
from zoo.diagnostics.rates import firing_rates
from zoo.hub import files as disk
from zoo.hub import run_folder as runs
from zoo.training.checkpoint import load_checkpoint, read_state, save_checkpoint
from zoo.training.config import Config, flat
from zoo.training.feed import Feed, measured_batches
from zoo.training.learner import LOG_EVERY, Learner
from zoo.training.machine import machine, peak_memory
from zoo.training.prepare import Data, build_model, check_network, load_data, origin
from zoo.training.processes import agreed, end, make_accelerator
from zoo.training.run_folder import RESOLVED, alone, check_run_folder, in_short, write_log
from zoo.training.stop import StopSignal


@dataclass
class Position:
    """How far a run has come.

    Args:
        epoch: Whole epochs.
        step: Steps of the next epoch.
        sums: The sums of Learner.step over these steps.
        seconds: Time of these steps.
        log: An entry for each epoch.
    """

    epoch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=list)
    seconds: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list)


def train(config: Config, data: Data | None = None) -> dict[str, Any]:
    """Train a network, or resume from the newest checkpoint in the run folder.

    Args:
        data: The images, if not those of the config.

    Returns:
        The last line of the run's log; empty after a SIGTERM in the first epoch.

    Raises:
        ValueError: The config is wrong, or the run folder holds another run.
        FileExistsError: Another process is training in the run folder.
        FileNotFoundError: The data are not where the config says.
        FloatingPointError: The loss is not finite any more.
        OSError: A checkpoint could not be written; earlier ones stay.
        KeyboardInterrupt: Ctrl-C, once a checkpoint is written.
    """
    run = Path(config.output)
    check_run_folder(config)
    found = runs.newest_checkpoint(run)
    if not found:  # resuming needs no weights to start from
        check_network(config)
    accelerator = make_accelerator(config)
    is_main = accelerator.is_main_process
    log = read_state(found)["position"]["log"] if found else []
    if len(log) < config.epochs:  # a finished run needs no data
        if data is None:
            with accelerator.main_process_first():  # it may download them
                data = load_data(config)
        with alone(run, accelerator), StopSignal() as stop:
            accelerator.wait_for_everyone()
            log = Run(config, data, accelerator, stop).train()
            end(accelerator)
        if stop.came is signal.SIGINT:  # so that a script does not go on as if it had finished
            raise KeyboardInterrupt
    else:
        if is_main:
            write_log(run, log)
        end(accelerator)
    if len(log) == config.epochs and is_main:
        print(f"{run}: has finished all {config.epochs} epochs\n{next_command(config)}", flush=True)
    return log[-1] if log else {}


def next_command(config: Config) -> str:
    """What to type after a finished run."""
    if config.data.streams:  # cannot be exported
        return f'load it: zoo.create_model("local-dir:{config.output}", pretrained=True)'
    return f"export it: short-bp-zoo export {shlex.quote(config.output)} --output FOLDER"


class Run:
    """One process's part in a run: its learner, its position, and its messages."""

    def __init__(self, config: Config, data: Data, accelerator: Accelerator, stop: StopSignal):
        self.config, self.data, self.accelerator, self.stop = config, data, accelerator, stop
        self.folder = Path(config.output)
        self.feed = Feed(config, data.train, accelerator.process_index, accelerator.num_processes)
        self.found = runs.newest_checkpoint(self.folder)
        torch.manual_seed(config.seed)
        if accelerator.device.type == "cuda":  # a process may train more than once
            torch.cuda.reset_peak_memory_stats(accelerator.device)
        self.training = dataclasses.asdict(config) | origin(config, self.found, data)
        # A run resumes with the network that it began with; start_from may have set its arguments.
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
        self.position = self._resume(self.found) if self.found else Position()
        self.stopping = False

    def _resume(self, checkpoint: Path) -> Position:
        """Load the learner's state; each process takes its share of the sums."""
        trainer, state = load_checkpoint(checkpoint)
        if differ := [key for key, value in self.fed.items() if state["fed"][key] != value]:
            raise ValueError(
                f"output: {self.folder} began with other {' and '.join(differ)}; take the same "
                "data and as many processes x accumulations, or change --output"
            )
        position = Position(**state["position"])
        self.learner.load_state_dict(trainer)
        position.sums = [total / self.accelerator.num_processes for total in position.sums]
        return position

    def train(self) -> list[dict[str, Any]]:
        """Train the remaining epochs, or until a process is asked to stop; return the log."""
        config = self.config
        if self.accelerator.is_main_process:
            write_log(self.folder, self.position.log)
        if config.trackers:
            self.accelerator.init_trackers(self.folder.name)
        if self.found:
            self._print(f"{self.folder}: resuming {self._so_far}")
        self.saved = time.perf_counter()
        for epoch in range(self.position.epoch, config.epochs):
            self._take_steps(epoch)
            if not self.stopping:
                self._end_epoch()
            if self.stopping:
                break
        if self.stopping and self.position.epoch < config.epochs:
            by = self.stop.came.name if self.stop.came else "a signal to another process"
            self._print(f"{self.folder}: stopped by {by} {self._so_far}")
        return self.position.log

    def _take_steps(self, epoch: int) -> None:
        """Take the remaining steps of an epoch, with checkpoints on the way."""
        config, feed, learner, position = self.config, self.feed, self.learner, self.position
        # On several GPUs, agreeing on a stop at each step would wait for all of them.
        cheap = self.accelerator.num_processes == 1 or self.accelerator.device.type == "cpu"
        began = time.perf_counter() - position.seconds
        sums = self._tensor(position.sums or [0.0] * (2 + learner.heads))
        first, shown = position.step, self.accelerator.is_main_process
        with closing(feed.epoch(epoch, first)) as steps, loss_bar(shown) as bar:
            task = bar.add_task("", total=feed.steps)
            for step, chunks in enumerate(steps, first):
                iteration = epoch * feed.steps + step
                sums += learner.step(chunks, iteration, feed.images_of(step))
                last = step + 1 == feed.steps  # a checkpoint follows the measurement
                if not (cheap or last or step % LOG_EVERY == 0):
                    continue
                seen = (step + 1) * config.batch_size / self.accelerator.num_processes
                title = f"epoch {epoch + 1}/{config.epochs}  loss {sums[0] / seen:.3f}"
                bar.update(task, completed=step + 1, description=title)
                due = time.perf_counter() - self.saved > 60 * config.checkpoint_minutes
                due, self.stopping = agreed(
                    self.accelerator, due and not last, bool(self.stop.came)
                )
                if last or due or self.stopping:
                    position.step, position.sums = step + 1, sums.tolist()  # waits for a GPU
                    position.seconds = time.perf_counter() - began
                if due or self.stopping:
                    self._save()
                if self.stopping:
                    break

    def _end_epoch(self) -> None:
        """Measure the network, and log the epoch."""
        config, data, learner, position = self.config, self.data, self.learner, self.position
        accuracy, rates = evaluate(config, learner.measured, data.measured, self.accelerator)
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
        self._print(
            f"epoch {entry['epoch']:>3}  loss {loss:.4f}  train {entry['accuracy']:.2f} %  "
            f"{data.name} {accuracy:.2f} %  {entry['images_per_second']:.0f} images/s"
        )
        if silent := [name for name, rate in rates.items() if rate == 0]:
            self._print(
                f"warning: no neuron fires in {len(silent)} of {len(rates)} layers: "
                f"{', '.join(silent[:3])}"
            )
        self.accelerator.log(flat(entry), step=entry["epoch"])
        self.position = Position(epoch=entry["epoch"], log=[*position.log, entry])
        self._save()
        (self.stopping,) = agreed(self.accelerator, bool(self.stop.came))

    def _save(self) -> None:
        """Write a checkpoint of this position, for all processes."""
        position = dataclasses.replace(self.position, sums=self._sums().tolist())
        if self.accelerator.is_main_process:
            tensors = self.learner.model.state_dict().items()
            if broken := [name for name, tensor in tensors if not tensor.isfinite().all()]:
                raise FloatingPointError(
                    f"{self._so_far}: {len(broken)} weights are not finite, {broken[0]} first; try "
                    "a lower optim.lr or precision: fp32"
                )
            disk.write(
                self.folder / RESOLVED, json.dumps(dataclasses.asdict(self.config), indent=2)
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
        """The position's sums over all processes."""
        return self.accelerator.reduce(self._tensor(self.position.sums), "sum")

    def _tensor(self, sums: list[float]) -> Tensor:
        return torch.tensor(sums, dtype=torch.float64, device=self.accelerator.device)

    @property
    def _iteration(self) -> int:
        return self.position.epoch * self.feed.steps + self.position.step

    @property
    def _so_far(self) -> str:
        return f"after epoch {self.position.epoch}, step {self.position.step}"

    def _print(self, line: str) -> None:
        if self.accelerator.is_main_process:
            print(line, flush=True)


def loss_bar(shown: bool) -> Progress:
    """A progress bar whose title may change, on stderr if that is a terminal."""
    console = Console(stderr=True)
    disable = not (shown and console.is_terminal)
    return Progress(console=console, transient=True, disable=disable)


@torch.inference_mode()
def evaluate(
    config: Config, model: nn.Module, images: ImageSet | ImageFiles, accelerator: Accelerator
) -> tuple[float, dict[str, float]]:
    """Top-1 accuracy in percent, and each layer's firing rate over this process's first batch."""
    model.eval()
    if accelerator.num_processes > 1:  # all measure with the norm statistics that are saved
        broadcast(list(model.buffers()))
    correct = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    share = accelerator.process_index, accelerator.num_processes
    rates: dict[str, float] = {}
    with closing(measured_batches(config, images, *share)) as batches:
        for pixels, labels in watched(batches, "measuring", shown=accelerator.is_main_process):
            batch = normalise(pixels.to(accelerator.device), config.data.mean, config.data.std)
            batch = batch.transpose(0, 1) if batch.ndim == 5 else batch
            rates = rates or firing_rates(model, [batch])
            correct += (model(batch).argmax(1) == labels.to(accelerator.device)).sum()
    return 100 * accelerator.reduce(correct, "sum").item() / len(images), rates
