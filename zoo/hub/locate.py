"""Find the folder of a network by its name: in the package, on the disk or on the Hub."""

import difflib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import timm

from zoo import models
from zoo.hub.download import pull
from zoo.hub.files import file_sha256
from zoo.hub.folder import CONFIG, REPORT, WEIGHTS, is_ours
from zoo.hub.run_folder import SEAL, pretrained_folder

WEIGHTS_FOLDER_VARIABLE = "SHORT_BP_ZOO_WEIGHTS"
BUNDLED = Path(__file__).parent.parent / "weights"
RATES = "_rates"  # at the end of the tag of a network whose neurons give off rates


def locate(name: str, files: Iterable[str], cache_dir: str | Path | None = None) -> Path:
    """The folder of a network, after the sha256 of the files has been checked.

    Args:
        name: ``arch``, ``arch.tag``, a folder, also as ``local-dir:FOLDER``, or
            ``hf-hub:org/name[@revision]``. A run stands for its newest checkpoint.
        files: Names of the files that will be used, such as CONFIG and WEIGHTS.
        cache_dir: For downloads; huggingface_hub's own cache if None.

    Raises:
        ValueError: There is no network of that name (the message has the closest ones), or a file
            has another sha256.
        FileNotFoundError: There is no such folder, or the run has no checkpoint yet.
        PullError: The Hub does not give it; the message says why and what to do.
    """
    if name.startswith("hf-hub:"):
        return _pull_and_check(name.removeprefix("hf-hub:"), files, cache_dir)
    if is_architecture(name):
        folder = find_pretrained(name)
    else:
        folder = Path(name.removeprefix("local-dir:"))
        if not folder.is_dir():
            raise unknown(name)
        if not (folder / WEIGHTS).is_file():
            folder = pretrained_folder(folder)
    check_hashes(folder, files)
    return folder


def architectures() -> list[str]:
    """Names of all networks of the zoo."""
    return [name for family in models.__all__ for name in timm.list_models(module=family)]


def is_architecture(name: str) -> bool:
    """Whether this is ``arch`` or ``arch.tag`` of the zoo."""
    return name.partition(".")[0] in architectures()


def unknown(name: str) -> ValueError | FileNotFoundError:
    """The error for a name that is neither an architecture nor a folder."""
    folder = name.removeprefix("local-dir:")
    if folder != name or "/" in name:
        return FileNotFoundError(f"{folder}: no such folder; a repository is hf-hub:org/name")
    close = difflib.get_close_matches(name.partition(".")[0], architectures(), n=3)
    return ValueError(
        f"unknown model {name!r}, closest names: {close or 'none; `short-bp-zoo list` has all'}"
    )


def _pull_and_check(place: str, files: Iterable[str], cache_dir: str | Path | None) -> Path:
    """Download files and check their sha256. Damaged ones are downloaded once more."""
    folder = pull(place, files, cache_dir)
    try:
        check_hashes(folder, files)
    except ValueError:
        with suppress(OSError, ValueError):  # without a network the first error says enough
            pull(f"{place.partition('@')[0]}@{folder.name}", files, cache_dir, again=True)
        check_hashes(folder, files)
    return folder


def pretrained_folders() -> dict[str, Path]:
    """Folders with pretrained weights by their name ``arch.tag``.

    A folder in $SHORT_BP_ZOO_WEIGHTS comes before one of the same name in the package.

    Raises:
        FileNotFoundError: The variable names no folder.
    """
    roots = [BUNDLED]
    if named := os.environ.get(WEIGHTS_FOLDER_VARIABLE):
        if not Path(named).is_dir():
            raise FileNotFoundError(f"{WEIGHTS_FOLDER_VARIABLE}: no such folder: {named!r}")
        roots.append(Path(named))
    return {
        config.parent.name: config.parent
        for root in roots
        for config in sorted(root.glob(f"*/{CONFIG}"))
        if (config.parent / WEIGHTS).is_file()
    }


def pretrained_names() -> list[str]:
    """``arch.tag`` of all weights that load by name."""
    return sorted(name for name in pretrained_folders() if is_ours(name.partition(".")[0]))


def find_pretrained(name: str) -> Path:
    """The folder of ``arch`` or ``arch.tag`` in $SHORT_BP_ZOO_WEIGHTS or in the package.

    Without a tag, your own weights come before the package's, spikes before rates, and then tags go
    by the alphabet.

    Raises:
        ValueError: There are no weights of that name.
    """
    folders = pretrained_folders()
    architecture, _, tag = name.partition(".")

    def order(found: str) -> tuple[bool, bool, str]:
        return found.endswith(RATES), folders[found].parent == BUNDLED, found

    for found in sorted(folders, key=order):
        if found == name or (not tag and found.partition(".")[0] == architecture):
            return folders[found]
    raise ValueError(
        f"{name}: expected pretrained weights, found none; weights exist for "
        f"{pretrained_names() or 'no network yet'}"
    )


def check_hashes(folder: Path, files: Iterable[str]) -> None:
    """Raise ValueError unless files have the sha256 that verification.json or, in a checkpoint,
    sha256.json holds.
    """
    for report in (REPORT, SEAL):
        if not (folder / report).is_file():
            continue
        try:
            known = json.loads((folder / report).read_text())
            known = dict(known["sha256"] if report == REPORT else known)
        except (ValueError, TypeError, KeyError):
            known = {}  # a damaged list matches no file
        for path in (folder / name for name in files if (folder / name).is_file()):
            if (found := file_sha256(path)) != known.get(path.relative_to(folder).as_posix()):
                raise ValueError(
                    f"{path}: its sha256 {found} is not the one in {report}; the file is damaged "
                    "or was changed: get it again"
                )
