"""LIF over a sequence on the CPU: one fused pass forward, one backward, through torch.compile.

Only the input current is saved for the backward pass, which runs the membrane potential again.
Shapes: T time steps, N neurons times batch.
"""

import functools

import torch
from torch import Tensor
from torch._inductor.cpp_builder import get_cpp_compiler

from zoo.surrogates import SLOPES


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


@torch.compile(dynamic=True)
def _forward(x: Tensor, decay: float, v_threshold: float, reset: str) -> Tensor:
    return torch.stack([s for _, s in _membrane(x, decay, v_threshold, reset)]).to(x.dtype)


@torch.compile(dynamic=True)
def _backward(
    grad: Tensor,
    x: Tensor,
    decay: float,
    v_threshold: float,
    reset: str,
    surrogate: str,
    width: float,
) -> Tensor:
    """The chain rule through lif_step from the last step to the first, in autograd's own order."""
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


def _dense(x: Tensor) -> Tensor:
    """x itself where every step is one dense block of memory, contiguous or channels_last."""
    step = x[0]
    if step.is_contiguous():
        return x
    if step.ndim == 4 and step.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


def _strides(x: Tensor) -> tuple[int, ...]:
    """Strides of a new tensor in the layout of a dense x; x itself may repeat one step."""
    return (x[0].numel(), *x[0].stride())


def _by_step(x: Tensor) -> Tensor:
    """A dense x as [T, N], in memory order and without a copy."""
    return x.as_strided((x.shape[0], x[0].numel()), (x.stride(0), 1))


# One graph per T, type, reset and surrogate, shared by every size of layer.
_many_graphs = torch._dynamo.config.patch(recompile_limit=256)


@torch.library.custom_op("short_bp::lif", mutates_args=(), device_types="cpu")
@_many_graphs
def lif(
    x: Tensor, decay: float, v_threshold: float, reset: str, surrogate: str, width: float
) -> Tensor:
    """Input current -> spikes, [T, B, ...] -> [T, B, ...]; the arguments are those of LIF."""
    x = _dense(x)
    return _forward(_by_step(x), decay, v_threshold, reset).as_strided(x.shape, _strides(x))


@torch.library.custom_op("short_bp::lif_backward", mutates_args=(), device_types="cpu")
@_many_graphs
def lif_backward(
    grad: Tensor,
    x: Tensor,
    decay: float,
    v_threshold: float,
    reset: str,
    surrogate: str,
    width: float,
) -> Tensor:
    """Gradient of the spikes -> gradient of the input current, both [T, B, ...]."""
    x = _dense(x)
    if grad.stride() != _strides(x):
        grad = torch.empty_strided(
            x.shape, _strides(x), dtype=grad.dtype, device=grad.device
        ).copy_(grad)
    grad_x = _backward(_by_step(grad), _by_step(x), decay, v_threshold, reset, surrogate, width)
    return grad_x.as_strided(x.shape, _strides(x))


@lif.register_fake
def _(x, decay, v_threshold, reset, surrogate, width):
    return x.new_empty_strided(x.shape, _strides(_dense(x)))


@lif_backward.register_fake
def _(grad, x, decay, v_threshold, reset, surrogate, width):
    return x.new_empty_strided(x.shape, _strides(_dense(x)))


def _setup_context(ctx, inputs, output) -> None:
    x, *ctx.constants = inputs
    ctx.save_for_backward(x)


def _lif_backward(ctx, grad: Tensor):
    (x,) = ctx.saved_tensors
    return lif_backward(grad, x, *ctx.constants), None, None, None, None, None


lif.register_autograd(_lif_backward, setup_context=_setup_context)


@functools.cache
def unavailable() -> str | None:
    """Why this backend cannot run here, or None where it can."""
    try:
        get_cpp_compiler()
    except Exception as error:
        return f"no C++ compiler: {error}"
    return None
