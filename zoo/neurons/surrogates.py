"""Spike functions: a step forward, a surrogate slope backward.

u is the distance of the membrane potential from the threshold, v - v_threshold. Every slope is a
bump around u = 0 of area 1 and height 1 / width, so that a width means the same in every shape.
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
        surrogate: A name in SLOPES.
        width: Scale of the slope in units of the membrane potential, > 0.

    Raises:
        ValueError: The surrogate is unknown, or the width is out of range.
    """
    slope = SLOPES[one_of("surrogate", SLOPES, surrogate)]
    return partial(_spike, slope=slope, width=positive("width", width))


def _spike(u: Tensor, slope: Callable[[Tensor, float], Tensor], width: float) -> Tensor:
    return Spike.apply(u, slope, width)
