"""The rule for graphs that cannot be exact: what differs must have started at a threshold.

Images without a flipped spike agree to 1e-5, every first flip starts within 1e-5 of the threshold,
and 99 % of the classes agree, or all but one of so few.
Shapes: T time steps, N images, B batch, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from export.checks import (
    BATCH,
    Check,
    Setting,
    accuracy_of,
    allowed_gap,
    batches,
    run_graph,
    session,
)
from export.folder import GRAPH, READABLE_GRAPH, UINT8_GRAPH
from export.images import Images
from zoo.hooks import hooks
from zoo.neurons import LIF

TOLERANCE = 1e-5  # of a logit without flips, and of a potential at its first flip
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

    flips = flipped_images = 0
    finite = True
    first_margin = quiet_gap = 0.0
    torch_logits, onnx_logits = [], []
    for x in batches(images, "onnxruntime against PyTorch"):
        # Without oneDNN torch would take NNPACK's Winograd, farther off than the rule lets it be.
        with _potentials(model) as potentials, torch.backends.nnpack.flags(enabled=False):
            expected = model(x)
        feed = {"pixel_values": x.numpy()}
        logits, *theirs = instrumented.run(["logits", *names], feed)
        if len(theirs) != len(potentials):
            measured = {"in_graph": len(theirs), "in_network": len(potentials)}
            return [Check("graph has every spiking layer and step", False, measured)]
        flipped = torch.zeros(len(x), dtype=torch.bool)
        for (ours, threshold), other in zip(potentials, theirs, strict=True):
            ours, other = ours - threshold, torch.from_numpy(other) - threshold
            finite = finite and bool(ours.isfinite().all() and other.isfinite().all())
            flip = (ours >= 0) != (other >= 0)
            if not flip.any():
                continue
            flips += int(flip.sum())
            first = flip & ~flipped.view(-1, *[1] * (flip.ndim - 1))
            if first.any():
                margins = torch.maximum(ours.abs(), other.abs())[first]
                first_margin = max(first_margin, float(margins.max()))
            flipped |= flip.flatten(1).any(1)
        flipped_images += int(flipped.sum())
        gap = (expected - torch.from_numpy(logits)).abs().amax(1)[~flipped]
        quiet_gap = max(quiet_gap, float(gap.max()) if len(gap) else 0.0)
        torch_logits.append(expected)
        onnx_logits.append(torch.from_numpy(published.run(["logits"], feed)[0]))

    ours, theirs = torch.cat(torch_logits), torch.cat(onnx_logits)
    changed = int((ours.argmax(1) != theirs.argmax(1)).sum())
    allowed_changes = max(1, int(len(images) * (100 - AGREEMENT) / 100))
    counts = {"images": len(images), "images_with_flips": flipped_images, "flips": flips}
    checks = [
        Check(
            "potentials and logits are finite",
            finite and bool(ours.isfinite().all() and theirs.isfinite().all()),
            {"images": len(images)},
        ),
        Check(
            "images without a flip agree",
            quiet_gap <= TOLERANCE and flipped_images < len(images),
            counts | {"largest_logit_difference": quiet_gap, "allowed": TOLERANCE},
        ),
        Check(
            "every first flip is at the threshold",
            first_margin <= TOLERANCE,
            {"largest_distance_from_threshold": first_margin, "allowed": TOLERANCE},
        ),
        Check(
            "classes agree",
            changed <= allowed_changes,
            {
                "batch": BATCH,
                "threads": THREADS,
                "images": len(images),
                "classes_that_changed": changed,
                "allowed_changes": allowed_changes,
                "images_with_another_logit": int((ours != theirs).any(1).sum()),
                "largest_logit_difference": float((ours - theirs).abs().max()),
            },
        ),
    ]
    if labels is not None:
        accuracy = {
            "trained_percent": accuracy_of(ours, labels),
            "onnxruntime_percent": accuracy_of(theirs, labels),
        }
        gap = abs(accuracy["trained_percent"] - accuracy["onnxruntime_percent"])
        allowed = allowed_gap(len(images))
        checks.append(
            Check(
                "accuracy is the same",
                gap <= allowed,
                accuracy | {"images": len(images), "allowed_points": allowed},
            )
        )
    return checks


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
