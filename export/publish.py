"""Publish a verified folder into another folder or to the Hugging Face Hub.

    python export/publish.py DIR --to-folder hub/short_bp_resnet18.cifar10
    python export/publish.py DIR --to org/short_bp_resnet18.cifar10            # shows the plan
    python export/publish.py DIR --to org/short_bp_resnet18.cifar10 --confirm  # uploads

The Hub's token comes from `hf auth login` or HF_TOKEN. An upload is one commit. It is downloaded
again and verified, and only then tagged. No repository and no commit is ever deleted.
"""

import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import tyro
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils.sha import git_hash

import zoo
from export.checks.images import check_asked, images_of
from export.folder import (
    CARD,
    GRAPH,
    NAMES,
    REPORT,
    changed_files,
    check_target,
    move_into_place,
    read_report,
    scratch_beside,
)
from export.verify import NOT_A_GRAPH, failures, verify
from zoo.console import said_in_a_line
from zoo.hub import CONFIG, WEIGHTS, PullError, read_config
from zoo.hub.download import hub_errors, pull
from zoo.hub.files import files, hashes, is_hidden

VERSION = re.compile(r"v(\d+)")


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
    confirm: bool = False
    """Upload to the Hub; without this, only show what would be uploaded."""
    private: bool = False
    """Make a new repository private, and reject one that is public."""
    data_root: str = ""
    """Where the data set lies, to verify on it; without it, random images, or for digits
    scikit-learn's own."""
    num_images: int = 50
    """Images to verify on."""
    overwrite: bool = False
    """Replace the folder of --to-folder if it is a published one without changes."""


def check_verified(folder: Path) -> None:
    """Raise PublishError unless the folder passed its verification and has not changed since."""
    if not read_report(folder).get("passed"):
        raise PublishError(f"{folder}: it failed its verification; export it again")
    missing = {CONFIG, WEIGHTS, GRAPH, CARD} - {*files(folder)}
    if changed := sorted(missing | {*changed_files(folder)}):
        raise PublishError(
            f"{folder}: these files changed since its verification: {changed}; export it again"
        )


def check_anew(folder: Path, options: Options) -> None:
    """Run every check of export/verify.py on a folder.

    Raises:
        PublishError: A check failed.
        ValueError, FileNotFoundError: There is no such network, or there are no such images.
    """
    model = zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = images_of(model, read_config(folder), options.data_root, options.num_images)
    report = verify(folder, model, images)
    if not report["passed"]:
        raise PublishError(f"{failures(report)}\nnot published, since these checks failed")


def publish_to_folder(options: Options) -> str:
    """Copy a folder, verify the copy and put it in place.

    Returns:
        What happened.

    Raises:
        PublishError: The folder may not be published.
        FileExistsError: The target may not be replaced.
        ValueError, FileNotFoundError, OSError: As check_anew and scratch_beside.
    """
    folder, target = Path(options.folder).resolve(), Path(options.to_folder).resolve()
    check_asked(options.num_images)
    check_verified(folder)
    if (target / REPORT).is_file() and hashes(target) == hashes(folder):
        return f"{target} holds this network already"
    check_target("--to-folder", target, options.overwrite)
    with scratch_beside("--to-folder", target) as scratch:
        copy = scratch / target.name
        for name in files(folder):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, copy / name)
        check_verified(copy)  # another export may have replaced it meanwhile
        check_anew(copy, options)
        move_into_place("--to-folder", copy, target, options.overwrite)
    return f"published {target}"


@dataclass(frozen=True)
class Plan:
    """What a repository lacks of a folder.

    Args:
        head: The commit to build on; None if there is no repository yet.
        add, replace, delete: Names of files.
        tag: The version of head, if it has one.
        next_tag: The version to publish.
    """

    head: str | None
    add: list[str]
    replace: list[str]
    delete: list[str]
    tag: str | None
    next_tag: str


def plan(api: HfApi, folder: Path, repo_id: str, digests: dict[str, str], private: bool) -> Plan:
    """Compare a folder with a repository.

    Raises:
        PublishError: The repository holds other files than a published folder, or is public though
            a private one was asked for.
        HfHubHTTPError: The Hub gives no access.
    """
    if not api.repo_exists(repo_id):
        return Plan(None, [*digests], [], [], None, "v1")
    info, refs = api.model_info(repo_id, files_metadata=True), api.list_repo_refs(repo_id)
    if private and not info.private:
        raise PublishError(f"--private: {repo_id} is public; make it private on the Hub first")
    there = {s.rfilename: s for s in info.siblings if not is_hidden(PurePosixPath(s.rfilename))}
    if others := sorted(there.keys() - ({*NAMES, REPORT} if REPORT in there else {CARD})):
        raise PublishError(
            f"{repo_id}: expected an empty repository or one published by this command, found "
            f"{others[:5]}; move them away, or publish to another repository"
        )

    def is_same(name: str) -> bool:
        if large := there[name].lfs:
            return large.sha256 == digests[name]
        return there[name].blob_id == git_hash((folder / name).read_bytes())

    tags = {tag.name: tag.target_commit for tag in refs.tags if VERSION.fullmatch(tag.name)}
    return Plan(
        head=info.sha,
        add=[name for name in digests if name not in there],
        replace=[name for name in digests if name in there and not is_same(name)],
        delete=sorted(there.keys() - digests.keys()),
        tag=next((tag for tag, commit in tags.items() if commit == info.sha), None),
        next_tag=f"v{max((int(tag[1:]) for tag in tags), default=0) + 1}",
    )


def publish_to_hub(options: Options) -> str:
    """Upload what is missing in one commit, download it, verify it and tag it.

    Returns:
        What happened, or without confirm what would.

    Raises:
        PublishError, PullError: What failed, and the state of the repository.
        ValueError, FileNotFoundError: The folder or its images do not exist, or an option is wrong.
    """
    folder, repo_id = Path(options.folder), options.to
    check_asked(options.num_images)
    check_verified(folder)
    digests = hashes(folder)
    api = HfApi(library_name="short-bp-zoo", library_version=zoo.__version__)
    with hub_errors(repo_id):
        account = api.whoami()["name"]
        found = plan(api, folder, repo_id, digests, options.private)
    if not options.confirm:
        return describe(found, folder, repo_id, account, digests)
    is_done = not (found.add or found.replace or found.delete)
    if is_done and found.tag:
        return f"{repo_id} holds this network already, as {found.tag} at {found.head}"
    check_anew(folder, options)
    with hub_errors(repo_id):
        if found.head is None:
            api.create_repo(repo_id, private=options.private or None, exist_ok=True)
        commit = found.head if is_done else _commit(api, folder, repo_id, found)
    state = f"the commit {commit} is in {repo_id} without a tag; run the same command again"
    try:
        with tempfile.TemporaryDirectory(prefix="published_") as scratch:
            copy = pull(f"{repo_id}@{commit}", digests, scratch)
            if hashes(copy) != digests:
                raise PublishError(f"{repo_id}: other bytes came back from the Hub than were sent")
            check_anew(copy, options)
        with hub_errors(repo_id):
            api.create_tag(repo_id, tag=found.next_tag, revision=commit)
    except (PublishError, PullError, ValueError) as error:
        raise PublishError(f"{error}\n{state}") from None
    return f"published {repo_id} as {found.next_tag} at {commit}"


def describe(found: Plan, folder: Path, repo_id: str, account: str, digests: dict[str, str]) -> str:
    """What would be uploaded, one line per file."""
    place = f"the new repository {repo_id}" if found.head is None else repo_id
    lines = [f"would upload to {place}, as {account}, in one commit tagged {found.next_tag}:"]
    for act, names in (("add", found.add), ("replace", found.replace)):
        for name in names:
            size = (folder / name).stat().st_size
            lines.append(f"  {act} {name}  {size} bytes  sha256 {digests[name]}")
    lines += [f"  delete {name}" for name in found.delete]
    return "\n".join([*lines, "nothing was uploaded; --confirm uploads it"])


def _commit(api: HfApi, folder: Path, repo_id: str, found: Plan) -> str:
    """Make one commit on the head that was planned for, and return its sha."""
    adds = [CommitOperationAdd(name, folder / name) for name in (*found.add, *found.replace)]
    return api.create_commit(
        repo_id,
        [*adds, *(CommitOperationDelete(name) for name in found.delete)],
        commit_message=f"Publish {found.next_tag}",
        parent_commit=found.head or api.model_info(repo_id).sha,
    ).oid


def main(prog: str | None = None) -> None:
    options = tyro.cli(Options, prog=prog, description=__doc__)
    if bool(options.to) == bool(options.to_folder):
        sys.exit(f"error: expected --to or --to-folder, got {'both' if options.to else 'neither'}")
    stopped = "stopped; the same command goes on from what is there"
    with said_in_a_line(PublishError, *NOT_A_GRAPH, stopped=stopped):
        print(publish_to_folder(options) if options.to_folder else publish_to_hub(options))


if __name__ == "__main__":
    main()
