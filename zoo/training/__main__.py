"""python -m zoo.training configs/RECIPE.yaml [--epochs 3 --optim.lr 0.1 ...]"""

import sys
from pathlib import Path

import tyro

from zoo.training.allocator import keep_large_buffers
from zoo.training.config import Config, load_config
from zoo.training.engine import train


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        tyro.cli(Config, prog="python -m zoo.training RECIPE", args=["--help"])
    try:
        recipe = load_config(Path(sys.argv[1]))
        config = tyro.cli(
            Config, prog="python -m zoo.training RECIPE", default=recipe, args=sys.argv[2:]
        )
        if config.keep_large_buffers and keep_large_buffers():
            print("allocator: large buffers stay in the process (glibc)")
        train(config)
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
