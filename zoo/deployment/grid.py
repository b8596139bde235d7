"""The grid that a network is deployed on: how many bits a sum takes, and weights rounded to what is
left of fp32's 24.

Every function says what holds for any numbers, in whatever order a sum is added up.
Shapes: C channels, H height, W width; T time steps.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn

from zoo.neurons import LIF

BITS = 24  # of an fp32 significand
SMALLEST = 126  # bits behind the point of a number that no runtime takes for 0


class NotExactError(ValueError):
    """A network whose arithmetic fp32 would round; the message says in which layer and why."""


def sums(layer: nn.Conv2d | nn.Linear, low, high) -> tuple[Tensor, Tensor]:
    """The least and the greatest partial sum of each output channel, in any order of its terms, of
    inputs between low <= 0 and high >= 0 (numbers, or [1, C, 1, 1]).
    """
    weight, bias = layer.weight.double(), layer.bias.double()
    ends = torch.stack([weight * low, weight * high])
    axes = tuple(range(1, weight.ndim))
    least = ends.amin(0).clamp(max=0).sum(axes) + bias.clamp(max=0)
    return least, ends.amax(0).clamp(min=0).sum(axes) + bias.clamp(min=0)


def potential(lif: LIF, T: int, low: Tensor, high: Tensor) -> Tensor:
    """The largest potential, [C], after T steps of a current between low <= 0 and high >= 0."""
    v_low, v_high = low, high
    for _ in range(T - 1):
        after = v_low - lif.v_threshold if lif.reset == "subtract" else v_low
        v_low, v_high = lif.decay * after + low, lif.decay * v_high + high
    return torch.maximum(-v_low, v_high)


def bits_beside(reach: Tensor) -> Tensor:
    """Fractional bits that numbers up to reach leave; twice BITS where all are next to nothing."""
    return BITS - torch.log2(reach).ceil().clamp(min=-BITS)


def snapped(weight: Tensor, fraction: Tensor) -> Tensor:
    """Rounded to whole multiples of 2^-fraction, one for each output channel."""
    step = torch.exp2(-fraction).view(-1, *[1] * (weight.ndim - 1))
    return (weight / step).round() * step


def snapped_bias(bias: Tensor, fraction: Tensor) -> Tensor:
    """As snapped, and never -0, beside which a sum has the sign that its order gives it."""
    return snapped(bias, fraction) + 0.0


def snap_sums(layer: nn.Conv2d | nn.Linear, low, high, fraction: int = 0) -> None:
    """Put a layer whose own sums are all there is on its finest grid, for inputs between low and
    high in steps of 2^-fraction.
    """
    weight, bias = layer.weight.clone(), layer.bias.clone()
    spare = bits_beside(_reach(layer, low, high))
    too_fine = torch.ones_like(spare)
    while too_fine.any():
        layer.weight.copy_(snapped(weight, spare - fraction))
        layer.bias.copy_(snapped_bias(bias, spare))
        too_fine = (spare > bits_beside(_reach(layer, low, high))).double()  # as in a neuron's
        spare = spare - too_fine


def _reach(layer: nn.Conv2d | nn.Linear, low, high) -> Tensor:
    return torch.maximum(*(ends.abs() for ends in sums(layer, low, high)))


def fraction_bits(value: float) -> int:
    """How many bits stand behind the point."""
    return Fraction(value).denominator.bit_length() - 1


def threshold_bits(lif: LIF) -> int:
    """How many bits stand behind the point of a threshold, in fp32, which it is subtracted in."""
    v_threshold = torch.tensor(lif.v_threshold, dtype=torch.float32, device="cpu")
    return fraction_bits(v_threshold.item())


def is_power_of_two(factor: float) -> bool:
    """Whether a product with it is never rounded; 0 counts."""
    return math.frexp(factor)[0] in (0.0, 0.5)


def pool_window(pool: nn.AvgPool2d) -> int:
    """Pixels that an average divides by; or of two or four by fewer, 1 or 2, at a far border.

    Raises:
        NotExactError: It divides by other numbers, too.
    """
    sides, padding = to_2tuple(pool.kernel_size), to_2tuple(pool.padding)
    whole = pool.count_include_pad and not pool.ceil_mode
    if pool.divisor_override or not (whole or (max(sides) <= 2 and padding == (0, 0))):
        raise NotExactError(f"{pool}: expected an average that always divides by its window")
    return math.prod(sides)


def whole_pixels(key: str, values: Sequence[float]) -> list[int]:
    """A pretrained_cfg's mean or std in pixel values.

    Raises:
        NotExactError: They are not whole, so that a normalised pixel is no pixel any more; or they
            are no fractions, but pixel values already.
    """
    if not all(0 <= value <= 1 for value in values):  # NaN neither
        raise NotExactError(
            f"pretrained_cfg.{key}: expected fractions between 0 and 1, got {list(values)}; pixel "
            "values are divided by 255 there"
        )
    pixels = [round(255 * value) for value in values]
    if any(abs(255 * value - pixel) > 1e-6 for value, pixel in zip(values, pixels, strict=True)):
        raise NotExactError(
            f"pretrained_cfg.{key}: expected whole numbers over 255, got {list(values)}; take "
            f"{pixels} over 255, in training too"
        )
    if key == "std" and min(pixels) <= 0:
        raise NotExactError(f"pretrained_cfg.std: expected numbers > 0, got {list(values)}")
    return pixels
