"""What goes on inside a network in training: how often its layers fire, and what broke first."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zoo.neurons import LIF


@contextmanager
def firing_rates(model: nn.Module) -> Iterator[dict[str, float]]:
    """Collects the firing rate of each LIF layer, spikes per neuron and time step, over the first
    batch that the network computes in here.
    """
    rates: dict[str, float] = {}

    def watch(name: str):
        def hook(_, __, spikes: Tensor) -> None:
            if name not in rates:
                rates[name] = float(spikes.float().mean())

        return hook

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if isinstance(module, LIF)
    ]
    try:
        yield rates
    finally:
        for handle in handles:
            handle.remove()


def first_broken(model: nn.Module) -> str:
    """The first layer whose parameters or statistics are not finite, for a message."""
    for name, module in model.named_modules():
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(not torch.isfinite(tensor).all() for tensor in tensors):
            return f"the first layer that is not finite is {name}"
    return "every layer's weights are still finite"
