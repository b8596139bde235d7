"""Spike functions: a step forward, a slope backward.

u is the distance of the membrane potential from the threshold, v - v_threshold. Every slope is a
bump around u = 0 of area 1 and height 1 / width, so that one width means the same in every shape.
A rate stands for the spikes of several steps: a staircase forward, the ramp under it backward.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from zoo.validation import one_of, positive


def triangle(u: Tensor, width: float) -> Tensor:
    """Zero beyond |u| = width. TET's ZIF with gama = width; the paper's eq. 4 with width =
    v_threshold and gamma = 1 / width.
    """
    return (1 - u.abs() / width).clamp(min=0) / width


def rectangle(u: Tensor, width: float) -> Tensor:
    """Zero beyond |u| = width / 2. The paper's eq. 4 with a = width."""
    return (u.abs() < width / 2).to(u.dtype) / width


def tanh(u: Tensor, width: float) -> Tensor:
    """The derivative of tanh(2 u / width) / 2."""
    return (1 - torch.tanh(u * (2 / width)).square()) / width


def arctan(u: Tensor, width: float) -> Tensor:
    """The derivative of arctan(pi u / width) / pi; SpikingJelly's ATan with alpha = 2 / width."""
    return 1 / (1 + (u * (math.pi / width)).square()) / width


SLOPES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "triangle": triangle,
    "rectangle": rectangle,
    "tanh": tanh,
    "arctan": arctan,
}


def stairs(u: Tensor, v_threshold: float, levels: int) -> Tensor:
    """floor(levels * v / v_threshold) / levels, in [0, 1], of v = u + v_threshold."""
    return (u * (levels / v_threshold)).floor_().add_(levels).clamp_(0, levels).div_(levels)


def rises(u: Tensor, v_threshold: float, levels: int) -> Tensor:
    """Where the ramp under the stairs does: from v = 0 to half a step above the highest, whose edge
    is v_threshold itself, where a shortcut at its full rate stands.
    """
    return (u > -v_threshold) & (u < v_threshold / (2 * levels))


class Spike(torch.autograd.Function):
    """1 where u >= 0, else 0; backward the gradient times slope(u, width)."""

    generate_vmap_rule = True  # for gradients by image

    @staticmethod
    def forward(u: Tensor, slope: Callable[[Tensor, float], Tensor], width: float) -> Tensor:
        return (u >= 0).to(u.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        u, ctx.slope, ctx.width = inputs
        ctx.save_for_backward(u)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (u,) = ctx.saved_tensors
        return grad * ctx.slope(u, ctx.width), None, None


def spike_function(surrogate: str, width: float) -> Callable[[Tensor], Tensor]:
    """The spike function of one surrogate, u -> spike.

    Args:
        surrogate: One of SLOPES.
        width: Scale of the slope in units of the membrane potential, > 0.

    Raises:
        ValueError: There is no such surrogate, or no such width.
    """
    slope = one_of("surrogate", SLOPES, surrogate)
    return partial(_spike, slope=slope, width=positive("width", width))


def rate_function(v_threshold: float, levels: int) -> Callable[[Tensor], Tensor]:
    """u -> stairs: the share of so many steps in which a neuron without leak fires that starts from
    0, is given v = u + v_threshold at each and has v_threshold subtracted after a spike.

    Raises:
        ValueError: v_threshold is a tensor, for which the ramp has no gradient.
    """
    if isinstance(v_threshold, Tensor):
        raise ValueError(
            f"v_threshold: expected a number for rates of {levels} levels, got a tensor; only "
            "spikes, of one level, have a threshold that learns"
        )
    return partial(_rate, v_threshold=v_threshold, levels=levels)


class Rate(torch.autograd.Function):
    """stairs; backward the gradient times 1 / v_threshold where the ramp rises."""

    generate_vmap_rule = True

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


def _rate(u: Tensor, v_threshold: float, levels: int) -> Tensor:
    return Rate.apply(u, v_threshold, levels)


def _spike(u: Tensor, slope: Callable[[Tensor, float], Tensor], width: float) -> Tensor:
    return Spike.apply(u, slope, width)
