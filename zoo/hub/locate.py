"""From a name to the folder of a network: in the package, on disk or on the Hub."""

import json
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from zoo.hub import files as disk
from zoo.hub.download import pull
from zoo.hub.folder import CONFIG, REPORT, WEIGHTS, bounded, is_ours, read_config, said_of
from zoo.hub.run_folder import SEAL, pretrained_folder

WEIGHTS_FOLDER_VARIABLE = "SHORT_BP_ZOO_WEIGHTS"
BUNDLED = Path(__file__).parent.parent / "weights"
RATES = "_rates"  # at the end of the tag of a network whose neurons give off rates
ON_THE_HUB = "hub.json"  # in BUNDLED: arch.tag -> org/name@commit


def locate(name: str, files: Iterable[str], cache_dir: str | Path | None = None) -> Path:
    """The folder of a network, with the files that are asked for, as they were published.

    Args:
        name: ``arch``, ``arch.tag``, ``local-dir:FOLDER`` or ``hf-hub:org/name[@revision]``. Of a
            run folder it is the newest checkpoint.
        files: Names of the files, such as CONFIG and WEIGHTS.
        cache_dir: For what comes from the Hub; huggingface_hub's own cache if None.

    Raises:
        ValueError: There is no network of that name, or a file is not what it should be.
        FileNotFoundError: There is no such folder, or the run has no checkpoint yet.
        PullError: The Hub does not give it; the message says why and what to do.
    """
    source, _, place = name.partition(":")
    if place and source == "local-dir":
        folder = Path(place)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: expected a folder with {CONFIG}, found none")
        if not (folder / WEIGHTS).is_file():
            folder = pretrained_folder(folder)
    elif place and source == "hf-hub":
        folder = pull(place, files, (REPORT,), cache_dir, partial(_accept, place))
    elif ":" in name:
        raise ValueError(f"{name}: expected local-dir:FOLDER or hf-hub:org/name, got {source}:")
    else:
        folder = find_pretrained(name, files, cache_dir)
    check_hashes(folder, files)
    return folder


def _accept(place: str, folder: Path) -> None:
    """Raise for a config.json that is none of ours, before gigabytes of weights come after it."""
    with said_of(place, folder):
        read_config(folder)


def pretrained_folders() -> dict[str, Path]:
    """Folders that hold pretrained networks, by their name ``arch.tag``.

    A folder under $SHORT_BP_ZOO_WEIGHTS stands before one of that name in the package.

    Raises:
        FileNotFoundError: The variable names no folder.
    """
    roots = [BUNDLED]
    if named := os.environ.get(WEIGHTS_FOLDER_VARIABLE):
        if not Path(named).is_dir():
            raise FileNotFoundError(
                f"{WEIGHTS_FOLDER_VARIABLE}: expected a folder, found none at {named!r}; unset it, "
                "or name one that holds arch.tag/config.json"
            )
        roots.insert(0, Path(named))
    return {
        config.parent.name: config.parent
        for root in reversed(roots)
        for config in sorted(root.glob(f"*/{CONFIG}"))
        if (config.parent / WEIGHTS).is_file()
    }


def released_on_hub() -> dict[str, str]:
    """Released weights that the package does not hold itself, ``arch.tag`` -> org/name@commit.

    Of each the package has config.json and verification.json, and with them all its hashes.
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
    """The folder of ``arch`` or ``arch.tag``: in $SHORT_BP_ZOO_WEIGHTS, in the package, or from the
    Hub, in this order; of several tags there the first in the alphabet, rates after all spikes.

    Raises:
        ValueError: There is none, or it holds another network.
        PullError: The Hub does not give it.
    """
    folders, released = pretrained_folders(), released_on_hub()
    architecture, _, tag = name.partition(".")
    everywhere = folders.keys() | released.keys()

    def order(found: str) -> tuple[bool, bool, bool, str]:
        at_hand = found in folders
        bundled = at_hand and folders[found].parent == BUNDLED
        return found.endswith(RATES), not at_hand, bundled, found

    for found in sorted(everywhere, key=order):
        if found == name or (not tag and found.partition(".")[0] == architecture):
            if found in folders:
                folder = folders[found]
            else:
                folder = _pull_released(found, released[found], files, cache_dir)
            inside = read_config(folder)["architecture"]
            if inside != architecture:
                raise ValueError(f"{folder}: expected {architecture}, got {inside}")
            return folder
    raise ValueError(
        f"{name}: expected pretrained weights, found none; weights exist for "
        f"{pretrained_names() or 'no network yet'}"
    )


def _pull_released(
    name: str, place: str, files: Iterable[str], cache_dir: str | Path | None
) -> Path:
    folder = pull(place, (*files, REPORT), cache_dir=cache_dir)
    if (folder / REPORT).read_bytes() != (BUNDLED / name / REPORT).read_bytes():
        raise ValueError(
            f"{place}: expected the {REPORT} that this package was released with, got "
            "another; do not use that repository"
        )
    return folder


def check_hashes(folder: Path, files: Iterable[str]) -> None:
    """Raise unless files have the sha256 that their folder says, where it says any.

    Raises:
        ValueError: A file is another one, or the list of hashes is broken.
    """
    for kept in (REPORT, SEAL):
        if not (path := folder / kept).is_file():
            continue
        try:
            said = json.loads(bounded(path))
            said = said["sha256"] if kept == REPORT else said
            expected = {name: said[name] for name in files if (folder / name).is_file()}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path}: expected the sha256 of each file of this folder, got {error!r}"
            ) from None
        for name, digest in expected.items():
            if name == CONFIG:
                bounded(folder / name)  # raises before gigabytes are hashed
            if (found := disk.file_sha256(folder / name)) != digest:
                raise ValueError(
                    f"{folder / name}: expected sha256 {digest}, as {kept} says, got {found}; the "
                    "file has changed since and is not loaded; get it anew"
                )
