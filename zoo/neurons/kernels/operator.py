"""LIF over a sequence as one operator of torch: the kernels behind it, its shapes, its gradient.

torch.compile sees an operator without a graph break, torch.export never sees it (zoo.neurons).
Shapes: T time steps, N neurons times batch.
"""

from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from zoo.neurons.kernels import cpu, cuda


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


def _forward(
    kernel: ModuleType, x: Tensor, decay, v_threshold, reset, surrogate, width, detach, levels=1
) -> Tensor:
    x = _dense(x)
    spikes = kernel.forward(_by_step(x), decay, v_threshold, reset, levels)
    return spikes.as_strided(x.shape, _strides(x))


def _backward(kernel: ModuleType, grad: Tensor, x: Tensor, *constants) -> Tensor:
    x = _dense(x)
    if grad.stride() != _strides(x):
        grad = x.new_empty_strided(x.shape, _strides(x), dtype=grad.dtype).copy_(grad)
    return kernel.backward(_by_step(grad), _by_step(x), *constants).as_strided(x.shape, _strides(x))


@torch.library.custom_op("short_bp::lif", mutates_args=(), device_types="cpu")
def lif(
    x: Tensor,
    decay: float,
    v_threshold: float,
    reset: str,
    surrogate: str,
    width: float,
    detach_reset: bool,
    levels: int = 1,
) -> Tensor:
    """Input current -> spikes, [T, B, ...] -> [T, B, ...]; the arguments are those of LIF."""
    constants = decay, v_threshold, reset, surrogate, width, detach_reset, levels
    return _forward(cpu, x, *constants)


@torch.library.custom_op("short_bp::lif_backward", mutates_args=(), device_types="cpu")
def lif_backward(
    grad: Tensor,
    x: Tensor,
    decay: float,
    v_threshold: float,
    reset: str,
    surrogate: str,
    width: float,
    detach_reset: bool,
    levels: int = 1,
) -> Tensor:
    """Gradient of the spikes -> gradient of the input current, both [T, B, ...]."""
    constants = decay, v_threshold, reset, surrogate, width, detach_reset, levels
    return _backward(cpu, grad, x, *constants)


lif.register_kernel("cuda")(partial(_forward, cuda))
lif_backward.register_kernel("cuda")(partial(_backward, cuda))


@lif.register_fake
def _(x, *constants):
    return x.new_empty_strided(x.shape, _strides(_dense(x)))


@lif_backward.register_fake
def _(grad, x, *constants):
    return x.new_empty_strided(x.shape, _strides(_dense(x)))


def _setup_context(ctx, inputs, output) -> None:
    x, *ctx.constants = inputs
    ctx.save_for_backward(x)


def refuse_second_derivative() -> None:
    """Raise in a backward pass that has no derivative of its own. torch's once_differentiable does
    so only if the incoming gradient needs one; otherwise part of a second derivative would be lost.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "fused kernels and lean memory give first derivatives only; for create_graph=True "
            'build the network with memory="fast" and LIF layers of backend="eager"'
        )


def _lif_backward(ctx, grad: Tensor):
    refuse_second_derivative()
    (x,) = ctx.saved_tensors
    return lif_backward(grad, x, *ctx.constants), *[None] * len(ctx.constants)


lif.register_autograd(_lif_backward, setup_context=_setup_context)
