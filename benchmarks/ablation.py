"""Claim: each part of the method helps. What the heads' weight does, and on which stages they hang.

    python benchmarks/ablation.py --root FOLDER_OR_TAR

Beside the paper's table 1 (vanilla, shortcut, evolutionary) the two variants that its text allows,
a weight that stays and a loss of its own for each head, and the heads of one stage alone. In this
network no gradient vanishes; ablation_narrow.py has one where it does. Every arm is measured by the
classifier alone, and those that end with a weight on the heads with these too.
"""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from arms import REACHED, SEEDS, compare, points, small_run
from matplotlib.figure import Figure
from measure import RESULTS

import zoo
from zoo.data import normalise
from zoo.training.config import Config
from zoo.training.feed import measured_batches
from zoo.training.losses import head_weight
from zoo.training.prepare import Data

MODEL, IMAGES, EPOCHS = "short_bp_resnet20_slim", 10_000, 5
LOSSES = {
    "vanilla": "no heads",
    "shortcut": "heads of weight 1",
    "constant": "heads of weight 0.25",
    "evolutionary": "weight from 0.25 to 0",
    "per_head": "a loss for each head, weight from 0.25 to 0",
}
KEPT = "with heads kept, %"
run = partial(small_run, MODEL, images=IMAGES, epochs=EPOCHS)


def main() -> None:
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
    rows = compare(name, title, network, arms, {"what it is": what}, seeds, with_heads_kept)
    named = [f"heads on\n{arm}" if arm in places else arm for arm in arms]
    recipe = arms["vanilla"]
    setting = (
        f"{network}, T = {recipe.model_args['time_steps']}, "
        f"{recipe.epochs} epochs of {recipe.data.limit} images of CIFAR-10"
    )
    draw(name, rows, [label.replace(" too", "\ntoo") for label in named], setting)


def with_heads_kept(config: Config, folders: list[Path], data: Data) -> dict[str, Any]:
    """How far the sum comes that a loss was training at its last step, if that has heads in it."""
    weight = head_weight(config.loss, 1, 1)
    if not weight:
        return {KEPT: None, f"{KEPT}, deviation": None}
    found = [accuracy_with_heads(config, folder, weight, data) for folder in folders]
    return {KEPT: statistics.mean(found), f"{KEPT}, deviation": statistics.stdev(found)}


@torch.inference_mode()
def accuracy_with_heads(config: Config, folder: Path, weight: float, data: Data) -> float:
    model = zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
    correct = 0
    for pixels, labels in measured_batches(config, data.measured, 0, 1):
        x = normalise(pixels, config.data.mean, config.data.std)
        rates, exits = model.forward_intermediates(x, indices=list(model.head_stages))
        side_logits = model.shortcut_heads([rate[None] for rate in exits])
        logits = model.forward_head(rates) + weight * side_logits.sum(0)
        correct += (logits.argmax(1) == labels).sum().item()
    return 100 * correct / len(data.measured)


def draw(name: str, rows: list[dict[str, Any]], labels: list[str], setting: str) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    points(axes, rows, range(len(rows)), fmt="o", label="by the classifier alone")
    kept = [i for i, row in enumerate(rows) if row[KEPT]]
    with_heads = [
        {"accuracy, %": rows[i][KEPT], "deviation": rows[i][f"{KEPT}, deviation"]} for i in kept
    ]
    beside = [i + 0.12 for i in kept]
    points(axes, with_heads, beside, fmt="s", mfc="none", label="with the heads that it ended with")
    axes.axhline(rows[0]["accuracy, %"], color="grey", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(rows)), labels, size=8)
    axes.set(xlabel="loss, or evolutionary with heads elsewhere", ylabel=REACHED)
    axes.legend()
    axes.set_title(f"{setting};\nthe broken line is the network without heads")
    figure.savefig(RESULTS / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
