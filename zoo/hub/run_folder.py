"""Run folders: their checkpoints, which of them are whole, and what runs they came from.

RUN/config.json                the resolved recipe
RUN/log.jsonl                  a line per epoch
RUN/checkpoints/step_NNNNNNN/  a pretrained folder (zoo.hub), what it takes to go on, sha256.json
"""

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.hub.files import file_sha256, hashes, sync
from zoo.validation import is_list

LOG = "log.jsonl"
SEAL = "sha256.json"  # of a checkpoint: the hashes of its files
NAME = re.compile(r"step_\d+")
RECIPE = {"model": str, "model_args": dict, "data": dict, "loss": dict, "epochs": int}
LOGGED = ("epoch", "learning_rate", "loss", "accuracy", "seconds")
MEASURED = {"holdout_accuracy": "held-out training images", "test_accuracy": "test images"}


def all_runs(training: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The recipes and logs of a config.json's training: of all runs that weights went through, the
    first one first.
    """
    if training:
        yield from all_runs(training.get("began_with", {}).get("training"))
        yield training


def is_history(training: Any) -> bool:
    """Whether a run, and each that it began with, has what a card tells of it."""
    if not is_recipe(training):
        return False
    began = training.get("began_with", {"training": None})
    if not (isinstance(began, dict) and "training" in began):
        return False
    if not isinstance(began.get("notes", []), list):
        return False
    return not began["training"] or is_history(began["training"])


def is_recipe(training: Any) -> bool:
    """Whether this is what a run was trained by, with the log that it has, if any."""
    return (
        isinstance(training, dict)
        and all(isinstance(training.get(key), kind) for key, kind in RECIPE.items())
        and all(isinstance(training[key].get("name"), str) for key in ("data", "loss"))
        and isinstance(training["data"].get("title", ""), str)
        and (training["loss"]["name"] in ("vanilla", "shortcut") or _has_weight(training["loss"]))
        and isinstance(log := training.get("log", []), list)
        and all(isinstance(entry, dict) and _is_epoch(entry) for entry in log)
    )


def _has_weight(loss: dict[str, Any]) -> bool:
    return is_list([loss.get("coefficient")], 1, int | float)


def _is_epoch(entry: dict[str, Any]) -> bool:
    measured = next((entry[key] for key in MEASURED if key in entry), None)
    return is_list([measured, *map(entry.get, LOGGED)], len(LOGGED) + 1, int | float)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a training run, oldest first; each is a pretrained folder."""
    found = [path for path in run.glob("checkpoints/step_*") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def newest_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint; None if the run has none yet. A torn one is passed by with a
    warning.

    Raises:
        ValueError: There are checkpoints, and none is whole.
        OSError: One could not be read.
    """
    found = checkpoints(run)
    for folder in reversed(found):
        if is_whole(folder):
            return folder
        warnings.warn(
            f"{folder}: expected the files that {SEAL} names, got others; this checkpoint is "
            "passed by for the one before",
            stacklevel=2,
        )
    if found:
        raise ValueError(
            f"{run}: expected a whole checkpoint, got {len(found)} of which none has the hashes it "
            "was written with; choose another folder to begin anew"
        )
    return None


def pretrained_folder(folder: Path) -> Path:
    """A run folder's newest checkpoint; any other folder is one with weights itself.

    Raises:
        FileNotFoundError: The run has none yet.
        ValueError, OSError: As newest_checkpoint.
    """
    found = newest_checkpoint(folder)
    if found is None and (folder / LOG).is_file():
        raise FileNotFoundError(f"{folder}: expected a checkpoint, found none yet")
    return found or folder


def seal(folder: Path) -> None:
    """Write the hashes of a folder's files beside them, and see all of it onto the disk."""
    (folder / SEAL).write_text(json.dumps(hashes(folder, SEAL), indent=2))
    for path in (*folder.iterdir(), folder):
        sync(path)


def is_whole(folder: Path) -> bool:
    """Whether a folder holds every bit of the files that it was sealed with.

    Raises:
        OSError: It could not be read; it may be whole.
    """
    try:
        sealed = json.loads((folder / SEAL).read_text())
        found = {name: file_sha256(folder / name) for name in sealed}
        return bool(found) and found == sealed
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, TypeError):
        return False
    except OSError as error:
        raise OSError(
            error.errno,
            f"{folder}: expected to read it, got: {error}; try again, or move it away to go on "
            "from the one before",
        ) from error
