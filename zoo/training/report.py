"""python -m zoo.training.report RUN: the curves of a run as RUN/report.png."""

import io
import math
import sys
from pathlib import Path

from zoo.console import said_in_a_line
from zoo.hub import files as disk
from zoo.training.run_folder import read_log

MOST_NAMES = 30  # of layers, legible beside the picture


def draw(run: Path) -> Path:
    """Draw loss, accuracies, learning rate, the heads' weight and firing rates by epoch.

    Returns:
        The PNG's path.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise ImportError(
            "matplotlib: expected it, to draw with, found none; pip install matplotlib"
        ) from None

    log = read_log(run)
    epochs = [entry["epoch"] for entry in log]
    measured = next(key for key in log[0] if key in ("test_accuracy", "holdout_accuracy"))
    figure = Figure(figsize=(11, 7), layout="constrained")
    (losses, accuracies), (schedules, rates) = figure.subplots(2, 2)

    losses.plot(epochs, [entry["loss"] for entry in log], marker=".")
    losses.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy, nats")

    label = measured.removesuffix("_accuracy")
    accuracies.plot(epochs, [entry[measured] for entry in log], "k", marker=".", label=label)
    accuracies.plot(epochs, [entry["accuracy"] for entry in log], marker=".", label="training")
    for i in range(len(log[0]["head_accuracies"])):
        by_head = [entry["head_accuracies"][i] for entry in log]
        accuracies.plot(epochs, by_head, "--", marker=".", label=f"head {i + 1} alone, training")
    accuracies.set(title="Accuracy", xlabel="epoch", ylabel="top-1, %")
    accuracies.legend()

    learning_rates = [entry["learning_rate"] for entry in log]
    schedules.plot(epochs, learning_rates, marker=".", label="learning rate")
    schedules.set(title="Schedules", xlabel="epoch", ylabel="learning rate")
    weights = schedules.twinx()
    head_weights = [entry["head_weight"] for entry in log]
    weights.plot(epochs, head_weights, "C1--", marker=".", label="lambda")
    weights.set_ylabel("weight of the heads, lambda")
    schedules.legend(handles=[*schedules.lines, *weights.lines])

    layers = list(log[0]["firing_rates"])
    image = rates.imshow(
        [[entry["firing_rates"][layer] for entry in log] for layer in layers],
        aspect="auto",
        interpolation="nearest",
        extent=(epochs[0] - 0.5, epochs[-1] + 0.5, len(layers) - 0.5, -0.5),
    )
    rates.set(title="Firing rates", xlabel="epoch")
    named = range(0, len(layers), math.ceil(len(layers) / MOST_NAMES))
    rates.set_yticks(named, [layers[i] for i in named], fontsize=6)
    figure.colorbar(image, label="spikes per neuron and time step")

    for axes in (losses, accuracies, schedules, rates):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.suptitle(str(run))
    picture, path = io.BytesIO(), run / "report.png"
    figure.savefig(picture, format="png", dpi=120)
    disk.write(path, picture.getvalue())
    return path


def main() -> None:
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        return
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    with said_in_a_line(KeyError):
        print(draw(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
