"""Download the files of one commit from the Hugging Face Hub into huggingface_hub's cache."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub import _CACHED_NO_EXIST, constants, hf_hub_download
from huggingface_hub import try_to_load_from_cache as cached
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from zoo.hub.folder import CONFIG, REPORT

# What the HTTP client raises when no answer comes. huggingface_hub has changed its client before.
HTTPError = next(base for base in HfHubHTTPError.__bases__ if not issubclass(base, OSError))


class PullError(OSError):
    """The Hub did not give a file; the message says why and what to do."""


def pull(
    place: str, files: Iterable[str], cache_dir: str | Path | None = None, again: bool = False
) -> Path:
    """Download files of ``org/name[@revision]``, all from the same commit.

    config.json comes first and fixes the commit. verification.json comes too if there is one.
    When the Hub cannot be reached, huggingface_hub uses what its cache holds.

    Args:
        place: The repository and, after @, a branch, a tag or a commit; main by default.
        files: Names of the files to download.
        cache_dir: huggingface_hub's own cache if None.
        again: Replace files that are in the cache.

    Returns:
        The folder of that commit in the cache. Its name is the commit.

    Raises:
        PullError: A file could not be downloaded.
    """
    repo_id, _, revision = place.partition("@")

    def download(name: str, revision: str) -> Path:
        return Path(
            hf_hub_download(
                repo_id, name, revision=revision, cache_dir=cache_dir, force_download=again
            )
        )

    with hub_errors(place):
        folder = download(CONFIG, revision or "main").parent
        commit = folder.name
        if cached(repo_id, REPORT, cache_dir, commit) is not _CACHED_NO_EXIST:
            with suppress(RemoteEntryNotFoundError):
                download(REPORT, commit)
        for name in files:
            if name not in (CONFIG, REPORT):
                download(name, commit)
    return folder


@contextmanager
def hub_errors(place: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into a PullError of one line.

    Errors of the disk, such as a full one, pass through.
    """
    try:
        yield
    except (HTTPError, OSError) as error:
        if isinstance(error, PullError) or getattr(error, "errno", None) is not None:
            raise
        raise PullError(f"{place}: {explain(error)}") from None


def explain(error: BaseException) -> str:
    """What failed and what to do, in one line."""
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    if not isinstance(error, HTTPError):
        error = error.__cause__ or error  # huggingface_hub wraps what happened
    match error:
        case LocalTokenNotFoundError():
            return f"this needs a token of the Hub; {log_in}"
        case GatedRepoError():
            return f"accept the terms of the repository on the Hub first, then {log_in}"
        case RepositoryNotFoundError():
            return f"no such repository on the Hub; if it is private, {log_in}"
        case RevisionNotFoundError():
            return "the repository has no such branch, tag or commit"
        case RemoteEntryNotFoundError():
            return f"the repository has no {error.response.url.path.rpartition('/')[2]}"
        case OfflineModeIsEnabled():
            return "not fully cached, and HF_HUB_OFFLINE is set; run once online"
        case HfHubHTTPError():
            status = error.response.status_code
            advice = {401: log_in, 403: "the token lacks the right to do this"}.get(
                status, "try again later" if status in (408, 429) or status >= 500 else ""
            )
            answer = f"the Hub answered {status}: {error.server_message or 'no reason given'}"
            return f"{answer}; {advice}" if advice else answer
        case HTTPError():
            return (
                f"no answer from {constants.ENDPOINT} ({type(error).__name__}: {error}); check the "
                "network. HF_HUB_OFFLINE=1 loads what is in the cache"
            )
    return str(error)
