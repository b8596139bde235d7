"""Compare the releases with twins trained without heads, on all test images.

    python benchmarks/twins.py --root DATA RUN...

RUN is the last run folder of a release's recipes, trained with --loss.name vanilla. Both networks
are counted on the exact grid, whose bits are the same on every machine. Rows of other releases, and
of weights that were replaced since, stay in the table.
"""

import math
from pathlib import Path
from typing import Annotated, Any

import tyro
from accuracy import is_right
from measure import read, report, run_script
from torch import Tensor

import zoo
from export.card.history import notes
from export.strip import load_source
from zoo import hub
from zoo.data import DataConfig, load_images
from zoo.hub import files as disk
from zoo.hub.run_folder import all_runs
from zoo.training.config import filled_up, flat
from zoo.training.run_folder import FOUND, FREE

COMMAND = "python benchmarks/twins.py --root DATA RUN"
MAY_DIFFER = (*FREE, *FOUND, "loss.name", "start_from")
NOTES, TWIN_NOTES = "notes of the release alone", "notes of the twin alone"
WEIGHTS = "sha256 of the release"


def main(root: str, run: Annotated[list[Path], tyro.conf.Positional]) -> None:
    """Count the test images that releases and their twins classify correctly.

    Args:
        root: A folder or tar archive with train/CLASS/IMAGE and test/CLASS/IMAGE.
        run: Run folders of twins.
    """
    found = load_images(DataConfig(name="image_folder", root=root), "test")
    rows = {(row["network"], row[WEIGHTS]): row for row in read("twins")["rows"]}
    for folder in run:
        source = load_source(str(folder))
        name = f"{source.config['architecture']}.{source.config['pretrained_cfg']['tag']}"
        release = hub.find_pretrained(name)
        config, digest = hub.read_config(release), disk.file_sha256(release / hub.WEIGHTS)
        released, twin = config["training"], source.config["training"]
        otherwise = check_twin(folder, twin, name, released)
        of_release, of_twin = notes(config), notes(source.config)
        ours = zoo.create_model(name, pretrained=True).eval()
        rows[name, digest] = row(
            name,
            is_right(ours, found.images, found.labels, name),
            is_right(source.model, found.images, found.labels, f"{name}'s twin"),
        ) | {
            WEIGHTS: digest,
            "sha256 of the twin": disk.file_sha256(source.folder / hub.WEIGHTS),
            "trained on": machines(released),
            "twin trained on": machines(twin),
            "twin trained otherwise": otherwise or None,
            NOTES: " ".join(note for note in of_release if note not in of_twin) or None,
            TWIN_NOTES: " ".join(note for note in of_twin if note not in of_release) or None,
        }
    title = "Released networks beside twins without heads, on test images, on the exact grid"
    facts = {
        "images": "test images of CIFAR-10 (JPEG)",
        "training": "the recipes of the releases, with --loss.name vanilla for their twins",
    }
    report("twins", title, COMMAND, [rows[key] for key in sorted(rows)], **facts)


def check_twin(folder: Path, twin: dict[str, Any], name: str, released: dict[str, Any]) -> str:
    """Say how the precision of a twin's runs differs from the release's; empty if it doesn't.

    Raises:
        ValueError: A run has heads, has not ended, or differs in another option.
    """
    for number, run in enumerate(all_runs(twin), 1):
        if run["loss"]["name"] != "vanilla":
            raise ValueError(f"{folder}: run {number} has heads; train it with --loss.name vanilla")
        if len(run["log"]) < run["epochs"]:
            raise ValueError(
                f"{folder}: run {number} has {len(run['log'])} of {run['epochs']} epochs; the same "
                "command goes on from there"
            )
    theirs, ours = options(twin), options(released)
    differ = {
        key: f"{key}: {theirs.get(key)}, not {ours.get(key)}"
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key) != ours.get(key)
    }
    precision = [differ.pop(key) for key in [*differ] if key.endswith(", precision")]
    if differ:
        raise ValueError(f"{folder}: not the recipes of {name}: {'; '.join(differ.values())}")
    return "; ".join(precision)


def options(training: dict[str, Any]) -> dict[str, Any]:
    """The options of all runs that a twin has in common with its release."""
    return {
        f"run {number}, {key}": value
        for number, run in enumerate(all_runs(training), 1)
        for key, value in flat(filled_up(run)).items()
        if not key.startswith(MAY_DIFFER)
    }


def machines(training: dict[str, Any]) -> str:
    """The machines in the logs of all runs."""
    logs = (entry for run in all_runs(training) for entry in run.get("log", []))
    return " and ".join(dict.fromkeys(entry["machine"] for entry in logs if "machine" in entry))


def row(name: str, ours: Tensor, twin: Tensor) -> dict[str, Any]:
    count, only_ours, only_twin = len(ours), int((ours & ~twin).sum()), int((twin & ~ours).sum())
    share = (only_ours - only_twin) / count
    return {
        "network": name,
        "test images": count,
        "right, with heads": int(ours.sum()),
        "right, twin": int(twin.sum()),
        "only with heads": only_ours,
        "only the twin": only_twin,
        "points to twin": 100 * share,
        "error over images": 100
        * math.sqrt((only_ours + only_twin) / count - share**2)
        / math.sqrt(count),
    }


if __name__ == "__main__":
    run_script(main)
