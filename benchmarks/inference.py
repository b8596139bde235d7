"""Inference on the CPU: PyTorch, torch.compile and onnxruntime on the exported graphs.

python benchmarks/inference.py
"""

from collections.abc import Callable
from typing import Any

import onnxruntime
import torch
from measure import instruction_set, interleaved, report, run_script
from torch import nn

import zoo
from export.checks import session
from export.graph import write_graph
from zoo.training.allocator import keep_large_buffers

CASES = (("short_bp_resnet18", 16), ("short_bp_resnet18", 1), ("short_bp_resnet20_slim", 16))
T, ROUNDS = 4, 5


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
        "onnxruntime, readable": _onnx(write_graph(deployed, readable=True), values),
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


def main() -> None:
    keep_large_buffers()
    rows = []
    for name, batch in CASES:
        seconds = interleaved(contestants(name, batch), ROUNDS)
        for who in seconds:
            rows.append(
                {
                    "network": name,
                    "batch": batch,
                    "who": who,
                    "ms": 1e3 * seconds[who],
                    "images/s": batch / seconds[who],
                    "times onnxruntime": seconds[who] / seconds["onnxruntime"],
                }
            )
    facts = {"time steps": T, "rounds": ROUNDS, "precision": "fp32"}
    facts["onnxruntime"] = onnxruntime.__version__
    name = f"inference_{instruction_set()}"
    report(name, "Inference on a CPU", rows, "python benchmarks/inference.py", **facts)


if __name__ == "__main__":
    run_script(main)
