"""huggingface_hub in a process of its own, which talks to a test Hub and to nothing else.

It reads HF_ENDPOINT once, on import, and importing takes seconds: one process serves many tests.
Names stay from one piece of code to the next.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_server import HubServer

SERVE = """
import json, sys, time, warnings
import torch
import zoo
torch.set_num_threads(1)
time.sleep = lambda seconds: None  # between the attempts of huggingface_hub
channel, sys.stdout = sys.stdout, sys.stderr
names = {"torch": torch, "zoo": zoo}
for line in sys.stdin:
    asked = json.loads(line)
    names |= asked["names"]
    answer = {"error": None, "value": None}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            exec(asked["code"], names)
            answer["value"] = names.pop("value", None)
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
    answer["warnings"] = [str(warning.message) for warning in caught]
    print(json.dumps(answer), file=channel, flush=True)
"""


@dataclass(frozen=True)
class Answer:
    """What became of a line: the name ``value`` afterwards, or an error, and its warnings."""

    value: Any
    error: str | None
    warnings: list[str]


@dataclass(frozen=True)
class Client:
    process: subprocess.Popen
    cache: Path

    def run(self, code: str, **names: Any) -> Answer:
        print(json.dumps({"code": code, "names": names}), file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            raise RuntimeError("the client has died")
        return Answer(**json.loads(line))

    def snapshot(self, repo_id: str) -> dict[str, bytes]:
        """Every file of a repository in the cache, links as what they lead to."""
        storage = self.cache / f"models--{repo_id.replace('/', '--')}"
        found = [path for path in sorted(storage.rglob("*")) if path.is_file()]
        return {path.relative_to(storage).as_posix(): path.read_bytes() for path in found}


@contextmanager
def hub_client(hub: HubServer, home: Path, **env: str) -> Iterator[Client]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=hub.env(home, **env),
        cwd=Path(__file__).parent.parent,
    )
    try:
        yield Client(process, home / "hub")
    finally:
        process.stdin.close()
        process.wait(timeout=30)
