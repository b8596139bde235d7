"""Arms of a comparison: networks trained from the same seeds on the same images, and how far each
comes.

A claim's script names its arms; each is trained by zoo.training in a run folder of its own, so that
a comparison that was stopped goes on. Accuracies are on held-out training images.
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from measure import commit, report, run_script

from zoo.data import DataConfig
from zoo.hub import files as disk
from zoo.hub import run_folder as runs
from zoo.training.augment import AugmentConfig
from zoo.training.config import Config, OptimConfig
from zoo.training.engine import train
from zoo.training.losses import LossConfig
from zoo.training.prepare import Data, load_data
from zoo.training.run_folder import read_log

SEEDS = (0, 1, 2)
# Machine and commit of a table are those that wrote it.
TRAINED_ON, TRAINED_BY = "trained on", "trained by"
CODE = "commit"  # a file in a run's folder: what it was trained by
T, HELD_OUT, CROP = 2, 5000, 24
# What pictures call arms, and their axis.
SHOWN = {
    "vanilla": "without heads (vanilla)",
    "shortcut": "with heads (shortcut)",
    "evolutionary": "with heads (evolutionary)",
}
REACHED = "held-out accuracy in %\nmean and deviation of the seeds"


def small_run(model: str, loss: str, images: int, epochs: int, **model_args: Any) -> Config:
    """A run that two cores can carry many of; all but the network and the loss is the same."""
    return Config(
        model=model,
        model_args={"time_steps": T, **model_args},
        data=DataConfig(name="image_folder", holdout=HELD_OUT, limit=images),
        augment=AugmentConfig(crop_padding=0, crop_size=CROP),
        loss=LossConfig(name=loss),
        optim=OptimConfig(name="adamw", lr=0.005, weight_decay=0.02, warmup_epochs=0.3),
        epochs=epochs,
        batch_size=64,
        device="cpu",
        precision="fp32",  # many CPUs only emulate bf16
        compile=True,
    )


def facts(config: Config, networks: str, seeds: Sequence[int]) -> dict[str, Any]:
    """What the arms have in common."""
    return {
        "networks": networks,
        "images": f"CIFAR-10 (JPEG): {config.data.limit} to train on, {HELD_OUT} held out",
        "training": f"{config.epochs} epochs of {CROP}-pixel crops, batch {config.batch_size}, "
        f"{optimizer(config)}, T = {config.model_args['time_steps']}, "
        f"{config.precision}" + ", compiled" * config.compile,
        "seeds": list(seeds),
    }


def compare(
    name: str,
    title: str,
    networks: str,
    arms: dict[str, Config],
    columns: dict[str, Sequence[Any]],
    seeds: Sequence[int] = SEEDS,
    more: Callable[[Config, list[Path], Data], dict[str, Any]] = lambda *_: {},
):
    """Train every arm from every seed, and report.

    Args:
        networks: What is trained, in words.
        arms: What each arm is, by its name.
        columns: More columns of the table, a value for each arm.
        more: Columns that are measured, of an arm's recipe, the folders of its runs and the images.

    Returns:
        The table's rows.
    """

    def main(root: str, runs: str = f"runs/claims/{name}") -> list[dict[str, Any]]:
        """Train the arms of a comparison.

        Args:
            root: A folder or tar archive with train/CLASS/IMAGE and test/CLASS/IMAGE.
            runs: Folder for the runs; those that are there already are not made again.
        """
        torch.set_num_threads(1)  # of networks so small two gain little; bits depend on it
        first = next(iter(arms.values()))
        data = load_data(replace(first, data=replace(first.data, root=root)))
        rows, machines, codes = [], {}, {}
        for i, (arm, config) in enumerate(arms.items()):
            ends, folders = [], []
            for seed in seeds:
                folder = Path(runs) / f"{arm.replace(' ', '_')}_{seed}"
                end = train_by_this_code(replace(config, seed=seed, output=str(folder)), data)
                if end.get("epoch") != config.epochs:  # it has said that SIGTERM stopped it
                    sys.exit(f"stopped in {folder}; the same command goes on from there")
                ends.append(end)
                folders.append(folder)
                machines |= dict.fromkeys(entry["machine"] for entry in read_log(folder))
                codes |= dict.fromkeys(trained_by(folder))
            rows.append(
                {"arm": arm}
                | {key: values[i] for key, values in columns.items()}
                | _row(ends)
                | more(config, folders, data)
            )
        command = f"python benchmarks/{name}.py --root FOLDER_OR_TAR"
        common = facts(first, networks, seeds) | {
            TRAINED_ON: " and ".join(machines),
            TRAINED_BY: " and ".join(codes),
        }
        report(name, title, rows, command, **common)
        return rows

    return run_script(main)


def train_by_this_code(config: Config, data: Data) -> dict[str, Any]:
    """train, and note by which commit, if there was anything left of the run."""
    run = Path(config.output)
    begun = (run / runs.LOG).exists()
    if not begun or len((run / runs.LOG).read_text().splitlines()) < config.epochs:
        known = trained_by(run) if begun else []
        run.mkdir(parents=True, exist_ok=True)
        disk.write(run / CODE, "\n".join(dict.fromkeys([*known, commit() or "unknown"])))
    return train(config, data)


def trained_by(run: Path) -> list[str]:
    """The commits by which a run was trained, or that nobody noted them."""
    return (run / CODE).read_text().split() if (run / CODE).exists() else ["unknown"]


def optimizer(config: Config) -> str:
    """For a table; of Muon also what it multiplies in."""
    told = f"{config.optim.name} {config.optim.lr}"
    multiplies = "fp32" if config.precision == "fp32" else "bf16"
    return f"{told} in {multiplies}" if "muon" in config.optim.name else told


def _row(ends: list[dict[str, Any]]) -> dict[str, Any]:
    """What the last epochs of one arm's runs say."""
    reached = [end["holdout_accuracy"] for end in ends]
    rates = [min(end["firing_rates"].values()) for end in ends]
    return {
        "accuracy, %": statistics.mean(reached),
        "deviation": statistics.stdev(reached),
        "of each seed": ", ".join(f"{value:.1f}" for value in reached),
        "train, %": statistics.mean(end["accuracy"] for end in ends),
        "lowest firing rate": min(rates),
    }


def points(axes: Axes, rows: list[dict[str, Any]], at: Sequence[float], **style: Any) -> None:
    """Mean and deviation of each arm's accuracy."""
    means = [row["accuracy, %"] for row in rows]
    axes.errorbar(at, means, [row["deviation"] for row in rows], capsize=3, **style)
