"""Claim: without heads accuracy falls with depth, with them it does not.

    python benchmarks/depth.py --root FOLDER_OR_TAR

The depths of the rebuttal; narrow: 8, 16, 32 and 64 channels, from 50 layers on with bottlenecks.
Blocks begin as their shortcuts, and the neurons fire at 0.5: from norms of 1, 34 layers and more
were seen to stay at chance for hundreds of steps, with heads and without.
"""

from dataclasses import replace
from typing import Any

from arms import REACHED, SHOWN, compare, points, small_run
from matplotlib.figure import Figure
from measure import RESULTS

from zoo.training.config import Config, OptimConfig

DEPTHS, IMAGES, EPOCHS = (18, 34, 50, 101, 152), 10_000, 5
BOTTLENECKS = 50  # and deeper
LOSSES, WIDTHS, T = ("vanilla", "evolutionary"), (8, 16, 32, 64), 1
NETWORKS = f"ResNets of {', '.join(map(str, WIDTHS))} channels that fire at 0.5"
# CIFAR-100, T = 4, full width; its second row has the plain shortcut's figures.
REBUTTAL = {
    "vanilla": (72.22, 69.98, 65.22, 53.71, 42.53),
    "evolutionary": (74.78, 75.67, 76.81, 76.88, 75.49),
}


def run(depth: int, loss: str, **model_args: Any) -> Config:
    config = small_run(
        f"short_bp_resnet{depth}",
        loss,
        IMAGES,
        EPOCHS,
        widths=WIDTHS,
        time_steps=T,
        zero_init_last=True,
        spike_layer={"v_threshold": 0.5},
        **model_args,
    )
    muon = OptimConfig(name="muon", lr=0.02, weight_decay=0.02, warmup_epochs=0.3)
    return replace(config, optim=muon, batch_size=128)


def main() -> None:
    arms = {f"{depth} {loss}": run(depth, loss) for loss in LOSSES for depth in DEPTHS}
    theirs = [value for loss in LOSSES for value in REBUTTAL[loss]]
    title, columns = "Depth, vanilla and with heads", {"the rebuttal, %": theirs}
    draw(compare("depth", title, NETWORKS, arms, columns))


def draw(rows: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, loss in enumerate(LOSSES):
        part = rows[i * len(DEPTHS) : (i + 1) * len(DEPTHS)]
        points(axes, part, DEPTHS, fmt=("o-", "s--")[i], label=SHOWN[loss])
    axes.axvline(BOTTLENECKS - 5, color="grey", linewidth=0.8, linestyle=":")
    axes.text(BOTTLENECKS - 3, axes.get_ylim()[0] + 0.3, "bottlenecks", color="grey")
    axes.set_xticks(DEPTHS)
    axes.set(xlabel="depth in layers", ylabel=REACHED)
    channels = ", ".join(map(str, WIDTHS))
    axes.set_title(
        f"ResNets of {channels} channels, threshold 0.5, T = {T},\n"
        f"{EPOCHS} epochs of {IMAGES} images of CIFAR-10"
    )
    axes.legend()
    figure.savefig(RESULTS / "depth.png", dpi=120)


if __name__ == "__main__":
    main()
