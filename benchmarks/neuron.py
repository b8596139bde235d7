"""Time one LIF layer, forward and backward, over T = 2, 4 and 8 steps of [32, 64, 32, 32].

python benchmarks/neuron.py
"""

import torch
from contestants import NEURONS
from measure import DEVICE, interleaved, report, run_script
from spikingjelly.activation_based import functional
from torch import nn

from zoo.training.allocator import keep_large_buffers


def step(layer: nn.Module, x: torch.Tensor, grad: torch.Tensor):
    def run() -> None:
        functional.reset_net(layer)
        x.grad = None
        layer(x).backward(grad)

    return run


def main() -> None:
    """Time our neuron and those of other libraries."""
    keep_large_buffers()
    rows = []
    for T in (2, 4, 8):
        x = torch.randn(T, 32, 64, 32, 32, device=DEVICE, requires_grad=True)
        grad = torch.randn_like(x)
        layers = {name: make().to(DEVICE) for name, make in NEURONS.items()}
        seconds = interleaved({n: step(layer, x, grad) for n, layer in layers.items()}, rounds=9)
        for name, value in seconds.items():
            rows.append(
                {
                    "T": T,
                    "neuron": name,
                    "ms": 1e3 * value,
                    "times ReLU": value / seconds["ReLU"],
                    "times ours": value / seconds["ours"],
                }
            )
    report(
        "neuron",
        "One LIF layer, forward and backward, fp32",
        "python benchmarks/neuron.py",
        rows,
        DEVICE,
        key=("device",),
    )


if __name__ == "__main__":
    run_script(main)
