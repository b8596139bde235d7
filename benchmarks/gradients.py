"""Measure how much gradient reaches each layer, without heads and with them.

    python benchmarks/gradients.py --root DATA

Trains a network whose gradient does not vanish and one whose gradient does, for a short while, from
the same seeds on the same images. Then takes mean and variance of the |gradient| of one batch, of
each layer's weights and spikes, before the first step and after the last. Heads have the weight
that they begin with: after the last step that of the evolutionary loss is nearly 0.
"""

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from experiments import LABELS, narrow_resnet
from matplotlib.figure import Figure
from measure import RESULTS, report, run_script

import zoo
from zoo.data import DataConfig, normalise
from zoo.diagnostics import Gradient, gradients
from zoo.hub import run_folder as runs
from zoo.training.augment import AugmentConfig
from zoo.training.config import Config, OptimConfig
from zoo.training.engine import train
from zoo.training.losses import LossConfig, head_weight
from zoo.training.prepare import Data, build_model, load_data

BATCH, STEPS, SEEDS = 32, 300, (0, 1, 2)
LOSSES = {name: LossConfig(name=name) for name in ("vanilla", "shortcut", "evolutionary")}
WITH_HEADS = [name for name, loss in LOSSES.items() if loss.needs_heads]
ARMS = {name: head_weight(LOSSES[name], 0, STEPS) * (name in WITH_HEADS) for name in LOSSES}
SLIM, NARROW = "short_bp_resnet20_slim", "narrow ResNet-34"
NETWORKS = {
    SLIM: Config(
        model=SLIM, model_args={"time_steps": 2}, optim=OptimConfig(lr=0.002, warmup_epochs=0.1)
    ),
    NARROW: replace(narrow_resnet(34, "vanilla"), augment=AugmentConfig(), compile=False),
}
MOMENTS, OF = ("before training", "after training"), ("weights", "spikes")
COMMAND = "python benchmarks/gradients.py --root DATA"
Layers = dict[tuple[str, str], Gradient]


def recipe(network: str, arm: str, seed: int, root: str, output: str) -> Config:
    return replace(
        NETWORKS[network],
        data=DataConfig(name="image_folder", root=root, holdout=100, limit=BATCH * STEPS),
        loss=LOSSES[arm],
        epochs=1,
        batch_size=BATCH,
        device="cpu",  # as what is measured of it
        seed=seed,
        output=output,
    )


def by_layer(found: list[Gradient]) -> Layers:
    """Gradients by layer, without the convolutions of shortcuts."""
    return {(row.of, row.layer): row for row in found if ".shortcut." not in row.layer}


def measured(network: str, arm: str, seed: int, data: Data) -> tuple[Layers, Layers]:
    """Gradients before and after training."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    pixels, labels = data.train.take(order[:BATCH].tolist())
    with tempfile.TemporaryDirectory(prefix="gradients_") as scratch:
        config = recipe(network, arm, seed, "", scratch)
        x = normalise(pixels, config.data.mean, config.data.std)
        torch.manual_seed(seed)
        before = build_model(replace(config, output=""), data.train)
        train(config, data)
        trained = f"local-dir:{runs.newest_checkpoint(Path(scratch))}"
        after = zoo.create_model(trained, pretrained=True)
    weight = ARMS[arm]
    return tuple(by_layer(gradients(model, x, labels, weight)) for model in (before, after))


def rows_of(network: str, moment: str, seeds: list[dict[str, Layers]]) -> list[dict[str, Any]]:
    """A row for each layer that a gradient reaches.

    Before training a norm that begins at 0 stops the gradient in its block.
    """
    rows = []
    for of in OF:
        layers = [layer for kind, layer in seeds[0]["vanilla"] if kind == of]
        for number, layer in enumerate(layers, 1):
            means = {arm: [seed[arm][of, layer].mean for seed in seeds] for arm in ARMS}
            if min(map(min, means.values())) == 0:
                continue
            row: dict[str, Any] = {"network": network, "moment": moment, "of": of}
            row |= {"number": number, "layer": layer}
            for arm in ARMS:
                row[f"{arm}, mean"] = statistics.geometric_mean(means[arm])
                variances = [seed[arm][of, layer].variance for seed in seeds]
                row[f"{arm}, variance"] = statistics.mean(variances)
            for arm in WITH_HEADS:
                ratios = [a / v for a, v in zip(means[arm], means["vanilla"], strict=True)]
                row[f"{arm} / vanilla"] = statistics.geometric_mean(ratios)
                row[f"{arm} / vanilla, of each seed"] = ", ".join(f"{r:.3g}" for r in ratios)
            rows.append(row)
    return rows


def chosen(rows: list[dict[str, Any]], network: str, moment: str, of: str) -> list[dict[str, Any]]:
    """Rows by layer, from the input."""
    asked = (network, moment, of)
    return [row for row in rows if (row["network"], row["moment"], row["of"]) == asked]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(12, 8), layout="constrained")
    for across, network in zip(figure.subplots(2, 2), NETWORKS, strict=True):
        for axes, of in zip(across, OF, strict=True):
            of_layer = chosen(rows, network, "after training", of)
            numbers = [row["number"] for row in of_layer]
            for arm, style in zip(ARMS, ("o-", "^:", "s--"), strict=True):
                means = [row[f"{arm}, mean"] for row in of_layer]
                axes.plot(numbers, means, style, ms=4, label=LABELS[arm])
            axes.set(title=f"{network}, {of}", xlabel=f"layer with {of}, from the input")
            axes.set(yscale="log", ylabel=f"mean of |gradient| of a layer's {of}")
            axes.set_xticks(range(1, numbers[-1] + 1, 3))
            axes.legend()
    figure.suptitle(
        f"After {STEPS} steps of {BATCH} images of CIFAR-10, geometric mean of {len(SEEDS)} seeds; "
        "heads at the weight that they begin with"
    )
    figure.savefig(path, dpi=120)


def main(root: str) -> None:
    """Measure gradients with and without shortcut heads.

    Args:
        root: A folder or tar archive with train/CLASS/IMAGE and test/CLASS/IMAGE.
    """
    torch.set_num_threads(1)  # bits depend on it
    data = load_data(recipe(SLIM, "vanilla", 0, root, ""))
    rows = []
    for network in NETWORKS:
        of_seeds = [{arm: measured(network, arm, seed, data) for arm in ARMS} for seed in SEEDS]
        for i, moment in enumerate(MOMENTS):
            seeds = [{arm: found[i] for arm, found in seed.items()} for seed in of_seeds]
            rows += rows_of(network, moment, seeds)
    facts = {
        "networks": f"{SLIM} (T = 2, AdamW 0.002) and {NARROW} (T = 1, Muon 0.02 in fp32)",
        "images": "CIFAR-10 (JPEG)",
        "seeds": list(SEEDS),
        "training": f"{STEPS} steps of {BATCH} images, fp32",
        "weights of the heads": ARMS,
    }
    report("gradients", "Gradient by layer, vanilla and with heads", COMMAND, rows, **facts)
    draw(rows, RESULTS / "gradients.png")


if __name__ == "__main__":
    run_script(main)
