"""The base of all checks, and how networks are run for them.

Shapes: N images, K classes.
"""

import platform
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import zoo
from zoo.console import watched

BATCH = 16
AT_ONCE = 128  # images in memory with all that a network computes from them


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of a published folder. The fields of a subclass are the figures that it measures.

    Code looks a check up by its ``id``; the ``title`` is for people and may change at any time.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    fault: ClassVar[str]
    """The figure that is empty or 0 if the check passed; other checks override ``passed``."""

    @property
    def passed(self) -> bool:
        return not getattr(self, self.fault)

    def report(self) -> dict[str, Any]:
        """Its entry in verification.json; figures that were not measured are left out."""
        figures = {key: value for key, value in asdict(self).items() if value is not None}
        return {"id": self.id, "title": self.title, "passed": self.passed, "figures": figures}


def figures_by_id(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures of each passed check in a verification.json, by the id of the check.

    Reports by older versions have no ids; of these it returns nothing.
    """
    checks = (check for check in report["checks"] if "id" in check and check["passed"])
    return {check["id"]: check["figures"] for check in checks}


def numbers_in(figures: dict[str, Any]) -> str:
    """The numbers that a check measured, in one line."""
    numbers = {key: value for key, value in figures.items() if isinstance(value, int | float)}
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
    """Images in batches, with a progress bar on a terminal."""
    return watched(images.split(BATCH), doing)


def session(graph: Path | bytes, threads: int = 0, optimised: bool = True):
    """An onnxruntime session on the CPU; 0 threads means as many as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    graph = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def logits_of(model: nn.Module, images: Tensor, doing: str, layout=None) -> Tensor:
    """Logits of a PyTorch network, [N, K], batch by batch."""
    layout = layout or torch.contiguous_format
    with torch.backends.nnpack.flags(enabled=False):  # NNPACK sums in another order
        return torch.cat(
            [model(x.contiguous(memory_format=layout)) for x in batches(images, doing)]
        )


def run_graph(graph: Path, images: Tensor, setting: Setting) -> Tensor:
    """Logits of onnxruntime, [N, K]. Batches of one thread run side by side on all cores."""
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


def count_different(logits: Tensor, others: Tensor) -> int:
    """Images whose logits, [N, K], have other bits (0 and -0 do) or are not finite."""
    different = logits.view(torch.int32) != others.view(torch.int32)
    return int((different | ~others.isfinite()).any(1).sum())


def versions() -> dict[str, str]:
    return {
        "short-bp-zoo": zoo.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
