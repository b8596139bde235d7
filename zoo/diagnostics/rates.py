"""How often neurons fire."""

from collections.abc import Iterable

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn

from zoo.layers.hooks import eval_mode, hooks
from zoo.neurons import LIF


def check_batches(batches: Iterable[Tensor]) -> None:
    """Raise for one batch, whose images would be taken for batches."""
    if isinstance(batches, Tensor):
        raise ValueError(f"batches: expected several, as [x], got one of shape {[*batches.shape]}")


@torch.no_grad()
def firing_rates(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, float]:
    """Spikes per neuron and time step of each LIF layer, in order from the input.

    Args:
        model: Run in eval mode; left as it was.
        batches: Normalised images, each [B, C, H, W] or event frames [T, B, C, H, W].
    """
    check_batches(batches)
    model = unwrap_model(model)
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
    return rates | {name: 0.0 for name, _ in layers if name not in rates}  # never called
