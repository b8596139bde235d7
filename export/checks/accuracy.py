"""The published graph keeps the accuracy of the trained network.

Shapes: N images, K classes.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from torch import Tensor, fx

from export.checks.check import Check
from zoo.deployment.layers import MembraneConv
from zoo.layers.hooks import hooks

CHANGED = 10.0  # percent of images with another class; a half-trained network showed 5
ACCURACY_GAP = 0.25  # points


@dataclass(frozen=True, kw_only=True)
class Accuracy(Check):
    """Figures that need labels are None without them."""

    id = "accuracy"
    title = "the accuracy is kept"
    images: int
    classes_that_changed: int
    changed_percent: float
    trained_percent: float | None = None
    onnxruntime_percent: float | None = None
    allowed_points: float | None = None
    sums_cut_off: int = 0

    @property
    def passed(self) -> bool:
        kept = self.classes_that_changed <= max(1, CHANGED / 100 * self.images)
        if self.allowed_points is not None:
            gap = abs(self.trained_percent - self.onnxruntime_percent)
            kept = kept and gap <= self.allowed_points + 1e-9  # percentages are rounded
        return kept and self.sums_cut_off == 0


@dataclass(frozen=True, kw_only=True)
class Int8Accuracy(Accuracy):
    """Rounding to 7 bits changes many classes, but not how many are right: it may cost no more
    than ACCURACY_GAP and what chance explains, two standard errors of the difference.
    """

    id = "int8_accuracy"
    title = "the accuracy is kept in int8"

    @property
    def passed(self) -> bool:
        if self.allowed_points is None:
            return True
        return self.trained_percent - self.onnxruntime_percent <= self.allowed_points


def check_int8_accuracy(trained: Tensor, int8: Tensor, labels: Tensor | None) -> Int8Accuracy:
    """As check_accuracy, for the network of whole numbers."""
    figures = asdict(check_accuracy(trained, int8, labels))
    if labels is not None:
        right = [logits.argmax(1) == labels for logits in (trained, int8)]
        error = 100 * math.sqrt(int((right[0] != right[1]).sum())) / len(labels)
        figures["allowed_points"] = ACCURACY_GAP + 2 * error
    return Int8Accuracy(**figures)


def check_accuracy(
    trained: Tensor, published: Tensor, labels: Tensor | None, sums_cut_off: int = 0
) -> Accuracy:
    """Compare the classes of two networks, and with labels how many are right.

    Args:
        trained: Logits of the network as it was trained, [N, K].
        published: Logits of onnxruntime, [N, K].
        labels: [N].
        sums_cut_off: Sums that reached a limit of the grid.
    """
    N = len(trained)
    classes, others = trained.argmax(1), published.argmax(1)
    changed = int((classes != others).sum())
    figures = {}
    if labels is not None:
        figures = {
            "trained_percent": 100 * int((classes == labels).sum()) / N,
            "onnxruntime_percent": 100 * int((others == labels).sum()) / N,
            "allowed_points": 100 * max(1, int(ACCURACY_GAP * N / 100)) / N,  # one of few images
        }
    return Accuracy(
        images=N,
        classes_that_changed=changed,
        changed_percent=100 * changed / N,
        sums_cut_off=sums_cut_off,
        **figures,
    )


@contextmanager
def count_sums_cut_off(deployed: fx.GraphModule) -> Iterator[list[int]]:
    """Collects how many sums of each convolution of a current reach the limit of its grid."""
    counts: list[int] = []

    def count(limit: Tensor):
        return lambda _, __, sums: counts.append(int((sums.abs() > limit).sum()))

    convs = [m for m in deployed.modules() if isinstance(m, MembraneConv)]
    with hooks(*(m.convs[0].register_forward_hook(count(m.limit)) for m in convs)):
        yield counts
