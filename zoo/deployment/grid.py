"""The grid of a deployed network: how many bits a sum takes, and weights rounded to the rest.

fp32 holds 24 bits. Bounds hold for any inputs, in whatever order a sum is computed.
Shapes: C channels, H height, W width; T time steps.
"""

import copy
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeVar

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn

BITS = 24  # of an fp32 significand
SMALLEST = 126  # bits behind the point of the smallest number that no runtime flushes to 0

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class NotExactError(ValueError):
    """fp32 may round a value of this network or graph; the message names the layer and why."""


def unsupported(name: str, what: str) -> NotExactError:
    """The error for a layer that has no deployed form."""
    return NotExactError(f"zoo.deploy does not support {what} (layer {name})")


def sums(layer: nn.Conv2d | nn.Linear, low, high) -> tuple[Tensor, Tensor]:
    """The least and the greatest partial sum of each output channel, in any order of its terms.

    Args:
        low, high: Bounds of the inputs, low <= 0 and high >= 0: numbers, or [1, C, 1, 1].
    """
    weight, bias = layer.weight.double(), layer.bias.double()
    ends = torch.stack([weight * low, weight * high])
    axes = tuple(range(1, weight.ndim))
    least = ends.amin(0).clamp(max=0).sum(axes) + bias.clamp(max=0)
    return least, ends.amax(0).clamp(min=0).sum(axes) + bias.clamp(min=0)


def bits_beside(reach: Tensor) -> Tensor:
    """Fractional bits that fp32 has left beside numbers up to reach; at most twice BITS."""
    return BITS - torch.log2(reach).ceil().clamp(min=-BITS)


def snap(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor, fraction, inputs=0) -> None:
    """Round weight and bias into a layer, so that its sums are whole multiples of 2^-fraction, [C],
    for inputs in steps of 2^-inputs.
    """
    step = torch.exp2(inputs - fraction).view(-1, *[1] * (weight.ndim - 1))
    layer.weight.copy_((weight / step).round() * step)
    step = torch.exp2(-fraction)
    # A sum with a bias of -0 would take its sign from its order.
    layer.bias.copy_((bias / step).round() * step + 0.0)


def snap_to_finest(finest: Callable[[], Tensor], snap_to: Callable[[Tensor], None]) -> Tensor:
    """Snap layers to the finest grid that they themselves leave, since rounding may make a sum
    larger; returns its fractional bits, [C].
    """
    fraction = finest()
    snap_to(fraction)
    while (too_fine := fraction > finest()).any():
        fraction = fraction - too_fine.double()
        snap_to(fraction)
    return fraction


def snap_sums(layer: nn.Conv2d | nn.Linear, low, high, inputs: int = 0) -> None:
    """Put a layer whose sums meet no others on its finest grid, for inputs between low and high in
    steps of 2^-inputs.
    """
    weight, bias = layer.weight.clone(), layer.bias.clone()
    snap_to_finest(
        lambda: bits_beside(torch.maximum(*(ends.abs() for ends in sums(layer, low, high)))),
        lambda fraction: snap(layer, weight, bias, fraction, inputs),
    )


def snap_in_two(layer: Layer, low, high) -> Layer:
    """Snap a layer as snap_sums, and return another one, of what its weights lose there."""
    rest = copy.deepcopy(layer)
    snap_sums(layer, low, high)
    rest.weight.sub_(layer.weight)
    rest.bias.sub_(layer.bias)
    snap_sums(rest, low, high)
    return rest


def fraction_bits(value: float) -> int:
    """How many bits a number has behind the point."""
    return Fraction(value).denominator.bit_length() - 1


def is_power_of_two(factor: float) -> bool:
    """Whether no product with a factor is ever rounded; 0 counts."""
    return math.frexp(factor)[0] in (0.0, 0.5)


def pool_window(pool: nn.AvgPool2d) -> int:
    """Pixels that an average divides by."""
    return math.prod(to_2tuple(pool.kernel_size))


def whole_pixels(key: str, values: Sequence[float]) -> list[int]:
    """A pretrained_cfg's mean or std in pixel values.

    Args:
        key: "mean" or "std".
        values: Fractions of 255.

    Raises:
        NotExactError: The pixel values are not whole or out of range.
    """
    if not all(0 <= value <= 1 and (value or key == "mean") for value in values):
        least = "0 <= mean" if key == "mean" else "0 < std"
        raise NotExactError(f"pretrained_cfg.{key}: expected {least} <= 1, got {list(values)}")
    pixels = [round(255 * value) for value in values]
    if any(abs(255 * value - pixel) > 1e-6 for value, pixel in zip(values, pixels, strict=True)):
        raise NotExactError(
            f"pretrained_cfg.{key}: expected whole numbers over 255, got {list(values)}; train "
            f"with {pixels} over 255"
        )
    return pixels
