"""Write files atomically, lock folders, and hash files."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from filelock import FileLock, Timeout

NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # what shared folders answer for a folder


def write(path: Path, content: str | bytes) -> None:
    """Write a file atomically and flush it to the disk.

    Raises:
        OSError: There is no room for it. The old file stays.
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
    """Hold a lock file while the block runs. The lock of a killed process is released.

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
    """Flush a file to the disk, or the names in a folder if its file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in NO_SYNC):
            raise
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """The sha256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files(folder: Path) -> list[str]:
    """Relative paths of all files in a folder except hidden ones, which git and the Hub's client
    leave there.
    """
    names = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [name.as_posix() for name in names if not is_hidden(name)]


def is_hidden(name: PurePath) -> bool:
    """Whether a file or a folder above it begins with a dot."""
    return any(part.startswith(".") for part in name.parts)


def hashes(folder: Path, but: str = "") -> dict[str, str]:
    """The sha256 of every file of a folder by its relative path, except hidden files.

    Args:
        but: A file to leave out, such as the one that holds the hashes.
    """
    return {name: file_sha256(folder / name) for name in files(folder) if name != but}
