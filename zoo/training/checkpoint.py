"""Checkpoints of a run: a pretrained folder (zoo.hub) plus what it takes to go on.

A checkpoint is written under a temporary name and renamed when it is whole, so that a kill leaves
either the old ones or the new one; the last two are kept.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo import hub

KEPT = 2
STATE, TRAINER = "state.json", "trainer.pt"


def save_checkpoint(
    run: Path,
    model: nn.Module,
    trainer: dict[str, Any],
    state: dict[str, Any],
    **config: Any,
) -> Path:
    """Write ``run/checkpoints/epoch_NNNN``.

    Args:
        trainer: State dicts of optimizer and schedule: tensors, numbers, lists and dicts.
        state: What JSON can hold; ``state["epoch"]`` names the checkpoint.
        config: More keys for the config.json beside the weights.
    """
    folder = run / "checkpoints" / f"epoch_{state['epoch']:04d}"
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    hub.save_pretrained(model, partial, **config)
    torch.save(trainer, partial / TRAINER)
    (partial / STATE).write_text(json.dumps(state, indent=2))
    partial.rename(folder)
    for old in hub.checkpoints(run)[:-KEPT]:
        shutil.rmtree(old)
    return folder


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What save_checkpoint was given as trainer and state; weights load through zoo.hub."""
    trainer = torch.load(folder / TRAINER, weights_only=True, map_location="cpu")
    return trainer, json.loads((folder / STATE).read_text())
