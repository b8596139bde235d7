"""What a long verification has found so far, kept in a file to go on from after a kill."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from zoo.hub import files as disk


class Ledger:
    """How many images differ, by setting; written down as soon as it is known.

    Args:
        path: The file; nothing is written down if None.
        of: All that the counts depend on. What is in the file of anything else is not taken over.
    """

    def __init__(self, path: Path | None, of: Iterable[bytes]):
        digest = hashlib.sha256()
        for part in of:
            digest.update(hashlib.sha256(part).digest())
        self.path, self.of = path, digest.hexdigest()
        self.differ: dict[str, int] = {}
        if path and path.is_file():
            try:
                found = json.loads(path.read_text())
            except ValueError:
                found = None
            if isinstance(found, dict) and found.get("of") == self.of:
                self.differ = found.get("differ", {})
                print(f"{path}: goes on, {len(self.differ)} settings were compared")

    def write(self, setting: str, differ: int) -> None:
        self.differ[setting] = differ
        if self.path:
            disk.write(self.path, json.dumps({"of": self.of, "differ": self.differ}, indent=2))
