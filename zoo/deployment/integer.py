"""Deploy a network in whole numbers of 8 bits, whose bits are the same in every runtime.

A neuron counts its spikes. With decay 1 and reset "subtract", its potential is the sum U of all
currents so far, less a threshold for every spike so far. So the count N of its spikes follows

    N[t] = clip(floor(U[t] / threshold), N[t - 1], N[t - 1] + 1)

A convolution is linear: U is the convolution of the counts of the layer before, plus t biases.
Layers therefore pass on counts, and one int8 convolution per layer and step is rounded once, down
to whole thresholds. Levels are the same with levels in place of thresholds and of the last 1.

Runtimes round halves to even or away from zero, but no half ever occurs: weights are even and
biases odd, so a sum n is odd, and n * 2^-m with m >= 2 lies between two halves. The floor is a
shift of the bias: floor(c * 2^(1-m)) = round(n * 2^-m) for n = 2c + 1 - 2^(m-1).
Shapes: T time steps, B batch, C channels, H height, W width; time is folded into the batch,
[T*B, C, H, W].
"""

import copy
import math
import operator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from zoo.deployment.grid import (
    BITS,
    NotExactError,
    is_power_of_two,
    pool_window,
    snap_sums,
    unsupported,
)
from zoo.deployment.layers import FoldedLIF, PixelConv, SpikeCountHead, SumPool2d

WEIGHT = 63  # the largest weight in steps; twice that fits int8
PIXEL_WEIGHT = 32  # int8 kernels add two products of pixels in 16 bits: 2 * 255 * 2 * 32 < 2^15
COPIES = 4  # of the pixels, whose weights add up
SHIFTS = range(12, 1, -1)  # of a sum, in bits; fixed-point runtimes have a margin of 2^-shift
BYTE = 255


class CountConv(nn.Module):
    """A convolution of counts, [T*B, C, H, W] -> whole thresholds [T*B, C', H, W] in 8 bits.

    Args:
        weight: Even whole numbers.
        bias: Odd whole numbers, [T, C'].
        shift: Bits by which a sum is shifted, [C'].
        zero: The 8-bit code of 0; the smallest result is -zero.
    """

    def __init__(self, weight, bias, shift, stride=(1, 1), padding=(0, 0), zero: int = 0):
        super().__init__()
        for name, value in (("weight", weight), ("bias", bias), ("shift", shift)):
            self.register_buffer(name, value.float())
        self.stride, self.padding, self.zero = stride, padding, zero

    def forward(self, x: Tensor) -> Tensor:
        n = F.conv2d(x, self.weight, None, self.stride, self.padding)
        n = n.unflatten(0, (len(self.bias), -1)) + self.bias[:, None, :, None, None]
        y = (n * _per_channel(torch.exp2(-self.shift))).round()
        return y.clamp(-self.zero, BYTE - self.zero).flatten(0, 1)


class PixelCountConv(PixelConv):
    """The first convolution, pixels [B, C, H, W] -> whole thresholds [T*B, C', H, W] in 8 bits.

    Its current is the same at every step, so U[t] is t times the first. In a graph the pixels lie
    side by side COPIES times, since the weight of one copy is small.

    Args:
        stem: Its convolution holds even whole numbers.
        bias: Odd whole numbers, [T, C'].
        shift: Bits by which a sum is shifted, [C'].
    """

    def __init__(self, stem: PixelConv, bias: Tensor, shift: Tensor):
        nn.Module.__init__(self)
        self.conv, self.rest, self.size = stem.conv, None, stem.size
        for name in ("mean", "std", "steps"):
            self.register_buffer(name, getattr(stem, name))
        self.register_buffer("bias", bias.float())
        self.register_buffer("shift", shift.float())

    def forward(self, x: Tensor) -> Tensor:
        n = super().forward(x)
        step = _per_channel(torch.exp2(-self.shift))
        times = enumerate(self.bias, 1)
        y = torch.cat([((n + _per_channel(bias)) * (t * step)).round() for t, bias in times])
        return y.clamp(0, BYTE)


class CountingLIF(nn.Module):
    """Counts of spikes up to each step from the whole thresholds that U reached, [T*B, ...]."""

    def __init__(self, time_steps: int, levels: int):
        super().__init__()
        self.time_steps, self.levels = time_steps, levels

    def forward(self, x: Tensor) -> Tensor:
        counts = [torch.zeros_like(x[: len(x) // self.time_steps])]
        for reached in x.unflatten(0, (self.time_steps, -1)):
            counts.append(reached.maximum(counts[-1]).minimum(counts[-1] + self.levels))
        return torch.cat(counts[1:])


class Join(nn.Module):
    """The inputs of a convolution and of the shortcut beside it as one, along the channels."""

    def __init__(self, stride: tuple[int, int]):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return torch.cat([x, shortcut[..., :: self.stride[0], :: self.stride[1]]], 1)


class SumCounts(SumPool2d):
    """The sum of counts under a window."""

    def __init__(self, pool: nn.AvgPool2d, channels: int):
        super().__init__(pool)
        self.channels = channels


class MaxCounts(nn.Module):
    """Counts of the largest output under a window at each step."""

    def __init__(self, pool: nn.MaxPool2d, time_steps: int):
        super().__init__()
        self.pool, self.time_steps = pool, time_steps

    def forward(self, x: Tensor) -> Tensor:
        counts = x.unflatten(0, (self.time_steps, -1))
        spikes = counts.diff(dim=0, prepend=torch.zeros_like(counts[:1]))
        pooled = self.pool(spikes.flatten(0, 1)).unflatten(0, (self.time_steps, -1))
        return pooled.cumsum(0).flatten(0, 1)


class CountHead(SpikeCountHead):
    """The classifier on the counts of the last step, [T*B, C, H, W] -> logits [B, K]."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.unflatten(0, (self.time_steps, -1))[-1].sum((2, 3)))


def _per_channel(x: Tensor) -> Tensor:
    return x.view(-1, 1, 1)


@dataclass(frozen=True)
class Counts:
    """Whole numbers from 0 to high, equal to ``times`` the sum of a layer's outputs so far."""

    node: fx.Node
    high: int
    times: int


@dataclass(frozen=True)
class Current:
    """Everything that a neuron adds: the first convolution, or others, and plain shortcuts."""

    stem: tuple[str, PixelConv] | None = None
    convs: tuple[tuple[str, nn.Conv2d, Counts], ...] = ()
    shortcuts: tuple[Counts, ...] = ()


@torch.no_grad()
def to_whole_numbers(folded: fx.GraphModule) -> fx.GraphModule:
    """The network of zoo.deploy(model, exact=False) in whole numbers.

    Raises:
        NotExactError: A layer has no form in whole numbers; the message names it.
    """
    return _Conversion(folded).run()


class _Conversion:
    """Walks a folded graph once and builds the graph of whole numbers beside it."""

    def __init__(self, folded: fx.GraphModule):
        self.folded, self.graph = folded, fx.Graph()
        self.modules: dict[str, nn.Module] = {}
        (head,) = (m for m in folded.modules() if isinstance(m, SpikeCountHead))
        self.T = head.time_steps

    def run(self) -> fx.GraphModule:
        size = self.folded.pretrained_cfg["input_size"]
        ShapeProp(self.folded).propagate(torch.zeros(1, *size))
        values: dict[fx.Node, Counts | Current | fx.Node] = {}
        for node in self.folded.graph.nodes:
            x = [values[arg] for arg in node.all_input_nodes]
            if node.op == "placeholder":
                values[node] = self.graph.placeholder(node.target)
            elif node.op == "output":
                self.graph.output(*x)
            elif node.op == "call_module":
                _, self.channels, *sides = node.args[0].meta["tensor_meta"].shape
                self.pixels = math.prod(sides)
                values[node] = self._module(node.target, *x)
            elif node.target is operator.add:
                values[node] = self._add(node.name, *x)
            else:
                raise unsupported(node.name, f"{node.target.__name__} in whole numbers")
        deployed = fx.GraphModule(self.modules, self.graph, class_name="Deployed").eval()
        deployed.num_classes = self.folded.num_classes
        deployed.pretrained_cfg = self.folded.pretrained_cfg
        return deployed.float().requires_grad_(False)

    def _module(self, name: str, *inputs: fx.Node | Counts | Current) -> fx.Node | Counts | Current:
        module = copy.deepcopy(self.folded.get_submodule(name))
        match module, *inputs:
            case PixelConv(), fx.Node():
                return Current(stem=(name, module))
            case FoldedLIF(), Current() as x:
                return self._neuron(name, module, x)
            case nn.Conv2d(), Counts() as x:
                return Current(convs=((name, module, x),))
            case nn.AvgPool2d(), Counts() as x:
                window = pool_window(module)
                node = self._call(name, SumCounts(module, self.channels), x.node)
                return _in_a_byte(name, Counts(node, x.high * window, x.times * window))
            case nn.MaxPool2d(), Counts() as x:
                return replace(x, node=self._call(name, MaxCounts(module, self.T), x.node))
            case SpikeCountHead(), Counts() as x:
                return self._head(name, module, x)
        kinds = [type(x).__name__ for x in inputs]
        raise unsupported(name, f"{type(module).__name__} of {kinds} in whole numbers")

    def _call(self, name: str, module: nn.Module, *x: fx.Node) -> fx.Node:
        self.modules[name] = module
        return self.graph.call_module(name, x)

    def _sum(self, name: str, left: fx.Node, right: fx.Node) -> fx.Node:
        return self.graph.create_node("call_function", operator.add, (left, right), name=name)

    def _add(self, name: str, left: Counts | Current, right: Counts | Current) -> Counts | Current:
        if isinstance(left, Counts) and isinstance(right, Counts) and left.times == right.times:
            node = self._sum(name, left.node, right.node)
            return _in_a_byte(name, Counts(node, left.high + right.high, left.times))
        left, right = (
            Current(shortcuts=(x,)) if isinstance(x, Counts) else x for x in (left, right)
        )
        if left.stem or right.stem:
            raise unsupported(name, "a sum with the first convolution in whole numbers")
        return Current(None, left.convs + right.convs, left.shortcuts + right.shortcuts)

    def _neuron(self, name: str, lif: FoldedLIF, x: Current) -> Counts:
        if self.T > 1 and (lif.decay, lif.reset) != (1, "subtract"):
            raise NotExactError(
                f"{name}: expected decay 1 and reset 'subtract' for whole numbers at {self.T} time "
                f"steps, got {lif.decay} and {lif.reset!r}"
            )
        scale = lif.levels / lif.v_threshold  # thresholds, or levels, in a current of 1
        if x.stem:
            node = self._pixels(*x.stem, scale)
        elif x.convs:
            node = self._convolution(name, x, scale)
        else:
            raise unsupported(name, "a neuron without a convolution in whole numbers")
        for shortcut in x.shortcuts:
            if len(x.shortcuts) > 1 or shortcut.times != scale:
                raise NotExactError(
                    f"{name}: expected one shortcut whose spikes are worth a threshold, got "
                    f"{len(x.shortcuts)} and a threshold of {lif.v_threshold}"
                )
            node = self._sum(f"{node.name}_sum", node, shortcut.node)
        node = self._call(name, CountingLIF(self.T, lif.levels), node)
        return Counts(node, self.T * lif.levels, lif.levels)

    def _pixels(self, name: str, stem: PixelConv, scale: float) -> fx.Node:
        weight, bias = stem.conv.weight * scale, stem.conv.bias * scale
        shifts = [shift for shift in SHIFTS if shift >= 2 + math.log2(self.T)]
        most = COPIES * PIXEL_WEIGHT
        weight, bias, shift = round_to_steps(name, weight, bias, most, self.T * BYTE, 1, shifts)
        stem.conv.weight.copy_(2 * weight)
        stem.conv.bias.zero_()
        # The shift that makes the floor is divided by t, to the next odd number.
        half = torch.exp2(shift - 1)
        floors = [1 + 2 * (-half / (2 * t)).round() for t in range(1, self.T + 1)]
        floors[0] = 1 - half
        stem = PixelCountConv(stem, 2 * bias + torch.stack(floors), shift)
        return self._call(name, stem, *self.graph.find_nodes(op="placeholder"))

    def _convolution(self, name: str, x: Current, scale: float) -> fx.Node:
        """The convolutions of a current as one; a 1x1 shortcut lies in the middle of the kernel."""
        convs = sorted(x.convs, key=lambda conv: -math.prod(conv[1].kernel_size))
        (conv_name, conv, counts), *others = convs
        weights, node = [conv.weight * scale / counts.times], counts.node
        for other_name, other, its in others:
            if other.kernel_size != (1, 1) or conv.stride != (1, 1) or not _keeps_size(conv):
                raise unsupported(other_name, "a shortcut other than a 1x1 convolution")
            rows, columns = conv.padding
            middle = other.weight * scale / its.times
            weights.append(F.pad(middle, (columns, columns, rows, rows)))
            node = self._call(f"{other_name}_joined", Join(other.stride), node, its.node)
        bias = sum(conv.bias for _, conv, _ in convs) * scale
        high = max(its.high for _, _, its in convs)
        weight, bias, shift = round_to_steps(
            name, torch.cat(weights, 1), bias, WEIGHT, high, self.T, SHIFTS
        )
        steps = torch.arange(1, self.T + 1).view(-1, 1)
        bias = 2 * steps * bias + 1 - torch.exp2(shift - 1)
        zero = 128 if x.shortcuts else 0
        module = CountConv(2 * weight, bias, shift, conv.stride, conv.padding, zero)
        return self._call(conv_name, module, node)

    def _head(self, name: str, head: SpikeCountHead, x: Counts) -> fx.Node:
        fc = head.fc.double()
        fc.weight.div_(x.times)
        snap_sums(fc, 0, self.pixels * x.high)
        fraction = None if is_power_of_two(self.pixels) else 0
        return self._call(name, CountHead(fc, self.T, fraction), x.node)


def _in_a_byte(name: str, counts: Counts) -> Counts:
    if counts.high > BYTE:
        raise NotExactError(f"{name}: expected counts up to {BYTE}, got {counts.high}")
    return counts


def _keeps_size(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == tuple(2 * pad + 1 for pad in conv.padding)


def round_to_steps(
    name: str, weight: Tensor, bias: Tensor, most: int, high: int, times: int, shifts
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and biases in steps of 2^(1 - shift), with the shift of least error in each channel.

    Args:
        weight: In thresholds, [C', C, kh, kw].
        bias: [C'], added so many times.
        most: The largest weight in steps.
        high: The largest input.
        shifts: To choose from.

    Raises:
        NotExactError: No sum of a channel stays below 2^24.
    """
    shifts = torch.tensor(shifts, dtype=weight.dtype)
    steps = torch.exp2(shifts - 1).view(-1, 1, 1, 1, 1)
    whole, biases = (weight * steps).round().clamp(-most, most), (bias * steps.flatten(1)).round()
    error = (whole / steps - weight).square().sum((2, 3, 4))
    error += (biases / steps.flatten(1) - bias).square()
    reach = 2 * high * whole.abs().sum((2, 3, 4)) + 2 * times * biases.abs() + steps.flatten(1)
    error[reach >= 2**BITS] = torch.inf
    error, best = error.min(0)
    if not error.isfinite().all():
        raise NotExactError(f"{name}: expected sums below 2^{BITS} in whole numbers")
    channels = torch.arange(len(bias))
    return whole[best, channels], biases[best, channels], shifts[best]
