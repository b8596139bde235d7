"""Files of a repository on the Hugging Face Hub: all of them, whole and checked, or none.

The Hub gives a hash for each file: sha256 for large ones, git's sha1 for the rest. What comes is
held to it and to the size that was told, and only when all of it is there does it get its place in
huggingface_hub's cache, which names each file by that hash: what lies there is checked whenever it
is loaded, with a network or without. Each process downloads to a place of its own and moves whole
files, so that others, which may be huggingface_hub itself, never meet half of one or miss theirs.
hf_hub_download is not used for that, since it names files as the server's headers say.
"""

import errno
import hashlib
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, errors, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import (
    WeakFileLock,
    build_hf_headers,
    parse_ratelimit_headers,
    validate_repo_id,
)

from zoo.hub import files as disk

MAX_BYTES, MAX_LARGE_BYTES = 2**24, 2**32  # of a JSON file, and of any other
WAITS = (0.5, 2.0)  # seconds before a request is sent a second and a third time
LONGEST_WAIT = 60.0  # that a Hub may ask for
LONGEST_LOCK = 600.0  # seconds that another process may take; on some disks its lock outlives it
PASSING = (408, 429)  # and whatever a server says of itself, from 500 on
SCRATCH = ".pull."  # what a process downloads
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # on disks that have none
NO_PRIVILEGE = 1314  # Windows's word for it
COMMIT = re.compile(r"[0-9a-f]{40}")
REVISION = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
# What the HTTP client raises where no answer comes; huggingface_hub has changed its client before.
HTTPError = next(base for base in HfHubHTTPError.__bases__ if not issubclass(base, OSError))
OIDCError = getattr(errors, "OIDCError", ())  # which older ones do not have
Answer = TypeVar("Answer")
SHA256_DIGITS, SHA1_DIGITS = 64, 40


class PullError(OSError):
    """The Hub did not give what was asked for; the message says why and what to do."""


@dataclass(frozen=True)
class Promise:
    """What a file has to be."""

    digest: str
    """sha256 of a file in LFS, in hexadecimal digits; of any other git's sha1."""
    size: int
    """Bytes."""


def pull(
    place: str,
    files: Iterable[str],
    if_any: Iterable[str] = (),
    cache_dir: str | Path | None = None,
    accept: Callable[[Path], object] = lambda folder: None,
) -> Path:
    """A folder in the Hub's cache that holds files of ``org/name[@revision]``.

    Either all of them arrive, or the cache stays as it was; ``main`` and other names of a revision
    keep pointing to what they did until then. A commit of which the cache has all files, those of
    if_any too, costs no request.

    Args:
        place: ``org/name``, with ``@`` and a branch, a tag or a commit behind it, or ``main``.
        files: Names of files that the repository must have.
        if_any: Files to take too if the repository has them.
        cache_dir: The cache; huggingface_hub's own if None.
        accept: Called with a folder once the first of files is in it, before any other is
            downloaded; what it raises ends the pull.

    Raises:
        PullError: The message says what failed and what to do.
        ValueError: The name of the repository or of the revision is none.
    """
    repo_id, _, revision = place.partition("@")
    validate_repo_id(repo_id)
    if revision and not REVISION.fullmatch(revision):
        raise ValueError(f"{place}: expected a branch, a tag or a commit, got {revision!r}")
    if place.endswith("@"):
        raise ValueError(f"{place}: expected a branch, a tag or a commit behind @, got none")
    revision, files, if_any = revision or "main", tuple(files), tuple(if_any)
    storage = _storage(repo_id, cache_dir)

    if COMMIT.fullmatch(revision) and (folder := _cached(storage, revision, (*files, *if_any))):
        return folder
    if constants.HF_HUB_OFFLINE:
        if folder := _cached(storage, revision, files, if_any):
            return folder
        raise PullError(
            f"{place}: expected {list(files)} in {storage.parent}, found them not whole, "
            "and HF_HUB_OFFLINE forbids to ask the Hub; load it once without"
        )
    api = HfApi()
    try:
        with answer_of_a_hub(place):
            info = retried(lambda: info_of(api, repo_id, revision=revision, files_metadata=True))
            if COMMIT.fullmatch(revision) and info.sha != revision:
                raise PullError(
                    f"{place}: expected that commit from {_endpoint()}, got {info.sha!r}; do not "
                    "use what answers there"
                )
            expected = _wanted(place, info, files, if_any)
    except PullError:
        raise
    except HTTPError as error:
        reason = explain(error, place)
        if is_passing(error) and (folder := _cached(storage, revision, files, if_any)):
            warnings.warn(f"{reason}; took what the cache holds, {folder.name}", stacklevel=2)
            return folder
        raise PullError(reason) from None
    folder = fetch(repo_id, info.sha, expected, cache_dir, accept)
    if revision != info.sha:
        _point(storage, revision, info.sha)
    return folder


def fetch(
    repo_id: str,
    sha: str,
    expected: Mapping[str, Promise],
    cache_dir: str | Path | None = None,
    accept: Callable[[Path], object] = lambda folder: None,
    elsewhere: str = "HF_HOME or cache_dir",
) -> Path:
    """A commit's files, each as it was promised; what fails to arrive leaves nothing behind.

    One process at a time, so that nothing comes twice, unless one takes LONGEST_LOCK: where there
    are several, none harms another.

    Args:
        repo_id: ``org/name``.
        sha: The commit, 40 hexadecimal digits.
        expected: What each file has to be, by its name.
        cache_dir, accept: As for pull.
        elsewhere: What to set where there is no room.

    Returns:
        The folder of that commit in the cache.

    Raises:
        PullError: As pull.
    """
    storage, place = _storage(repo_id, cache_dir), f"{repo_id}@{sha}"
    folder = storage / "snapshots" / sha
    if _holds(folder, expected, _blobs(storage)):
        return folder  # a cache that is only read needs no lock
    lock = storage.parent / ".locks" / storage.name / "fetch.lock"
    try:
        for parent in (lock.parent, storage):
            parent.mkdir(parents=True, exist_ok=True)
        with _locked(lock):
            if _holds(folder, expected, _blobs(storage)):
                return folder  # another process was here before
            disk.clear_away(storage, SCRATCH)
            with TemporaryDirectory(prefix=SCRATCH, dir=storage) as scratch:
                arrived = Path(scratch, "files")
                for i, (name, promised) in enumerate(expected.items()):
                    if i == 0 or not _is(folder / name, promised):
                        _download(repo_id, sha, name, promised, storage, arrived / name)
                    if i == 0:
                        accept(arrived)
                _move_into_place(expected, arrived, storage, folder, _can_link(Path(scratch)))
    except PullError:
        raise
    except HTTPError as error:
        raise PullError(explain(error, place)) from None
    except OSError as error:
        raise PullError(
            f"{place}: expected room for it in {storage.parent} and leave to write there, "
            f"got {error}; set {elsewhere} to another place"
        ) from None
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(path, timeout=LONGEST_LOCK))
        except TimeoutError:
            warnings.warn(
                f"{path}: expected a lock within {LONGEST_LOCK:.0f} s, got none; downloading "
                "without. If no other process downloads this repository, remove that file",
                stacklevel=5,
            )
        yield


def _holds(folder: Path, expected: Mapping[str, Promise], blobs: set[str]) -> bool:
    return all(
        _is(folder / name, promised) and (not blobs or promised.digest in blobs)
        for name, promised in expected.items()
    )


def _is(path: Path, promised: Promise) -> bool:
    return path.is_file() and matches(path, promised.digest)


def listed(place: str, sha: str) -> set[str]:
    """Names of all files of a commit of ``org/name[@revision]`` but for hidden ones; none under
    HF_HUB_OFFLINE.

    Raises:
        PullError: The Hub does not say; the message says why.
    """
    if constants.HF_HUB_OFFLINE:
        return set()
    repo_id = place.partition("@")[0]
    try:
        with answer_of_a_hub(place):
            info = retried(lambda: info_of(HfApi(), repo_id, revision=sha))
            names = [sibling.rfilename for sibling in info.siblings]
            return {name for name in names if not disk.is_hidden(PurePosixPath(name))}
    except HTTPError as error:
        raise PullError(explain(error, place)) from None


def info_of(api: HfApi, repo_id: str, **kwargs: Any) -> ModelInfo:
    """HfApi.model_info, which by itself waits for an answer for ever."""
    return api.model_info(repo_id, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, **kwargs)


@contextmanager
def answer_of_a_hub(place: str) -> Iterator[None]:
    """Raise PullError for what comes of an answer that no Hub gives, or of an odd token."""
    try:
        yield
    except HTTPError:  # of which a 400 is a ValueError
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise PullError(
            f"{place}: expected an answer of the Hub from {_endpoint()}, got "
            f"{type(error).__name__}: {error}; look to HF_TOKEN and to what stands between"
        ) from None


def _download(
    repo_id: str, sha: str, name: str, promised: Promise, storage: Path, path: Path
) -> None:
    """Bring a file to a path, of what the cache has of it if it has; once more if it is not what it
    should be, and then no more.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for there in (storage / "snapshots" / sha / name, storage / "blobs" / promised.digest):
        if _is(there, promised):
            shutil.copyfile(there, path)
            return
    url = hf_hub_url(repo_id, name, revision=sha)
    with answer_of_a_hub(f"{repo_id}@{sha}"):
        if not any(_arrives(url, name, promised, path) for _ in range(2)):
            raise PullError(
                f"{repo_id}@{sha}: expected {name} with hash {promised.digest}, got other bytes "
                "twice; they were removed again. Try later, or on another network"
            )


def _can_link(scratch: Path) -> bool:
    if constants.HF_HUB_DISABLE_SYMLINKS:
        return False
    try:
        (scratch / "link").symlink_to("nowhere")
    except OSError as error:
        if error.errno in NO_LINKS or getattr(error, "winerror", None) == NO_PRIVILEGE:
            return False
        raise
    return True


def _move_into_place(
    expected: Mapping[str, Promise], arrived: Path, storage: Path, folder: Path, links: bool
) -> None:
    """Give each file its place in one step. As huggingface_hub has it, places are links to blobs
    wherever there can be links: one that a file has stood in until now becomes a link, too, since
    blobs are what says which file of a cache has changed. A cache that has blobs gets one for each
    file for the same reason, where there can be links no more.
    """
    blobs = links or bool(_blobs(storage))
    for name, promised in expected.items():
        new, path, blob = arrived / name, folder / name, storage / "blobs" / promised.digest
        if _is(path, promised) and (blob.exists() or not blobs):
            continue
        for place in (new, path):
            place.parent.mkdir(parents=True, exist_ok=True)
        if not new.exists():
            shutil.copyfile(path, new)
        if links:
            blob.parent.mkdir(exist_ok=True)
            os.replace(new, blob)
            new.symlink_to(os.path.relpath(blob, path.parent))
        elif blobs and not blob.exists():
            shutil.copyfile(new, second := arrived / promised.digest)
            os.replace(second, blob)
        os.replace(new, path)


def _arrives(url: str, name: str, promised: Promise, partial: Path) -> bool:
    """Whether a file is what was promised, once it is there."""

    def get() -> None:
        with partial.open("wb") as file:
            capped = _Capped(file, promised.size)
            headers = build_hf_headers()
            http_get(
                url,
                capped,
                headers=headers,
                expected_size=promised.size,
                displayed_filename=name,
            )

    try:
        retried(get)
    except HTTPError:
        raise
    except OSError as error:
        if error.errno is None:  # of another size
            return False
        raise
    return matches(partial, promised.digest)


class _Capped:
    """A file that takes no more bytes than it was promised."""

    def __init__(self, file: BinaryIO, most: int):
        self.file, self.most = file, most
        self.seek, self.tell, self.truncate = file.seek, file.tell, file.truncate

    def write(self, chunk: bytes) -> int:
        if self.tell() + len(chunk) > self.most:
            raise OSError(f"expected {self.most} bytes, got more")
        return self.file.write(chunk)


def matches(path: Path, digest: str) -> bool:
    """Whether a file has a sha256, or a sha1 as git counts it, by the number of digits."""
    return _digest(path, len(digest)) == digest


def _digest(path: Path, digits: int) -> str:
    with path.open("rb") as file:
        if digits == SHA256_DIGITS:
            return hashlib.file_digest(file, "sha256").hexdigest()
        start = b"blob %d\0" % os.fstat(file.fileno()).st_size
        return hashlib.file_digest(file, lambda: hashlib.sha1(start)).hexdigest()


def retried(call: Callable[[], Answer]) -> Answer:
    """The answer to a request that may be sent again where none came, or one that says later.

    Raises:
        PullError: There is a token that no header can hold; the client would say it aloud. Or none
            comes by OIDC where one is to.
        HTTPError: A refusal, or the last of several failures that might have passed.
    """
    try:
        token = get_token() or ""
    except OIDCError as error:
        raise PullError(f"HF_OIDC_RESOURCE: expected a token for it, got: {error}") from None
    if not re.fullmatch(r"[!-~]*", token):
        raise PullError("HF_TOKEN: expected visible ASCII in the token, got other characters")
    for wait in (*WAITS, None):
        try:
            return call()
        except HTTPError as error:
            if wait is None or not is_passing(error):
                raise
            time.sleep(asked_wait(error, wait))
    raise AssertionError


def status_of(error: Exception) -> int | None:
    """None where no answer came at all."""
    response = getattr(error, "response", None)
    return None if response is None else response.status_code


def is_passing(error: Exception) -> bool:
    status = status_of(error)
    return status is None or status in PASSING or status >= 500


def asked_wait(error: Exception, wait: float) -> float:
    response = getattr(error, "response", None)
    headers = {} if response is None else response.headers
    asked, limit = headers.get("Retry-After", ""), parse_ratelimit_headers(headers)
    if status_of(error) == 429 and limit and not limit.remaining:  # the Hub says it always
        asked = asked or str(limit.reset_in_seconds)
    return min(float(asked), LONGEST_WAIT) if re.fullmatch("[0-9]+", asked) else wait


def explain(error: Exception, place: str) -> str:
    """What failed, and what to do."""
    if isinstance(error, PullError):  # which says it itself
        return str(error)
    status, log_in = status_of(error), "log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, LocalTokenNotFoundError):
        return f"{place}: expected a token of the Hub, found none; {log_in}"
    if isinstance(error, GatedRepoError):
        return f"{place}: its owner asks for terms to be accepted on the Hub first; then {log_in}"
    if isinstance(error, RevisionNotFoundError):
        return f"{place}: expected a branch, a tag or a commit of that repository, found none"
    if isinstance(error, RepositoryNotFoundError):
        who = "this token may see" if get_token() else "anybody may see"
        return f"{place}: expected a repository, found none that {who}; if it is private, {log_in}"
    if status is not None:
        words = getattr(error, "server_message", None)
        said = f"({status}: {words})" if words else f"({status})"
        return f"{place}: " + {
            401: f"the Hub refuses this token {said}; {log_in}",
            403: f"the Hub forbids that to this token {said}; take one with the right to it",
            429: f"the Hub asks to wait {said}; try again in some minutes. HF_HUB_OFFLINE=1 loads "
            "what the cache holds",
        }.get(
            status,
            f"the Hub answers with an error {said}; try again later"
            if is_passing(error)
            else f"the Hub refuses that {said}; what it says has to be mended first",
        )
    return (
        f"{place}: no answer from {_endpoint()} ({type(error).__name__}: {error}); look to the "
        "network. HF_HUB_OFFLINE=1 loads what the cache holds"
    )


def _endpoint() -> str:
    """The Hub's address without a name and password that may stand in it."""
    parts = urlsplit(constants.ENDPOINT)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def check_name(place: str, name: str) -> None:
    """Raise for a file name that leads out of its folder, or that is none in its plain form."""
    path = PurePosixPath(name)
    if path.is_absolute() or "\\" in name or ".." in path.parts or str(path) != name or name == ".":
        raise PullError(f"{place}: expected plain file names, got {name!r}; do not use it")


def hash_of(sibling) -> str:
    """What the Hub says of one of its files."""
    return sibling.lfs.sha256 if sibling.lfs else sibling.blob_id


def _wanted(
    place: str, info: ModelInfo, files: tuple[str, ...], if_any: tuple[str, ...]
) -> dict[str, Promise]:
    """The files to download, none of which is absurd."""
    found = {sibling.rfilename: sibling for sibling in info.siblings}
    for name in found:
        check_name(place, name)
    if missing := [name for name in files if name not in found]:
        pickles = sorted(name for name in found if name.endswith((".bin", ".pt", ".pth", ".ckpt")))
        only = f"; {pickles} are pickles and are never loaded" if pickles else ""
        raise PullError(f"{place}: expected {missing}, found none{only}")
    wanted = {}
    for name in (*files, *(name for name in if_any if name in found)):
        most = MAX_BYTES if name.endswith(".json") else MAX_LARGE_BYTES
        if not (type(found[name].size) is int and 0 <= found[name].size <= most):
            raise PullError(
                f"{place}: expected {name} up to {most} bytes, got {found[name].size!r}"
            )
        wanted[name] = Promise(hash_of(found[name]), found[name].size)
    hashes = [promised.digest for promised in wanted.values()]
    if not COMMIT.fullmatch(info.sha or "") or not all(map(_is_hash, hashes)):
        raise PullError(f"{place}: expected hashes, got {info.sha!r} and {hashes}")
    return wanted


def _is_hash(text: str | None) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", text or "") is not None


def _storage(repo_id: str, cache_dir: str | Path | None = None) -> Path:
    name = repo_folder_name(repo_id=repo_id, repo_type="model")
    return Path(cache_dir or constants.HF_HUB_CACHE).expanduser() / name


def _cached(
    storage: Path, revision: str, files: tuple[str, ...], if_any: tuple[str, ...] = ()
) -> Path | None:
    """The folder of a commit in the cache, if it holds all files and no bit of them has changed.

    A file that has changed is named in a warning; it is replaced once the Hub gives it anew.
    """
    ref = storage / "refs" / revision
    sha = revision
    if not COMMIT.fullmatch(revision):
        sha = ref.read_text().strip() if ref.is_file() else ""
    folder = storage / "snapshots" / sha
    if not COMMIT.fullmatch(sha) or not all((folder / name).is_file() for name in files):
        return None
    if not (blobs := _blobs(storage)):
        return folder  # a cache of copies, where there can be no links, says no hashes
    found = (*files, *(name for name in if_any if (folder / name).is_file()))
    if changed := [folder / name for name in found if not _is_a_blob(folder / name, blobs)]:
        warnings.warn(f"{changed[0]}: changed in the cache since and not used", stacklevel=3)
        return None
    return folder


def _blobs(storage: Path) -> set[str]:
    return {path.name for path in (storage / "blobs").glob("*") if _is_hash(path.name)}


def _is_a_blob(path: Path, blobs: set[str]) -> bool:
    """Whether a file of a snapshot has the hash that a blob is named by: of the one that it links
    to, or of any, where a copy of the cache has files for links.
    """
    if path.is_symlink():
        # One link alone is followed: huggingface_hub may keep what a blob is a link to elsewhere.
        name = Path(os.readlink(path)).name
        return name in blobs and matches(path, name)
    return any(_digest(path, digits) in blobs for digits in (SHA256_DIGITS, SHA1_DIGITS))


def _point(storage: Path, revision: str, sha: str) -> None:
    """Let the cache know which commit a branch or a tag is, as huggingface_hub writes it.

    A cache that may not be written to does without.
    """
    ref = storage / "refs" / revision
    if ref.is_file() and ref.read_text() == sha:
        return
    with suppress(OSError), TemporaryDirectory(prefix=".ref.", dir=storage) as scratch:
        partial = Path(scratch, "ref")  # all in refs/ is a name
        partial.write_text(sha)
        ref.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, ref)
