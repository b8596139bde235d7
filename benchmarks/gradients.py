"""Claim: heads bring more gradient to the first layers. Mean and variance of |dL/dW| by layer.

    python benchmarks/gradients.py --root FOLDER_OR_TAR

The table of the rebuttal of Take A Shortcut Back, on images that are at hand: one network trained
for a short while without heads and one with, from each of SEEDS, the same images in the same order.
Then the gradient of one batch, for each with the loss that it is trained with, before the first
step and after the last.
"""

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro
from matplotlib.figure import Figure
from measure import RESULTS, report

import zoo
from zoo import runs
from zoo.data import DataConfig, load_images, normalise
from zoo.diagnostics import Gradient, gradients
from zoo.training.config import Config, OptimConfig
from zoo.training.engine import build_model, train
from zoo.training.losses import LossConfig

SEEDS, BATCH, STEPS, T = (0, 1, 2), 32, 300, 2
MODEL, COEFFICIENT = "short_bp_resnet20_slim", 0.25
ARMS = {"vanilla": 0.0, "evolutionary": COEFFICIENT}
MOMENTS = ("before training", "after training")
COMMAND = "python benchmarks/gradients.py --root FOLDER_OR_TAR"
# Of a ResNet-18 on CIFAR-100; its table has ten layers.
REBUTTAL = "1.70 to 1.84 at every layer; vanilla falls 11.8 times from layer 10 to 1, ours 12.4"


def recipe(root: str, arm: str, seed: int, output: str) -> Config:
    return Config(
        model=MODEL,
        model_args={"time_steps": T},
        data=DataConfig(name="image_folder", root=root, holdout=100, limit=BATCH * STEPS),
        loss=LossConfig(name=arm, coefficient=COEFFICIENT),
        optim=OptimConfig(lr=0.002, warmup_epochs=0.1),
        epochs=1,
        batch_size=BATCH,
        seed=seed,
        output=output,
    )


def weights_only(found: list[Gradient]) -> dict[str, Gradient]:
    return {row.layer: row for row in found if row.of == "weights"}


def measured(root: str) -> dict[str, list[dict[str, dict[str, Gradient]]]]:
    """By moment, for each seed: by arm, by layer."""
    images = load_images(DataConfig(name="image_folder", root=root), "train")
    found: dict[str, list] = {moment: [] for moment in MOMENTS}
    for seed in SEEDS:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        pixels, labels = images.take(order[:BATCH].tolist())
        before, after = {}, {}
        for arm, weight in ARMS.items():
            with tempfile.TemporaryDirectory(prefix="gradients_") as scratch:
                config = recipe(root, arm, seed, scratch)
                x = normalise(pixels, config.data.mean, config.data.std)
                torch.manual_seed(seed)
                model = build_model(replace(config, output=""), images)
                before[arm] = weights_only(gradients(model, x, labels, weight))
                train(config)
                trained = f"local-dir:{runs.newest_checkpoint(Path(scratch))}"
                model = zoo.create_model(trained, pretrained=True)
                after[arm] = weights_only(gradients(model, x, labels, weight))
        for moment, arms in zip(MOMENTS, (before, after), strict=True):
            found[moment].append(arms)
    return found


def rows_of(found: dict[str, list]) -> list[dict[str, Any]]:
    rows = []
    for moment, seeds in found.items():
        for number, layer in enumerate(seeds[0]["vanilla"], 1):
            row: dict[str, Any] = {"moment": moment, "layer": f"{number} {layer}"}
            for arm in ARMS:
                row[f"{arm}, mean"] = statistics.mean(s[arm][layer].mean for s in seeds)
                row[f"{arm}, variance"] = statistics.mean(s[arm][layer].variance for s in seeds)
            ratios = [s["evolutionary"][layer].mean / s["vanilla"][layer].mean for s in seeds]
            row["ours / vanilla"] = statistics.mean(ratios)
            row["deviation"] = statistics.stdev(ratios)
            rows.append(row)
    return rows


def fall(rows: list[dict[str, Any]], moment: str, arm: str) -> float:
    """How many times smaller the first layer's mean is than the last convolution's."""
    means = [row[f"{arm}, mean"] for row in rows if row["moment"] == moment]
    return means[-2] / means[0]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, moment in zip(figure.subplots(1, 2, sharey=True), MOMENTS, strict=True):
        for arm, style in zip(ARMS, ("o-", "s--"), strict=True):
            means = [row[f"{arm}, mean"] for row in rows if row["moment"] == moment]
            axes.plot(range(1, len(means) + 1), means, style, ms=4, label=arm)
        axes.set(title=f"{MODEL}, T = {T}, {moment}", xlabel="layer, from the input", yscale="log")
        axes.legend()
    figure.axes[0].set_ylabel("mean of |dL/dW| over a layer's weights")
    figure.savefig(path, dpi=120)


def main(root: str) -> None:
    """Measure gradients with and without shortcut heads.

    Args:
        root: A folder or tar archive with train/CLASS/IMAGE and test/CLASS/IMAGE.
    """
    rows = rows_of(measured(root))
    facts = {
        "seeds": list(SEEDS),
        "training": f"{STEPS} steps of {BATCH} images, T = {T}, AdamW, fp32",
        "the rebuttal's ratio": REBUTTAL,
    }
    for moment in MOMENTS:
        falls = {arm: round(fall(rows, moment, arm), 2) for arm in ARMS}
        facts[f"last convolution over the first, {moment}"] = falls
    report("gradients", "Gradient by layer, vanilla and with heads", rows, COMMAND, **facts)
    draw(rows, RESULTS / "gradients.png")


if __name__ == "__main__":
    tyro.cli(main)
