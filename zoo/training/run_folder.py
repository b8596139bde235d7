"""A run's folder: whose it is, who trains in it, and its log."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from filelock import Timeout
from huggingface_hub.utils import WeakFileLock

from zoo import hub
from zoo.console import check_output
from zoo.hub import files as disk
from zoo.hub import run_folder as runs
from zoo.training.config import Config, filled_up, flat
from zoo.training.prepare import WHOLE
from zoo.training.processes import agreed

RESOLVED, LOCK = "config.json", ".lock"
FREE = (
    "output",
    "workers",
    "checkpoint_minutes",
    "keep_large_buffers",
    "trackers",
    "data.root",
    "data.download",
)
FOUND = ("began_with", "built_with", "log", WHOLE)  # of a checkpoint's "training", and no recipe's


@contextmanager
def alone(run: Path, accelerator: Accelerator) -> Iterator[None]:
    """Hold the run folder, so that the same command started twice trains once.

    Raises:
        ValueError: Another process trains in it.
    """
    with ExitStack() as held:
        taken = False
        if accelerator.is_main_process:
            run.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(WeakFileLock(run / LOCK, timeout=0.1))
                held.callback(_leave, run)
            except Timeout:
                taken = True
        if any(agreed(accelerator, taken)):
            raise ValueError(
                f"output: expected a folder in which nobody trains, got {run}, in which another "
                f"process does; wait for its end, or choose another --output (if none does any "
                f"more, delete {run / LOCK})"
            )
        yield


def _leave(run: Path) -> None:
    with suppress(OSError):
        (run / LOCK).unlink()
        run.rmdir()  # if a config that cannot be left it empty


def check_run_folder(config: Config) -> None:
    """See that the folder is free or holds this very run; what changes no bit of it may differ.

    Raises:
        ValueError: It holds another.
    """
    if not config.output:
        raise ValueError("output: expected a folder, got none")
    run = Path(config.output)
    check_output(run)
    path, found = run / RESOLVED, runs.checkpoints(run)
    if not found:  # nothing that could go on
        if network := [name for name in (hub.WEIGHTS, hub.REPORT) if (run / name).is_file()]:
            raise ValueError(
                f"output: expected a new folder or a run's, got {run}, which holds a network, "
                f"{network[0]}; choose another --output"
            )
        if path.is_file() and not _is_recipe(path):
            raise ValueError(
                f"output: expected a new folder or a run's, got {run}, which holds another "
                f"{RESOLVED}; choose another --output"
            )
        if (run / runs.LOG).is_file() and (run / runs.LOG).stat().st_size:
            raise ValueError(
                f"output: expected a new folder or a run's, got {run}, which holds the log of a "
                f"run and none of its checkpoints; choose another --output, or move {runs.LOG} away"
            )
        return
    try:
        if path.exists():
            recipe = json.loads(path.read_text())
        else:  # only the checkpoints were moved here
            training = hub.read_config(found[-1])["training"]
            recipe = {key: value for key, value in training.items() if key not in FOUND}
        theirs = flat(filled_up(recipe))
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
            f"{', '.join(sorted(differ))}; choose another --output, and --start-from "
            f"{config.output} to begin with that run's weights"
        )


def _is_recipe(path: Path) -> bool:
    """Whether a file is what a run wrote that ended before its first checkpoint."""
    try:
        return runs.is_recipe(json.loads(path.read_text()))
    except (OSError, ValueError):
        return False


def check_shared(accelerator: Accelerator, found: Path | None) -> None:
    """See that all processes go on from the same step.

    Raises:
        ValueError: They see different checkpoints.
    """
    step = int(found.name.removeprefix("step_")) if found else -1
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise ValueError(
            f"output: expected a folder that all processes share, got checkpoints of steps {steps}"
        )


def in_short(entry: dict[str, Any]) -> dict[str, Any]:
    """What of an epoch goes with the weights."""
    kept = ("epoch", "loss", "learning_rate", "seconds", "machine")
    return {k: v for k, v in entry.items() if k in kept or k.endswith("accuracy")}


def write_log(run: Path, log: list[dict[str, Any]]) -> None:
    """Write log.jsonl, a line for each epoch.

    Raises:
        OSError: There is no room for it; what stood there stands.
    """
    disk.write(run / runs.LOG, "".join(json.dumps(entry) + "\n" for entry in log))


def read_log(run: Path) -> list[dict[str, Any]]:
    """The epochs of a run.

    Raises:
        FileNotFoundError: There is no log, or no epoch in it yet.
        ValueError: It is none.
    """
    path = run / runs.LOG
    text = path.read_text() if path.is_file() else ""
    if not text:
        raise FileNotFoundError(f"{path}: expected a run's log with an epoch in it, found none")
    try:
        return [json.loads(line) for line in text.splitlines()]
    except ValueError as error:
        raise ValueError(f"{path}: expected a line of JSON for each epoch, got {error!r}") from None
