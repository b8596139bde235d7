"""Claim: each part of the method helps, in a network whose gradient vanishes.

    python benchmarks/ablation_narrow.py --root FOLDER_OR_TAR

The arms of ablation.py, of the narrow ResNet-34 that gradients.py finds to lose most of its
gradient on the way to the first layer, and that depth.py trains.
"""

from dataclasses import replace
from typing import Any

import depth
from ablation import ablate

from zoo.training.config import Config

DEPTH, SEEDS = 34, (0, 1, 2, 3, 4, 5)


def run(loss: str, **model_args: Any) -> Config:
    return replace(depth.run(DEPTH, loss, **model_args), precision="fp32", compile=True)


def main() -> None:
    title = "Parts of the method, where the gradient vanishes"
    stages = len(depth.WIDTHS)
    ablate("ablation_narrow", title, f"narrow ResNet-{DEPTH}", run, stages, SEEDS)


if __name__ == "__main__":
    main()
