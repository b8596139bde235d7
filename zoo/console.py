"""What all commands share: option checks, progress bars, and how errors end a process."""

import math
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

import torch
import tyro
from rich.console import Console
from rich.progress import track

T = TypeVar("T")


@contextmanager
def said_in_a_line(*errors: type[Exception], stopped: str = "stopped") -> Iterator[None]:
    """End the process with one line for user errors and Ctrl-C.

    A RuntimeError is a bug or a device fault: its traceback comes first, unless memory ran out.

    Args:
        errors: More exceptions that end in one line.
        stopped: The line after Ctrl-C.
    """
    try:
        yield
    except (ValueError, OSError, RuntimeError, ImportError, MemoryError, *errors) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            traceback.print_exc()
        sys.exit(f"error: {str(error) or 'memory ran out'}")
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        sys.exit(130)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; for a CPU, torch raises a plain RuntimeError."""
    is_known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_known or "can't allocate memory" in str(error)


def named_first(options: type, what: str, prog: str, description: str) -> str:
    """Return the first argument; exit with help or an error if an option comes first."""
    if sys.argv[1:2] in (["-h"], ["--help"]):
        tyro.cli(options, args=["--help"], prog=prog, description=description)
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(f"error: expected {what} before any option: {prog}; --help shows the options")
    return sys.argv[1]


def check_range(name: str, value: float, least: float, below: float = math.inf) -> None:
    """Raise ValueError unless least <= value < below."""
    if not least <= value < below:
        raise ValueError(f"{name}: expected a number in [{least}, {below}), got {value}")


def check_output(folder: Path, option: str = "output") -> None:
    """Raise ValueError unless the folder can be written to or created."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        TemporaryFile(dir=there).close()
    except OSError as error:
        raise ValueError(
            f"{option}: expected a folder that can be written to, got {there}: {error.strerror}"
        ) from None


def watched(
    parts: Iterable[T], doing: str, count: int | None = None, shown: bool = True
) -> Iterable[T]:
    """Iterate with a progress bar on stderr, if that is a terminal.

    Args:
        doing: The text beside the bar.
        count: Number of parts, if they have no length.
        shown: False in all processes but one.
    """
    console = Console(stderr=True)
    off = not (shown and console.is_terminal)
    return track(parts, doing, count, console=console, transient=True, disable=off)
