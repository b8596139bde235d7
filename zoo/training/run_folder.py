"""A run's folder: its recipe, its lock, and its log."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from zoo.console import check_output
from zoo.hub import files as disk
from zoo.hub import run_folder as runs
from zoo.training.config import Config, filled_up, flat

RESOLVED, LOCK = "config.json", ".lock"
FREE = (  # keys that may differ when a run resumes
    "output",
    "workers",
    "checkpoint_minutes",
    "data.root",
    "data.download",
    "trackers",
    *("keep_large_buffers", "sync_batchnorm"),  # options of older versions
)
WHOLE = "training_images"  # number of training images, with those that are held out
FOUND = ("began_with", "built_with", "log", WHOLE)  # keys of "training" that no recipe has


@contextmanager
def alone(run: Path, accelerator: Accelerator) -> Iterator[None]:
    """Lock the run folder, so that the same command started twice trains once.

    Raises:
        FileExistsError: Another process is training in it.
    """
    if not accelerator.is_main_process:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    message = f"output: another process is training in {run}; wait for it, or change --output"
    with disk.locked(run / LOCK, message):
        yield


def check_run_folder(config: Config) -> None:
    """Check that the folder is new, or holds this very run.

    Raises:
        ValueError: It cannot be written to, or holds another run or network.
    """
    run = Path(config.output)
    check_output(run)
    if not (run / RESOLVED).is_file():
        return
    theirs = flat(filled_up(json.loads((run / RESOLVED).read_text())))
    ours = flat(json.loads(json.dumps(dataclasses.asdict(config))))
    differ = sorted(
        f"{key} {theirs.get(key)!r}, not {ours.get(key)!r}"
        for key in ours.keys() | theirs.keys()
        if ours.get(key) != theirs.get(key) and not key.startswith(FREE)
    )
    if differ:
        raise ValueError(
            f"output: {run} holds another run or network, with {', '.join(differ)}; change "
            f"--output, and take --start-from {run} to start from its weights"
        )


def in_short(entry: dict[str, Any]) -> dict[str, Any]:
    """The part of an epoch's log that goes into config.json beside the weights."""
    kept = ("epoch", "loss", "learning_rate", "seconds", "machine")
    return {k: v for k, v in entry.items() if k in kept or k.endswith("accuracy")}


def write_log(run: Path, log: list[dict[str, Any]]) -> None:
    """Write log.jsonl, a line for each epoch."""
    disk.write(run / runs.LOG, "".join(json.dumps(entry) + "\n" for entry in log))


def read_log(run: Path) -> list[dict[str, Any]]:
    """The epochs of a run.

    Raises:
        FileNotFoundError: There is no log, or no epoch in it yet.
    """
    path = run / runs.LOG
    if not path.is_file() or not path.stat().st_size:
        raise FileNotFoundError(f"{path}: no epoch has been logged yet")
    return [json.loads(line) for line in path.read_text().splitlines()]
