"""Time inference on the CPU: PyTorch, torch.compile and onnxruntime on the exported graphs.

    python benchmarks/inference.py

Each network is built several times, each time in a process of its own, and contestants run in the
opposite order every second time.
"""

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import onnxruntime
import torch
from measure import BUILDS, interleaved, join_builds, report, run_in_process, run_script
from torch import nn

import zoo
from export.checks.check import session
from zoo.deployment.writer import write_graph
from zoo.training.allocator import keep_large_buffers

CASES = (("short_bp_resnet18", 16), ("short_bp_resnet18", 1), ("short_bp_resnet20_slim", 16))
T, ROUNDS = 4, 5
COUNT = 4  # builds, as many of each order


def contestants(name: str, batch: int) -> dict[str, Callable[[], Any]]:
    torch.manual_seed(0)
    model = zoo.create_model(name, time_steps=T).eval()
    deployed = zoo.deploy(model)
    pixels = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8)
    values = torch.randn(batch, 3, 32, 32)
    last = values.contiguous(memory_format=torch.channels_last)
    in_last = zoo.create_model(name, time_steps=T).eval().to(memory_format=torch.channels_last)
    return {
        "PyTorch eager": _torch(model, values),
        "PyTorch eager, channels_last": _torch(in_last, last),
        "torch.compile": _torch(torch.compile(model), values),
        "torch.compile, channels_last": _torch(torch.compile(in_last), last),
        "zoo.deploy, PyTorch eager": _torch(deployed, values),
        "onnxruntime": _onnx(write_graph(deployed), values),
        "onnxruntime, uint8": _onnx(write_graph(deployed, pixels="uint8"), pixels),
    }


def _torch(model: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    def run():
        with torch.inference_mode():
            return model(x)

    return run


def _onnx(graph, x: torch.Tensor) -> Callable[[], Any]:
    running = session(graph.SerializeToString())
    feed = {"pixel_values": x.numpy()}
    return lambda: running.run(["logits"], feed)


def side_by_side(name: str, batch: int, build: int) -> dict[str, float]:
    """Seconds by contestant."""
    made = list(contestants(name, batch).items())
    return interleaved(dict(reversed(made) if build % 2 == 1 else made), ROUNDS)


def main() -> None:
    """Time all contestants."""
    rows = []
    for name, batch in CASES:
        builds = [run_in_process(__file__, name, str(batch), str(b)) for b in range(COUNT)]
        for who in builds[0]:
            seconds = statistics.median(build[who] for build in builds)
            times = [build[who] / build["onnxruntime"] for build in builds]
            rows.append(
                {
                    "network": name,
                    "batch": batch,
                    "who": who,
                    "ms": 1e3 * seconds,
                    "images/s": batch / seconds,
                    "times onnxruntime": statistics.median(times),
                    BUILDS: join_builds(times),
                }
            )
    report(
        "inference",
        "Inference on a CPU",
        "python benchmarks/inference.py",
        rows,
        key=("device",),
        builds=COUNT,
        rounds=ROUNDS,
        precision="fp32",
        onnxruntime=onnxruntime.__version__,
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case name, batch, build:
            keep_large_buffers()
            print(json.dumps(side_by_side(name, int(batch), int(build))))
        case _:
            run_script(main)
