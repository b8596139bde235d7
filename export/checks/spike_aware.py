"""The rule for graphs that cannot be exact: every difference starts at a threshold.

Images without a flipped spike agree to 1e-5, every first flip of an image is no further from its
threshold than 1e-5 times it, and 99 % of the classes agree, or all but one of few images.
Shapes: T time steps, N images, B batch, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from export.checks.accuracy import Accuracy, check_accuracy
from export.checks.check import BATCH, Check, Setting, batches, run_graph, session
from export.checks.images import Images
from export.folder import GRAPH, UINT8_GRAPH
from zoo.layers.hooks import hooks
from zoo.neurons import LIF

TOLERANCE = 1e-5  # of a logit without flips, and in thresholds of a first flip
AGREEMENT = 99.0  # percent of images
THREADS = 1  # more may sum in another order from run to run


@dataclass(frozen=True, kw_only=True)
class Flips(Check):
    """Where PyTorch and onnxruntime put a potential on different sides of a threshold.

    Args:
        largest_distance_from_threshold: At which the first flip of an image happens, in thresholds.
        largest_difference_without_flips: Of a logit.
        images_not_finite: In a logit or potential.
    """

    id = "flips"
    title = "every difference starts with a spike at its threshold"
    images: int
    batch: int = BATCH
    threads: int = THREADS
    allowed: float = TOLERANCE
    images_with_flips: int
    flips: int
    largest_distance_from_threshold: float
    largest_difference_without_flips: float
    classes_that_changed: int
    allowed_changes: int
    images_not_finite: int

    @property
    def passed(self) -> bool:
        return (
            self.images_not_finite == 0
            and self.images_with_flips < self.images
            and self.largest_distance_from_threshold <= self.allowed
            and self.largest_difference_without_flips <= self.allowed
            and self.classes_that_changed <= self.allowed_changes
        )


@dataclass(frozen=True, kw_only=True)
class OtherGraphs(Check):
    id = "other_graphs"
    title = "all graphs give the same logits"
    uint8_percent: float
    required_percent: float = AGREEMENT

    @property
    def passed(self) -> bool:
        return self.uint8_percent >= self.required_percent


@torch.inference_mode()
def check_spike_aware(
    model: nn.Module, graph: Path, images: Tensor, labels: Tensor | None
) -> tuple[Flips, Accuracy]:
    """Compare the PyTorch network with onnxruntime on its graph.

    Args:
        model: The stripped network, in eval mode.
        images: Normalised, [N, C, H, W].
        labels: [N], or None.
    """
    published = session(graph, THREADS)
    graph_with_potentials, names = _with_potentials(graph)
    instrumented = session(graph_with_potentials, THREADS)
    found: list[BatchFlips] = []
    ours, theirs, quiet_gaps = [], [], [torch.zeros(1)]
    for x in batches(images, "onnxruntime against PyTorch"):
        # Without oneDNN torch would take NNPACK's Winograd, which is less accurate than the rule.
        with _potentials(model) as potentials, torch.backends.nnpack.flags(enabled=False):
            expected = model(x)
        feed = {"pixel_values": x.numpy()}
        logits, *others = map(torch.from_numpy, instrumented.run(["logits", *names], feed))
        found.append(find_flips(potentials, others))
        quiet_gaps.append((expected - logits).abs().amax(1)[~found[-1].flipped])
        ours.append(expected)
        theirs.append(torch.from_numpy(published.run(["logits"], feed)[0]))
    ours, theirs = torch.cat(ours), torch.cat(theirs)
    N = len(ours)
    finite = torch.cat([batch.finite for batch in found])
    finite &= ours.isfinite().all(1) & theirs.isfinite().all(1)
    flips = Flips(
        images=N,
        images_with_flips=sum(int(batch.flipped.sum()) for batch in found),
        flips=sum(batch.count for batch in found),
        largest_distance_from_threshold=max(batch.first_distance for batch in found),
        largest_difference_without_flips=float(torch.cat(quiet_gaps).max()),
        classes_that_changed=int((ours.argmax(1) != theirs.argmax(1)).sum()),
        allowed_changes=max(1, int(N * (100 - AGREEMENT) / 100)),
        images_not_finite=int((~finite).sum()),
    )
    return flips, check_accuracy(ours, theirs, labels)


@dataclass
class BatchFlips:
    """Flips of one batch.

    Args:
        flipped: Which images have a flip anywhere, [B].
        finite: Which images have finite potentials only, [B].
        count: All flips.
        first_distance: The largest from its threshold of an image's first flip, in thresholds.
    """

    flipped: Tensor
    finite: Tensor
    count: int = 0
    first_distance: float = 0.0


def find_flips(ours: list[tuple[Tensor, float]], theirs: list[Tensor]) -> BatchFlips:
    """Compare the potentials of one batch.

    Args:
        ours: Potential [B, ...] and threshold of every spiking layer and step, in their order.
        theirs: The potentials in the graph.
    """
    B = len(theirs[0])
    found = BatchFlips(torch.zeros(B, dtype=torch.bool), torch.ones(B, dtype=torch.bool))
    for (v, threshold), other in zip(ours, theirs, strict=True):
        v, other = (v - threshold).flatten(1), (other - threshold).flatten(1)
        found.finite &= v.isfinite().all(1) & other.isfinite().all(1)
        flips = (v >= 0) != (other >= 0)
        found.count += int(flips.sum())
        first = flips & ~found.flipped[:, None]
        if first.any():
            distances = torch.maximum(v.abs(), other.abs())[first] / threshold
            found.first_distance = max(found.first_distance, float(distances.max()))
        found.flipped |= flips.any(1)
    return found


def _with_potentials(path: Path) -> tuple[bytes, list[str]]:
    """A copy of the graph that also returns every potential before a threshold, in their order."""
    model = onnx.load(path)
    names = [node.input[0] for node in model.graph.node if node.op_type == "GreaterOrEqual"]
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in dict.fromkeys(names)
        if name not in known
    )
    return model.SerializeToString(), names


@contextmanager
def _potentials(model: nn.Module) -> Iterator[list[tuple[Tensor, float]]]:
    """Collects potential and threshold of every spiking layer and step."""
    found: list[tuple[Tensor, float]] = []

    def record(layer: LIF, inputs: tuple[Tensor], _) -> None:
        found.extend((v, layer.v_threshold) for v in layer.membrane(inputs[0]).unbind())

    layers = [module for module in model.modules() if isinstance(module, LIF)]
    with hooks(*(layer.register_forward_hook(record) for layer in layers)):
        yield found


def check_other_graphs(folder: Path, images: Images) -> OtherGraphs:
    """Compare the graph of whole pixels with the first graph."""
    setting = Setting(batch=64, threads=2, optimised=True)
    expected = run_graph(folder / GRAPH, images.values, setting)
    logits = run_graph(folder / UINT8_GRAPH, images.pixels, setting)
    close = (logits - expected).abs().amax(1) <= TOLERANCE
    return OtherGraphs(uint8_percent=float(100 * close.float().mean()))
