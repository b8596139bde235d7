"""The published weights hold no shortcut heads."""

from dataclasses import dataclass
from pathlib import Path

from export.checks.check import Check
from zoo import hub


@dataclass(frozen=True, kw_only=True)
class Heads(Check):
    id = "heads"
    title = "weights hold no shortcut heads"
    fault = "heads"
    heads: list[str]


def check_heads(folder: Path) -> Heads:
    return Heads(heads=[name for name in hub.weight_tensors(folder) if "shortcut_heads" in name])
