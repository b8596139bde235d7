"""Files that are whole or not there, and their hashes."""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from filelock import FileLock, Timeout

OLD = 3600.0  # seconds without a write, after which whoever made a scratch folder is dead
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # what shared folders answer for a folder


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, onto the disk.

    Raises:
        OSError: There is no room for it; what stood there stands.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(partial)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, f"{path}: expected room for it, got: {error}") from error


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Hold a lock file while the block runs; a process that is killed lets go of it.

    Raises:
        FileExistsError: Another process holds it; with this message.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FileExistsError(message) from None
    try:
        yield
    finally:
        lock.release()


def sync(path: Path) -> None:
    """See a file onto the disk, or the names in a folder where its file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in NO_SYNC):
            raise
    finally:
        os.close(descriptor)


def clear_away(folder: Path, prefix: str) -> None:
    """Remove scratch folders, hidden ones of a prefix, of processes that are dead by now."""
    for scratch in folder.glob(f"{prefix}*"):
        with suppress(OSError):  # gone by now
            written = max(path.stat().st_mtime for path in (scratch, *scratch.rglob("*")))
            if time.time() - written > OLD:
                shutil.rmtree(scratch)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files(folder: Path) -> list[str]:
    """The path in a folder of every file in it, but for those hidden by a dot, which git, the Hub,
    its client and file managers leave beside them.
    """
    names = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [name.as_posix() for name in names if not is_hidden(name)]


def is_hidden(name: PurePath) -> bool:
    """Whether a file or a folder above it begins with a dot."""
    return any(part.startswith(".") for part in name.parts)


def hashes(folder: Path, but: str = "") -> dict[str, str]:
    """sha256 of every file by its path in a folder, hidden ones aside.

    Args:
        but: A file to leave out, the one that shall hold them.
    """
    return {name: file_sha256(folder / name) for name in files(folder) if name != but}
