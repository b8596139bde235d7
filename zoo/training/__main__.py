"""python -m zoo.training configs/RECIPE.yaml [--stage NAME] [--epochs 3 ...] [--dry-run]"""

import argparse
import os
import sys

import torch
import tyro

from zoo.console import is_out_of_memory, named_first, said_in_a_line
from zoo.training.allocator import keep_large_buffers
from zoo.training.config import RECIPES, Config, find_recipe, load_config
from zoo.training.engine import train
from zoo.training.rehearsal import rehearse

STOPPED = "stopped; the same command resumes from the newest checkpoint"
DESCRIPTION = (
    "Train a recipe, or resume it. RECIPE is a YAML file or the name of one that comes with the "
    f"package: {', '.join(RECIPES)}. --stage NAME picks a stage of a recipe that has several. "
    "--dry-run builds everything and takes two steps on noise."
)


def main(prog: str = "python -m zoo.training") -> None:
    shown = {"prog": f"{prog} RECIPE", "description": DESCRIPTION}
    name = named_first(Config, "the recipe", **shown)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--stage", default="")
    parser.add_argument("--dry-run", action="store_true")
    own, overrides = parser.parse_known_args(sys.argv[2:])
    with said_in_a_line(FloatingPointError, stopped=STOPPED):
        recipe = load_config(find_recipe(name), own.stage)
        config = tyro.cli(Config, default=recipe, args=overrides, **shown)
        keep_large_buffers()
        try:
            if not own.dry_run:
                train(config)
                return
            losses = ", ".join(f"{loss:.3f}" for loss in rehearse(config))
            if os.environ.get("RANK", "0") == "0":
                print(f"{name}: everything was built; losses of two steps on noise: {losses}")
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise torch.OutOfMemoryError(
                f"{error}; a larger --gradient-accumulation takes a step in smaller pieces"
            ) from None


if __name__ == "__main__":
    main()
