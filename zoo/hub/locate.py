"""Find the folder of a network by its name: in the package, on the disk or on the Hub."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from zoo.hub.download import pull
from zoo.hub.files import file_sha256
from zoo.hub.folder import CONFIG, REPORT, WEIGHTS, is_ours
from zoo.hub.run_folder import SEAL, pretrained_folder

WEIGHTS_FOLDER_VARIABLE = "SHORT_BP_ZOO_WEIGHTS"
BUNDLED = Path(__file__).parent.parent / "weights"
RATES = "_rates"  # at the end of the tag of a network whose neurons give off rates
ON_THE_HUB = "hub.json"  # in BUNDLED: arch.tag -> org/name@commit


def locate(name: str, files: Iterable[str], cache_dir: str | Path | None = None) -> Path:
    """The folder of a network, after the sha256 of the files has been checked.

    Args:
        name: ``arch``, ``arch.tag``, ``local-dir:FOLDER`` or ``hf-hub:org/name[@revision]``. A run
            folder stands for its newest checkpoint.
        files: Names of the files that will be used, such as CONFIG and WEIGHTS.
        cache_dir: For downloads; huggingface_hub's own cache if None.

    Raises:
        ValueError: There is no network of that name, or a file has another sha256.
        FileNotFoundError: There is no such folder, or the run has no checkpoint yet.
        PullError: The Hub does not give it; the message says why and what to do.
    """
    source, _, place = name.partition(":")
    if place and source == "local-dir":
        folder = Path(place)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
        if not (folder / WEIGHTS).is_file():
            folder = pretrained_folder(folder)
    elif place and source == "hf-hub":
        return _pull_and_check(place, files, cache_dir)
    else:
        folder = find_pretrained(name, files, cache_dir)
    check_hashes(folder, files)
    return folder


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


def released_on_hub() -> dict[str, str]:
    """Releases that are too large for the package, ``arch.tag`` -> org/name@commit.

    The package holds config.json and verification.json of each, and with them all its hashes.
    """
    path = BUNDLED / ON_THE_HUB
    return json.loads(path.read_text()) if path.is_file() else {}


def pretrained_names() -> list[str]:
    """``arch.tag`` of all weights that load by name."""
    names = pretrained_folders().keys() | released_on_hub().keys()
    return sorted(name for name in names if is_ours(name.partition(".")[0]))


def find_pretrained(
    name: str,
    files: Iterable[str] = (CONFIG, WEIGHTS),
    cache_dir: str | Path | None = None,
) -> Path:
    """The folder of ``arch`` or ``arch.tag``: in $SHORT_BP_ZOO_WEIGHTS, in the package or from the
    Hub, in this order. Without a tag, spikes come before rates, then tags go by the alphabet.

    Raises:
        ValueError: There are no weights of that name.
        PullError: The Hub does not give it.
    """
    folders, released = pretrained_folders(), released_on_hub()
    architecture, _, tag = name.partition(".")

    def order(found: str) -> tuple[bool, bool, bool, str]:
        is_bundled = found in folders and folders[found].parent == BUNDLED
        return found.endswith(RATES), found not in folders, is_bundled, found

    for found in sorted(folders.keys() | released.keys(), key=order):
        if found == name or (not tag and found.partition(".")[0] == architecture):
            if found in folders:
                folder = folders[found]
            else:
                folder = _pull_and_check(released[found], files, cache_dir)
                check_same_report(released[found], folder, BUNDLED / found)
            return folder
    raise ValueError(
        f"{name}: expected pretrained weights, found none; weights exist for "
        f"{pretrained_names() or 'no network yet'}"
    )


def check_same_report(place: str, folder: Path, released: Path) -> None:
    """Raise ValueError unless a download has the verification.json of the release."""
    path = folder / REPORT
    if not path.is_file() or path.read_bytes() != (released / REPORT).read_bytes():
        raise ValueError(
            f"{place}: its {REPORT} is not the one of this package's release; do not use that "
            "repository"
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
