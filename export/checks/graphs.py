"""The graphs are exactly those that the weight file gives: every constant and every node."""

from dataclasses import dataclass
from pathlib import Path

import onnx

from export.checks.check import Check
from export.deployed import Deployed
from zoo.deployment.metadata import add_metadata


@dataclass(frozen=True, kw_only=True)
class Graphs(Check):
    id = "graphs"
    title = "graphs hold the weights"
    fault = "that_differ"
    that_differ: list[str]


def check_graphs(folder: Path, deployed: Deployed) -> Graphs:
    """Compare the graphs of a folder with those of its deployed network."""
    wrong = []
    for path, expected in deployed.graphs().items():
        if not (folder / path).is_file():
            wrong.append(path)
            continue
        found = onnx.load(folder / path)
        expected.producer_version = found.producer_version
        if found.metadata_props:  # older exports have none
            add_metadata(expected, deployed.of(path))
        if found != expected:
            wrong += [f"{path}: {name}" for name in different_parts(found, expected)] or [path]
    return Graphs(that_differ=wrong)


def different_parts(*models: onnx.ModelProto) -> list[str]:
    """Names of the constants and nodes in which two graphs differ."""
    parts = [{part.name: part for part in (*m.graph.initializer, *m.graph.node)} for m in models]
    names = parts[0].keys() | parts[1].keys()
    return sorted(name for name in names if parts[0].get(name) != parts[1].get(name))
