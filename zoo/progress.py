"""A progress bar, where somebody watches."""

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


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
