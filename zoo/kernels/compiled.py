"""LIF over a sequence on the CPU: one fused pass forward, one backward, through torch.compile.

The backward pass needs the input current alone; it runs the membrane potential again.
Shapes: T time steps, N neurons times batch.
"""

import functools

import torch
from torch import Tensor
from torch._inductor.cpp_builder import get_cpp_compiler

from zoo.surrogates import SLOPES

# One graph per T, type, reset and surrogate, shared by every size of layer.
_many_graphs = torch._dynamo.config.patch(recompile_limit=256)


def _membrane(x: Tensor, decay: float, v_threshold: float, reset: str):
    """Each step's potential before reset and whether it fires, T pairs of [N]."""
    v = torch.zeros_like(x[0], dtype=torch.promote_types(x.dtype, torch.float32))
    trace = []
    for x_t in x.unbind():
        v = decay * v + x_t
        spike = (v - v_threshold >= 0).to(v.dtype)
        trace.append((v, spike))
        v = v - spike * v_threshold if reset == "subtract" else v * (1 - spike)
    return trace


@_many_graphs
@torch.compile(dynamic=True)
def forward(x: Tensor, decay: float, v_threshold: float, reset: str) -> Tensor:
    """Input current -> spikes, both [T, N]."""
    return torch.stack([s for _, s in _membrane(x, decay, v_threshold, reset)]).to(x.dtype)


@_many_graphs
@torch.compile(dynamic=True)
def backward(
    grad: Tensor,
    x: Tensor,
    decay: float,
    v_threshold: float,
    reset: str,
    surrogate: str,
    width: float,
) -> Tensor:
    """Gradient of the spikes -> of the input current, [T, N]: the chain rule through lif_step, last
    step first, in autograd's own order of operations.
    """
    trace = _membrane(x, decay, v_threshold, reset)
    grads: list[Tensor] = []
    grad_v = None  # of the potential after reset
    for (v, spike), grad_spike in zip(reversed(trace), reversed(grad.unbind()), strict=True):
        slope = SLOPES[surrogate](v - v_threshold, width)
        if grad_v is None:
            grad_x = grad_spike * slope
        elif reset == "subtract":
            grad_x = grad_v + (grad_spike - grad_v * v_threshold) * slope
        else:
            grad_x = grad_v * (1 - spike) + (grad_spike - grad_v * v) * slope
        grads.append(grad_x)
        grad_v = grad_x * decay
    return torch.stack(grads[::-1]).to(x.dtype)


@functools.cache
def unavailable() -> str | None:
    """Why this backend cannot run here, or None where it can."""
    try:
        get_cpp_compiler()
    except Exception as error:
        return f"no C++ compiler: {error}"
    return None
