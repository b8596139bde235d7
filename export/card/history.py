"""How a network was trained, from random weights to those that are published: in words, epoch by
epoch, and as a picture. A network trained on from the weights of another run has the history of
both.
"""

from collections.abc import Callable
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from zoo.hub.run_folder import MEASURED, all_runs

CURVES = "training.png"


def history_and_notes(config: dict[str, Any]) -> str:
    """The runs of a published network's config.json, and what its notes say besides."""
    return " ".join([f"{history(config.get('training'))}.", *notes(config)])


def notes(config: dict[str, Any]) -> list[str]:
    """Those of a network's config.json, after those of the weights that its runs began with."""
    runs, own = all_runs(config.get("training")), config["pretrained_cfg"].get("notes") or ()
    before = (note for run in runs for note in run.get("began_with", {}).get("notes", ()))
    return [*map(str, (*before, *own))]


def history(training: dict[str, Any] | None) -> str:
    """The runs in a sentence: how many epochs of what, for how long, on which machine."""
    if not training:
        return "not recorded"
    if "began_with" not in training:
        return _told(training)
    return f"{history(training['began_with']['training'])}; then {_told(training)}"


def head_weights(training: dict[str, Any] | None) -> str:
    """Of the shortcut heads, run by run; empty where none had any, or none is recorded."""
    weights = groupby(map(_head_weight, all_runs(training)))
    told = [
        weight + " in each run" * ("falling" in weight and len([*runs]) > 1)
        for weight, runs in weights
    ]
    return "" if told in ([], ["none"]) else "; then ".join(told)


def epochs(training: dict[str, Any]) -> str:
    """A table with a line for each epoch of each run whose log is there; empty if there is none."""
    lines = [
        f"| {number} | {entry['epoch']} | {entry['learning_rate']:.2g} | {entry['loss']:.3f} | "
        f"{entry['accuracy']:.2f} | {entry[_measured(entry)]:.2f} | {entry['seconds'] / 60:.1f} |"
        for number, run in enumerate(all_runs(training), 1)
        for entry in run.get("log", [])
    ]
    if not lines:
        return ""
    logs = [entry for run in all_runs(training) for entry in run.get("log", [])]
    shares = f"training, % | {_label(logs)}, %"
    head = f"| run | epoch | learning rate at its end | loss | {shares} | minutes |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *lines])


def draw(training: dict[str, Any], path: Path) -> None:
    """Draw loss and accuracies over the epochs of all runs, and where each run ends; nothing where
    no log is there, or no matplotlib, which is for training and not for export.
    """
    logs = [run.get("log", []) for run in all_runs(training)]
    entries = [entry for log in logs for entry in log]
    if not entries or find_spec("matplotlib") is None:
        return
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    at = range(1, len(entries) + 1)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    losses.plot(at, [entry["loss"] for entry in entries], marker=".")
    losses.set(xlabel="epoch", ylabel="training loss, nats")
    accuracies.plot(at, [entry["accuracy"] for entry in entries], marker=".", label="training")
    values = [entry[_measured(entry)] for entry in entries]
    accuracies.plot(at, values, "k", marker=".", label=_label(entries))
    accuracies.set(xlabel="epoch", ylabel="top-1, %")
    accuracies.legend()
    for axes in (losses, accuracies):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        end = 0
        for log in logs[:-1]:
            end += len(log)
            axes.axvline(end + 0.5, color="0.7", linestyle=":")
    figure.suptitle(f"{training['model']}, each run up to a dotted line")
    figure.savefig(path, dpi=100, metadata={"Software": None})


def each_run(
    training: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """The same history with each run changed."""
    run = change(training)
    if (before := training.get("began_with")) and before["training"]:
        run = run | {"began_with": before | {"training": each_run(before["training"], change)}}
    return run


def _told(run: dict[str, Any]) -> str:
    data, args = run["data"], run["model_args"] | run.get("built_with", {})
    images = f" of {data['limit']} images" if data.get("limit") else ""
    steps = f" at T = {args['time_steps']}" if "time_steps" in args else ""
    count = run["epochs"]
    told = f"{count} epoch{'s' * (count != 1)}{images}{steps}{of_levels(args)}"
    if was_cut_short(run):
        told = f"{len(run['log'])} of {told}"
    if log := run.get("log"):
        minutes = round(sum(entry["seconds"] for entry in log) / 60)
        told += f", {minutes} minute{'s' * (minutes != 1)}"
        machines = dict.fromkeys(entry["machine"] for entry in log if "machine" in entry)
        told += f" on {' and '.join(machines)}" if machines else ""
    return told


def was_cut_short(run: dict[str, Any]) -> bool:
    """Whether its log, where one is there, ends before the last epoch."""
    return (log := run.get("log")) is not None and len(log) < run["epochs"]


def _head_weight(run: dict[str, Any]) -> str:
    loss = run["loss"]
    if loss["name"] in ("vanilla", "shortcut"):
        return {"vanilla": "none", "shortcut": "1"}[loss["name"]]
    if loss["name"] == "constant":
        return f"{loss['coefficient']:g}"
    falling = "cut short while falling to 0" if was_cut_short(run) else "falling to 0"
    return f"{loss['coefficient']:g}, {falling}"


def of_levels(model_args: dict[str, Any]) -> str:
    """What is to be said of neurons that give off rates in place of spikes."""
    levels = model_args.get("spike_layer", {}).get("levels", 1)
    return f", rates k / {levels} in place of spikes" if levels > 1 else ""


def _label(entries: list[dict[str, Any]]) -> str:
    """The images that accuracy was measured on."""
    return ", then ".join(dict.fromkeys(MEASURED[_measured(entry)] for entry in entries))


def _measured(entry: dict[str, Any]) -> str:
    return next(key for key in MEASURED if key in entry)
