"""Waits that have an end."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from zoo.hub import run_folder as runs

LONGEST = 200  # seconds


def wait_for_a_checkpoint(run: Path, process: subprocess.Popen, after: Path) -> None:
    """Until the run that a process trains has a newer one."""
    end = time.monotonic() + LONGEST
    while runs.checkpoints(run)[-1:] == [after]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no checkpoint was written"
        time.sleep(0.01)


def end_of(process: subprocess.Popen) -> tuple[str, str]:
    """What the leader of a session said; nothing that it started outlives the wait."""
    try:
        return process.communicate(timeout=LONGEST)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
