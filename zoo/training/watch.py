"""Look inside a network in training: its firing rates, and the first layer that breaks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.layers.hooks import hooks
from zoo.neurons import LIF


@contextmanager
def first_firing_rates(model: nn.Module) -> Iterator[dict[str, float]]:
    """Collect each LIF layer's spikes per neuron and time step, over the first batch inside."""
    rates: dict[str, float] = {}

    def watch(name: str):
        def hook(_, __, spikes: Tensor) -> None:
            if name not in rates:
                rates[name] = float(spikes.float().mean())

        return hook

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, LIF)]
    with hooks(*(m.register_forward_hook(watch(n)) for n, m in layers)):
        yield rates


@torch.no_grad()
def first_broken(model: nn.Module, images: Tensor) -> str:
    """Name the first layer whose output is not finite for these images, for a message."""
    broken: list[str] = []

    def watch(name: str):
        def hook(_, __, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                broken.append(name)

        return hook

    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.eval()  # it would wait for the other processes, which do not run this
    layers = [(n, m) for n, m in model.named_modules() if not any(m.children())]
    with hooks(*(m.register_forward_hook(watch(n)) for n, m in layers)):
        model(images)
    if not broken:
        return "every layer's output is finite in fp32"
    return f"the first layer whose output is not finite is {broken[0]}"
