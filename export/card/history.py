"""The training of a published network, from random weights on, in words and as a picture.

A network that began with the weights of another run has the history of both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from zoo.diagnostics.curves import draw_curves
from zoo.hub.run_folder import all_runs

CURVES = "training.png"


@dataclass(frozen=True)
class HeadWeight:
    """Weight of the shortcut heads in the loss of one run; 0 without heads."""

    weight: float
    falls_to_zero: bool = False
    cut_short: bool = False

    @classmethod
    def of(cls, run: dict[str, Any]) -> "HeadWeight":
        loss = run["loss"]
        if loss["name"] in ("vanilla", "shortcut"):
            return cls(float(loss["name"] == "shortcut"))
        falls = loss["name"] == "evolutionary"
        return cls(loss["coefficient"], falls, falls and was_cut_short(run))

    def __str__(self) -> str:
        if not self.falls_to_zero:
            return f"{self.weight:g}" if self.weight else "none"
        falling = "cut short while falling to 0" if self.cut_short else "falling to 0"
        return f"{self.weight:g}, {falling}"


def head_weights(training: dict[str, Any] | None) -> str:
    """Weights of the shortcut heads, run by run; empty without heads or records."""
    weights = [HeadWeight.of(run) for run in all_runs(training)]
    if not any(weight.weight for weight in weights):
        return ""
    return "; then ".join(
        f"{weight}" + " in each run" * (weight.falls_to_zero and len([*same]) > 1)
        for weight, same in groupby(weights)
    )


def was_cut_short(run: dict[str, Any]) -> bool:
    """Whether the log of a run, if it has one, ends before the last epoch."""
    return len(run.get("log") or range(run["epochs"])) < run["epochs"]


def history_and_notes(config: dict[str, Any]) -> str:
    """The runs of a published network's config.json, then its notes."""
    runs = [_describe(run) for run in all_runs(config.get("training"))]
    if runs and begins_unrecorded(config["training"]):
        runs.insert(0, "not recorded")
    return " ".join([f"{'; then '.join(runs) or 'not recorded'}.", *notes(config)])


def notes(config: dict[str, Any]) -> list[str]:
    """Notes on the weights that a network's runs began with, then its own."""
    runs, own = all_runs(config.get("training")), config["pretrained_cfg"].get("notes") or ()
    before = (note for run in runs for note in run.get("began_with", {}).get("notes", ()))
    return [*map(str, (*before, *own))]


def begins_unrecorded(training: dict[str, Any]) -> bool:
    """Whether the first recorded run began with weights of an unknown training."""
    return "began_with" in next(all_runs(training))


def epochs(training: dict[str, Any] | None) -> list[tuple[int, dict[str, Any]]]:
    """Number of the run and log entry of each recorded epoch."""
    runs = enumerate(all_runs(training), 1)
    return [(number, entry) for number, run in runs for entry in run.get("log", [])]


def draw(training: dict[str, Any], path: Path) -> None:
    """Draw the learning curves of all runs; nothing without logs or without matplotlib."""
    logs = [run["log"] for run in all_runs(training) if run.get("log")]
    if logs and find_spec("matplotlib"):
        path.write_bytes(draw_curves(logs, f"{training['model']}, runs separated by dotted lines"))


def change_each_run(
    training: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """The same history with each run changed."""
    run = change(training)
    if (before := training.get("began_with")) and before["training"]:
        earlier = change_each_run(before["training"], change)
        run = run | {"began_with": before | {"training": earlier}}
    return run


def describe_levels(model_args: dict[str, Any]) -> str:
    """A remark on neurons that return rates instead of spikes; empty for spikes."""
    levels = model_args.get("spike_layer", {}).get("levels", 1)
    return f", rates k / {levels} in place of spikes" if levels > 1 else ""


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _describe(run: dict[str, Any]) -> str:
    data, args = run["data"], run["model_args"] | run.get("built_with", {})
    images = f" of {data['limit']} images" if data.get("limit") else ""
    steps = f" at T = {args['time_steps']}" if "time_steps" in args else ""
    told = f"{plural(run['epochs'], 'epoch')}{images}{steps}{describe_levels(args)}"
    if was_cut_short(run):
        told = f"{len(run['log'])} of {told}"
    if log := run.get("log"):
        told += f", {plural(round(sum(entry['seconds'] for entry in log) / 60), 'minute')}"
        machines = dict.fromkeys(entry["machine"] for entry in log if "machine" in entry)
        told += f" on {' and '.join(machines)}" if machines else ""
    return told
