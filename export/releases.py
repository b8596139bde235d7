"""MODEL_CARDS.md, a section for each released weight, and README's table of them, from the folders
in zoo/weights.

python export/releases.py   # writes both
"""

import json
from pathlib import Path
from typing import Any

import tyro

from export.card.history import head_weights, history_and_notes, of_levels
from export.card.measured import how_measured, parameter_count, told_accuracy, told_operations
from export.folder import GRAPHS, read_report
from zoo import hub

ROOT = Path(__file__).parent.parent
COUNTED, TWINS = (ROOT / "docs" / "results" / f"{table}.json" for table in ("accuracy", "twins"))

RELEASES = """# Released weights

Written by `python export/releases.py` from the folders in `zoo/weights/`, whose own cards say more.
`DATA` and `FOLDER_OR_TAR` are the images that a network was trained on, as
[docs/training.md](docs/training.md#data) says. `FOLDER` is a published folder; the package leaves
some graphs of a release out, and `python -m export.to_onnx NAME --output FOLDER --data-root DATA`
makes the whole one that its own card speaks of.

{sections}"""

# The table in README.md, and what is around it.
HEAD = (
    "| | parameters | T | test images right, on the exact grid | energy of an image, estimated, "
    "of the network as trained |"
)
BEGIN, END = "<!-- python export/releases.py writes this -->", "<!-- as far as here -->"

RELEASE = """## {heading}

{accuracy}{counted}

| | |
|---|---|
| network | {architecture}, {parameters:.2f} M parameters, {classes} classes, {size} |
| neurons | `zoo.LIF`, {time_steps} time step{s}, {constants}{rates} |
| export | {rule} rule |
| an image takes, as trained | {operations} |
| trained | {heads}{history} |{twin}
| where | {place} |
| sha256 of the weights | `{sha256}` |
| measured by | `{command}` |
"""


def model_cards() -> str:
    """MODEL_CARDS.md: a section for each released weight, in the package or on the Hub."""
    folders = sorted(config.parent for config in hub.BUNDLED.glob(f"*/{hub.CONFIG}"))
    sections = "\n".join(_release(folder) for folder in folders)
    return RELEASES.format(sections=sections or "None yet.\n")


def with_part(text: str, begin: str, end: str, part: str) -> str:
    """A page with another part between two of its lines."""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return "\n".join([before + begin, "", part, "", end + after])


def readme(text: str) -> str:
    """README.md with the table of today's releases in it."""
    lines = [HEAD, "|---|---|---|---|---|"]
    for folder in sorted(config.parent for config in hub.BUNDLED.glob(f"*/{hub.CONFIG}")):
        config, counted = hub.read_config(folder), _row(folder.name)
        right = f"{counted['accuracy, %']:.2f} % of {counted['test images']}" if counted else "?"
        energy = read_report(folder)["energy"]["picojoules"] / 1e6
        lines.append(
            f"| `{folder.name}` | {parameter_count(folder) / 1e6:.2f} M | "
            f"{config['model_args']['time_steps']} | {right} | {energy:.0f} uJ |"
        )
    return with_part(text, BEGIN, END, "\n".join(lines))


def _release(folder: Path) -> str:
    config, report = hub.read_config(folder), read_report(folder)
    checks = {check["name"]: check["measured"] for check in report["checks"]}
    args, (channels, height, width) = config["model_args"], config["pretrained_cfg"]["input_size"]
    on_the_hub = hub.released_on_hub()
    training = config.get("training", {})
    weights = head_weights(training)
    return RELEASE.format(
        heading=_heading(folder),
        accuracy=told_accuracy(checks, report["images"]),
        counted=_counted(folder.name),
        architecture=config["architecture"],
        parameters=parameter_count(folder) / 1e6,
        classes=config["num_classes"],
        size=f"{width} x {height} x {channels}",
        time_steps=args["time_steps"],
        constants=", ".join(
            f"{key} {args['spike_layer'][key]}" for key in ("decay", "v_threshold", "reset")
        ),
        s="s" * (args["time_steps"] > 1),
        rates=of_levels(args),
        rule=report["rule"],
        operations=told_operations(report["energy"]),
        heads=f"with heads of weight {weights}: " if weights else "",
        history=history_and_notes(config),
        twin=_twin(folder.name, report["sha256"][hub.WEIGHTS]) if weights else "",
        place=f"Hub, `{on_the_hub[folder.name]}`"
        if folder.name in on_the_hub
        else "the package" + _left_out(folder),
        sha256=report["sha256"][hub.WEIGHTS],
        command=how_measured(report["images"], training, _made_anew(folder)),
    )


def _heading(folder: Path) -> str:
    """Its name, and where its own card is here, that."""
    has_card = (folder / "README.md").is_file()
    return f"[{folder.name}](zoo/weights/{folder.name}/README.md)" if has_card else folder.name


def _left_out(folder: Path) -> str:
    missing = [f"`{graph}`" for graph in GRAPHS if not (folder / graph).is_file()]
    return f", without {' and '.join(missing)}" if missing else ""


def _made_anew(folder: Path) -> str:
    """A release that the package holds without all its graphs, which a command makes first."""
    whole = all((folder / graph).is_file() for graph in GRAPHS)
    return "" if whole or folder.name in hub.released_on_hub() else folder.name


def _counted(name: str) -> str:
    if (row := _row(name)) is None:
        return ""
    return (
        f" Of all {row['test images']} test images {row['right']} are right, "
        f"{row['accuracy, %']:.2f} %, on the exact grid "
        f"(`{json.loads(COUNTED.read_text())['command']}`)."
    )


def _row(name: str) -> dict[str, Any] | None:
    """What benchmarks/accuracy.py found, if it saw this release."""
    rows = json.loads(COUNTED.read_text())["rows"]
    return next((row for row in rows if row["network"] == name), None)


def _twin(name: str, weights: str) -> str:
    """What benchmarks/twins.py found of a network of the same recipes that had no heads."""
    found, table = "not trained yet", json.loads(TWINS.read_text())
    for row in table["rows"]:
        if (row["network"], row["sha256 of the release"]) == (name, weights):
            share = 100 * row["right, twin"] / row["test images"]
            found = (
                f"{row['right, twin']} of {row['test images']} test images right, {share:.2f} %, "
                f"on the exact grid; heads gained {row['points to twin']:+.2f} ± "
                f"{row['error over images']:.2f} points, one seed each (`{table['command']}`)"
            )
    return f"\n| its twin without heads | {found} |"


def main() -> None:
    (ROOT / "MODEL_CARDS.md").write_text(model_cards())
    path = ROOT / "README.md"
    path.write_text(readme(path.read_text()))


if __name__ == "__main__":
    tyro.cli(main)
