"""Norm and neuron that are computed again in the backward pass instead of remembered.

Training remembers three tensors for a convolution, its norm and its neuron: the convolution's input
and output and the neuron's current. The current follows from the output, so that two are enough, as
many as a ReLU network needs.
Shapes: T time steps, B batch, C channels, H height, W width.
"""

import torch
from torch import Tensor, nn


def norm_spike(
    y: Tensor, norm: nn.BatchNorm2d, spike: nn.Module, shortcut: Tensor | None, T: int
) -> Tensor:
    """Batch norm in training mode, the shortcut added, and the neuron; only y is remembered.

    Args:
        y: Output of the convolution, [T*B, C, H, W].
        shortcut: What is added before the neuron, [T, B, C, H, W], if anything.

    Returns:
        Spikes, [T, B, C, H, W].
    """
    norm.num_batches_tracked.add_(1)
    return _NormSpike.apply(y, norm.weight, norm.bias, shortcut, norm, spike, T)


class _NormSpike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, weight, bias, shortcut, norm, spike, T):
        stats = norm.running_mean, norm.running_var
        current, mean, invstd = torch.native_batch_norm(
            y, weight, bias, *stats, True, norm.momentum, norm.eps
        )
        ctx.save_for_backward(y, weight, bias, shortcut, mean, invstd)
        ctx.eps, ctx.spike, ctx.T = norm.eps, spike, T
        return _fire(spike, _unfold(current, shortcut, T))[1].detach()

    @staticmethod
    def backward(ctx, grad):
        y, weight, bias, shortcut, mean, invstd = ctx.saved_tensors
        # The same call on the same input: the current has the bits that the forward pass saw.
        current = torch.native_batch_norm(y, weight, bias, None, None, True, 0.0, ctx.eps)[0]
        current, spikes = _fire(ctx.spike, _unfold(current, shortcut, ctx.T))
        (grad,) = torch.autograd.grad(spikes, current, grad)
        del spikes, current
        grads = torch.ops.aten.native_batch_norm_backward(
            grad.flatten(0, 1), y, weight, None, None, mean, invstd, True, ctx.eps, [True] * 3
        )
        return *grads, None if shortcut is None else grad, None, None, None


def _fire(spike: nn.Module, current: Tensor) -> tuple[Tensor, Tensor]:
    """Current and spikes, with the graph between them: a neuron picks its kernel by that."""
    current = current.detach().requires_grad_()
    with torch.enable_grad():
        return current, spike(current)


def _unfold(current: Tensor, shortcut: Tensor | None, T: int) -> Tensor:
    current = current.unflatten(0, (T, -1))
    return current if shortcut is None else current.add_(shortcut)
