"""The rule for graphs that cannot be exact: PyTorch and onnxruntime agree on the class.

Their rounding differs, and one flipped spike moves a logit as far as a wrong weight does. So close
logits are reported but not required.
Shapes: N images, C channels, H height, W width, K classes.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from export.checks.accuracy import Accuracy, check_accuracy
from export.checks.check import Check, Setting, run_graph
from export.checks.images import Images
from export.folder import GRAPH
from zoo.hub import UINT8_GRAPH

TOLERANCE = 1e-5  # of a logit
AGREEMENT = 99.0  # percent of images
SETTING = Setting(batch=16, threads=1, optimised=True)  # more threads may change the order of sums


@dataclass(frozen=True, kw_only=True)
class Agreement(Check):
    """How far onnxruntime is from PyTorch.

    Args:
        equal_percent: Images whose logits agree to TOLERANCE.
        images_not_finite: In a logit of either.
    """

    id = "agreement"
    title = "PyTorch and onnxruntime agree on the class"
    images: int
    equal_percent: float
    classes_that_changed: int
    allowed_changes: int
    images_not_finite: int

    @property
    def passed(self) -> bool:
        return self.images_not_finite == 0 and self.classes_that_changed <= self.allowed_changes


@dataclass(frozen=True, kw_only=True)
class OtherGraphs(Check):
    id = "other_graphs"
    title = "all graphs give the same logits"
    uint8_percent: float
    required_percent: float = AGREEMENT

    @property
    def passed(self) -> bool:
        return self.uint8_percent >= self.required_percent


def check_agreement(
    expected: Tensor, graph: Path, images: Tensor, labels: Tensor | None
) -> tuple[Agreement, Accuracy]:
    """Compare the PyTorch network with onnxruntime on its graph.

    Args:
        expected: Its logits, [N, K].
        images: Normalised, [N, C, H, W].
        labels: [N], or None.
    """
    found = run_graph(graph, images, SETTING)
    finite = expected.isfinite().all(1) & found.isfinite().all(1)
    agreement = Agreement(
        images=len(images),
        equal_percent=percent_close(expected, found),
        classes_that_changed=int((expected.argmax(1) != found.argmax(1)).sum()),
        allowed_changes=max(1, int(len(images) * (100 - AGREEMENT) / 100)),
        images_not_finite=int((~finite).sum()),
    )
    return agreement, check_accuracy(expected, found, labels)


def check_other_graphs(folder: Path, images: Images) -> OtherGraphs:
    """Compare the graph of whole pixels with the first graph."""
    setting = Setting(batch=64, threads=2, optimised=True)
    expected = run_graph(folder / GRAPH, images.values, setting)
    logits = run_graph(folder / UINT8_GRAPH, images.pixels, setting)
    return OtherGraphs(uint8_percent=percent_close(logits, expected))


def percent_close(logits: Tensor, others: Tensor) -> float:
    """Percent of images whose logits agree to TOLERANCE."""
    return float(100 * ((logits - others).abs().amax(1) <= TOLERANCE).float().mean())
