"""python -m zoo.training configs/RECIPE.yaml [--epochs 3 --optim.lr 0.1 ...] [--dry-run]"""

import os
import sys
from pathlib import Path

import torch
import tyro

from zoo.console import is_out_of_memory, named_first, said_in_a_line
from zoo.training.allocator import keep_large_buffers
from zoo.training.config import Config, load_config
from zoo.training.engine import train
from zoo.training.rehearsal import rehearse

STOPPED = "stopped; the same command goes on from the newest checkpoint, if there is one"
HELP = {
    "prog": "python -m zoo.training RECIPE",
    "description": "Trains what a recipe says, or goes on with it. --dry-run builds everything and "
    "takes two steps on noise, without data and without a trace.",
}


def main() -> None:
    path = named_first(Config, "the recipe", **HELP)
    overrides = [argument for argument in sys.argv[2:] if argument != "--dry-run"]
    dry = len(overrides) < len(sys.argv[2:])
    with said_in_a_line(FloatingPointError, stopped=STOPPED):
        recipe = load_config(Path(path))
        config = tyro.cli(Config, default=recipe, args=overrides, **HELP)
        first = os.environ.get("RANK", "0") == "0"
        if config.keep_large_buffers and keep_large_buffers() and first:
            print("allocator: large buffers stay in the process (glibc)")
        if config.compile and first:
            print("compile: the first step takes a minute, or a few for a deep network")
        if dry:
            losses = ", ".join(f"{loss:.3f}" for loss in rehearse(config))
            if first:
                print(f"{sys.argv[1]}: all was built; losses of two steps on noise: {losses}")
            return
        try:
            train(config)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise torch.OutOfMemoryError(
                f"{error}; a larger --gradient-accumulation takes a step in smaller pieces"
            ) from None


if __name__ == "__main__":
    main()
