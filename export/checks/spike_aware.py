"""The rule for graphs that cannot be exact: what differs must have started at a threshold.

Images without a flipped spike agree to 1e-5, every first flip starts no further from a threshold
than 1e-5 times it, and 99 % of the classes agree, or all but one of so few.
Shapes: T time steps, N images, B batch, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from export.checks.check import (
    BATCH,
    Check,
    Setting,
    accuracies,
    batches,
    run_graph,
    session,
)
from export.checks.images import Images
from export.folder import GRAPH, READABLE_GRAPH, UINT8_GRAPH
from zoo.layers.hooks import hooks
from zoo.neurons import LIF

TOLERANCE = 1e-5  # of a logit without flips, and at a first flip of a threshold's size
AGREEMENT = 99.0  # percent of images with the same class
THREADS = 1  # of onnxruntime: more may add up in another order from run to run


def _with_potentials(path: Path) -> tuple[bytes, list[str]]:
    """A copy of the graph that also puts out every potential before a threshold, in their order."""
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


@dataclass
class Flips:
    """Where two computations of one network's potentials put them on different sides of a
    threshold.
    """

    count: int = 0
    images: int = 0
    """With a flip anywhere."""
    first_margin: float = 0.0
    """The largest distance from its threshold, in thresholds, at which an image's first flip
    happened.
    """
    finite: bool = True

    def find(self, ours: list[tuple[Tensor, float]], theirs: list[Tensor]) -> Tensor:
        """Which images of a batch have a flip, [B].

        Args:
            ours: Potential [B, ...] and threshold of every spiking layer and step, in their order.
            theirs: The other's potentials.
        """
        flipped = torch.zeros(len(theirs[0]), dtype=torch.bool)
        for (v, threshold), other in zip(ours, theirs, strict=True):
            v, other = v - threshold, other - threshold
            self.finite = self.finite and bool(v.isfinite().all() and other.isfinite().all())
            flip = (v >= 0) != (other >= 0)
            if not flip.any():
                continue
            self.count += int(flip.sum())
            first = flip & ~flipped.view(-1, *[1] * (flip.ndim - 1))
            if first.any():
                margins = torch.maximum(v.abs(), other.abs())[first] / threshold
                self.first_margin = max(self.first_margin, float(margins.max()))
            flipped |= flip.flatten(1).any(1)
        self.images += int(flipped.sum())
        return flipped


@torch.inference_mode()
def check_spike_aware(
    model: nn.Module, graph: Path, images: Tensor, labels: Tensor | None
) -> list[Check]:
    """The spike-aware rule between the PyTorch network and onnxruntime on its graph.

    Args:
        model: The stripped network, in eval mode.
        graph: The .onnx file, with inputs pixel_values and outputs logits.
        images: Normalised images, [N, C, H, W].
        labels: [N], or None where the images have no classes.
    """
    published = session(graph, THREADS)
    instrumented_graph, names = _with_potentials(graph)
    instrumented = session(instrumented_graph, THREADS)
    flips, quiet_gap = Flips(), 0.0
    ours, theirs = [], []
    for x in batches(images, "onnxruntime against PyTorch"):
        # Without oneDNN torch would take NNPACK's Winograd, farther off than the rule lets it be.
        with _potentials(model) as potentials, torch.backends.nnpack.flags(enabled=False):
            expected = model(x)
        feed = {"pixel_values": x.numpy()}
        logits, *others = map(torch.from_numpy, instrumented.run(["logits", *names], feed))
        if len(others) != len(potentials):
            measured = {"in_graph": len(others), "in_network": len(potentials)}
            return [Check("graph has every spiking layer and step", False, measured)]
        quiet = ~flips.find(potentials, others)
        gap = (expected - logits).abs().amax(1)[quiet]
        quiet_gap = max(quiet_gap, float(gap.max()) if len(gap) else 0.0)
        ours.append(expected)
        theirs.append(torch.from_numpy(published.run(["logits"], feed)[0]))
    ours, theirs = torch.cat(ours), torch.cat(theirs)
    checks = [*_of_spikes(flips, quiet_gap, ours, theirs), _of_classes(ours, theirs)]
    return checks if labels is None else [*checks, _of_accuracy(ours, theirs, labels)]


def _of_spikes(flips: Flips, quiet_gap: float, ours: Tensor, theirs: Tensor) -> list[Check]:
    """What flips explain: logits, [N, K], of images without one differ by quiet_gap at most."""
    counts = {"images": len(ours), "images_with_flips": flips.images, "flips": flips.count}
    return [
        Check(
            "potentials and logits are finite",
            flips.finite and bool(ours.isfinite().all() and theirs.isfinite().all()),
            {"images": len(ours)},
        ),
        Check(
            "images without a flip agree",
            quiet_gap <= TOLERANCE and flips.images < len(ours),
            counts | {"largest_logit_difference": quiet_gap, "allowed": TOLERANCE},
        ),
        Check(
            "every first flip is at the threshold",
            flips.first_margin <= TOLERANCE,
            {"largest_distance_from_threshold": flips.first_margin, "allowed": TOLERANCE},
        ),
    ]


def _of_classes(ours: Tensor, theirs: Tensor) -> Check:
    changed = int((ours.argmax(1) != theirs.argmax(1)).sum())
    allowed_changes = max(1, int(len(ours) * (100 - AGREEMENT) / 100))
    return Check(
        "classes agree",
        changed <= allowed_changes,
        {
            "batch": BATCH,
            "threads": THREADS,
            "images": len(ours),
            "classes_that_changed": changed,
            "allowed_changes": allowed_changes,
            "images_with_another_logit": int((ours != theirs).any(1).sum()),
            "largest_logit_difference": float((ours - theirs).abs().max()),
        },
    )


def _of_accuracy(ours: Tensor, theirs: Tensor, labels: Tensor) -> Check:
    same, measured = accuracies(labels, {"trained": ours, "onnxruntime": theirs})
    return Check("accuracy is the same", same, measured | {"images": len(labels)})


def check_other_graphs(folder: Path, images: Images) -> Check:
    """By the spike-aware rule: the readable graph and that of pixels give the classes of the first,
    and all but the same logits.
    """
    setting = Setting(batch=64, threads=2, optimised=True)
    expected = run_graph(folder / GRAPH, images.values, setting)
    measured = {"required_percent": AGREEMENT}
    for graph, x in ((UINT8_GRAPH, images.pixels), (READABLE_GRAPH, images.values)):
        close = (run_graph(folder / graph, x, setting) - expected).abs().amax(1) <= TOLERANCE
        measured[f"{graph}_percent"] = float(100 * close.float().mean())
    passed = min(measured.values()) >= AGREEMENT
    return Check("all graphs give the same logits", passed, measured)
