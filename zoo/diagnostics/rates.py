"""Networks watched while they run: what is hooked on comes off, and modes are put back."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zoo.neurons import LIF


@contextmanager
def hooks(*handles: RemovableHandle) -> Iterator[None]:
    """Takes hooks off again."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts each module back into the mode it was in."""
    training = {module for module in model.modules() if module.training}
    model.eval()
    try:
        yield
    finally:
        for module in model.modules():
            module.training = module in training


@torch.no_grad()
def firing_rates(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, float]:
    """Spikes per neuron and time step of each LIF layer, in order from the input.

    Args:
        model: Run in eval mode; left as it was.
        batches: Normalised images, each [B, C, H, W] or event frames [T, B, C, H, W].
    """
    spikes: dict[str, float] = {}
    neurons: dict[str, int] = {}

    def count(name: str):
        def hook(_, __, output: Tensor) -> None:
            spikes[name] = spikes.get(name, 0) + float(output.sum(dtype=torch.float64))
            neurons[name] = neurons.get(name, 0) + output.numel()

        return hook

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LIF)]
    with eval_mode(model), hooks(*(m.register_forward_hook(count(n)) for n, m in layers)):
        for x in batches:
            model(x)
    rates = {name: spikes[name] / neurons[name] for name in spikes}
    return rates | {name: 0.0 for name, _ in layers if name not in rates}  # nobody called them
