"""Checkpoints of a run: a pretrained folder (zoo.hub) plus what it takes to go on.

A checkpoint is written under a temporary name, sealed with its hashes, seen onto the disk and then
renamed, so that a kill or a power cut leaves either the old ones or the new one; the last two are
kept.
"""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo import hub
from zoo.hub import files as disk
from zoo.hub import run_folder as runs

KEPT = 2
STATE, TRAINER, BEFORE = "state.json", "trainer.pt", ".before.partial"


def save_checkpoint(
    run: Path,
    model: nn.Module,
    trainer: dict[str, Any],
    state: dict[str, Any],
    **config: Any,
) -> Path:
    """Write ``run/checkpoints/step_NNNNNNN``.

    Args:
        trainer: State dicts of optimizer and schedule: tensors, numbers, lists and dicts.
        state: What JSON can hold; ``state["iteration"]`` names the checkpoint.
        config: More keys for the config.json beside the weights.

    Raises:
        OSError: The disk is full or will not be written; the checkpoints before stay whole.
    """
    folder = run / "checkpoints" / f"step_{state['iteration']:07d}"
    partial = folder.with_suffix(".partial")
    try:
        for stale in folder.parent.glob("*.partial"):  # of a run that was killed
            shutil.rmtree(stale)
        partial.mkdir(parents=True)
        hub.save_pretrained(model, partial, **config)
        content = io.BytesIO()
        torch.save(trainer, content)
        (partial / TRAINER).write_bytes(content.getbuffer())
        (partial / STATE).write_text(json.dumps(state, indent=2))
        runs.seal(partial)
        before = folder.with_suffix(BEFORE)
        if folder.exists():  # torn, or of this step before it was measured
            folder.rename(before)
        partial.rename(folder)
        disk.sync(folder.parent)
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        put_back(run)
        kept = [path.name for path in runs.checkpoints(run)]
        raise OSError(
            f"{folder}: expected room for a checkpoint, got: {error}; {kept or 'nothing'} stands "
            "as it was, and the same command goes on from there"
        ) from error
    _forget(run, folder)
    return folder


def put_back(run: Path) -> None:
    """Give a checkpoint that was to be replaced its name again, if nothing has come for it."""
    for before in run.glob(f"checkpoints/*{BEFORE}"):
        folder = before.with_name(before.name.removesuffix(BEFORE))
        if not folder.exists():
            before.rename(folder)


def _forget(run: Path, newest: Path) -> None:
    """Delete all but the newest and the whole ones before it that are kept too; one that is later
    was torn, and is made anew.
    """
    found = runs.checkpoints(run)
    kept = [newest]
    for folder in reversed(found[: found.index(newest)]):
        if len(kept) < KEPT and _may_be_whole(folder):
            kept.append(folder)
    for folder in set(found) - set(kept):
        shutil.rmtree(folder, ignore_errors=True)


def _may_be_whole(folder: Path) -> bool:
    try:
        return runs.is_whole(folder)
    except OSError:  # nobody knows
        return True


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What save_checkpoint was given as trainer and state; weights load through zoo.hub."""
    trainer = torch.load(folder / TRAINER, weights_only=True, map_location="cpu")
    return trainer, read_state(folder)


def read_state(folder: Path) -> dict[str, Any]:
    """What save_checkpoint was given as state."""
    return json.loads((folder / STATE).read_text())
