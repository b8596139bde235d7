"""A network of one step of n levels as n steps of binary spikes, with the same outputs.

Each layer waits until its window of n steps is over. Its neurons then know the mean current, hence
their level k, and spike in the first k steps of the next window. A window's mean of such spikes is
k / n, and the largest of several bursts is the burst of the largest level, so convolutions, sums
and pools compute what they did. This is not a network of T = n steps, whose neurons fire at once.

Shapes: n levels, B batch, C channels, H height, W width.
"""

import copy
import operator

import torch
from timm.utils import unwrap_model
from torch import Tensor, fx, nn

from zoo.deployment.fold import Tracer
from zoo.deployment.grid import NotExactError
from zoo.deployment.layers import FoldedLIF, MembraneConv, SpikeCountHead
from zoo.layers.attention import ChannelSpatialAttention, Gate, SpikeAttention
from zoo.layers.conv import DirectCoding
from zoo.neurons import LIF

NOT_LINEAR = {operator.mul: "a product of spikes", operator.sub: "spikes that did not fire"}
LAYERS_NOT_LINEAR = (MembraneConv, SpikeAttention, Gate, ChannelSpatialAttention)


class BurstLIF(LIF):
    """A neuron that takes in a window of n steps and spikes in the first 0 to n steps of the next,
    [n, B, ...] -> [n, B, ...].

    Args:
        lif: The neuron of n levels that it stands for.
    """

    def __init__(self, lif: LIF):
        super().__init__(1.0, lif.v_threshold, "subtract", backend="eager")
        self.window, self.level = lif.levels, lif.spike_fn

    def forward(self, x: Tensor) -> Tensor:
        k = self.level(x.mean(0) - self.v_threshold).mul(self.window).round()
        steps = torch.arange(self.window, device=x.device).view(-1, *[1] * k.ndim)
        return (k > steps).to(x.dtype)


class FoldedBurstLIF(BurstLIF):
    """BurstLIF with time folded into the batch, [n*B, ...]; of a repeated current [B, ...]."""

    def __init__(self, lif: FoldedLIF):
        super().__init__(lif)
        self.repeated = lif.repeated

    def forward(self, x: Tensor) -> Tensor:
        steps = x[None] if self.repeated else x.unflatten(0, (self.window, -1))
        return super().forward(steps).flatten(0, 1)


@torch.no_grad()
def unroll(model: nn.Module) -> nn.Module:
    """Turn one step of n levels into n steps of binary spikes, for hardware that knows only spikes.

    An image takes n steps in each spiking layer, one layer after the other; a new image can follow
    every n steps.

    Args:
        model: A network of the zoo for still images with time_steps=1 and neurons of n levels, or
            what zoo.deploy makes of it.

    Returns:
        A copy in eval mode. Of a deployed network it gives the same bits; of one that is not, the
        same logits but for fp32 rounding.

    Raises:
        ValueError: It has more than one step, or no levels.
        NotExactError: A layer computes something else of n binary steps than of one of n levels,
            such as a product of spikes; the message names it.
    """
    model = copy.deepcopy(unwrap_model(model)).eval()
    modules = dict(model.named_modules())
    neurons = {name: module for name, module in modules.items() if isinstance(module, LIF)}
    levels = {lif.levels for lif in neurons.values()}
    timed = [m for m in modules.values() if isinstance(m, DirectCoding | SpikeCountHead)]
    steps = {module.time_steps for module in timed}
    if len(levels) != 1 or levels == {1} or steps != {1}:
        raise ValueError(
            "model: expected 1 time step and neurons of one number of levels above 1, got "
            f"{sorted(steps)} and {sorted(levels)}"
        )
    graph = model.graph if isinstance(model, fx.GraphModule) else Tracer().trace(model)
    for node in graph.nodes:
        if node.op == "call_function" and node.target in NOT_LINEAR:
            layer = [*node.meta.get("nn_module_stack", {node.name: None})][-1]
            raise NotExactError(f"{layer}: does not unroll, {NOT_LINEAR[node.target]}")
        if node.op == "call_module" and isinstance(modules[node.target], LAYERS_NOT_LINEAR):
            kind = type(modules[node.target]).__name__
            raise NotExactError(f"{node.target}: does not unroll, {kind} of several steps")
    (n,) = levels
    for name, lif in neurons.items():
        burst = FoldedBurstLIF(lif) if isinstance(lif, FoldedLIF) else BurstLIF(lif)
        model.set_submodule(name, burst)
    for module in timed:
        module.time_steps = n
        if isinstance(module, SpikeCountHead):
            module.fc.weight.div_(n)
    return model
