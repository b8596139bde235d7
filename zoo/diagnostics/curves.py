"""Learning curves as a picture."""

import io
import math
from itertools import accumulate
from typing import Any

from zoo.hub.run_folder import MEASURED

MOST_NAMES = 30  # of layers that are legible beside the picture


def draw_curves(logs: list[list[dict[str, Any]]], title: str) -> bytes:
    """A PNG with loss and accuracy by epoch, and for full logs schedules and firing rates.

    Args:
        logs: The epochs of each run; a dotted line separates two runs.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    entries = [entry for log in logs for entry in log]
    epochs = range(1, len(entries) + 1)
    is_full = "firing_rates" in entries[0]
    figure = Figure(figsize=(9, 7 if is_full else 3.5), layout="constrained")
    losses, accuracies, *others = figure.subplots(1 + is_full, 2).flatten()

    losses.plot(epochs, [entry["loss"] for entry in entries], marker=".")
    losses.set(xlabel="epoch", ylabel="training loss, nats")

    keys = [measured_key(entry) for entry in entries]
    values = [entry[key] for entry, key in zip(entries, keys, strict=True)]
    accuracies.plot(epochs, values, "k", marker=".", label=measured_title(entries))
    accuracies.plot(epochs, [entry["accuracy"] for entry in entries], marker=".", label="training")
    for i in range(len(entries[0].get("head_accuracies", []))):
        by_head = [entry["head_accuracies"][i] for entry in entries]
        accuracies.plot(epochs, by_head, "--", marker=".", label=f"head {i + 1} alone, training")
    accuracies.set(xlabel="epoch", ylabel="top-1, %")
    accuracies.legend()

    if is_full:
        _draw_schedules(others[0], epochs, entries)
        _draw_firing_rates(others[1], entries)
    for axes in (losses, accuracies, *others):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for end in accumulate(len(log) for log in logs[:-1]):
            axes.axvline(end + 0.5, color="0.7", linestyle=":")
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100, metadata={"Software": None})
    return picture.getvalue()


def measured_key(entry: dict[str, Any]) -> str:
    """The key of an epoch's accuracy on images that the network was not trained on."""
    return next(key for key in MEASURED if key in entry)


def measured_title(entries: list[dict[str, Any]]) -> str:
    """The images of that accuracy, for people."""
    return ", then ".join(dict.fromkeys(MEASURED[measured_key(entry)] for entry in entries))


def _draw_schedules(axes, epochs: range, entries: list[dict[str, Any]]) -> None:
    rates = [entry["learning_rate"] for entry in entries]
    axes.plot(epochs, rates, marker=".", label="learning rate")
    axes.set(xlabel="epoch", ylabel="learning rate")
    weights = axes.twinx()
    values = [entry["head_weight"] for entry in entries]
    weights.plot(epochs, values, "C1--", marker=".", label="weight of the heads")
    weights.set_ylabel("weight of the heads, lambda")
    axes.legend(handles=[*axes.lines, *weights.lines])


def _draw_firing_rates(axes, entries: list[dict[str, Any]]) -> None:
    layers = list(entries[0]["firing_rates"])
    image = axes.imshow(
        [[entry["firing_rates"][layer] for entry in entries] for layer in layers],
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, len(entries) + 0.5, len(layers) - 0.5, -0.5),
    )
    axes.set(xlabel="epoch")
    named = range(0, len(layers), math.ceil(len(layers) / MOST_NAMES))
    axes.set_yticks(named, [layers[i] for i in named], fontsize=6)
    axes.figure.colorbar(image, label="spikes per neuron and time step")
