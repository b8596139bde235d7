"""A verified folder -> another folder, or a repository on the Hugging Face Hub.

    python export/publish.py DIR --to-folder hub/short_bp_resnet18.cifar10
    python export/publish.py DIR --to org/short_bp_resnet18.cifar10

The Hub's token is taken from the login or from HF_TOKEN, never from the command line.
"""

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

import zoo
from export.folder import (
    GRAPHS,
    REPORT,
    changed_files,
    check_target,
    move_into_place,
    read_report,
)
from zoo.hub import CONFIG, WEIGHTS, hashes


class PublishError(Exception):
    """The folder may not be published, or the Hub did not take it."""


@dataclass(frozen=True, kw_only=True)
class Options:
    folder: Annotated[str, tyro.conf.Positional]
    """What export/to_onnx.py wrote."""
    to_folder: str = ""
    """Publish into this folder."""
    to: str = ""
    """Publish to this repository, org/name."""
    private: bool = False
    """Make the repository private if it is new."""
    overwrite: bool = False
    """Replace the folder of --to-folder if it holds something else."""


def check_verified(folder: Path) -> None:
    """Raise unless the folder's own report says that it passed, of the files that are there."""
    try:
        passed = read_report(folder).get("passed")
    except (FileNotFoundError, ValueError) as error:
        raise PublishError(str(error)) from None
    if passed is not True:
        raise PublishError(f"{folder / REPORT}: expected a passed verification, got {passed!r}")
    if missing := {CONFIG, WEIGHTS, *GRAPHS, "README.md"} - hashes(folder, REPORT).keys():
        raise PublishError(f"{folder}: expected {sorted(missing)}, found none; export it again")
    if changed := changed_files(folder):
        raise PublishError(
            f"{folder / REPORT}: expected the files that were verified, got others: {changed}; "
            "export it again"
        )


def publish_to_folder(folder: Path, target: Path, overwrite: bool = False) -> str:
    """Copy a verified folder; the target appears whole or not at all. Returns what happened."""
    check_verified(folder)
    folder, target = folder.resolve(), target.resolve()
    if target.is_dir() and _contents(target) == _contents(folder):
        return f"{target} holds this very network already"
    if target.is_relative_to(folder):
        raise PublishError(f"--to-folder: expected a place outside {folder}, got {target}")
    check_target("--to-folder", target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        copy = Path(scratch) / target.name
        shutil.copytree(folder, copy)
        check_verified(copy)
        move_into_place(copy, target)
    return f"published {target}"


def publish_to_hub(folder: Path, repo_id: str, private: bool = False) -> str:
    """One commit with all files, and a download of it that is compared with what was sent.

    Returns:
        What happened, with the commit's sha.
    """
    check_verified(folder)
    api = HfApi(library_name="short-bp-zoo", library_version=zoo.__version__)
    api.create_repo(repo_id, private=private, exist_ok=True)
    before = api.model_info(repo_id)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    stale = {f.rfilename for f in before.siblings} - names.keys() - {".gitattributes"}
    operations = [CommitOperationAdd(name, path) for name, path in names.items()]
    operations += [CommitOperationDelete(name) for name in sorted(stale)]
    commit = api.create_commit(
        repo_id,
        operations,
        commit_message=f"Publish {folder.name}",
        parent_commit=before.sha,
    )
    if commit.oid == before.sha:
        return f"{repo_id} holds this very network already, at {commit.oid}"
    with tempfile.TemporaryDirectory() as scratch:
        snapshot_download(repo_id, revision=commit.oid, local_dir=scratch)
        check_verified_download(folder, Path(scratch))
    return f"published {repo_id} at {commit.oid}"


def check_verified_download(sent: Path, received: Path) -> None:
    """Raise unless every file that was sent came back with the same sha256."""
    theirs = hashes(received, REPORT)
    wrong = sorted(
        name for name, digest in hashes(sent, REPORT).items() if theirs.get(name) != digest
    )
    if wrong:
        raise PublishError(f"the Hub gave back other bytes for {wrong}; do not use this commit")


def _contents(folder: Path) -> dict[str, str]:
    report = folder / REPORT
    return hashes(folder, REPORT) | ({REPORT: report.read_text()} if report.is_file() else {})


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    folder = Path(options.folder)
    if bool(options.to) == bool(options.to_folder):
        sys.exit("error: expected either --to or --to-folder, got both or neither")
    try:
        if options.to_folder:
            print(publish_to_folder(folder, Path(options.to_folder), options.overwrite))
        else:
            print(publish_to_hub(folder, options.to, options.private))
    except (PublishError, HfHubHTTPError, ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
