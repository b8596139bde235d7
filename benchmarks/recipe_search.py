"""A table of what was tried: the options in which runs differ, and how far each came.

    python benchmarks/recipe_search.py RUN RUN ...

RUN is a run folder; accuracies are on held-out training images, never on test images.
"""

import json
import sys
from pathlib import Path
from typing import Any

from measure import report

PLACES = ("output", "data.root", "start_from", "keep_large_buffers", "workers")
DEFAULT = "default"
EPOCHS = (1, 2, 3, 5, 10)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def main(folders: list[Path]) -> None:
    options, logs = [], []
    for folder in folders:
        lines = (folder / "log.jsonl").read_text().splitlines()
        if not lines:
            continue
        logs.append([json.loads(line) for line in lines])
        options.append(flat(json.loads((folder / "config.json").read_text())))
    differ = []
    for key in sorted(set().union(*options)):
        seen = {str(chosen[key]) for chosen in options if key in chosen}
        if key.startswith("model_args.") and not all(key in chosen for chosen in options):
            seen.add(DEFAULT)
        if len(seen) > 1 and not key.startswith(PLACES):
            differ.append(key)
    rows = []
    for chosen, log in zip(options, logs, strict=True):
        row = {key: str(chosen.get(key, DEFAULT)) for key in differ}
        for epoch in EPOCHS:
            reached = [e["holdout_accuracy"] for e in log if e["epoch"] == epoch]
            row[f"epoch {epoch}, %"] = reached[0] if reached else None
        row["last, %"] = log[-1]["holdout_accuracy"]
        row["minutes"] = sum(entry["seconds"] for entry in log) / 60
        rows.append(row)
    rows.sort(key=lambda row: row["last, %"])
    same = {key: options[0][key] for key in ("model", "data.title", "data.holdout", "precision")}
    command = "python benchmarks/recipe_search.py RUN ..."
    report("recipe_search", "Recipes that were tried, held-out accuracy", rows, command, **same)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main([Path(folder) for folder in sys.argv[1:]])
