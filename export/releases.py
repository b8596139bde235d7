"""MODEL_CARDS.md, with a section for each released weight, and README's table of releases.

python export/releases.py   # writes both, from the folders in zoo/weights
"""

import json
from pathlib import Path
from typing import Any

import tyro

from export.card.card import render
from export.card.history import describe_levels, head_weights, history_and_notes
from export.card.measured import (
    command_to_measure,
    describe_accuracy,
    describe_operations,
    parameter_count,
)
from export.folder import CARD, read_report
from zoo import hub

ROOT = Path(__file__).parent.parent
TEMPLATE = Path(__file__).parent / "card" / "model_cards.md"
COUNTED, TWINS = (ROOT / "docs" / "results" / f"{table}.json" for table in ("accuracy", "twins"))

# The table in README.md, and its markers.
HEAD = (
    "| | parameters | T | test images right, on the exact grid | energy of an image, estimated, "
    "of the network as trained |"
)
BEGIN, END = "<!-- python export/releases.py writes this -->", "<!-- as far as here -->"


def released_folders() -> list[Path]:
    return sorted(config.parent for config in hub.BUNDLED.glob(f"*/{hub.CONFIG}"))


def model_cards() -> str:
    """The text of MODEL_CARDS.md."""
    return render(TEMPLATE, releases=[facts_of_release(folder) for folder in released_folders()])


def facts_of_release(folder: Path) -> dict[str, Any]:
    """Everything that a section shows."""
    config, report = hub.read_config(folder), read_report(folder)
    training, sha256 = config.get("training", {}), report["sha256"][hub.WEIGHTS]
    missing = [name for name in report["sha256"] if not (folder / name).is_file()]
    return {
        "name": folder.name,
        "config": config,
        "report": report,
        "has_card": (folder / CARD).is_file(),
        "accuracy": describe_accuracy(report),
        "counted": row_of(COUNTED, network=folder.name),
        "parameters": parameter_count(folder),
        "levels": describe_levels(config["model_args"]),
        "operations": describe_operations(report["energy"]),
        "head_weights": head_weights(training),
        "history": history_and_notes(config),
        "twin": row_of(TWINS, **{"network": folder.name, "sha256 of the release": sha256}),
        "missing": missing,
        "sha256": sha256,
        "command": command_to_measure(report["images"], training, folder.name if missing else ""),
    }


def row_of(table: Path, **keys: str) -> dict[str, Any] | None:
    """The row of a table of results with these values, and the command that measured it."""
    content = json.loads(table.read_text())
    rows = (row for row in content["rows"] if keys.items() <= row.items())
    return next((row | {"command": content["command"]} for row in rows), None)


def with_part(text: str, begin: str, end: str, part: str) -> str:
    """A page with another part between two of its lines."""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return "\n".join([before + begin, "", part, "", end + after])


def readme(text: str) -> str:
    """README.md with a new table of releases."""
    lines = [HEAD, "|---|---|---|---|---|"]
    for folder in released_folders():
        config, counted = hub.read_config(folder), row_of(COUNTED, network=folder.name)
        right = f"{counted['accuracy, %']:.2f} % of {counted['test images']}" if counted else "?"
        energy = read_report(folder)["energy"]["picojoules"] / 1e6
        lines.append(
            f"| `{folder.name}` | {parameter_count(folder) / 1e6:.2f} M | "
            f"{config['model_args']['time_steps']} | {right} | {energy:.0f} uJ |"
        )
    return with_part(text, BEGIN, END, "\n".join(lines))


def main() -> None:
    (ROOT / "MODEL_CARDS.md").write_text(model_cards())
    path = ROOT / "README.md"
    path.write_text(readme(path.read_text()))


if __name__ == "__main__":
    tyro.cli(main)
