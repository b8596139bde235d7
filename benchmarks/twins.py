"""The released networks beside twins that were trained without heads, on all test images.

    python benchmarks/twins.py --root FOLDER_OR_TAR RUN...

RUN is what the recipes of a release leave, run with --loss.name vanilla. Both networks are counted
on the exact grid, whose bits are the same everywhere. Rows of releases that no RUN is the twin of
stay as they were written, and so do those of weights that others have replaced.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import tyro
from accuracy import is_right
from measure import RESULTS, report, run_script
from torch import Tensor

import zoo
from export.card.history import notes, was_cut_short
from export.strip import load_source
from zoo import hub
from zoo.data import DataConfig, load_images
from zoo.hub import files as disk
from zoo.hub.run_folder import all_runs
from zoo.training.config import filled_up, flat
from zoo.training.run_folder import FOUND, FREE

COMMAND = "python benchmarks/twins.py --root FOLDER_OR_TAR RUN"
MAY_DIFFER = (*FREE, *FOUND, "loss.name", "start_from")
NOTES, TWIN_NOTES = "notes of the release alone", "notes of the twin alone"
WEIGHTS = "sha256 of the release"
TOLD = "precision"  # that a processor is fast with; it may differ, and its row says so


def main(root: str, run: Annotated[list[Path], tyro.conf.Positional]) -> None:
    """Count what releases and their twins get right.

    Args:
        root: A folder or tar archive with train/CLASS/IMAGE and test/CLASS/IMAGE.
        run: Run folders of twins.
    """
    found = load_images(DataConfig(name="image_folder", root=root), "test")
    rows = {(row["network"], row[WEIGHTS]): row for row in written()}
    for folder in run:
        source = load_source(str(folder))
        cfg = source.config["pretrained_cfg"]
        name = f"{source.config['architecture']}.{cfg['tag']}"
        if source.config["label_names"] != list(found.classes):
            raise ValueError(
                f"--root: expected images of {source.config['label_names']}, got {found.classes}"
            )
        release = hub.find_pretrained(name)
        config, digest = hub.read_config(release), disk.file_sha256(release / hub.WEIGHTS)
        released, of_release, of_twin = config["training"], notes(config), notes(source.config)
        otherwise = check_twin(folder, source.config["training"], name, released)
        ours = zoo.create_model(name, pretrained=True).eval()
        rows[name, digest] = row(
            name,
            is_right(ours, found.images, found.labels, name),
            is_right(source.model, found.images, found.labels, f"{name}'s twin"),
        ) | {
            WEIGHTS: digest,
            "sha256 of the twin": disk.file_sha256(source.folder / hub.WEIGHTS),
            "trained on": machines(released),
            "twin trained on": machines(source.config["training"]),
            "twin trained otherwise": otherwise or None,
            NOTES: " ".join(note for note in of_release if note not in of_twin) or None,
            TWIN_NOTES: " ".join(note for note in of_twin if note not in of_release) or None,
        }
    title = "Released networks beside twins without heads, on test images, on the exact grid"
    facts = {
        "images": "test images of CIFAR-10 (JPEG)",
        "training": "the recipes of the releases, with --loss.name vanilla for their twins",
    }
    report("twins", title, [rows[key] for key in sorted(rows)], COMMAND, **facts)


def written() -> list[dict[str, Any]]:
    path = RESULTS / "twins.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def check_twin(folder: Path, twin: dict[str, Any], name: str, released: dict[str, Any]) -> str:
    """What a twin's row has to tell of how it was trained otherwise; empty if nothing.

    Raises:
        ValueError: The run, or one before it, has not ended, or is not the release's but for the
            heads.
    """
    losses = [run["loss"]["name"] for run in all_runs(twin)]
    if {*losses} != {"vanilla"}:
        raise ValueError(f"{folder}: expected runs without heads, vanilla, got {losses}")
    for number, run in enumerate(all_runs(twin), 1):
        if was_cut_short(run):
            raise ValueError(
                f"{folder}: expected runs that have ended, got {len(run['log'])} of "
                f"{run['epochs']} epochs of run {number}; its command goes on from there"
            )
    theirs, ours = options(twin), options(released)
    differ = {
        key: f"{key}: {theirs.get(key)}, not {ours.get(key)}"
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key) != ours.get(key)
    }
    told = [differ.pop(key) for key in [*differ] if key.endswith(f", {TOLD}")]
    if differ:
        raise ValueError(
            f"{folder}: expected the recipes of {name} without heads, got "
            + "; ".join([*differ.values()][:3])
        )
    return "; ".join(told)


def options(training: dict[str, Any]) -> dict[str, Any]:
    """What a twin has in common with its release: of all runs, the first one first."""
    return {
        f"run {number}, {key}": value
        for number, run in enumerate(all_runs(training), 1)
        for key, value in flat(filled_up(run)).items()
        if not key.startswith(MAY_DIFFER)
    }


def machines(training: dict[str, Any]) -> str:
    """That all runs of a network had, by their logs."""
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
