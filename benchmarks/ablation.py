"""Claim: each part of the method helps. What the heads' weight does, and on which stages they hang.

    python benchmarks/ablation.py --root FOLDER_OR_TAR

Beside the paper's table 1 (vanilla, shortcut, evolutionary) the two variants that its text allows,
a weight that stays and a loss of its own for each head, and the heads of one stage alone. In this
network no gradient vanishes; ablation_narrow.py has one where it does.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from arms import REACHED, SEEDS, compare, points, small_run
from matplotlib.figure import Figure
from measure import RESULTS

from zoo.training.config import Config

MODEL, IMAGES, EPOCHS = "short_bp_resnet20_slim", 10_000, 5
LOSSES = {
    "vanilla": "no heads",
    "shortcut": "heads of weight 1",
    "constant": "heads of weight 0.25",
    "evolutionary": "weight from 0.25 to 0",
    "per_head": "a loss for each head, weight from 0.25 to 0",
}


def main() -> None:
    run = partial(small_run, MODEL, images=IMAGES, epochs=EPOCHS)
    ablate("ablation", "Parts of the method", MODEL, run, stages=3)


def ablate(
    name: str,
    title: str,
    network: str,
    run: Callable[..., Config],
    stages: int,
    seeds: Sequence[int] = SEEDS,
) -> None:
    """Train every arm, report and draw.

    Args:
        name: Of the script, its table and its picture.
        network: In words.
        run: The recipe with a loss, and with arguments of the network.
        stages: Of the network; heads hang on all but the last, unless an arm says otherwise.
    """
    places = {
        "first stage only": (0,),
        "last of them only": (stages - 2,),
        "classifier's stage too": tuple(range(stages)),
    }
    arms = {loss: run(loss) for loss in LOSSES}
    arms |= {place: run("evolutionary", head_stages=at) for place, at in places.items()}
    what = [*LOSSES.values(), *(f"evolutionary, heads on stages {at}" for at in places.values())]
    rows = compare(name, title, network, arms, {"what it is": what}, seeds)
    named = [f"heads on\n{arm}" if arm in places else arm for arm in arms]
    recipe = arms["vanilla"]
    setting = (
        f"{network}, T = {recipe.model_args['time_steps']}, "
        f"{recipe.epochs} epochs of {recipe.data.limit} images of CIFAR-10"
    )
    draw(name, rows, [label.replace(" too", "\ntoo") for label in named], setting)


def draw(name: str, rows: list[dict[str, Any]], labels: list[str], setting: str) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    points(axes, rows, range(len(rows)), fmt="o")
    axes.axhline(rows[0]["accuracy, %"], color="grey", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(rows)), labels, size=8)
    axes.set(xlabel="loss, or evolutionary with heads elsewhere", ylabel=REACHED)
    axes.set_title(f"{setting};\nthe broken line is the network without heads")
    figure.savefig(RESULTS / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
