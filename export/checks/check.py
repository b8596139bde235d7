"""What a check is, and how networks are run for one.

Shapes: N images, B batch, K classes.
"""

import platform
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import zoo
from zoo.console import watched

BATCH = 16
STRIPPING = "stripped network gives equal bits"  # a check's name
AT_ONCE = 128  # images in memory with all that a network makes of them
ACCURACY_GAP = 0.25  # points between the trained network and its graph


@dataclass(frozen=True)
class Check:
    """One check: what it is called, whether it holds, and what was measured."""

    name: str
    passed: bool
    measured: dict[str, Any]


def in_short(measured: dict[str, Any]) -> str:
    """The numbers of what a check measured, in a line."""
    numbers = {key: value for key, value in measured.items() if isinstance(value, int | float)}
    return ", ".join(f"{key.replace('_', ' ')} {value:.6g}" for key, value in numbers.items())


@dataclass(frozen=True)
class Setting:
    """One way to run a graph."""

    batch: int
    threads: int
    optimised: bool

    def __str__(self) -> str:
        optimisations = "all optimisations" if self.optimised else "no optimisations"
        return f"batch {self.batch}, {self.threads} threads, {optimisations}"


def batches(images: Tensor, doing: str) -> Iterable[Tensor]:
    """Images in batches, with a progress bar where somebody watches."""
    return watched(images.split(BATCH), doing)


def session(graph: Path | bytes, threads: int = 0, optimised: bool = True):
    """An onnxruntime session on the CPU with as many threads as torch has, if not told."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    graph = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def logits_of(model: nn.Module, images: Tensor, doing: str, layout=None) -> Tensor:
    """[N, K], batch by batch."""
    layout = layout or torch.contiguous_format
    with torch.backends.nnpack.flags(enabled=False):  # without oneDNN a deployed network refuses it
        return torch.cat(
            [model(x.contiguous(memory_format=layout)) for x in batches(images, doing)]
        )


def accuracies(labels: Tensor, logits: dict[str, Tensor]) -> tuple[bool, dict[str, float]]:
    """Top-1 in percent of each way to run a network, and whether that of onnxruntime is the trained
    one's, up to ACCURACY_GAP points, or one image of so few.

    Args:
        labels: [N].
        logits: [N, K] of each way by its name, "trained" and "onnxruntime" among them.
    """
    right = {way: int((values.argmax(1) == labels).sum()) for way, values in logits.items()}
    allowed = max(1, int(ACCURACY_GAP * len(labels) / 100))  # images
    measured = {f"{way}_percent": 100 * count / len(labels) for way, count in right.items()}
    measured["allowed_points"] = 100 * allowed / len(labels)
    return abs(right["trained"] - right["onnxruntime"]) <= allowed, measured


def run_graph(graph: Path, images: Tensor, setting: Setting) -> Tensor:
    """Logits [N, K]. Batches of one thread go side by side, on as many cores as torch has."""
    running = session(graph, setting.threads, setting.optimised)
    at_once = 1
    if setting.threads == 1:
        at_once = min(torch.get_num_threads(), max(1, AT_ONCE // setting.batch))
    parts = images.split(setting.batch)

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(running.run(["logits"], {"pixel_values": x.numpy()})[0])

    with ThreadPoolExecutor(at_once) as pool:
        logits = pool.map(run, parts)
        return torch.cat([*watched(logits, f"{graph.name}, {setting}", len(parts))])


def versions() -> dict[str, str]:
    return {
        "short-bp-zoo": zoo.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
