"""A proof for each graph that no sum in it depends on the order of its terms."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from export.checks.check import Check
from export.folder import GRAPH
from export.graph.proof import certify
from zoo import NotExactError
from zoo.hub import INT8_GRAPH


@dataclass(frozen=True, kw_only=True)
class Certificate(Check):
    id = "certificate"
    title = "no sum depends on its order"
    least_head_room_bits: int | None = None
    layers: list[dict[str, Any]] | None = None
    int8_least_head_room_bits: int | None = None
    int8_layers: list[dict[str, Any]] | None = None
    where: str | None = None

    @property
    def passed(self) -> bool:
        return self.where is None


def check_certificate(folder: Path, graphs: Iterable[str]) -> Certificate:
    """Prove graphs; the figures are those of the graphs for floats and for int8, or where a proof
    fails.
    """
    rows = {}
    for graph in graphs:
        try:
            rows[graph] = certify(onnx.load(folder / graph))
        except NotExactError as error:
            return Certificate(where=f"{graph}: {error}")
    figures = {}
    for graph, prefix in ((GRAPH, ""), (INT8_GRAPH, "int8_")):
        if found := rows.get(graph):
            figures[f"{prefix}least_head_room_bits"] = min(row.head_room for row in found)
            figures[f"{prefix}layers"] = [asdict(row) for row in found]
    return Certificate(**figures)
