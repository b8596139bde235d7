"""The reviewers' question: do heads help where the shortcut goes past the neurons anyway?

    python benchmarks/membrane.py --root FOLDER_OR_TAR

The paper's argument is about blocks that fire after the addition. An MS-ResNet adds membrane
potentials and a SEW-ResNet adds spikes, and the shortcuts of both pass a gradient on without a
surrogate in it, but for SEW's two that change the shape and MS's last neuron. The three kinds of
block in one shape, each with heads and without, and each with the neuron and the norms of its own
paper.
"""

from typing import Any

from arms import REACHED, SHOWN, T, compare, points, small_run
from matplotlib.figure import Figure
from measure import RESULTS

IMAGES, EPOCHS = 10_000, 5
LOSSES = ("vanilla", "evolutionary")
NETWORKS = "ResNet-20 of 16, 32 and 64 channels"
SHAPE = {"depths": (3, 3, 3), "widths": (16, 32, 64)}
FAMILIES = {
    "spike after the addition": ("short_bp_resnet20_slim", {}),
    "spikes added (SEW)": ("sew_resnet18", {**SHAPE, "stem": "conv3x3"}),
    "potentials added (MS)": ("ms_resnet18_cifar", {**SHAPE, "stem_width": 16}),
}


def main() -> None:
    arms = {
        f"{family}, {loss}": small_run(model, loss, IMAGES, EPOCHS, **args)
        for family, (model, args) in FAMILIES.items()
        for loss in LOSSES
    }
    rows = compare("membrane", "Heads on three kinds of residual block", NETWORKS, arms, {})
    draw("membrane", rows, NETWORKS, T)


def draw(name: str, rows: list[dict[str, Any]], networks: str, time_steps: int) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, (loss, shift) in enumerate(zip(LOSSES, (-0.08, 0.08), strict=True)):
        at = [place + shift for place in range(len(FAMILIES))]
        points(axes, rows[i :: len(LOSSES)], at, fmt="os"[i], label=SHOWN[loss])
    axes.set_xticks(range(len(FAMILIES)), FAMILIES)
    axes.set(xlim=(-0.5, len(FAMILIES) - 0.5), xlabel="residual block", ylabel=REACHED)
    axes.set_title(f"{networks}, T = {time_steps},\n{EPOCHS} epochs of {IMAGES} images of CIFAR-10")
    axes.legend()
    figure.savefig(RESULTS / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
