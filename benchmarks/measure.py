"""Timing of contestants side by side, and the tables and files that come of it."""

import functools
import json
import math
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from zoo import hub
from zoo.console import said_in_a_line
from zoo.hub import files as disk
from zoo.training.machine import processor

SETTLE = 0.05  # seconds; threads of the contestant before still spin for some milliseconds
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SUFFIX = "_cuda" if DEVICE == "cuda" else ""  # of the name of a table that a GPU changes
AT_LEAST = 0.05  # seconds of work on a GPU, or what is timed is how Python launches it
MOST_COLUMNS = 1000  # of characters; a table is not cut off where its lines only have to wrap
WEIGHTS = "sha256 of the weights"
EACH = "of each build"  # the column beside a median of builds
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


def in_a_process(script: str, *arguments: str) -> Any:
    """The JSON that a script, run with these arguments, prints last."""
    line = [sys.executable, script, *arguments]
    run = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def of_each(builds: Iterable[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in builds)


def machine(device: str) -> dict[str, str]:
    """What the figures were measured on, and in a git repository with which commit."""
    return {
        "device": processor(torch.device(device)),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        **({"commit": found} if (found := commit()) else {}),
    }


@functools.cache  # of when a script begins, whatever becomes of the files until it ends
def commit() -> str:
    """Of this code, with -dirty if it was changed since, what it writes aside; empty outside of a
    repository.
    """
    if shutil.which("git") is None:
        return ""

    def git(*asked: str) -> str:
        line = ["git", *asked]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True).stdout.strip()

    written = (":!docs/results*", ":!tests/released.json", ":!/README.md", ":!/MODEL_CARDS.md")
    code = git("status", "--porcelain", "--", ".", *written)
    return git("rev-parse", "--short", "HEAD") + "-dirty" * bool(code)


def instruction_set() -> str:
    """Of this CPU, for the name of a table whose contestants compare otherwise on another."""
    return torch.backends.cpu.get_cpu_capability().lower()


def of_weights(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Which weights of released networks were measured, for a table's facts."""
    paths = {name: hub.find_pretrained(name) / hub.WEIGHTS for name in names}
    return {WEIGHTS: {name: disk.file_sha256(path) for name, path in paths.items()}}


def run_script(main: Callable[..., Any]) -> Any:
    """Run a script with the arguments that its command line gives; what is wrong with them, or with
    what they name, ends it with a line that says so.
    """
    commit()
    with said_in_a_line():
        return tyro.cli(main)


def report(
    name: str,
    title: str,
    rows: list[dict[str, Any]],
    command: str,
    device: str = "cpu",
    **facts: Any,
) -> None:
    """Print rows as a table; write them to docs/results/NAME.json and NAME.md.

    Args:
        device: What was measured on, "cpu" or "cuda".
        facts: More of the JSON; machine=None where nothing was measured on this one.
    """
    columns = list(rows[0])
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    console = Console()
    wide = console.options.update(max_width=MOST_COLUMNS)
    Console(width=max(console.width, console.measure(table, options=wide).maximum)).print(table)
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {
        "title": title,
        "command": command,
        "machine": machine(device),
        **facts,
        "rows": rows,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    (RESULTS / f"{name}.md").write_text(markdown(content))


def markdown(content: dict[str, Any]) -> str:
    """What report wrote as JSON, as a page."""
    rows, columns, m = content["rows"], list(content["rows"][0]), content["machine"]
    where = f"`{content['command']}`"
    if m:
        where += f", on {m['device']}, {m['threads']} threads, "
        where += f"torch {m['torch']}, Python {m['python']}"
        where += f", commit {m['commit']}" if "commit" in m else ""
    lines = [f"## {content['title']}", "", f"{where}.", ""]
    facts = content.keys() - {"title", "command", "machine", "rows"}
    lines += [f"{fact}: {content[fact]}  " for fact in sorted(facts)]
    lines += ["", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row.get(c)) for c in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
