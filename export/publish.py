"""A verified folder -> another folder, or a repository on the Hugging Face Hub.

    python export/publish.py DIR --to-folder hub/short_bp_resnet18.cifar10
    python export/publish.py DIR --to org/short_bp_resnet18.cifar10            # what it would send
    python export/publish.py DIR --to org/short_bp_resnet18.cifar10 --confirm  # sends it

The Hub's token is taken from the login or from HF_TOKEN, never from the command line. What goes
there is one commit; it is downloaded again by its sha and verified anew, and only then tagged and
called published. This command deletes no repository and no commit.
"""

import json
import re
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import tyro
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    constants,
    set_client_factory,
)
from huggingface_hub.errors import (
    GatedRepoError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils._http import default_client_factory

import zoo
from export.checks.images import Images, check_asked, images_of
from export.folder import (
    CARD,
    GRAPHS,
    REPORT,
    changed_files,
    check_target,
    move_into_place,
    read_report,
    scratch_beside,
)
from export.verify import NOT_A_GRAPH, failures, verify
from zoo.console import said_in_a_line
from zoo.hub import CONFIG, WEIGHTS, read_config
from zoo.hub.download import (
    SHA256_DIGITS,
    WAITS,
    HTTPError,
    Promise,
    PullError,
    answer_of_a_hub,
    asked_wait,
    check_name,
    explain,
    fetch,
    hash_of,
    info_of,
    is_passing,
    matches,
    pull,
    retried,
)
from zoo.hub.files import file_sha256, files, hashes, is_hidden

VERSION = re.compile(r"v(\d+)")
NOTHING_IGNORED = "# nothing\n"  # an empty one would be none
PATIENCE = 6  # times what a download waits for its next bytes: a commit takes a Hub longer


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
    """Send it to the Hub; without this, only say what would be sent."""
    private: bool = False
    """Make the repository private if it is new; refuse one that is public."""
    data_root: str = ""
    """Where the data set lies, to verify the folder and what the Hub gives back; random images
    without it, or scikit-learn's for digits."""
    num_images: int = 50
    """Images to verify them on."""
    overwrite: bool = False
    """Replace the folder of --to-folder if it is a published one, as it was verified; no other is
    ever replaced."""


def check_verified(folder: Path) -> None:
    """Raise unless the folder's own report says that it passed, of the files that are there."""
    if links := sorted(str(path) for path in folder.rglob("*") if path.is_symlink()):
        raise PublishError(f"{folder}: expected plain files, got links: {links}")
    if not folder.is_dir():
        raise PublishError(f"{folder}: expected an exported folder, found none")
    try:
        passed = read_report(folder).get("passed")
    except (FileNotFoundError, ValueError) as error:
        raise PublishError(str(error)) from None
    if passed is not True:
        raise PublishError(f"{folder / REPORT}: expected a passed verification, got {passed!r}")
    if missing := {CONFIG, WEIGHTS, *GRAPHS, CARD} - hashes(folder, REPORT).keys():
        raise PublishError(f"{folder}: expected {sorted(missing)}, found none; export it again")
    if changed := changed_files(folder):
        raise PublishError(
            f"{folder / REPORT}: expected the files that were verified, got others: {changed}; "
            "export it again"
        )


def copy_of(folder: Path, scratch: Path) -> Path:
    """The folder as it is now, in a scratch folder, since another export may take its place while
    it is verified and sent.

    Raises:
        PublishError: As check_verified, of the copy.
        OSError: There is no room for it.
    """
    copy = scratch / folder.resolve().name
    for name in files(folder):
        place = copy / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, place)  # copytree would hide that a disk is full
    check_verified(copy)
    return copy


def check_anew(folder: Path, options: Options) -> Images:
    """The images on which a folder passes every check of export/verify.py.

    Raises:
        PublishError: It does not.
        ValueError, FileNotFoundError: There is no such network, or there are no such images.
    """
    model = zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = images_of(model, read_config(folder), options.data_root, options.num_images)
    try:
        report = verify(folder, model, images)
    except NOT_A_GRAPH as error:
        raise PublishError(f"{error}; it is not published") from None
    if not report["passed"]:
        raise PublishError(f"{failures(report)}\nit is not published, since these checks failed")
    return images


def publish_to_folder(options: Options) -> str:
    """Copy a folder and verify it anew; the target appears whole or not at all.

    Returns:
        What happened.

    Raises:
        PublishError: The folder may not be published.
        ValueError, FileNotFoundError: As check_anew.
        FileExistsError, OSError: The target is taken, or there is no room.
    """
    folder, target = Path(options.folder).resolve(), Path(options.to_folder).resolve()
    check_asked(options.num_images)
    check_verified(folder)
    if (target / REPORT).is_file() and hashes(target) == hashes(folder):
        return f"{target} holds this very network already"
    if target.is_relative_to(folder):
        raise PublishError(f"--to-folder: expected a place outside {folder}, got {target}")
    check_target("--to-folder", target, options.overwrite)
    with scratch_beside("--to-folder", target) as scratch:
        copy = copy_of(folder, scratch)
        check_anew(copy, options)
        move_into_place("--to-folder", copy, target, options.overwrite)
    return f"published {target}"


@dataclass(frozen=True)
class Plan:
    """What a repository is missing of a folder.

    Args:
        head: The commit to build on; None where there is no repository yet.
        there: What the Hub says of every file of that commit, by its name: sha256, or git's sha1.
        digests: sha256 of every file of the folder.
        new, changed, stale: Names of files to add, to replace and to delete.
        tag: Of the head, if it was published as a version.
        next_tag: For what is published next.
    """

    head: str | None
    there: dict[str, str]
    digests: dict[str, str]
    new: tuple[str, ...]
    changed: tuple[str, ...]
    stale: tuple[str, ...]
    tag: str | None
    next_tag: str

    @property
    def is_done(self) -> bool:
        return not (self.new or self.changed or self.stale)


def plan(api: HfApi, folder: Path, repo_id: str, private: bool) -> Plan:
    """Look, and change nothing.

    Raises:
        PublishError: The repository is public where a private one was asked for.
        PullError: It holds a file of a name that is refused.
        HTTPError: The Hub refuses to be looked at.
    """
    digests = hashes(folder)
    try:
        info = retried(lambda: info_of(api, repo_id, files_metadata=True))
        refs = retried(lambda: api.list_repo_refs(repo_id))
    except GatedRepoError:  # which is one of those
        raise
    except RepositoryNotFoundError:
        return Plan(None, {}, digests, tuple(digests), (), (), None, "v1")
    if private and not info.private:
        raise PublishError(
            f"--private: expected a private repository, {repo_id} is public; make it private on "
            "the Hub first, or publish to another"
        )
    found = {s.rfilename: s for s in info.siblings}
    for name in found:
        check_name(repo_id, name)
    seen = {name: s for name, s in found.items() if not is_hidden(PurePosixPath(name))}
    there = {name: hash_of(sibling) for name, sibling in seen.items()}
    tags = {tag.name: tag.target_commit for tag in refs.tags}
    numbers = [int(found[1]) for found in map(VERSION.fullmatch, tags) if found]
    return Plan(
        info.sha,
        there,
        digests,
        tuple(name for name in digests if name not in there),
        tuple(
            name for name in digests if name in there and not matches(folder / name, there[name])
        ),
        tuple(sorted(there.keys() - digests.keys())),
        next((t for t, sha in tags.items() if sha == info.sha and VERSION.fullmatch(t)), None),
        f"v{max(numbers, default=0) + 1}",
    )


def check_replaced(repo_id: str, found: Plan) -> None:
    """Raise unless all that a commit would replace or delete is there as it was published.

    Raises:
        PublishError: There are other files, or others of these names.
        PullError: The report of what was published, or a small file, cannot be had.
    """
    others = {*found.changed, *found.stale} - {CARD}
    if others and REPORT in found.there:
        small = {name for name in others if len(found.there[name]) < SHA256_DIGITS} | {REPORT}
        with tempfile.TemporaryDirectory(prefix="report_") as scratch:
            folder = pull(f"{repo_id}@{found.head}", sorted(small), cache_dir=scratch)
            there = found.there | {name: file_sha256(folder / name) for name in small}
            with suppress(ValueError, KeyError, TypeError):  # it is no report
                published = read_report(folder)["sha256"] | {REPORT: there[REPORT]}
                others = {name for name in others if published.get(name) != there[name]}
    if others:
        raise PublishError(
            f"{repo_id}: expected an empty repository or a published folder alone, got "
            f"{sorted(others)}, which are no files of one that was published there, or changed "
            "since; it stays as it is: move them away, or publish to another"
        )


def check_card(folder: Path) -> None:
    """Raise unless the Hub, which is asked, takes the card's metadata.

    Raises:
        PublishError: It does not; the message has its reasons.
    """
    try:
        metadata = ModelCard.load(folder / CARD).data.to_yaml()
        retried(ModelCard(f"---\n{metadata}\n---\n").validate)  # the text is not asked about
    except HTTPError:
        raise
    except ValueError as error:
        said = str(error)
        with suppress(ValueError, LookupError, TypeError):  # it is a page of something else
            said = "; ".join(reason["message"] for reason in json.loads(said)["errors"])
        raise PublishError(
            f"{folder / CARD}: expected metadata that the Hub takes, got: {said}; export it again "
            "with another, such as --license"
        ) from None


def _client():
    """huggingface_hub's, which by itself waits for an answer for ever."""
    client = default_client_factory()
    client.timeout = PATIENCE * constants.HF_HUB_DOWNLOAD_TIMEOUT
    return client


def publish_to_hub(options: Options) -> str:
    """Look what is missing, send it in one commit, download that, verify it, tag it. From here on
    no request of this process but Xet's own waits longer than PATIENCE says.

    Returns:
        What happened, or would.

    Raises:
        PublishError, PullError: What failed, and how the repository stands.
        ValueError: No org/name, a number of images that is none, or images of another set.
        FileNotFoundError: The folder, or its images, are not there.
        OSError: There is no room for a copy of the folder.
    """
    repo_id = options.to
    if not re.fullmatch(r"[^/]+/[^/]+", repo_id):
        raise ValueError(f"--to: expected org/name, got {repo_id!r}")
    validate_repo_id(repo_id)
    check_asked(options.num_images)
    check_verified(Path(options.folder))
    set_client_factory(_client)
    api = HfApi(library_name="short-bp-zoo", library_version=zoo.__version__)
    try:
        with answer_of_a_hub(repo_id):
            name = retried(lambda: api.whoami())["name"]
            found = plan(api, Path(options.folder), repo_id, options.private)
        check_replaced(repo_id, found)
        check_card(Path(options.folder))
    except (HTTPError, LocalTokenNotFoundError) as error:
        raise PublishError(f"{explain(error, repo_id)}; nothing was sent") from None
    if found.is_done and found.tag:
        return f"{repo_id} holds this very network already, as {found.tag} at {found.head}"
    if not options.confirm:
        return describe(found, Path(options.folder), repo_id, name, options.private)
    with tempfile.TemporaryDirectory(prefix="publishing_") as scratch:
        copy = copy_of(Path(options.folder), Path(scratch))
        if hashes(copy) != found.digests:
            raise PublishError(f"{options.folder}: another export took its place; publish again")
        return _send(copy, found, api, options)


def _send(folder: Path, found: Plan, api: HfApi, options: Options) -> str:
    """Publish as planned, from a folder that nobody changes any more."""
    repo_id, made = options.to, ""
    try:
        images = check_anew(folder, options)
        if found.head is None:
            private = options.private or None  # else as its owner has new ones made
            with answer_of_a_hub(repo_id):
                retried(lambda: api.create_repo(repo_id, private=private, exist_ok=True))
                made = f"; the repository {repo_id} is new"
                found = plan(api, folder, repo_id, options.private)
                if found.head is None:
                    raise PublishError(
                        f"{repo_id}: expected the repository that was just made, found none yet; "
                        "the same command goes on from here"
                    )
                check_replaced(repo_id, found)
        sha = found.head if found.is_done else commit(api, folder, repo_id, found)
    except HTTPError as error:
        raise PublishError(f"{explain(error, repo_id)}; nothing was sent{made}") from None
    except (PublishError, PullError) as error:
        raise PublishError(f"{error}{made}") from None
    promised = {n: Promise(d, (folder / n).stat().st_size) for n, d in found.digests.items()}
    verify_published(repo_id, sha, promised, images)
    tag = found.next_tag
    try:
        with answer_of_a_hub(repo_id):
            retried(lambda: api.create_tag(repo_id, tag=tag, revision=sha, exist_ok=True))
            refs = retried(lambda: api.list_repo_refs(repo_id))
    except (HTTPError, PullError) as error:
        raise PublishError(
            f"{explain(error, repo_id)}; the commit {sha} is there, whole and verified, but may "
            "have no tag; the same command goes on from here"
        ) from None
    if {ref.name: ref.target_commit for ref in refs.tags}.get(tag) != sha:
        raise PublishError(
            f"{repo_id}: somebody has taken the tag {tag} for another commit; the same command "
            f"tags {sha} as the next"
        )
    return f"published {repo_id} as {tag} at {sha}"


def describe(found: Plan, folder: Path, repo_id: str, account: str, private: bool) -> str:
    """What would be sent, a line for each file."""
    kind = "private" if private else "public unless its owner's are private from the start"
    if found.is_done:
        return f"{repo_id} holds this network and no tag; --confirm verifies and tags it"
    place = f"the new repository {repo_id} ({kind})" if found.head is None else repo_id
    lines = [f"would send to {place}, as {account}, in one commit tagged {found.next_tag}:"]
    for act, names in (("add", found.new), ("replace", found.changed), ("delete", found.stale)):
        for name in names:
            digest = found.digests.get(name)
            size = f"  {(folder / name).stat().st_size:>12,} bytes  {digest}" if digest else ""
            lines.append(f"  {act:8}{name:28}{size}")
    return "\n".join([*lines, "nothing was sent; pass --confirm to send it"])


def commit(api: HfApi, folder: Path, repo_id: str, found: Plan) -> str:
    """One commit with all that is missing, on top of what was looked at; its sha.

    Raises:
        PublishError: It was not taken.
    """
    for wait in (*WAITS, None):
        additions = [CommitOperationAdd(name, folder / name) for name in found.new + found.changed]
        deletions = [CommitOperationDelete(name) for name in found.stale]
        try:
            # What the repository's own .gitignore names would be left out without a word.
            api.preupload_lfs_files(
                repo_id, additions, gitignore_content=NOTHING_IGNORED, free_memory=False
            )
            return api.create_commit(
                repo_id,
                [*additions, *deletions],
                commit_message=f"Publish {found.next_tag}",
                parent_commit=found.head,
            ).oid
        except (HTTPError, RuntimeError, ValueError, LookupError, TypeError, OSError) as error:
            # huggingface_hub wraps what went wrong with a large file.
            cause = error if isinstance(error, HTTPError) else error.__cause__ or error
            said, passes = _told(cause, error, repo_id)
        stands = head_after(api, folder, repo_id, found)
        if stands != found.head:
            return stands
        if wait is None or not passes:
            raise PublishError(f"{said}; the repository stands as it did, at {found.head}")
        time.sleep(asked_wait(cause, wait))
    raise AssertionError


def _told(cause: BaseException, error: Exception, repo_id: str) -> tuple[str, bool]:
    """What a commit that failed is to say, and whether it may be tried again."""
    if isinstance(cause, HTTPError):
        return explain(cause, repo_id), is_passing(cause)
    if isinstance(cause, json.JSONDecodeError | LookupError | TypeError):  # some portal's page
        return f"{repo_id}: expected an answer of the Hub, got {cause!r}", True
    # Of hf_xet, which sends large files.
    return str(error), isinstance(cause, ConnectionError | TimeoutError)


def head_after(api: HfApi, folder: Path, repo_id: str, before: Plan) -> str:
    """The head after a commit that went wrong: what it was, or that commit if only its answer was
    lost.

    Raises:
        PublishError: It is neither, or cannot be known.
    """
    try:
        with answer_of_a_hub(repo_id):
            now = plan(api, folder, repo_id, private=False)
    except (HTTPError, PullError) as error:
        raise PublishError(
            f"{explain(error, repo_id)}; the commit has happened whole or not at all. The same "
            "command finds out, and goes on"
        ) from None
    if now.head != before.head and not now.is_done:
        raise PublishError(
            f"{repo_id}: somebody has committed {now.head} since {before.head}; look at it, and "
            "publish again"
        )
    return now.head


def verify_published(repo_id: str, sha: str, promised: dict[str, Promise], images: Images) -> None:
    """Raise unless a commit comes back as it was sent, and passes every check anew."""
    state = f"the commit {sha} is in {repo_id} and has no tag"
    with tempfile.TemporaryDirectory(prefix="published_") as scratch:
        try:
            folder = fetch(repo_id, sha, promised, scratch, elsewhere="TMPDIR")
            model = zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
            report = verify(folder, model, images)
        except PullError as error:
            raise PublishError(
                f"{error}; {state}, since it did not come back whole. The same command downloads "
                "it once more"
            ) from None
        except Exception as error:
            raise PublishError(f"{error}; {state}, since it could not be verified") from error
    if not report["passed"]:
        raise PublishError(f"{failures(report)}\n{state}, since it failed these checks")


def main() -> None:
    if any(argument.startswith("--token") for argument in sys.argv[1:]):  # tyro would print it
        sys.exit("error: --token: expected it in HF_TOKEN or from `hf auth login`, not here")
    options = tyro.cli(Options, description=__doc__)
    if bool(options.to) == bool(options.to_folder):
        sys.exit(f"error: expected --to or --to-folder, got {'both' if options.to else 'neither'}")
    for name in ("overwrite",) if options.to else ("confirm", "private"):
        if getattr(options, name):
            other = "--to-folder" if options.to else "--to"
            sys.exit(f"error: --{name.replace('_', '-')}: expected beside {other} alone")
    stopped = "stopped; the same command goes on from what is there"
    with said_in_a_line(PublishError, HTTPError, stopped=stopped):
        print(publish_to_folder(options) if options.to_folder else publish_to_hub(options))


if __name__ == "__main__":
    main()
