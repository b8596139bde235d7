"""The currents of a deployed network, and the grid that each of them is put on.

A current is all that a neuron adds up at a time step. Its grid is the finest on which no sum of it
is rounded, nor any potential that must not be. Currents that have parts in common share one.
Shapes: T time steps, C channels.
"""

import math
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
    potential,
    snapped,
    snapped_bias,
    sums,
    threshold_bits,
)
from zoo.deployment.layers import MembraneConv, PixelConv
from zoo.neurons import LIF

COARSE = 2**-5  # of a layer's weights, by norm, may be lost on the grid


@dataclass(frozen=True)
class Spikes:
    """What a layer of the deployed graph gives off: whole multiples of 2^-fraction between 0 and
    high, and times what the raw network gives off there.
    """

    node: fx.Node
    high: int = 1
    fraction: int = 0
    times: int = 1


@dataclass(frozen=True)
class Current:
    """A sum on its way to a neuron: convolutions, each with its input, plain spikes, and what is
    rounded to its grid.
    """

    node: fx.Node
    convs: tuple[tuple[nn.Conv2d, Spikes], ...] = ()
    spikes: tuple[Spikes, ...] = ()
    rounded: tuple[PixelConv | MembraneConv, ...] = ()
    repeated: bool = False  # [B, ...] for every step

    def shares_with(self, other: "Current") -> bool:
        return bool({*self.convs} & {*other.convs} or {*self.rounded} & {*other.rounded})

    def union(self, other: "Current") -> "Current":
        """All that either adds up, as often as one of them does."""
        mine, theirs = ((x.convs, x.spikes, x.rounded) for x in (self, other))
        terms = (Counter(a) | Counter(b) for a, b in zip(mine, theirs, strict=True))
        return Current(self.node, *(tuple(term.elements()) for term in terms))


@dataclass(frozen=True)
class Reader:
    """What a current is read by, which it must leave bits for."""

    name: str
    module: LIF | MembraneConv
    current: Current


@dataclass(frozen=True)
class _Stream:
    """Currents that have parts in common, all of which are on one grid then."""

    current: Current
    readers: list[Reader]


def snap(readers: list[Reader], T: int) -> None:
    """Put every current on its grid, those first that others are made of.

    Raises:
        NotExactError: There is none that keeps its weights.
    """
    streams: list[_Stream] = []
    for reader in readers:
        alike = [s for s in streams if s.current.shares_with(reader.current)]
        current, together = reader.current, [reader]
        for stream in alike:
            current, together = stream.current.union(current), stream.readers + together
        streams = [s for s in streams if s not in alike] + [_Stream(current, together)]
    while streams:
        ready = [s for s in streams if all(m.rest is not None for m in s.current.rounded)]
        if not ready:
            name = streams[0].readers[0].name
            raise NotExactError(f"{name}: expected a current that is no part of itself")
        _snap_stream(ready[0], T)
        streams.remove(ready[0])


def _snap_stream(stream: _Stream, T: int) -> None:
    """Choose the grid of a current, channel by channel, and put its convolutions on it."""
    x = stream.current
    raw = [(conv, conv.weight.clone(), conv.bias.clone(), spikes) for conv, spikes in x.convs]
    fraction = _finest(stream, T)
    too_fine = torch.ones_like(fraction)
    while too_fine.any():
        for conv, weight, bias, spikes in raw:
            conv.weight.copy_(snapped(weight, fraction - spikes.fraction))
            conv.bias.copy_(snapped_bias(bias, fraction))
        for module in x.rounded:
            module.steps = torch.exp2(fraction).float().view(1, -1, 1, 1)
        # Rounding may have made a sum larger.
        too_fine = (fraction > _finest(stream, T)).double()
        fraction = fraction - too_fine
    for conv, weight, *_ in raw:
        reader = stream.readers[0]
        why = f", of {int(fraction.min())} fractional bits"
        if isinstance(lif := reader.module, LIF):
            why += _time_takes(lif, T, _demands(lif, T, reader.current)[1])
        check_kept(reader.name, weight, conv.weight, why)
    for reader in stream.readers:
        if isinstance(reader.module, MembraneConv):
            reader.module.take_apart(*_bounds(reader.current), fraction)


def check_kept(name: str, before: Tensor, after: Tensor, grid: str) -> None:
    """Raise NotExactError where so few bits are left that other weights are on the grid."""
    lost = (after - before).norm() / before.norm()
    if lost > COARSE:  # of weights that are all 0 it is no number
        raise NotExactError(
            f"{name}: expected a grid that keeps the weights, got one that changes them by "
            f"{100 * lost:.0f} %{grid}"
        )


def _demands(lif: LIF, T: int, x: Current) -> tuple[int, int]:
    """The fewest bits behind the point that a current may have, and those that time takes."""
    least = _least(x)
    if lif.levels > 1:
        return max(least, fraction_bits(lif.v_threshold / lif.levels)), 0
    if is_power_of_two(lif.decay):
        return least, 0
    return max(least, _subtracted(lif, T)), (T - 1) * fraction_bits(lif.decay)


def _behind(lif: LIF, T: int, current: int) -> int:
    """Bits behind the point of the last potential, of a current with so many."""
    return (T - 1) * fraction_bits(lif.decay) + max(current, _subtracted(lif, T))


def _subtracted(lif: LIF, T: int) -> int:
    """Bits behind the point of what is subtracted from a potential before another step."""
    return threshold_bits(lif) if lif.reset == "subtract" and T > 1 else 0


def _time_takes(lif: LIF, T: int, lost: int) -> str:
    said = f"; {T} time steps of decay {lif.decay} take {lost} of fp32's {BITS} bits"
    return said if lost else ""


def _finest(stream: _Stream, T: int) -> Tensor:
    """The bits behind the point that the largest number to be kept on the grid leaves, [C].

    Raises:
        NotExactError: They are too few, or too many.
    """
    low, high = _bounds(stream.current)
    finest = []
    for reader in stream.readers:
        least, lost, reach, why = _least(stream.current), 0, torch.maximum(-low, high), ""
        if isinstance(lif := reader.module, LIF):
            least, lost = _demands(lif, T, stream.current)
            why = _time_takes(lif, T, lost)
            if lost:
                reach = potential(lif, T, low, high)
            if lif.levels > 1:  # v - v_threshold is a potential too
                reach = potential(lif, T, low, high) + lif.v_threshold
            finest_current = int((bits_beside(reach) - lost).max())
            _check_behind(reader.name, _behind(lif, T, finest_current))
        finest.append(bits_beside(reach) - lost)
        _check_grid(reader.name, int(finest[-1].min()), least, why)
    return torch.stack(finest).amin(0)


def _least(x: Current) -> int:
    """Bits behind the point that the spikes in a current have."""
    return max([0, *(spikes.fraction for spikes in x.spikes)])


def _check_behind(name: str, fraction: int) -> None:
    if fraction > SMALLEST:
        raise NotExactError(
            f"{name}: expected at most {SMALLEST} bits behind the point, got {fraction}"
        )


def check_constants(name: str, lif: LIF, T: int, x: Current) -> None:
    """Raise NotExactError where a neuron's constants alone leave no grid."""
    check_threshold(name, lif)
    least, lost = _demands(lif, T, x)
    # A current that makes it fire reaches the threshold, which takes its bits before the point.
    most = BITS - math.ceil(math.log2(lif.v_threshold)) - lost
    _check_grid(name, most, least, _time_takes(lif, T, lost))
    _check_behind(name, _behind(lif, T, least))


def check_threshold(name: str, lif: LIF) -> None:
    """Raise NotExactError for a threshold that some runtime would compare otherwise."""
    if lif.v_threshold < 2.0**-SMALLEST:
        raise NotExactError(
            f"{name}: expected a v_threshold that no runtime takes for 0, 2^-{SMALLEST} or more, "
            f"got {lif.v_threshold}"
        )
    if lif.v_threshold > 2.0**SMALLEST:
        raise NotExactError(
            f"{name}: expected a v_threshold of 2^{SMALLEST} or less, got {lif.v_threshold}"
        )
    if lif.levels > 1 and not (is_power_of_two(lif.levels) and is_power_of_two(lif.v_threshold)):
        raise NotExactError(
            f"{name}: expected powers of two, got {lif.levels} levels of a v_threshold of "
            f"{lif.v_threshold}"
        )


def _check_grid(name: str, fraction: int, least: int, why: str) -> None:
    if fraction < least:
        raise NotExactError(
            f"{name}: expected a grid of at least {least} fractional bits, got {fraction}{why}"
        )


def _bounds(x: Current) -> tuple[Tensor, Tensor]:
    """The least and the greatest partial sum of a current, [C], in any order of its terms."""
    nothing = torch.zeros(1, dtype=torch.float64)
    bounds = [(nothing, nothing), *(sums(conv, 0, spikes.high) for conv, spikes in x.convs)]
    for module in x.rounded:
        bounds += module.bounds()
        if module.steps is not None:  # each of them is rounded, by half a step at most
            off = len(module.bounds()) / 2 / module.steps.flatten()
            bounds += [(-off, off)]
    low, high = (sum(ends) for ends in zip(*bounds, strict=True))
    return low, high + sum(spikes.high for spikes in x.spikes)
