"""A published folder: the names in it, the hashes of its files, and how one comes to stand.

README.md            the model card
config.json          timm's schema, with the neuron constants
model.safetensors    the weights, without heads
preprocessor_config.json  for @huggingface/transformers, where images are square and RGB
training.png         loss and accuracy by epoch, where there were a log and matplotlib to draw it
onnx/model.onnx      the graph, for normalised floats
onnx/model_uint8.onnx  the same for whole pixels
onnx/model_readable.onnx  the first once more, each neuron one node
verification.json    what was checked, with the sha256 of every other file
"""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from filelock import Timeout
from huggingface_hub.utils import WeakFileLock

from export.card.browser import PREPROCESSOR
from export.card.history import CURVES
from zoo.hub import CONFIG, REPORT, UINT8_GRAPH, WEIGHTS
from zoo.hub.files import hashes, sync

GRAPH = "onnx/model.onnx"
READABLE_GRAPH = "onnx/model_readable.onnx"
GRAPHS = (GRAPH, UINT8_GRAPH, READABLE_GRAPH)
CARD = "README.md"
NAMES = {CARD, CONFIG, WEIGHTS, PREPROCESSOR, CURVES, *GRAPHS}  # and REPORT
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def read_report(folder: Path) -> dict[str, Any]:
    """verification.json.

    Raises:
        FileNotFoundError, ValueError: There is none, or it is none; or it names files that no
            published folder has, which might be pickles, or code.
    """
    path = folder / REPORT
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a verification report, found none; export it again"
        )
    try:
        report = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected a verification report, got {error}") from None
    kinds = {"sha256": dict, "checks": list}
    if not isinstance(report, dict) or any(
        not isinstance(report.get(key, kind()), kind) for key, kind in kinds.items()
    ):
        raise ValueError(f"{path}: expected a verification report, got other JSON")
    if others := sorted(report.get("sha256", {}).keys() - NAMES):
        raise ValueError(f"{path}: expected the files of a published folder, got {others[:5]}")
    return report


def changed_files(folder: Path) -> list[str]:
    """Files that are not those whose hashes the folder's report holds: others, more or fewer."""
    verified = read_report(folder).get("sha256", {})  # before a folder of anything is hashed
    found = hashes(folder, REPORT)
    return sorted(k for k in found.keys() | verified.keys() if found.get(k) != verified.get(k))


def check_target(option: str, target: Path, overwrite: bool) -> None:
    """Raise unless target is free, or holds a published folder that may be replaced, as it was
    published and nothing else; and where a kill has left what was to be replaced.

    Raises:
        FileExistsError: It is taken; the message names the option.
        ValueError: It has no name, or its report is none.
    """
    if not target.name:
        raise ValueError(f"{option}: expected a folder to make, got {target}")
    replaced = _replaced(target)
    if replaced.exists():
        raise FileExistsError(
            f"{option}: expected no {replaced}, which a run that was cut short has left of the "
            f"folder that it was to replace; if {target} is missing move it there, else delete it"
        )
    if not target.exists():
        return
    if not (target / REPORT).is_file():
        raise FileExistsError(
            f"{option}: expected a new folder, got {target}, which is no published folder and "
            "stays as it is"
        )
    if not overwrite:
        raise FileExistsError(f"{option}: expected a new folder, got {target}; pass --overwrite")
    published = [target / name for name in (*read_report(target).get("sha256", {}), REPORT)]
    own = {path for file in published for path in (file, *file.parents)}
    if others := sorted(str(path) for path in target.rglob("*") if path not in own):
        raise FileExistsError(
            f"{option}: expected a published folder alone, got one with {others[0]} and "
            f"{len(others[1:])} more that are not of it, which replacing it would delete; move "
            "them away, or choose another folder"
        )
    if edited := [name for name in changed_files(target) if (target / name).is_file()]:
        raise FileExistsError(
            f"{option}: expected a published folder as it was verified, got one whose {edited} "
            "changed since, which replacing it would lose; move it away, or choose another folder"
        )


def _replaced(target: Path) -> Path:
    """Where the folder is kept that a new one takes the place of."""
    return target.with_name(f"{target.name}.replaced")


@contextmanager
def scratch_beside(option: str, target: Path) -> Iterator[Path]:
    """A folder to build a target in, gone afterwards; what a kill has left of it goes before.

    Raises:
        FileExistsError: Another process builds that target.
        OSError: Nothing can be written there, or there is no room for it; the message names the
            option and the place.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=target.parent):  # where it cannot be, the lock would wait instead
            pass
    except OSError as error:
        raise OSError(
            f"{option}: expected a place that can be written to, got {target.parent} "
            f"({error.strerror})"
        ) from error
    scratch, lock = (target.with_name(f".{target.name}.{end}") for end in ("partial", "lock"))
    with ExitStack() as held:
        try:
            held.enter_context(WeakFileLock(lock, timeout=0.1))
        except Timeout:
            raise FileExistsError(
                f"{option}: expected a folder that nobody writes, got {target}, which another "
                f"process does; wait for its end (if none does any more, delete {lock})"
            ) from None
        held.callback(lock.unlink, missing_ok=True)
        held.callback(shutil.rmtree, scratch, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise OSError(
                f"{option}: expected room for it in {target.parent}, got {error}; nothing was "
                "written, make room and start it again"
            ) from error


def move_into_place(option: str, folder: Path, target: Path, overwrite: bool) -> None:
    """Rename a whole folder to target, once its files are on the disk; what stands there by now is
    replaced only as check_target allows. A kill while one is replaced leaves the old one whole,
    beside its place as NAME.replaced.

    Raises:
        FileExistsError, ValueError: As check_target.
    """
    check_target(option, target, overwrite)
    replaced = _replaced(target)
    for path in (*folder.rglob("*"), folder):
        sync(path)
    if target.exists():
        target.rename(replaced)
    try:
        folder.rename(target)
    except BaseException:
        if replaced.exists():
            replaced.rename(target)
        raise
    sync(target.parent)
    if replaced.exists():
        shutil.rmtree(replaced)
