"""What all commands share: where they may write, what they show, and how they end."""

import os
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
    """End the process with a line for these errors, for those that all commands meet, and for
    Ctrl-C, which says what is to be known then. A RuntimeError, as torch raises them, is no
    command's answer to wrong input, but a fault, of a device or of ours: where it came up is shown
    above its line, unless memory ran out.
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
    """Whether memory ran out, a device's or, for which torch has no error of its own, a CPU's."""
    is_known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_known or "can't allocate memory" in str(error)


def named_first(options: type, what: str, prog: str, description: str) -> str:
    """The argument before all options; without one, an end that says so, or shows them."""
    if sys.argv[1:2] in (["-h"], ["--help"]):
        tyro.cli(options, args=["--help"], prog=prog, description=description)
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(
            f"error: expected {prog}, {what} before any option, got "
            f"{' '.join(sys.argv[1:]) or 'none'}; --help shows the options"
        )
    return sys.argv[1]


def check_output(folder: Path, option: str = "output") -> None:
    """Raise before anything is computed that could not be written.

    Raises:
        ValueError: The folder is none, or neither there nor to be made.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        TemporaryFile(dir=there).close()
    except OSError as error:
        raise ValueError(
            f"{option}: expected a folder that can be written to, got {there}: {error.strerror}"
        ) from None


class PatientConsole(Console):
    """Of work that is to go on when the reader of its output goes, as `| head` does."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nobody = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nobody, sys.stdout.fileno())
        os.close(nobody)


def watched(parts: Iterable[T], doing: str, count: int | None = None) -> Iterable[T]:
    """The same parts, with a bar on a terminal's stderr that goes when they are through.

    Args:
        doing: What is done to them, for the bar.
        count: How many there are, where they do not say.
    """
    console = Console(stderr=True)
    off = not console.is_terminal
    return track(parts, doing, count, console=console, transient=True, disable=off)
