"""Layers of a deployed network: norms folded, time folded into the batch, sums never rounded.

Shapes: T time steps, B batch, C channels, H height, W width, K classes; [T*B, C, H, W].
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.deployment.grid import BITS, pool_window, snap_in_two, snap_sums, sums
from zoo.layers.attention import SpikeAttention
from zoo.neurons import LIF

DIGIT, DIGITS = 8, 3  # bits of a digit, with its sign, and digits of a current


class FoldedLIF(LIF):
    """LIF on a current with time folded into the batch, [T*B, ...] -> spikes [T*B, ...].

    Args:
        time_steps: T.
        repeated: The input is the current of one step, [B, ...], the same at every step.
        constants: LIF's.
    """

    def __init__(self, time_steps: int, repeated: bool, **constants):
        super().__init__(**constants)
        self.time_steps, self.repeated = time_steps, repeated

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_unfolded(x, self.time_steps, self.repeated)).flatten(0, 1)

    def potentials(self, x: Tensor) -> Tensor:
        """The potential that each step compares with the threshold, [T, B, ...]."""
        return self.membrane(_unfolded(x, self.time_steps, self.repeated))


class PixelConv(nn.Module):
    """The first convolution, on whole pixels, [B, C, H, W] -> [B, C', H', W'] on a grid.

    Takes uint8 pixels or normalised floats; each float counts as the nearest pixel, so that the
    bounds of pixels hold for any number. A pixel takes 8 of the 24 bits, which leaves a coarse grid
    for the weights; a second convolution, ``rest``, adds what they lose there.

    Raises:
        ValueError: x has another shape or type, or torch would convolve it inexactly.
    """

    def __init__(self, conv: nn.Conv2d, mean: Sequence[int], std: Sequence[int], size: tuple):
        super().__init__()
        self.conv, self.rest, self.size = conv, None, tuple(size)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("steps", None)  # of the current's grid in 1, [1, C, 1, 1]

    def take_apart(self) -> None:
        """Put both convolutions on their grids."""
        self.rest = snap_in_two(self.conv, -self.mean, 255 - self.mean)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.size or x.dtype not in (torch.uint8, torch.float32):
            raise ValueError(
                f"x: expected {['B', *self.size]} of uint8 or float32, got {list(x.shape)} of "
                f"{x.dtype}; for another size set input_size in pretrained_cfg and deploy again"
            )
        if mode := inexact_mode(x.device.type):
            raise ValueError(f"x: expected exact convolutions, got {mode}")
        if x.dtype == torch.uint8:
            pixels = x.float() - self.mean
        else:
            pixels = (x * self.std).round().maximum(-self.mean).minimum(255 - self.mean)
        if pixels.shape[1] == 1:  # torch on ARM convolves a contiguous one by Winograd
            pixels = F.pad(pixels, (0, 1))[..., :-1]
        if self.steps is None:
            return self.conv(pixels)
        return _rounded(self.conv(pixels), self.steps) + _rounded(self.rest(pixels), self.steps)

    def bounds(self) -> list[tuple[Tensor, Tensor]]:
        """Least and greatest partial sums, [C], of both convolutions."""
        return [sums(conv, -self.mean, 255 - self.mean) for conv in (self.conv, self.rest)]


def _rounded(current: Tensor, steps: Tensor) -> Tensor:
    return (current * steps).round() / steps


class MembraneConv(nn.Module):
    """A 1x1 convolution of a current, [T*B, C, H, W] -> [T*B, C', H', W'] on the grid of the
    current that it is a part of.

    A current takes all 24 bits, so that products with it would round. It is taken apart into
    digits, whole numbers of 8 bits, whose products with weights on a grid add up exactly. A further
    convolution, ``rest``, adds what the weights lose on the coarse grid of the first digit.

    The largest sum that any current could cause is hundreds of times larger than those that occur,
    and would leave few bits behind the point. The sum of the first digits is therefore cut off at a
    limit far beyond any current's.

    Args:
        conv: Without a stride.
        pool: Before it, an average of 2^n pixels; of one pixel for a stride.
        limit: [C'], powers of two.
    """

    def __init__(self, conv: nn.Conv2d, pool: nn.AvgPool2d | None, limit: Tensor):
        super().__init__()
        self.pool = pool
        self.register_buffer("limit", limit.view(1, -1, 1, 1))
        self.convs = nn.ModuleList(copy.deepcopy(conv) for _ in range(DIGITS))
        self.rest = None
        self.register_buffer("coarse", None)  # steps in 1 of the current's digits, [1, C, 1, 1]
        self.register_buffer("units", None)  # of each digit in 1, [DIGITS, 1, C, 1, 1]
        self.register_buffer("steps", None)  # of the current's grid in 1, [1, C', 1, 1]

    def take_apart(self, low: Tensor, high: Tensor, fraction: Tensor) -> None:
        """Choose the grids of digits and weights for a current between low and high in steps of
        2^-fraction, all [C].
        """
        # One bit for the difference that takes a digit off, and those of the average.
        spare = 1 if self.pool is None else pool_window(self.pool).bit_length()
        self.coarse = torch.exp2(fraction - spare).view(1, -1, 1, 1)
        reach = torch.maximum(-low, high).log2().ceil().clamp(min=-BITS)
        first = torch.exp2(DIGIT - 1 - reach).view(1, -1, 1, 1)
        self.units = torch.stack([first * 2.0 ** (DIGIT * i) for i in range(DIGITS)])
        ends = (low.view(1, -1, 1, 1) * first).floor(), (high.view(1, -1, 1, 1) * first).ceil()
        self.ends = [ends] + [(-(2.0 ** (DIGIT - 1)), 2.0 ** (DIGIT - 1))] * (DIGITS - 1)
        for conv, units in zip(self.convs, self.units, strict=True):
            conv.weight.div_(units)
        self.rest = snap_in_two(self.convs[0], *ends)
        for conv, ends in zip(self.convs[1:], self.ends[1:], strict=True):
            conv.bias.zero_()
            snap_sums(conv, *ends)

    def forward(self, x: Tensor) -> Tensor:
        x, currents = _rounded(x, self.coarse), []
        x = x if self.pool is None else self.pool(x)
        for i, (conv, units) in enumerate(zip(self.convs, self.units, strict=True)):
            digits = (x * units).round()
            x = (x - digits / units).maximum(-0.5 / units).minimum(0.5 / units)
            if i == 0:
                currents += [conv(digits).maximum(-self.limit).minimum(self.limit)]
                currents += [self.rest(digits)]
            else:
                currents += [conv(digits)]
        return sum(_rounded(current, self.steps) for current in currents)

    def bounds(self) -> list[tuple[Tensor, Tensor]]:
        """Least and greatest partial sums, [C'], of all convolutions."""
        first, *others = (
            sums(conv, *ends) for conv, ends in zip(self.convs, self.ends, strict=True)
        )
        limit = self.limit.flatten()
        first = first[0].maximum(-limit), first[1].minimum(limit)
        return [first, sums(self.rest, *self.ends[0]), *others]


class Repeat(nn.Module):
    """The current of one step at every step, [B, ...] -> [T*B, ...]."""

    def __init__(self, time_steps: int):
        super().__init__()
        self.time_steps = time_steps

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(self.time_steps, 1, 1, 1)


class FoldedAttention(nn.Module):
    """Learned attention with time folded into the batch, [T*B, ...].

    Args:
        repeated: As FoldedLIF's.
    """

    def __init__(self, attention: nn.Module, time_steps: int, repeated: bool):
        super().__init__()
        self.attention, self.time_steps, self.repeated = attention, time_steps, repeated

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(_unfolded(x, self.time_steps, self.repeated)).flatten(0, 1)


def _unfolded(x: Tensor, time_steps: int, repeated: bool) -> Tensor:
    return x.expand(time_steps, *x.shape) if repeated else x.unflatten(0, (time_steps, -1))


PRECISIONS = {  # torch's switches for fewer bits of fp32, by device
    # torch.compile's own convolutions read cudnn's, whether cuDNN is on or not
    "cuda": {"cuda.matmul": torch.backends.cuda.matmul, "cudnn": torch.backends.cudnn},
    "cpu": {
        "mkldnn.conv": torch.backends.mkldnn.conv,
        "mkldnn.matmul": torch.backends.mkldnn.matmul,
    },
}


@torch.compiler.assume_constant_result  # torch.compile cannot trace the switches
def inexact_mode(device: str) -> str | None:
    """The mode in which convolutions on a device may round more than fp32 must, and the way out."""
    if torch.is_autocast_enabled(device):
        return "autocast; leave it"
    if device == "cuda" and torch.backends.cudnn.enabled:
        return "cuDNN, which may take Winograd or TF32; set torch.backends.cudnn.enabled = False"
    for name, backend in PRECISIONS.get(device, {}).items():
        if (precision := backend.fp32_precision) not in ("ieee", "none"):
            return f'{precision.upper()}; set torch.backends.{name}.fp32_precision = "ieee"'
    if device != "cpu":
        return None
    onednn, nnpack = torch.backends.mkldnn, torch.backends.nnpack
    # Without oneDNN, as on macOS, NNPACK convolves large batches by Winograd.
    free = not (onednn.is_available() and onednn.enabled) and nnpack.is_available()
    if free and torch._C._get_nnpack_enabled():
        return "NNPACK's Winograd; call torch.backends.nnpack.set_flags(False)"
    return None


class SumPool2d(nn.Module):
    """The sum of whole numbers under a window, [N, C, H, W], rounded back from their average."""

    def __init__(self, pool: nn.AvgPool2d):
        super().__init__()
        self.pool, self.pixels = pool, pool_window(pool)

    def forward(self, x: Tensor) -> Tensor:
        return (self.pool(x) * self.pixels).round()


class FoldedSpikeAttention(SpikeAttention):
    """SpikeAttention with time folded into the batch, [T*B, C, H, W] each, at one size of image."""

    def __init__(self, num_heads: int, scale: float, size: tuple[int, int, int]):
        super().__init__(num_heads, scale)
        self.size = size


class SpikeCountHead(nn.Module):
    """Counts the spikes of each channel over time and pixels, [T*B, C, H, W] -> logits [B, K]; the
    classifier's weights divide.

    Args:
        fraction: Fractional bits to which a graph rounds the counts, since a runtime may sum by a
            rounded average; None where no average would be rounded.
    """

    def __init__(self, fc: nn.Linear, time_steps: int, fraction: int | None = None):
        super().__init__()
        self.fc, self.time_steps, self.fraction = fc, time_steps, fraction

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.sum((2, 3)).unflatten(0, (self.time_steps, -1)).sum(0))
