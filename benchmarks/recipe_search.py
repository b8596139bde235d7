"""A table of what was tried: the options of each run, and how far it came.

    python benchmarks/recipe_search.py

Reads every docs/results/runs/NAME, which holds a run's config.json and log.jsonl, and what is known
of runs whose logs were not kept, docs/results/runs/without_logs.json. Accuracies are on held-out
training images, never on test images; runs that held out as many held out the same ones. A run of
fewer epochs than its schedule was stopped.
"""

import dataclasses
import json
import math
from typing import Any

from measure import RESULTS, report, run_script

from zoo.training.config import Config, flat
from zoo.training.run_folder import read_log

RUNS = RESULTS / "runs"
USUAL = flat(json.loads(json.dumps(dataclasses.asdict(Config()))))
# In a column of their own, or of no weight for what a run reaches.
ELSEWHERE = {"model", "model_args.time_steps", "start_from", "data.holdout", "epochs"}
NO_MATTER = {"output", "data.root", "data.name", "data.title", "keep_large_buffers", "workers"}


def row(run: str, options: dict[str, Any], epochs: int, **reached: Any) -> dict[str, Any]:
    chosen = {k: v for k, v in options.items() if str(v) != str(USUAL.get(k, ""))}
    told = chosen.keys() - ELSEWHERE - NO_MATTER
    return {
        "run": run,
        "network": options["model"],
        "T": int(options["model_args.time_steps"]),
        "began with": str(options.get("start_from", "")).removeprefix("runs/") or "-",
        "held out": int(options["data.holdout"]),
        "epochs": f"{epochs} of {options['epochs']}",
        **reached,
        "options": ", ".join(f"{key} {chosen[key]}" for key in sorted(told)),
    }


def every_run() -> list[dict[str, Any]]:
    """The rows of the table."""
    rows = []
    for folder in sorted(path for path in RUNS.iterdir() if path.is_dir()):
        options, log = flat(json.loads((folder / "config.json").read_text())), read_log(folder)
        reached = {
            "epoch 1, %": log[0]["holdout_accuracy"],
            "last, %": log[-1]["holdout_accuracy"],
            "minutes": math.fsum(entry["seconds"] for entry in log) / 60,
            "machine": log[-1].get("machine"),
        }
        rows.append(row(folder.name, options, len(log), **reached))
    for known in json.loads((RUNS / "without_logs.json").read_text()):
        reached = {key: known[key] for key in ("epoch 1, %", "last, %", "minutes")}
        rows.append(
            row(known["run"], known["options"], known["epochs run"], **reached, machine="no log")
        )
    return sorted(rows, key=lambda row: (row["network"], row["held out"], row["last, %"]))


def main() -> None:
    command = "python benchmarks/recipe_search.py"
    title = "Recipes that were tried, by network and held-out images"
    facts = {"images": "CIFAR-10 (JPEG)", "options": "that differ from the defaults"}
    report("recipe_search", title, every_run(), command, machine=None, **facts)


if __name__ == "__main__":
    run_script(main)
