"""The training loop: from a recipe to a run folder, and on from wherever that folder stands."""

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from filelock import Timeout
from huggingface_hub.utils import WeakFileLock
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from zoo import create_model, hub, runs
from zoo.data import ImageSet, load_images, normalise
from zoo.training.checkpoint import load_checkpoint, put_back, save_checkpoint
from zoo.training.config import Config, flat
from zoo.training.feed import Feed, measured_batches
from zoo.training.learner import GLANCE, Learner
from zoo.training.machine import bf16_slowdown, machine, peak_memory
from zoo.training.stop import StopSignal
from zoo.training.watch import firing_rates

LOG, RESOLVED, LOCK = "log.jsonl", "config.json", ".lock"
FREE = (
    "output",
    "workers",
    "checkpoint_minutes",
    "keep_large_buffers",
    "trackers",
    "data.root",
    "data.download",
)
FOUND = ("began_with", "built_with", "log")  # of a checkpoint's "training", and no recipe's


@dataclass(frozen=True)
class Data:
    """Training images, the images to measure on, and what those are called."""

    train: ImageSet
    measured: ImageSet
    name: str


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
    """
    run = Path(config.output)
    check_run_folder(config)
    accelerator = make_accelerator(config)
    if data is None:
        with accelerator.main_process_first():  # it may download them
            data = load_data(config)
    with _alone(run, accelerator):
        if accelerator.is_main_process:
            put_back(run)
        accelerator.wait_for_everyone()
        check_run_folder(config)  # another run may have begun in it while the data were read
        entry = _train(config, data, accelerator)
        end(accelerator)
        return entry


def _train(config: Config, data: Data, accelerator: Accelerator) -> dict[str, Any]:
    run = Path(config.output)
    feed = Feed(config, data.train, accelerator.process_index, accelerator.num_processes)
    found = runs.newest_checkpoint(run)
    _check_shared(accelerator, found)
    torch.manual_seed(config.seed)
    training = dataclasses.asdict(config) | _origin(config, found)
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
        for key, before in state.get("fed", {}).items():
            if fed[key] != before:
                raise ValueError(
                    f"output: {run} began with {key}: {before}; expected the same, got {fed[key]}"
                )
        learner.load_state_dict(trainer)
        position = Position(**state["position"])
    if accelerator.is_main_process:
        runs.write(run / RESOLVED, json.dumps(dataclasses.asdict(config), indent=2))
        _write_log(run, position.log)
    accelerator.wait_for_everyone()
    if config.trackers:
        accelerator.init_trackers("", config=None)

    def save() -> None:
        """Write a checkpoint of this position, for all processes."""
        own = torch.tensor(position.sums, dtype=torch.float64, device=accelerator.device)
        sums = accelerator.reduce(own, "sum")
        if not accelerator.is_main_process:
            return
        if broken := _not_finite(learner.model):
            raise FloatingPointError(
                f"epoch {position.epoch + 1}: expected finite weights, got others in "
                f"{broken[0]} and {len(broken) - 1} more; "
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
            training=training | {"log": [_in_short(entry) for entry in position.log]},
        )
        _write_log(run, position.log)

    with _progress(accelerator) as progress, StopSignal() as stop:
        say = partial(progress.console.print, highlight=False, soft_wrap=True)
        done = position.epoch * feed.steps + position.step
        bar = progress.add_task("", total=config.epochs * feed.steps, completed=done)
        if found:
            say(f"{run}: going on after epoch {position.epoch}, step {position.step}")
        on_cpu, ended = accelerator.device.type == "cpu", position.epoch == config.epochs
        if on_cpu and not ended and (advice := _against_slow_bf16(config)):
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
                if step % GLANCE == 0:
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
                last = step + 1 == feed.steps  # a checkpoint follows, unless measuring is put off
                if last or cheap or step % GLANCE == 0:
                    due = time.perf_counter() - saved > 60 * config.checkpoint_minutes and not last
                    due, stopping = _agreed(accelerator, due, stop.came)
                    if due or stopping:
                        position.step, position.sums = step + 1, sums.tolist()
                        position.seconds = time.perf_counter() - began
                        save()
                        saved = time.perf_counter()
                    if stopping:
                        break
            if stopping:
                break
            seconds = time.perf_counter() - began
            loss, correct, *heads = (accelerator.reduce(sums, "sum") / feed.seen).tolist()
            accuracy, rates = evaluate(config, learner.measured, data.measured, accelerator)
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
            say(
                f"epoch {epoch + 1:>3}  loss {loss:.4f}  train {100 * correct:.2f} %  "
                f"{data.name} {accuracy:.2f} %  {entry['images_per_second']:.0f} images/s"
            )
            if silent := [name for name, rate in rates.items() if rate == 0]:
                names = ", ".join(silent[:3]) + (", ..." if silent[3:] else "")
                say(
                    f"warning: after epoch {epoch + 1} no neuron fires in {len(silent)} of "
                    f"{len(rates)} layers: {names}"
                )
            accelerator.log(flat(entry), step=epoch + 1)
            position = Position(epoch=epoch + 1, log=[*position.log, entry])
            save()
            saved = time.perf_counter()
            (stopping,) = _agreed(accelerator, stop.came)
            if stopping:
                break
        if stopping and position.epoch < config.epochs:
            say(
                f"{run}: stopped on SIGTERM after epoch {position.epoch}, step {position.step}; "
                "the same command goes on from there"
            )
    return position.log[-1] if position.log else {}


@contextmanager
def _alone(run: Path, accelerator: Accelerator) -> Iterator[None]:
    """Hold the run folder, so that the same command started twice trains once."""
    with ExitStack() as held:
        taken = False
        if accelerator.is_main_process:
            run.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(WeakFileLock(run / LOCK, timeout=0.1))
                held.callback(_leave, run)
            except Timeout:
                taken = True
        if any(_agreed(accelerator, taken)):
            raise ValueError(
                f"output: expected a folder in which nobody trains, got {run}, in which another "
                "process does; wait for its end, or choose another --output"
            )
        yield


def _leave(run: Path) -> None:
    with suppress(OSError):
        (run / LOCK).unlink()
        run.rmdir()  # if a config that cannot be left it empty


def load_data(config: Config) -> Data:
    """What the config says, with images held out where it says so."""
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
        other, name = train_set.subset(held_out), "holdout"
    else:
        other, name = load_images(config.data, "test"), "test"
        if other.classes != train_set.classes:
            raise ValueError(
                f"data.root: expected the same classes in train and test, got "
                f"{train_set.classes} and {other.classes}"
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
    return Data(train_set, other, name)


def build_model(config: Config, images: ImageSet) -> nn.Module:
    """The network of a config for a set of images, with heads where the loss needs them."""
    if "shortcut_heads" in config.model_args:
        raise ValueError(
            "model_args.shortcut_heads: expected no such key, the loss decides; "
            "set loss.name: vanilla for a network without heads"
        )
    for key in ("num_classes", "in_chans"):
        if key in config.model_args:
            raise ValueError(f"model_args.{key}: expected no such key, the images decide")
    if taken := sorted(hub.TAKEN_BY_TIMM & config.model_args.keys()):
        raise ValueError(f"model_args.{taken[0]}: expected arguments of a network, timm takes that")
    args = config.model_args
    if config.data.streams:
        args = {"time_steps": config.data.frames, **args}
        if args["time_steps"] != config.data.frames:
            raise ValueError(
                f"model_args.time_steps: expected the {config.data.frames} of data.frames, got "
                f"{args['time_steps']}"
            )
    C, H, W = images.shape[-3:]
    cfg = {
        "tag": config.data.tag,
        "input_size": (C, H, W),
        "mean": tuple(value / 255 for value in config.data.mean),
        "std": tuple(value / 255 for value in config.data.std),
        **config.data.seen,
    }
    if not config.start_from:  # whose own says how many
        cfg["num_classes"] = len(images.classes)
    try:
        model = create_model(
            config.model if not config.start_from else f"local-dir:{start_folder(config)}",
            pretrained=bool(config.start_from),
            shortcut_heads=config.loss.needs_heads,
            pretrained_cfg_overlay=cfg,
            **args,
        )
    except TypeError as error:
        raise ValueError(
            f"model_args: expected arguments of {config.model}, got {config.model_args} ({error})"
        ) from None
    found, expected = (model.in_chans, model.num_classes), (C, len(images.classes))
    if found != expected:
        raise ValueError(
            f"start_from: expected a network for images of {C} channels and {expected[1]} classes, "
            f"got one for {found[0]} channels and {found[1]} classes"
        )
    if config.loss.needs_heads and not model.shortcut_heads.heads:
        raise ValueError(
            f"loss.name: expected vanilla for a network without heads, got {config.loss.name}"
        )
    if hub.neuron_constants(model).get("levels", 1) > 1:
        model.pretrained_cfg["tag"] += hub.RATES
    return model


def start_folder(config: Config) -> Path:
    """The folder of the weights that a run begins with.

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
    _check_held_out(config, found.get("training"))
    return folder


def _check_held_out(config: Config, training: dict[str, Any] | None) -> None:
    """Raise where the weights to begin with, or those that they began with, were trained on images
    that this run would measure. Each run sets aside the first ones of one order.
    """
    own = config.data
    while training:
        data = training["data"]
        same = (data["name"], data.get("title", "")) == (own.name, own.title)
        if same and data.get("holdout", 0) < own.holdout:
            raise ValueError(
                f"data.holdout: expected at most {data.get('holdout', 0)}, as many as the weights "
                f"of start_from were not trained on, got {own.holdout}; if these are other images, "
                "give them another data.title"
            )
        training = training.get("began_with", {}).get("training")


def _origin(config: Config, found: Path | None) -> dict[str, Any]:
    """The weights that a run began with, by their hash, and how those were trained in their turn,
    from its own checkpoint if it has one; empty where they were random.
    """
    if found:
        before = hub.read_config(found)["training"]
        return {key: before[key] for key in ("began_with",) if key in before}
    if not config.start_from:
        return {}
    folder = start_folder(config)
    weights, training = hub.file_sha256(folder / hub.WEIGHTS), hub.read_config(folder)
    return {"began_with": {"sha256": weights, "training": training.get("training")}}


@torch.inference_mode()
def evaluate(
    config: Config, model: nn.Module, images: ImageSet, accelerator: Accelerator
) -> tuple[float, dict[str, float]]:
    """Top-1 accuracy in percent, and each layer's firing rate over this process's first images."""
    model.eval()
    if accelerator.num_processes > 1:  # norms' statistics: every process measures what is saved
        broadcast(list(model.buffers()))
    correct = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    share = accelerator.process_index, accelerator.num_processes
    with firing_rates(model) as rates:
        for pixels, labels in measured_batches(config, images, *share):
            batch = normalise(pixels.to(accelerator.device), config.data.mean, config.data.std)
            logits = model(batch.transpose(0, 1) if batch.ndim == 5 else batch)
            correct += (logits.argmax(1) == labels.to(accelerator.device)).sum()
    return 100 * accelerator.reduce(correct, "sum").item() / len(images), rates


def make_accelerator(config: Config) -> Accelerator:
    """This process's place among all, as torchrun or accelerate launched it.

    Raises:
        ValueError: The config asks for CUDA, and there is none.
    """
    for key, wanted in (("device", "cuda"), ("precision", "fp16"), ("sync_batchnorm", True)):
        if getattr(config, key) == wanted and not _cuda(config):
            found = "device: cpu" if torch.cuda.is_available() else "none"
            raise ValueError(f"{key}: expected a CUDA device for {wanted}, found {found}")
    AcceleratorState._reset_state(reset_partial_state=True)  # a process may train more than once
    accelerator = Accelerator(
        mixed_precision="no",  # the learner casts, so that what is measured stays fp32
        cpu=not _cuda(config),
        log_with=list(config.trackers) or None,
        project_dir=config.output,
    )
    found = [str(tracker) for tracker in accelerator.log_with]
    if missing := [name for name in config.trackers if name not in found]:
        raise ValueError(f"trackers: expected packages that are installed, got {missing}")
    return accelerator


def end(accelerator: Accelerator) -> None:
    """Leave the other processes, when the learner is out of use."""
    # The network among processes goes first: were it the last to hold their group, it would end it
    # with Python's lock, for which the group's own thread may be waiting.
    accelerator.free_memory()
    accelerator.end_training()


def _cuda(config: Config) -> bool:
    return torch.cuda.is_available() and config.device != "cpu"


def check_run_folder(config: Config) -> None:
    """Raise where the folder holds another run; what changes no bit of a run may differ."""
    if not config.output:
        raise ValueError("output: expected a folder, got none")
    run = Path(config.output)
    path, found = run / RESOLVED, runs.checkpoints(run)
    if not found:  # nothing that could go on
        return
    try:
        if path.exists():
            recipe = json.loads(path.read_text())
        else:  # only the checkpoints were moved here
            training = hub.read_config(found[-1])["training"]
            recipe = {key: value for key, value in training.items() if key not in FOUND}
        # What a recipe of an older version does not name is as it was by default.
        for key, value in dataclasses.asdict(Config()).items():
            recipe[key] = (
                value | recipe.get(key, {}) if isinstance(value, dict) else recipe.get(key, value)
            )
        theirs = flat(recipe)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected the recipe of a run, got {error!r}") from None
    ours = flat(json.loads(json.dumps(dataclasses.asdict(config))))
    differ = [
        f"{key} {theirs.get(key, 'nothing')!r} in place of {ours.get(key, 'nothing')!r}"
        for key in ours.keys() | theirs.keys()
        if ours.get(key) != theirs.get(key) and not key.startswith(FREE)
    ]
    if differ:
        raise ValueError(
            f"output: expected a new folder or one of this very run, got {config.output} with "
            f"{', '.join(sorted(differ))}; choose another --output"
        )


def _check_shared(accelerator: Accelerator, found: Path | None) -> None:
    """Raise unless all processes go on from the same step."""
    step = int(found.name.removeprefix("step_")) if found else -1
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise ValueError(
            f"output: expected a folder that all processes share, got checkpoints of steps {steps}"
        )


def _not_finite(model: nn.Module) -> list[str]:
    """Names of the tensors that hold infinities or NaN."""
    return [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]


def _against_slow_bf16(config: Config) -> str:
    """What to change where bf16 costs this CPU more than fp32; empty if nothing."""
    muon = "muon" in config.optim.name  # timm's multiplies in bf16, whatever the precision
    if not (muon or config.precision == "bf16"):
        return ""
    slowdown, remedies = bf16_slowdown(), []
    if config.precision == "bf16" and slowdown > 1.3:  # more than a timing may be wrong by
        remedies.append("--precision fp32")
    if muon and slowdown > 3:  # emulated: Muon's products are only some of a step
        remedies.append("for a large network --optim.name adamw")
    if not remedies:
        return ""
    return (
        f"this CPU convolves {slowdown:.1f} times slower in bf16 than in fp32; try "
        + " and ".join(remedies)
    )


def _sums_of(position: Position, learner: Learner) -> Tensor:
    """Where the sums of an epoch begin: each process has its share of those of a checkpoint."""
    sums = position.sums or [0.0] * (2 + learner.heads)
    total = torch.tensor(sums, dtype=torch.float64, device=learner.accelerator.device)
    return total / learner.accelerator.num_processes


def _agreed(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """Whether any process has each flag raised."""
    if accelerator.num_processes == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.float32, device=accelerator.device)
    return (accelerator.reduce(raised, "sum") > 0).tolist()


def _progress(accelerator: Accelerator) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(quiet=not accelerator.is_main_process),
    )


def _in_short(entry: dict[str, Any]) -> dict[str, Any]:
    """What of an epoch goes with the weights."""
    kept = ("epoch", "loss", "learning_rate", "seconds", "machine")
    return {k: v for k, v in entry.items() if k in kept or k.endswith("accuracy")}


def _write_log(run: Path, log: list[dict[str, Any]]) -> None:
    runs.write(run / LOG, "".join(json.dumps(entry) + "\n" for entry in log))
