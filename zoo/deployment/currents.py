"""Currents of a deployed network, each put on a grid.

A current is everything that a neuron adds at one time step. Its grid is the finest on which none of
its sums is rounded, nor any potential that must not be. Currents that share a part share a grid.
Shapes: T time steps, C channels.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from zoo.deployment.grid import (
    BITS,
    SMALLEST,
    NotExactError,
    bits_beside,
    fraction_bits,
    is_power_of_two,
    snap,
    snap_to_finest,
    sums,
)
from zoo.deployment.layers import MembraneConv, PixelConv
from zoo.neurons import LIF

COARSE = 2**-5  # the largest part of a layer's weights, by norm, that may be lost on the grid


@dataclass(frozen=True)
class Spikes:
    """The output of a deployed layer: whole multiples of 2^-fraction between 0 and high, equal to
    ``times`` the output of the trained network there.
    """

    node: fx.Node
    high: int = 1
    fraction: int = 0
    times: int = 1


@dataclass(frozen=True)
class Current:
    """A sum on its way to a neuron: convolutions with their inputs, plain spikes, and rounded
    convolutions.
    """

    node: fx.Node
    convs: tuple[tuple[nn.Conv2d, Spikes], ...] = ()
    spikes: tuple[Spikes, ...] = ()
    rounded: tuple[PixelConv | MembraneConv, ...] = ()
    repeated: bool = False  # [B, ...], the same at every step

    @property
    def fraction(self) -> int:
        """Fractional bits of its plain spikes."""
        return max([0, *(spikes.fraction for spikes in self.spikes)])

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest partial sum, [C], in any order of the terms."""
        nothing = torch.zeros(1, dtype=torch.float64)
        bounds = [(nothing, nothing), *(sums(conv, 0, spikes.high) for conv, spikes in self.convs)]
        for module in self.rounded:
            bounds += module.bounds()
            if module.steps is not None:  # each of them is rounded, by at most half a step
                off = len(module.bounds()) / 2 / module.steps.flatten()
                bounds += [(-off, off)]
        low, high = (sum(ends) for ends in zip(*bounds, strict=True))
        return low, high + sum(spikes.high for spikes in self.spikes)

    def shares_with(self, other: "Current") -> bool:
        return bool({*self.convs} & {*other.convs} or {*self.rounded} & {*other.rounded})

    def union(self, other: "Current") -> "Current":
        """Every term of either, as often as the one that has it more often."""
        mine, theirs = ((x.convs, x.spikes, x.rounded) for x in (self, other))
        terms = (Counter(a) | Counter(b) for a, b in zip(mine, theirs, strict=True))
        return Current(self.node, *(tuple(term.elements()) for term in terms))


@dataclass(frozen=True)
class Reader:
    """A layer that reads a current, which must leave bits for it."""

    name: str
    module: LIF | MembraneConv
    current: Current


@dataclass(frozen=True)
class _Stream:
    """Currents that share parts, and therefore a grid."""

    current: Current
    readers: list[Reader]


def snap_currents(readers: list[Reader], T: int) -> None:
    """Put every current on its grid; a current comes before those that are made of it.

    Raises:
        NotExactError: No grid keeps the weights.
    """
    streams: list[_Stream] = []
    for reader in readers:
        alike = [s for s in streams if s.current.shares_with(reader.current)]
        current, together = reader.current, [reader]
        for stream in alike:
            current, together = stream.current.union(current), stream.readers + together
        streams = [s for s in streams if s not in alike] + [_Stream(current, together)]
    while streams:
        ready = next(s for s in streams if all(m.rest is not None for m in s.current.rounded))
        _snap_stream(ready, T)
        streams.remove(ready)


def _snap_stream(stream: _Stream, T: int) -> None:
    """Choose the grid of a current, channel by channel, and put its convolutions on it."""
    x = stream.current
    raw = [(conv, conv.weight.clone(), conv.bias.clone(), spikes) for conv, spikes in x.convs]

    def snap_to(fraction: Tensor) -> None:
        for conv, weight, bias, spikes in raw:
            snap(conv, weight, bias, fraction, spikes.fraction)
        for module in x.rounded:
            module.steps = torch.exp2(fraction).float().view(1, -1, 1, 1)

    fraction = snap_to_finest(lambda: _finest(stream, T), snap_to)
    for conv, weight, *_ in raw:
        check_kept(stream.readers[0].name, weight, conv.weight)
    for reader in stream.readers:
        if isinstance(reader.module, MembraneConv):
            reader.module.take_apart(*reader.current.bounds(), fraction)


def _finest(stream: _Stream, T: int) -> Tensor:
    """The fractional bits that the largest number on the grid leaves, [C]."""
    low, high = stream.current.bounds()
    reach = torch.maximum(-low, high)
    for reader in stream.readers:
        lif, least = reader.module, stream.current.fraction
        if isinstance(lif, LIF) and lif.levels > 1:
            # Potentials are on the grid, and so is v - v_threshold.
            lowest = T * low - (T - 1) * lif.v_threshold
            reach = torch.maximum(reach, torch.maximum(-lowest, T * high) + lif.v_threshold)
            least = max(least, fraction_bits(lif.v_threshold / lif.levels))
        if (fewest := int(bits_beside(reach).min())) < least:
            raise NotExactError(
                f"{reader.name}: expected a grid of at least {least} fractional bits, got {fewest}"
            )
    return bits_beside(reach)


def check_constants(name: str, lif: LIF, T: int) -> None:
    """Raise NotExactError where the constants of a neuron round its potential for any weights."""
    if lif.levels > 1 and not (is_power_of_two(lif.levels) and is_power_of_two(lif.v_threshold)):
        raise NotExactError(
            f"{name}: expected levels and v_threshold that are powers of two, got {lif.levels} and "
            f"{lif.v_threshold}"
        )
    if not is_power_of_two(lif.decay):
        raise NotExactError(f"{name}: expected a decay that is a power of two, got {lif.decay}")
    # A current has up to 2 * BITS bits behind the point, and every step adds those of the decay.
    if (behind := (T - 1) * fraction_bits(lif.decay) + 2 * BITS) > SMALLEST:
        raise NotExactError(
            f"{name}: expected at most {SMALLEST} bits behind the point, got {behind} for {T} time "
            f"steps of decay {lif.decay}"
        )


def check_kept(name: str, before: Tensor, after: Tensor) -> None:
    """Raise NotExactError where a grid is so coarse that it changes the weights."""
    lost = (after - before).norm() / before.norm()
    if lost > COARSE:  # NaN where all weights are 0
        raise NotExactError(
            f"{name}: expected a grid that keeps the weights, got one that changes them by "
            f"{100 * lost:.0f} %"
        )
