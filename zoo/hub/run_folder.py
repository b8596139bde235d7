"""Run folders: their checkpoints, and the runs that weights went through.

RUN/config.json                the resolved recipe
RUN/log.jsonl                  a line per epoch
RUN/checkpoints/step_NNNNNNN/  a pretrained folder (zoo.hub), the trainer's state, sha256.json
"""

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.hub.files import file_sha256, hashes, sync

LOG = "log.jsonl"
SEAL = "sha256.json"  # of a checkpoint: the hashes of its files
NAME = re.compile(r"step_\d+")
MEASURED = {"holdout_accuracy": "held-out training images", "test_accuracy": "test images"}


def all_runs(training: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Recipes and logs of all runs that weights went through, the first one first.

    Args:
        training: The key of that name in a config.json.
    """
    if training:
        yield from all_runs(training.get("began_with", {}).get("training"))
        yield training


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; each is a pretrained folder."""
    found = [path for path in run.glob("checkpoints/step_*") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def newest_checkpoint(run: Path) -> Path | None:
    """The newest intact checkpoint, or None if the run has none yet. Warns of corrupt ones.

    Raises:
        ValueError: All checkpoints are corrupt.
        OSError: One could not be read.
    """
    found = checkpoints(run)
    for folder in reversed(found):
        if is_whole(folder):
            return folder
        warnings.warn(f"{folder}: corrupt checkpoint; using the previous one", stacklevel=2)
    if found:
        raise ValueError(
            f"{run}: all {len(found)} checkpoints are corrupt; choose another folder to start anew"
        )
    return None


def pretrained_folder(folder: Path) -> Path:
    """The newest checkpoint of a run folder; any other folder is returned as it is.

    Raises:
        FileNotFoundError: The run has none yet.
        ValueError, OSError: As newest_checkpoint.
    """
    found = newest_checkpoint(folder)
    if found is None and (folder / LOG).is_file():
        raise FileNotFoundError(f"{folder}: no checkpoint yet; start training first")
    return found or folder


def seal(folder: Path) -> None:
    """Write the hashes of a folder's files beside them, and flush all of it to the disk."""
    (folder / SEAL).write_text(json.dumps(hashes(folder, SEAL), indent=2))
    for path in (*folder.iterdir(), folder):
        sync(path)


def is_whole(folder: Path) -> bool:
    """Whether the files of a folder have the hashes that it was sealed with.

    Raises:
        OSError: A file could not be read; the folder may be intact.
    """
    try:
        sealed = json.loads((folder / SEAL).read_text())
        found = {name: file_sha256(folder / name) for name in sealed}
        return bool(found) and found == sealed
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, TypeError):
        return False
