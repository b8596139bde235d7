"""Time inference on the CPU: PyTorch, torch.compile and onnxruntime on the exported graphs.

    python benchmarks/inference.py

Each network is timed as T = 4 steps of spikes and as one step of four levels. It is built several
times, each time in a process of its own, and contestants run in the opposite order every second
time. Threads of onnxruntime stop spinning at the end of a call, so that they take no core from the
contestant after it.
"""

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import onnx
import onnxruntime
import torch
from measure import BUILDS, interleaved, join_builds, report, run_in_process, run_script
from torch import nn

import zoo
from zoo.deployment.writer import write_graph
from zoo.training.allocator import keep_large_buffers

CASES = (("short_bp_resnet18", 16), ("short_bp_resnet18", 1), ("short_bp_resnet20_slim", 16))
FIRE = {"decay": 1.0, "reset": "subtract"}
FORMS = {"T = 4": (4, FIRE), "1 x 4": (1, FIRE | {"levels": 4})}  # time steps and neurons
BASE = "1 x 4, onnxruntime, int8"
ROUNDS = 7
COUNT = 4  # builds, as many of each order


def contestants(name: str, batch: int) -> dict[str, Callable[[], Any]]:
    pixels = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8)
    values = torch.randn(batch, 3, 32, 32)
    last = values.contiguous(memory_format=torch.channels_last)
    made = {}
    for form, (steps, neuron) in FORMS.items():
        torch.manual_seed(0)
        model = zoo.create_model(name, time_steps=steps, spike_layer=neuron).eval()
        in_last = zoo.create_model(name, time_steps=steps, spike_layer=neuron).eval()
        in_last = in_last.to(memory_format=torch.channels_last)
        graphs = [write_graph(zoo.deploy(model, bits=bits), pixels="uint8") for bits in (24, 8)]
        made |= {
            f"{form}, PyTorch eager": _torch(model, values),
            f"{form}, PyTorch eager, channels_last": _torch(in_last, last),
            f"{form}, torch.compile": _torch(torch.compile(model), values),
            f"{form}, torch.compile, channels_last": _torch(torch.compile(in_last), last),
            f"{form}, onnxruntime, fp32": _onnx(graphs[0], pixels),
            f"{form}, onnxruntime, int8": _onnx(graphs[1], pixels),
        }
    return made


def _torch(model: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    def run():
        with torch.inference_mode():
            return model(x)

    return run


def _onnx(graph: onnx.ModelProto, x: torch.Tensor) -> Callable[[], Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    content, feed = graph.SerializeToString(), {"pixel_values": x.numpy()}
    running = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
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
            times = [build[who] / build[BASE] for build in builds]
            rows.append(
                {
                    "network": name,
                    "batch": batch,
                    "who": who,
                    "ms": 1e3 * seconds,
                    "images/s": batch / seconds,
                    f"times {BASE}": statistics.median(times),
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
        onnxruntime=onnxruntime.__version__,
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case name, batch, build:
            keep_large_buffers()
            print(json.dumps(side_by_side(name, int(batch), int(build))))
        case _:
            run_script(main)
