"""Checkpoints of a run: a pretrained folder (zoo.hub) plus the state of the training.

A checkpoint is written under a temporary name, sealed with its hashes, synced to the disk and then
renamed: a kill or a power cut leaves whole checkpoints. The last two are kept.
"""

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
STATE, TRAINER = "state.json", "trainer.pt"


def save_checkpoint(
    run: Path,
    model: nn.Module,
    trainer: dict[str, Any],
    state: dict[str, Any],
    **config: Any,
) -> Path:
    """Write ``run/checkpoints/step_NNNNNNN`` and delete all but the last two checkpoints.

    Args:
        trainer: State dicts of optimizer and schedule: tensors, numbers, lists and dicts.
        state: JSON data; ``state["iteration"]`` names the checkpoint.
        config: More keys for the config.json beside the weights.

    Raises:
        OSError: The disk is full or cannot be written to; earlier checkpoints stay whole.
    """
    folder = run / "checkpoints" / f"step_{state['iteration']:07d}"
    partial = folder.with_suffix(".partial")
    try:
        for stale in folder.parent.glob("*.partial"):  # left by a kill
            shutil.rmtree(stale)
        partial.mkdir(parents=True)
        hub.save_pretrained(model, partial, **config)
        torch.save(trainer, partial / TRAINER)
        (partial / STATE).write_text(json.dumps(state, indent=2))
        runs.seal(partial)
        if folder.exists():  # a kill here costs steps: the run resumes from the one before
            shutil.rmtree(folder)
        partial.rename(folder)
        disk.sync(folder.parent)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            f"{folder}: cannot write the checkpoint: {error}; the ones before are unchanged, and "
            "the same command resumes from there"
        ) from error
    found = runs.checkpoints(run)
    newest = found.index(folder)
    for old in found[: max(0, newest + 1 - KEPT)] + found[newest + 1 :]:  # later ones are corrupt
        shutil.rmtree(old, ignore_errors=True)
    return folder


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The trainer and state of save_checkpoint; zoo.hub loads the weights."""
    trainer = torch.load(folder / TRAINER, weights_only=True, map_location="cpu")
    return trainer, read_state(folder)


def read_state(folder: Path) -> dict[str, Any]:
    """The state of save_checkpoint."""
    return json.loads((folder / STATE).read_text())
