"""Claim: each part of the method helps. What the heads' weight does, and on which stages they hang.

    python benchmarks/ablation.py --root FOLDER_OR_TAR

Beside the paper's table 1 (vanilla, shortcut, evolutionary) the two variants that its text allows,
a weight that stays and a loss of its own for each head, and the heads of one stage alone.
"""

from typing import Any

from arms import REACHED, compare, points, small_run
from matplotlib.figure import Figure
from measure import RESULTS

MODEL, IMAGES, EPOCHS = "short_bp_resnet20_slim", 10_000, 5
LOSSES = {
    "vanilla": "no heads",
    "shortcut": "heads of weight 1",
    "constant": "heads of weight 0.25",
    "evolutionary": "weight from 0.25 to 0",
    "per_head": "a loss for each head, weight from 0.25 to 0",
}
PLACES = {"first stage only": (0,), "last of them only": (1,), "classifier's stage too": (0, 1, 2)}


def main() -> None:
    arms = {loss: small_run(MODEL, loss, IMAGES, EPOCHS) for loss in LOSSES}
    arms |= {
        place: small_run(MODEL, "evolutionary", IMAGES, EPOCHS, head_stages=stages)
        for place, stages in PLACES.items()
    }
    what = [*LOSSES.values(), *(f"evolutionary, heads on stages {s}" for s in PLACES.values())]
    draw(compare("ablation", "Parts of the method", MODEL, arms, {"what it is": what}))


def draw(rows: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    points(axes, rows, range(len(rows)), fmt="o")
    axes.axhline(rows[0]["accuracy, %"], color="grey", linewidth=0.8, linestyle="--")
    named = [f"heads on\n{row['arm']}" if row["arm"] in PLACES else row["arm"] for row in rows]
    axes.set_xticks(range(len(rows)), [name.replace(" too", "\ntoo") for name in named], size=8)
    axes.set(xlabel="loss, or evolutionary with heads elsewhere", ylabel=REACHED)
    axes.set_title(
        f"{MODEL}, T = 2, {EPOCHS} epochs of {IMAGES} images of CIFAR-10;\n"
        "the broken line is the network without heads"
    )
    figure.savefig(RESULTS / "ablation.png", dpi=120)


if __name__ == "__main__":
    main()
