"""Time contestants side by side, and write tables to docs/results."""

import functools
import json
import math
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.progress import track

from zoo import hub
from zoo.console import said_in_a_line
from zoo.hub import files as disk
from zoo.training.machine import processor

SETTLE = 0.05  # seconds; threads of the contestant before still spin for some milliseconds
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
AT_LEAST = 0.05  # seconds of work on a GPU; less would time the launch of its kernels
BUILDS = "of each build"  # the column beside a median of builds
WEIGHTS = "sha256 of the weights"
LATEST = "latest"
ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"


def interleaved(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each run, one after the other in every round; one round warms up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    repeats = dict.fromkeys(runs, 1)
    for turn in track(range(rounds + 1), "measuring", transient=True):
        for name, run in runs.items():
            seconds = _seconds(run, repeats[name])
            if turn >= 1:
                times[name].append(seconds)
            elif DEVICE == "cuda":
                repeats[name] = math.ceil(AT_LEAST / _seconds(run, 1))
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    _synchronise()
    time.sleep(SETTLE)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    _synchronise()
    return (time.perf_counter() - start) / repeats


def _synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def run_in_process(script: str, *arguments: str) -> Any:
    """Run a script with these arguments; return the JSON that it prints last."""
    line = [sys.executable, script, *arguments]
    run = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def join_builds(builds: Iterable[float]) -> str:
    """The cell that lists the figures of single builds."""
    return ", ".join(f"{value:.2f}" for value in builds)


@functools.cache  # the state of the code when the script begins
def commit() -> str:
    """The commit of this code, with -dirty if the code has changed; empty outside a repository."""
    if shutil.which("git") is None:
        return ""

    def git(*arguments: str) -> str:
        line = ["git", *arguments]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True).stdout.strip()

    written = (":!docs/results*", ":!tests/released.json", ":!/README.md", ":!/MODEL_CARDS.md")
    changed = git("status", "--porcelain", "--", ".", *written)
    return git("rev-parse", "--short", "HEAD") + "-dirty" * bool(changed)


def release_hashes(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The sha256 of the weights of released networks, for a table's facts."""
    paths = {name: hub.find_pretrained(name) / hub.WEIGHTS for name in names}
    return {WEIGHTS: {name: disk.file_sha256(path) for name, path in paths.items()}}


def run_script(main: Callable[..., Any]) -> Any:
    """Run a script's main function with the arguments of the command line."""
    commit()
    with said_in_a_line():
        return tyro.cli(main)


def read(name: str) -> dict[str, Any]:
    """The table docs/results/NAME.json."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def report(
    name: str,
    title: str,
    command: str,
    rows: list[dict[str, Any]],
    device: str = "cpu",
    key: Sequence[str] = (),
    **facts: Any,
) -> None:
    """Print rows as a table and write them, with the machine, to docs/results/NAME.json.

    Args:
        device: What was measured on, "cpu" or "cuda".
        key: Facts that tell the measurements of a table apart, such as the device. The new
            measurement replaces the one with the same facts and stands before the others.
            Without a key the table has one measurement.
        facts: Settings of this measurement.
    """
    measurement = {
        "command": command,
        "device": processor(torch.device(device)),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        **facts,
        "rows": rows,
    }
    content = {"title": title, **measurement}
    if key:
        found = read(name)["measurements"] if (RESULTS / f"{name}.json").exists() else []
        others = [old for old in found if any(old.get(k) != measurement[k] for k in key)]
        content = {"title": title, "measurements": [measurement, *others]}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    print(f"## {title}\n\n{table_of(rows)}")


def table_of(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table; a row may lack some of the columns."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return table(columns, [[cell(row.get(column)) for column in columns] for row in rows])


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def cell(value: Any) -> str:
    """A value in a table, to three digits."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
