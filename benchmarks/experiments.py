"""Train small networks with and without shortcut heads, and compare their held-out accuracy.

    python benchmarks/experiments.py depth --root DATA

The arms of an experiment start from the same seeds and see the same images in the same order.
Each run has a folder of its own, so a stopped experiment goes on where it was. The results go to
docs/results/TABLE.json and TABLE.png; the latest measurement of the same networks is replaced. To
keep it, change its "measured" in the file first.
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from matplotlib.figure import Figure
from measure import LATEST, RESULTS, read, report, run_script
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import zoo
from zoo.data import DataConfig, normalise
from zoo.training.augment import AugmentConfig
from zoo.training.config import Config, OptimConfig
from zoo.training.engine import train
from zoo.training.losses import LossConfig, head_weight
from zoo.training.prepare import Data, load_data
from zoo.training.run_folder import read_log

IMAGES, HELD_OUT, EPOCHS, CROP = 10_000, 5000, 5, 24
WIDTHS = (8, 16, 32, 64)  # of narrow networks
DEPTHS = (18, 34, 50, 101, 152)  # those of the rebuttal
PAIR = ("vanilla", "evolutionary")
LABELS = {
    "vanilla": "without heads (vanilla)",
    "shortcut": "with heads (shortcut)",
    "evolutionary": "with heads (evolutionary)",
}
LOSSES = {
    "vanilla": "no heads",
    "shortcut": "heads of weight 1",
    "constant": "heads of weight 0.25",
    "evolutionary": "weight from 0.25 to 0",
    "per_head": "a loss for each head, weight from 0.25 to 0",
}
KEPT = "with heads kept, %"
LEFT = "gradient at the stem / behind the last stage"
BATCH = 128  # images for the gradient at the stem


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Arms to train on the same images, and the table that they are a part of."""

    table: str
    title: str
    networks: str
    arms: dict[str, Config]
    seeds: Sequence[int] = (0, 1, 2)
    about: dict[str, str] = field(default_factory=dict)
    """What each arm is, as a column."""
    measure: Callable[[Config, list[Path], Data], dict[str, Any]] = lambda *_: {}
    """More columns, measured of an arm's trained networks."""


def small(model: str, loss: str, time_steps: int = 2, **model_args: Any) -> Config:
    """A run of some minutes on a CPU."""
    return Config(
        model=model,
        model_args={"time_steps": time_steps, **model_args},
        data=DataConfig(name="image_folder", holdout=HELD_OUT, limit=IMAGES),
        augment=AugmentConfig(crop_padding=0, crop_size=CROP),
        loss=LossConfig(name=loss),
        optim=OptimConfig(name="adamw", lr=0.005, weight_decay=0.02, warmup_epochs=0.3),
        epochs=EPOCHS,
        batch_size=64,
        device="cpu",
        precision="fp32",  # many CPUs only emulate bf16
        compile=True,
    )


def narrow(model: str, loss: str, **model_args: Any) -> Config:
    """A run of a narrow network whose gradient vanishes.

    Blocks begin as their shortcuts: with norms that begin at 1, networks of 34 layers and more
    stayed at chance for hundreds of steps, with and without heads.
    """
    neuron = {"v_threshold": 0.5}
    config = small(model, loss, time_steps=1, widths=WIDTHS, spike_layer=neuron, **model_args)
    muon = OptimConfig(name="muon", lr=0.02, weight_decay=0.02, warmup_epochs=0.3)
    return replace(config, optim=muon, batch_size=128)


def narrow_resnet(depth: int, loss: str, **model_args: Any) -> Config:
    return narrow(f"short_bp_resnet{depth}", loss, zero_init_last=True, **model_args)


def ablation(networks: str, make: Callable[..., Config], stages: int, **more: Any) -> Experiment:
    """Losses, and where the heads are: by default on all stages but the last."""
    places = {
        "first stage only": (0,),
        "last of them only": (stages - 2,),
        "classifier's stage too": tuple(range(stages)),
    }
    arms = {loss: make(loss) for loss in LOSSES}
    arms |= {place: make("evolutionary", head_stages=at) for place, at in places.items()}
    about = {place: f"evolutionary, heads on stages {at}" for place, at in places.items()}
    return Experiment(
        table="ablation",
        title="Heads' weight and place",
        networks=networks,
        arms=arms,
        about=LOSSES | about,
        measure=accuracy_with_heads,
        **more,
    )


def blocks(networks: str, make: Callable[..., Config], families: dict, **more: Any) -> Experiment:
    """Three kinds of residual block, each with and without heads."""
    arms = {
        f"{family}, {loss}": make(model, loss, **args)
        for family, (model, args) in families.items()
        for loss in PAIR
    }
    title = "Heads on three kinds of residual block"
    return Experiment(table="membrane", title=title, networks=networks, arms=arms, **more)


def accuracy_with_heads(config: Config, folders: list[Path], data: Data) -> dict[str, Any]:
    """Accuracy of the sum that the loss trains at its last step, if heads are in it."""
    weight = head_weight(config.loss, 1, 1)
    if not weight:
        return {KEPT: None, f"{KEPT}, deviation": None}
    found = [_accuracy_with_heads(config, folder, weight, data) for folder in folders]
    return {KEPT: statistics.mean(found), f"{KEPT}, deviation": statistics.stdev(found)}


@torch.inference_mode()
def _accuracy_with_heads(config: Config, folder: Path, weight: float, data: Data) -> float:
    model = zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
    correct = 0
    for indices in torch.arange(len(data.measured)).split(BATCH):
        pixels, labels = data.measured.take(indices.tolist())
        x = normalise(pixels, config.data.mean, config.data.std)
        rates, exits = model.forward_intermediates(x, indices=list(model.head_stages))
        side_logits = model.shortcut_heads([rate[None] for rate in exits])
        logits = model.forward_head(rates) + weight * side_logits.sum(0)
        correct += (logits.argmax(1) == labels).sum().item()
    return 100 * correct / len(data.measured)


def gradient_left(config: Config, folders: list[Path], data: Data) -> dict[str, Any]:
    """What reaches the stem of the gradient of the classifier's loss, after training."""
    pixels, labels = data.measured.take(list(range(BATCH)))
    x = normalise(pixels, config.data.mean, config.data.std)
    left = []
    for folder in folders:
        name = f"local-dir:{folder}"
        model = zoo.create_model(name, pretrained=True, shortcut_heads=False)
        stem, last = gradient_norms(model, x, labels)
        left.append(stem / last)
    return {LEFT: statistics.geometric_mean(left)}


def gradient_norms(model: nn.Module, x: Tensor, labels: Tensor) -> list[float]:
    """The norm of a batch's gradient behind the stem, and behind the last stage."""
    places, norms = (model.stem, model.stages[-1]), {}

    def note(place: nn.Module, _, output: Tensor) -> None:
        output.register_hook(lambda grad: norms.update({place: grad.norm().item()}))

    for place in places:
        place.register_forward_hook(note)
    cross_entropy(model.train()(x), labels).backward()
    return [norms[place] for place in places]


SLIM_SHAPE = {"depths": (3, 3, 3), "widths": (16, 32, 64)}
SLIM_BLOCKS = {
    "spike after the addition": ("short_bp_resnet20_slim", {}),
    "spikes added (SEW)": ("sew_resnet18", {**SLIM_SHAPE, "stem": "conv3x3"}),
    "potentials added (MS)": ("ms_resnet18_cifar", {**SLIM_SHAPE, "stem_width": 16}),
}
NARROW_BLOCKS = {
    "spike after the addition": ("short_bp_resnet34", {"zero_init_last": True}),
    "spikes added (SEW)": ("sew_resnet34", {"zero_init_last": True, "stem": "conv3x3"}),
    "potentials added (MS)": ("ms_resnet34", {"stem": "conv3x3", "stem_width": WIDTHS[0]}),
}
SIX = (0, 1, 2, 3, 4, 5)
EXPERIMENTS = {
    "depth": Experiment(
        table="depth",
        title="Depth, with and without heads",
        networks=f"ResNets of {', '.join(map(str, WIDTHS))} channels that fire at 0.5",
        arms={f"{depth} {loss}": narrow_resnet(depth, loss) for loss in PAIR for depth in DEPTHS},
    ),
    "ablation": ablation(
        "short_bp_resnet20_slim",
        lambda loss, **args: small("short_bp_resnet20_slim", loss, **args),
        stages=3,
    ),
    "ablation_narrow": ablation(
        "narrow ResNet-34",
        lambda loss, **args: narrow_resnet(34, loss, **args),
        stages=len(WIDTHS),
        seeds=SIX,
    ),
    "membrane": blocks("ResNet-20 of 16, 32 and 64 channels", small, SLIM_BLOCKS),
    "membrane_narrow": blocks(
        "narrow ResNet-34", narrow, NARROW_BLOCKS, seeds=SIX, measure=gradient_left
    ),
}


def main(
    name: Annotated[str, tyro.conf.Positional], root: str, runs: Path = Path("runs/claims")
) -> None:
    """Train the arms of an experiment: depth, ablation, ablation_narrow, membrane, membrane_narrow.

    Args:
        name: The experiment.
        root: A folder or tar archive with train/CLASS/IMAGE and test/CLASS/IMAGE.
        runs: Folder for the runs; finished ones are read, not trained again.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"name: expected one of {list(EXPERIMENTS)}, got {name!r}")
    run(name, EXPERIMENTS[name], root, runs / name)
    draw(read(EXPERIMENTS[name].table), RESULTS / f"{EXPERIMENTS[name].table}.png")


def run(name: str, experiment: Experiment, root: str, folder: Path) -> None:
    """Train every arm from every seed, and write the table."""
    torch.set_num_threads(1)  # small networks gain little from more, and bits depend on it
    first = next(iter(experiment.arms.values()))
    data = load_data(replace(first, data=replace(first.data, root=root)))
    rows, machines = [], {}
    for arm, config in experiment.arms.items():
        folders = [folder / f"{arm.replace(' ', '_')}_{seed}" for seed in experiment.seeds]
        ends = []
        for seed, output in zip(experiment.seeds, folders, strict=True):
            ends.append(train(replace(config, seed=seed, output=str(output)), data))
            if ends[-1].get("epoch") != config.epochs:  # stopped by a signal
                sys.exit(f"stopped in {output}; the same command goes on from there")
            machines |= dict.fromkeys(entry["machine"] for entry in read_log(output))
        about = {"what it is": experiment.about[arm]} if experiment.about else {}
        rows.append(
            {"arm": arm} | about | summary(ends) | experiment.measure(config, folders, data)
        )
    report(
        experiment.table,
        experiment.title,
        f"python benchmarks/experiments.py {name} --root DATA",
        rows,
        key=("networks", "measured"),
        measured=LATEST,
        networks=experiment.networks,
        images=f"CIFAR-10 (JPEG): {first.data.limit} to train on, {first.data.holdout} held out",
        training=f"{first.epochs} epochs of {first.augment.crop_size}-pixel crops, batch "
        f"{first.batch_size}, {first.optim.name} {first.optim.lr}"
        f"{' in fp32' * (first.optim.name == 'muon')}, "
        f"T = {first.model_args['time_steps']}, {first.precision}" + ", compiled" * first.compile,
        seeds=list(experiment.seeds),
        **{"trained on": " and ".join(machines)},
    )


def summary(ends: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of an arm, from the last epochs of its runs."""
    accuracies = [end["holdout_accuracy"] for end in ends]
    return {
        "accuracy, %": statistics.mean(accuracies),
        "deviation": statistics.stdev(accuracies),
        "of each seed": ", ".join(f"{value:.1f}" for value in accuracies),
        "train, %": statistics.mean(end["accuracy"] for end in ends),
        "lowest firing rate": min(min(end["firing_rates"].values()) for end in ends),
    }


def draw(content: dict[str, Any], path: Path) -> None:
    """Draw the arms of the latest measurements, a panel for each."""
    panels = [m for m in content["measurements"] if m["measured"] == LATEST]
    figure = Figure(figsize=(3 + 4 * len(panels), 4.5), layout="constrained")
    subplots = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, measurement in zip(subplots, panels, strict=True):
        series: dict[str, dict[str, tuple[float, float]]] = {}
        for row in measurement["rows"]:
            place, _, loss = row["arm"].rpartition(" ")
            paired = place and loss in PAIR
            label = LABELS[loss] if paired else "classifier alone"
            at = place.rstrip(",") if paired else row["arm"]
            series.setdefault(label, {})[at] = row["accuracy, %"], row["deviation"]
            if row.get(KEPT):
                kept = row[KEPT], row[f"{KEPT}, deviation"]
                series.setdefault("with the heads kept", {})[at] = kept
        for i, (label, points) in enumerate(series.items()):
            places = list(next(iter(series.values())))
            x = [places.index(place) + 0.12 * i for place in points]
            means, deviations = zip(*points.values(), strict=True)
            axes.errorbar(x, means, deviations, fmt="os"[i], capsize=3, label=label)
        axes.set_xticks(range(len(places)), places, rotation=20, ha="right")
        axes.set(title=measurement["networks"], ylabel="held-out accuracy, %")
        axes.legend()
    figure.suptitle(f"{content['title']}: mean and deviation of the seeds")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    run_script(main)
