"""Rates: what several time steps of spikes average to, in one step.

A staircase forward, the ramp under it backward, after the I-LIF of
https://arxiv.org/abs/2407.20708, which leaks, and rounds to the nearest.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor


def stairs(u: Tensor, v_threshold: float, levels: int) -> Tensor:
    """floor(levels * v / v_threshold) / levels, clamped to [0, 1], where v = u + v_threshold."""
    return (u * (levels / v_threshold)).floor_().add_(levels).clamp_(0, levels).div_(levels)


def rises(u: Tensor, v_threshold: float, levels: int) -> Tensor:
    """Where the ramp under the stairs rises: from v = 0 to half a step above the highest stair. The
    edge of that stair is v_threshold, exactly where a shortcut at its full rate brings a neuron.
    """
    return (u > -v_threshold) & (u < v_threshold / (2 * levels))


class Rate(torch.autograd.Function):
    """The stairs; backward the gradient times 1 / v_threshold where the ramp rises."""

    generate_vmap_rule = True  # for gradients by image

    @staticmethod
    def forward(u: Tensor, v_threshold: float, levels: int) -> Tensor:
        return stairs(u, v_threshold, levels)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        u, ctx.v_threshold, levels = inputs
        ctx.save_for_backward(rises(u, ctx.v_threshold, levels))

    @staticmethod
    def backward(ctx, grad: Tensor):
        (rising,) = ctx.saved_tensors
        return grad * rising / ctx.v_threshold, None, None


def rate_function(v_threshold: float, levels: int) -> Callable[[Tensor], Tensor]:
    """u = v - v_threshold -> rate. It equals the mean over that many steps of the spikes of a
    neuron without leak that starts at 0, gets the current v at each step and subtracts v_threshold
    after a spike.
    """
    return partial(_rate, v_threshold=v_threshold, levels=levels)


def _rate(u: Tensor, v_threshold: float, levels: int) -> Tensor:
    return Rate.apply(u, v_threshold, levels)
