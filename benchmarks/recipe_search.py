"""Add training runs to the table of recipes that were tried.

    python benchmarks/recipe_search.py RUN...

A row has the options of a run that differ from the defaults, and the held-out accuracy it reached.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated, Any

import tyro
from measure import RESULTS, read, run_script

from zoo.training.config import Config, flat
from zoo.training.run_folder import read_log

DEFAULTS = flat(json.loads(json.dumps(dataclasses.asdict(Config()))))
# Options with a column of their own, or without influence on the result.
LEFT_OUT = {"model", "model_args.time_steps", "start_from", "data.holdout", "epochs", "output"}
LEFT_OUT |= {"data.root", "data.name", "data.title", "keep_large_buffers", "workers"}


def row(folder: Path) -> dict[str, Any]:
    """The row of a run folder."""
    options, log = flat(json.loads((folder / "config.json").read_text())), read_log(folder)
    told = [k for k, v in options.items() if k not in LEFT_OUT and str(v) != str(DEFAULTS.get(k))]
    return {
        "run": folder.name,
        "network": options["model"],
        "T": int(options["model_args.time_steps"]),
        "began with": str(options.get("start_from", "")).removeprefix("runs/") or "-",
        "held out": int(options["data.holdout"]),
        "epochs": f"{len(log)} of {options['epochs']}",
        "epoch 1, %": log[0]["holdout_accuracy"],
        "last, %": log[-1]["holdout_accuracy"],
        "minutes": math.fsum(entry["seconds"] for entry in log) / 60,
        "machine": log[-1]["machine"],
        "options": ", ".join(f"{key} {options[key]}" for key in sorted(told)),
    }


def main(run: Annotated[list[Path], tyro.conf.Positional]) -> None:
    """Add runs to the table, or replace those of the same name.

    Args:
        run: Run folders.
    """
    content = read("recipe_search")
    rows = {row["run"]: row for row in content["rows"]} | {p.name: row(p) for p in run}
    order = sorted(rows.values(), key=lambda row: (row["network"], row["held out"], row["last, %"]))
    content = json.dumps(content | {"rows": order}, indent=2)
    (RESULTS / "recipe_search.json").write_text(content + "\n")


if __name__ == "__main__":
    run_script(main)
