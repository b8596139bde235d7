"""A proof for each graph that no sum in it depends on the order of its terms."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from export.checks.check import Check
from export.folder import GRAPH, GRAPHS
from export.graph.proof import certify
from zoo import NotExactError


@dataclass(frozen=True, kw_only=True)
class Certificate(Check):
    id = "certificate"
    title = "no sum depends on its order"
    least_head_room_bits: int | None = None
    layers: list[dict[str, Any]] | None = None
    where: str | None = None

    @property
    def passed(self) -> bool:
        return self.where is None


def check_certificate(folder: Path) -> Certificate:
    """Prove every graph; the figures are those of onnx/model.onnx, or where a proof fails."""
    rows = {}
    for graph in GRAPHS:
        try:
            rows[graph] = certify(onnx.load(folder / graph))
        except NotExactError as error:
            return Certificate(where=f"{graph}: {error}")
    return Certificate(
        least_head_room_bits=min(row.head_room for row in rows[GRAPH]),
        layers=[asdict(row) for row in rows[GRAPH]],
    )
