"""The published folder: its file names, the hashes in its report, and how it is put in place.

README.md            the model card
config.json          timm's schema, with the neuron constants
model.safetensors    the weights, without heads
preprocessor_config.json  for @huggingface/transformers, if images are square and RGB
training.png         loss and accuracy by epoch, if there is a log and matplotlib
onnx/model.onnx      the graph, for normalised floats
onnx/model_int8.onnx  in whole numbers, for uint8 pixels; not of every network
onnx/model_quantized.onnx  the same, for normalised floats
onnx/model_uint8.onnx  in place of these two, the first graph for uint8 pixels
verification.json    the checks, and the sha256 of every other file
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from export.card.browser import PREPROCESSOR
from export.card.history import CURVES
from zoo.console import check_output
from zoo.hub import CONFIG, INT8_GRAPH, REPORT, UINT8_GRAPH, WEIGHTS
from zoo.hub.files import file_sha256, hashes, locked, sync

GRAPH = "onnx/model.onnx"
QUANTIZED_GRAPH = "onnx/model_quantized.onnx"  # the name that transformers.js looks for
GRAPHS = (GRAPH, UINT8_GRAPH, INT8_GRAPH, QUANTIZED_GRAPH)
CARD = "README.md"
NAMES = {CARD, CONFIG, WEIGHTS, PREPROCESSOR, CURVES, *GRAPHS}  # and REPORT


def read_report(folder: Path) -> dict[str, Any]:
    """Read verification.json.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no report.
    """
    path = folder / REPORT
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a verification report, found none; export it again"
        )
    try:
        report = json.loads(path.read_text())
        report.get("sha256", {}).keys()
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: expected a verification report, got {error}") from None
    return report


def changed_files(folder: Path) -> list[str]:
    """Files that differ from the hashes in the folder's report: changed, new or missing."""
    verified, found = read_report(folder).get("sha256", {}), hashes(folder, REPORT)
    return sorted(k for k in found.keys() | verified.keys() if found.get(k) != verified.get(k))


def check_target(option: str, target: Path, overwrite: bool) -> None:
    """Check that a folder can be made, or may be replaced: with overwrite, a published folder with
    nothing added or changed since.

    Raises:
        FileExistsError: It may not be replaced; the message names the option.
        ValueError: Its report is damaged.
    """
    if not target.exists():
        return
    if not (target / REPORT).is_file():
        raise FileExistsError(f"{option}: {target} exists and is no published folder")
    if not overwrite:
        raise FileExistsError(f"{option}: {target} exists; pass --overwrite to replace it")
    known = read_report(target).get("sha256", {})
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    own = (name for name in found - {REPORT} if known.get(name) != file_sha256(target / name))
    if kept := sorted(own):
        raise FileExistsError(
            f"{option}: {target} holds files that were added or changed since it was published, "
            f"which --overwrite would delete: {kept[:5]}; move them away"
        )


@contextmanager
def scratch_beside(option: str, target: Path) -> Iterator[Path]:
    """A folder to build a target in, removed afterwards. A swap that was killed is finished first.

    Raises:
        FileExistsError: Another process builds that target.
        ValueError: Nothing can be written there; the message names the option.
    """
    check_output(target.parent, option)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch, lock = (target.with_name(f".{target.name}.{end}") for end in ("partial", "lock"))
    with locked(lock, f"{option}: another process is writing {target}; wait for its end"):
        _finish_swap(target)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            _finish_swap(target)
            shutil.rmtree(scratch, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _replaced(target: Path) -> Path:
    """Where the old folder is kept while a new one takes its place."""
    return target.with_name(f".{target.name}.replaced")


def _finish_swap(target: Path) -> None:
    """Move the old folder back if the new one has not taken its place, else delete it."""
    replaced = _replaced(target)
    if replaced.exists() and not target.exists():
        replaced.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)


def move_into_place(option: str, folder: Path, target: Path, overwrite: bool) -> None:
    """Flush a folder to the disk, then rename it to target.

    A kill in between leaves the old folder whole: in its place, or beside it until scratch_beside
    moves it back.

    Raises:
        FileExistsError, ValueError: As check_target.
    """
    check_target(option, target, overwrite)
    for path in (*folder.rglob("*"), folder):
        sync(path)
    if target.exists():
        target.rename(_replaced(target))
    folder.rename(target)
    sync(target.parent)
    _finish_swap(target)
