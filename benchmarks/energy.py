"""Estimate the energy of an image in the releases, and measure their firing rates.

    python benchmarks/energy.py --root DATA

Compares each with a non-spiking twin: the same convolutions on real numbers, run once.
"""

import itertools
from typing import Any

import torch
from accuracy import releases_of
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from measure import RESULTS, release_hashes, report, run_script

import zoo
from export.checks.images import data_images
from zoo import hub
from zoo.data import DataConfig, load_images
from zoo.diagnostics import count_connections, count_operations, firing_rates
from zoo.diagnostics.operations import MULTIPLY_ACCUMULATE, SOURCE

IMAGES, BATCH = 1000, 50
COMMAND = "python benchmarks/energy.py --root DATA"


def main(root: str) -> None:
    """Measure firing rates, operations and energy of every released network.

    Args:
        root: A folder or tar archive with train/CLASS/IMAGE and test/CLASS/IMAGE.
    """
    images = load_images(DataConfig(name="image_folder", root=root), "test")
    rows, rates = [], {}
    for name in releases_of(images.classes):
        model = zoo.create_model(name, pretrained=True).eval()
        config = hub.read_config(hub.find_pretrained(name))
        batches = data_images(model, config, root, IMAGES).values.split(BATCH)
        operations = count_operations(model, batches)
        rates[name] = firing_rates(model, batches)
        rows.append(row(name, model, operations, rates[name]))
    facts = {"images": f"{IMAGES} test images of CIFAR-10 (JPEG)", "energy": SOURCE}
    title = "What an image costs the released networks"
    report("energy", title, COMMAND, rows, **facts, **release_hashes(rates))
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for (name, found), style in zip(rates.items(), itertools.cycle(("o-", "s--"))):
        axes.plot(range(1, len(found) + 1), found.values(), style, ms=4, label=name)
    axes.set(xlabel="spiking layer, from the input; after the first, two in each block")
    axes.set(ylabel="spikes per neuron and time step", ylim=(0, None))
    axes.set(title=f"Firing rates of the released networks on {IMAGES} test images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    figure.savefig(RESULTS / "energy.png", dpi=120)


def row(name: str, model, operations, rates: dict[str, float]) -> dict[str, Any]:
    twin = zoo.create_model(name.partition(".")[0], time_steps=1, num_classes=model.num_classes)
    x = torch.zeros(1, *model.pretrained_cfg["input_size"])
    macs = sum(count_connections(twin, x, padding=False).values())
    energy = sum(layer.energy for layer in operations)
    return {
        "network": name,
        "T": model.time_steps,
        "mean firing rate of a layer": sum(rates.values()) / len(rates),
        "lowest": min(rates.values()),
        "highest": max(rates.values()),
        "accumulates, M": sum(layer.accumulates for layer in operations) / 1e6,
        "multiply-accumulates, M": sum(layer.multiply_accumulates for layer in operations) / 1e6,
        "energy, uJ": energy / 1e6,
        "twin's multiply-accumulates, M": macs / 1e6,
        "twin's energy, uJ": MULTIPLY_ACCUMULATE * macs / 1e6,
        "times less": MULTIPLY_ACCUMULATE * macs / energy,
    }


if __name__ == "__main__":
    run_script(main)
