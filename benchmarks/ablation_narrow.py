"""Claim: each part of the method helps, in a network whose gradient vanishes.

    python benchmarks/ablation_narrow.py --root FOLDER_OR_TAR

The arms of ablation.py, of the narrow ResNet-34 that gradients.py finds to lose most of its
gradient on the way to the first layer, and that depth.py trains.
"""

from functools import partial

import depth
from ablation import ablate

DEPTH, SEEDS = 34, (0, 1, 2, 3, 4, 5)
run = partial(depth.run, DEPTH)


def main() -> None:
    title = "Parts of the method, where the gradient vanishes"
    stages = len(depth.WIDTHS)
    ablate("ablation_narrow", title, f"narrow ResNet-{DEPTH}", run, stages, SEEDS)


if __name__ == "__main__":
    main()
