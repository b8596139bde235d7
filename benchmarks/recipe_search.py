"""A table of what was tried: the options in which runs differ, and how far each came.

    python benchmarks/recipe_search.py

Reads every docs/results/runs/NAME, which holds a run's config.json and log.jsonl. Accuracies are on
held-out training images, never on test images; runs with the same data.holdout held out the same
ones. A run of fewer epochs than its schedule was stopped.
Rows of runs whose logs were not kept stay as they were written.
"""

import json

from measure import RESULTS, report, run_script

from zoo.training.config import flat
from zoo.training.run_folder import read_log

PLACES = ("output", "data.root", "keep_large_buffers", "workers")
DEFAULT = "default"
EPOCHS = (1, 2, 3)
MEASURED = {
    "run",
    "epochs run",
    "last, %",
    "minutes",
    "machine",
    *(f"epoch {epoch}, %" for epoch in EPOCHS),
}


def main() -> None:
    options, logs = {}, {}
    for folder in sorted((RESULTS / "runs").iterdir()):
        options[folder.name] = flat(json.loads((folder / "config.json").read_text()))
        logs[folder.name] = read_log(folder)
    written = json.loads((RESULTS / "recipe_search.json").read_text())
    kept = [row for row in written["rows"] if row["run"] not in logs]
    differ = [key for key in dict.fromkeys(k for row in kept for k in row) if key not in MEASURED]
    for key in sorted(set().union(*options.values())):
        seen = {str(chosen[key]) for chosen in options.values() if key in chosen}
        if not all(key in chosen for chosen in options.values()):
            seen.add(DEFAULT)
        if len(seen) > 1 and key not in differ and not key.startswith(PLACES):
            differ.append(key)
    rows = []
    for name, log in logs.items():
        row = {"run": name} | {key: str(options[name].get(key, DEFAULT)) for key in differ}
        row["epochs run"] = len(log)
        for epoch in EPOCHS:
            reached = [e["holdout_accuracy"] for e in log if e["epoch"] == epoch]
            row[f"epoch {epoch}, %"] = reached[0] if reached else None
        row["last, %"] = log[-1]["holdout_accuracy"]
        row["minutes"] = sum(entry["seconds"] for entry in log) / 60
        row["machine"] = log[-1].get("machine")
        rows.append(row)
    blank = dict.fromkeys(rows[0], DEFAULT) | {"machine": None, "start_from": None}
    # What was the same in every run stood above the table, not in its rows.
    blank |= {key: str(written[key]) for key in differ if key in written}
    rows += [blank | row for row in kept]
    rows.sort(key=lambda row: row["last, %"])
    first = next(iter(options.values()))
    keys = ("data.title", "data.holdout", "precision")
    same = {key: first[key] for key in keys if key not in differ}
    same["rows without a folder in docs/results/runs"] = "as written when their logs were there"
    command = "python benchmarks/recipe_search.py"
    title = "Recipes that were tried, held-out accuracy"
    report("recipe_search", title, rows, command, machine=None, **same)


if __name__ == "__main__":
    run_script(main)
