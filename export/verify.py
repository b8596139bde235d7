"""Is the exported graph the network? Checks, each with what it measured.

One flipped spike changes a logit, so that closeness of logits proves nothing: it fails on correct
graphs and passes on wrong ones. The spike-aware rule asks instead that images without a flip agree
to 1e-5, that every first flip starts within 1e-5 of the threshold, and that the classes agree over
the data set.
Shapes: T time steps, B batch, K classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from zoo.neurons import LIF

TOLERANCE = 1e-5  # of a logit without flips, and of a potential at its first flip
AGREEMENT = 99.0  # percent of images with the same class
ACCURACY_GAP = 0.2  # points
BATCH = 50


@dataclass(frozen=True)
class Check:
    """One check: what it is called, whether it holds, and what was measured."""

    name: str
    passed: bool
    measured: dict[str, Any]


def batches(images: Tensor, doing: str) -> Iterable[Tensor]:
    """Images in batches, with a progress bar where somebody watches."""
    console = Console(stderr=True)
    parts = images.split(BATCH)
    return track(parts, doing, console=console, transient=True, disable=not console.is_terminal)


@torch.inference_mode()
def check_stripping(whole: nn.Module, stripped: nn.Module, images: Tensor) -> Check:
    """Logits and features with and without heads are the same bits."""
    different = 0
    for x in batches(images, "stripping"):
        same = whole(x).eq(stripped(x)).all(1)
        features = whole.forward_features(x).eq(stripped.forward_features(x)).flatten(1).all(1)
        different += int((~(same & features)).sum())
    return Check(
        "stripped network gives equal bits",
        different == 0,
        {"images": len(images), "images_that_differ": different},
    )


@torch.inference_mode()
def check_liveness(model: nn.Module, images: Tensor) -> Check:
    """Every spiking layer fires; a silent one would make any comparison after it hollow."""
    names = [name for name, module in model.named_modules() if isinstance(module, LIF)]
    rates = dict.fromkeys(names, 0.0)

    def record(name):
        def hook(module, inputs, spikes):
            rates[name] += float(spikes.mean()) * spikes.shape[1] / len(images)

        return hook

    handles = [model.get_submodule(n).register_forward_hook(record(n)) for n in names]
    try:
        for x in batches(images, "firing rates"):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    silent = [name for name, rate in rates.items() if not rate > 0]
    measured = {"silent_layers": silent, "lowest_rate": min(rates.values()), "firing_rates": rates}
    return Check("every spiking layer fires", not silent, measured)


def session(graph: Path | bytes) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU with as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph),
        options,
        providers=["CPUExecutionProvider"],
    )


def _with_potentials(path: Path) -> tuple[bytes, list[str]]:
    """A copy of the graph that also puts out every v - v_threshold, in the order of the calls."""
    model = onnx.load(path)
    names = [node.input[0] for node in model.graph.node if node.op_type == "GreaterOrEqual"]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    return model.SerializeToString(), names


class _Potentials:
    """Records v - v_threshold of every spiking layer and step while it is entered."""

    def __init__(self, model: nn.Module):
        self.layers = [module for module in model.modules() if isinstance(module, LIF)]
        self.recorded: list[Tensor] = []

    def __enter__(self) -> "_Potentials":
        self.handles = [layer.register_forward_hook(self._record) for layer in self.layers]
        return self

    def __exit__(self, *_) -> None:
        for handle in self.handles:
            handle.remove()

    def _record(self, layer: LIF, inputs: tuple[Tensor], _) -> None:
        self.recorded += (layer.membrane(inputs[0]) - layer.v_threshold).unbind()


@torch.inference_mode()
def check_graph(
    model: nn.Module, graph: Path, images: Tensor, labels: Tensor | None
) -> list[Check]:
    """The spike-aware rule between the PyTorch network and onnxruntime on its graph.

    Args:
        model: The stripped network, in eval mode.
        graph: The .onnx file, with inputs pixel_values and outputs logits.
        images: Normalised images, [N, C, H, W].
        labels: [N], or None where the images have no classes.
    """
    published = session(graph)
    instrumented_graph, names = _with_potentials(graph)
    instrumented = session(instrumented_graph)

    flips = flipped_images = 0
    first_margin = quiet_gap = 0.0
    torch_logits, onnx_logits = [], []
    for x in batches(images, "onnxruntime against PyTorch"):
        with _Potentials(model) as potentials:
            expected = model(x)
        feed = {"pixel_values": x.numpy()}
        logits, *theirs = instrumented.run(["logits", *names], feed)
        if len(theirs) != len(potentials.recorded):
            measured = {"in_graph": len(theirs), "in_network": len(potentials.recorded)}
            return [Check("graph has every spiking layer and step", False, measured)]
        flipped = torch.zeros(len(x), dtype=torch.bool)
        for ours, other in zip(potentials.recorded, theirs, strict=True):
            other = torch.from_numpy(other)
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
    agreement = float(100 * (ours.argmax(1) == theirs.argmax(1)).float().mean())
    counts = {"images": len(images), "images_with_flips": flipped_images, "flips": flips}
    checks = [
        Check(
            "logits are finite",
            bool(ours.isfinite().all() and theirs.isfinite().all()),
            {"images": len(images)},
        ),
        Check(
            "images without a flip agree",
            quiet_gap <= TOLERANCE,
            counts | {"largest_logit_difference": quiet_gap, "allowed": TOLERANCE},
        ),
        Check(
            "every first flip is at the threshold",
            first_margin <= TOLERANCE,
            {"largest_distance_from_threshold": first_margin, "allowed": TOLERANCE},
        ),
        Check(
            "classes agree",
            agreement >= AGREEMENT,
            {
                "agreement_percent": agreement,
                "required_percent": AGREEMENT,
                "images_with_another_logit": int((ours != theirs).any(1).sum()),
                "largest_logit_difference": float((ours - theirs).abs().max()),
            },
        ),
    ]
    if labels is not None:
        accuracy = {
            "pytorch_percent": float(100 * (ours.argmax(1) == labels).float().mean()),
            "onnxruntime_percent": float(100 * (theirs.argmax(1) == labels).float().mean()),
        }
        gap = abs(accuracy["pytorch_percent"] - accuracy["onnxruntime_percent"])
        checks.append(
            Check(
                "accuracy is the same",
                gap <= ACCURACY_GAP,
                accuracy | {"images": len(images), "allowed_points": ACCURACY_GAP},
            )
        )
    return checks
