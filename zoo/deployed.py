"""The network as it is deployed: norms folded, and every weight on a grid where no sum is rounded.

Spikes are 0 or 1. Where every weight is a whole multiple of 2^-k, so is every partial sum of a
convolution, and while those stay below 2^24 of that step, fp32 adds them without rounding, in any
order. A neuron adds two numbers at a time, its current and what is left of its potential: that has
no order, and IEEE rounds it the same everywhere, alone or fused with the multiplication by a decay
that is a power of two. A network whose sums all keep within that gives the same bits in every
runtime, layout, batch and number of threads. Another decay of m / 2^j is a product that would
round, so that there the potential is kept on the grid too, at j more fractional bits a time step.
Shapes: T time steps, B batch, C channels, H height, W width; time is folded into the batch here,
[T*B, C, H, W].
"""

import copy
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from timm.layers import ClassifierHead
from torch import Tensor, fx, nn

from zoo.heads import strip_heads
from zoo.layers import ConvNorm, DirectCoding, SpikeAttention, TimeFold
from zoo.neurons import LIF

BITS = 24  # of an fp32 significand
SMALLEST = 126  # bits behind the point of a number that no runtime takes for 0


class NotExactError(ValueError):
    """A network whose arithmetic fp32 would round; the message says in which layer and why."""


class FoldedLIF(LIF):
    """LIF on a current with time folded into the batch, [T*B, ...] -> spikes [T*B, ...].

    Args:
        time_steps: T.
        repeated: The current is that of one step, [B, ...], and is the same at every step.
        constants: Those of LIF.
    """

    def __init__(self, time_steps: int, repeated: bool, **constants):
        super().__init__(**constants)
        self.time_steps, self.repeated = time_steps, repeated

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self._unfolded(x)).flatten(0, 1)

    def potentials(self, x: Tensor) -> Tensor:
        """What each step compares with the threshold, [T, B, ...]."""
        return self.membrane(self._unfolded(x))

    def _unfolded(self, x: Tensor) -> Tensor:
        if self.repeated:
            return x.expand(self.time_steps, *x.shape)
        return x.unflatten(0, (self.time_steps, -1))


class PixelConv(nn.Module):
    """The first convolution, on whole pixels, its current rounded to what a current carries.

    Takes uint8 pixels or normalised floats [B, C, H, W]; a float is taken for the pixel nearest to
    it, so that what is proved of pixels holds for any input. A pixel takes 8 of the 24 bits, which
    leaves a coarse grid for the weights; what they lose on it is a second convolution's.

    Raises:
        ValueError: x has another shape or type, or would be convolved inexactly here.
    """

    def __init__(self, conv: nn.Conv2d, mean: Sequence[int], std: Sequence[int], size: tuple):
        super().__init__()
        self.conv, self.rest, self.size = conv, None, tuple(size)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("steps", None)  # of the current's grid in 1, [1, C, 1, 1]

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.size or x.dtype not in (torch.uint8, torch.float32):
            raise ValueError(
                f"x: expected {['B', *self.size]} of uint8 or float32, got {list(x.shape)} of "
                f"{x.dtype}; other sizes need another deploy"
            )
        if reason := _rounds(x.device.type):
            raise ValueError(f"x: expected exact convolutions, got {reason}")
        if x.dtype == torch.uint8:
            pixels = x.float() - self.mean
        else:
            pixels = (x * self.std).round().maximum(-self.mean).minimum(255 - self.mean)
        if self.steps is None:
            return self.conv(pixels)
        return self._on_grid(self.conv(pixels)) + self._on_grid(self.rest(pixels))

    def _on_grid(self, current: Tensor) -> Tensor:
        return (current * self.steps).round() / self.steps


def _rounds(device: str) -> str | None:
    """Why convolutions on a device may round more than they must, and what to do, or None."""
    if torch.is_autocast_enabled(device):
        return "autocast; leave it"
    if device == "cuda":
        for name, backend in (
            ("cudnn.conv", torch.backends.cudnn.conv),
            ("cuda.matmul", torch.backends.cuda.matmul),
        ):
            if backend.fp32_precision == "tf32":
                return f'TF32; set torch.backends.{name}.fp32_precision = "ieee"'
    if device == "cpu" and not torch.backends.mkldnn.enabled:
        return "NNPACK's Winograd; set torch.backends.mkldnn.enabled = True"
    return None


class SumPool2d(nn.Module):
    """The sum under a window, [N, C, H, W], of whole numbers: a rounded average is undone."""

    def __init__(self, pool: nn.AvgPool2d):
        super().__init__()
        self.pool, self.pixels = pool, _pool_window(pool)

    def forward(self, x: Tensor) -> Tensor:
        return (self.pool(x) * self.pixels).round()


class FoldedAttention(SpikeAttention):
    """SpikeAttention with time folded into the batch, [T*B, C, H, W] each, at one size of image."""

    def __init__(self, num_heads: int, scale: float, size: tuple[int, int, int]):
        super().__init__(num_heads, scale)
        self.size = size


class SpikeCountHead(nn.Module):
    """Counts the spikes of each channel over time and pixels; the classifier divides."""

    def __init__(self, fc: nn.Linear, time_steps: int):
        super().__init__()
        self.fc, self.time_steps = fc, time_steps

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.sum((2, 3)).unflatten(0, (self.time_steps, -1)).sum(0))


@dataclass(frozen=True)
class _Spikes:
    """What a layer of the deployed graph gives off: whole multiples of 2^-fraction between 0 and
    high, and times what the raw network gives off there.
    """

    node: fx.Node
    high: int = 1
    fraction: int = 0
    times: int = 1


@dataclass(frozen=True)
class _Current:
    """A sum on its way to a neuron: convolutions, each with its input, and plain spikes."""

    node: fx.Node
    convs: tuple[tuple[nn.Conv2d, _Spikes], ...] = ()
    spikes: tuple[_Spikes, ...] = ()
    pixels: PixelConv | None = None


class _Tracer(fx.Tracer):
    LEAVES = (ConvNorm, DirectCoding, TimeFold, LIF, SpikeAttention, ClassifierHead)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, self.LEAVES) or super().is_leaf_module(module, name)


@torch.no_grad()
def deploy(model: nn.Module, exact: bool = True) -> fx.GraphModule:
    """Fold every norm into its convolution and snap the weights to the finest exact grid.

    Args:
        model: A network of the zoo for still images; its heads, if any, are left out.
        exact: Snap. False leaves the folded weights as they are, which fp32 then rounds.

    Returns:
        uint8 pixels or normalised floats [B, C, H, W] of the size in its pretrained_cfg -> logits
        [B, num_classes], on the CPU and in eval mode; spiking layers keep their names.

    Raises:
        NotExactError: Some layer cannot be exact in fp32; the message names it and says why.
        ValueError: The network is none of the zoo's.
    """
    model = strip_heads(model).eval().cpu().float()
    model.set_grad_checkpointing(False)
    if broken := [k for k, v in model.state_dict().items() if not v.isfinite().all()]:
        raise ValueError(f"model: expected finite weights, got others in {broken}")
    return _Deployment(model, exact).run()


@torch.no_grad()
def why_not_exact(model: nn.Module) -> str | None:
    """Why a network cannot be exact with any weights, if its layers or the constants of its neurons
    are the reason; it may be on the meta device.
    """
    with torch.device(next(model.parameters()).device):
        try:
            _Rule(strip_heads(model).eval(), exact=False).run()
        except NotExactError as error:
            return str(error)
    return None


class _Deployment:
    """Walks the network's graph once and builds the deployed one beside it."""

    def __init__(self, model: nn.Module, exact: bool):
        self.model, self.T, self.exact = model, model.time_steps, exact
        self.graph = fx.Graph()
        self.modules: dict[str, nn.Module] = {}

    def run(self) -> fx.GraphModule:
        values: dict[fx.Node, _Spikes | _Current | fx.Node] = {}
        for node in _Tracer().trace(self.model).nodes:
            args = [values[arg] for arg in node.all_input_nodes]
            if node.op == "placeholder":
                values[node] = self.graph.placeholder(node.target)
            elif node.op == "output":
                self.graph.output(args[0])
            elif node.op == "call_module":
                values[node] = self._module(node.target, *args)
            elif node.target is operator.add:
                values[node] = self._add(*args)
            elif node.target is operator.mul and [type(x) for x in args] == [_Spikes] * 2:
                values[node] = self._product(*args)
            elif node.target is operator.sub and node.args[0] == 1:
                values[node] = self._inverse(*args)
            elif node.target == "mean" and node.args[1:] == (0,):
                values[node] = args[0]  # the classifier divides by T
            else:
                raise NotExactError(f"{node.name}: no exact form of {node.target!r} is known")
        deployed = fx.GraphModule(self.modules, self.graph, class_name="Deployed").eval()
        return deployed.float().requires_grad_(False)

    def _call(self, name: str, module: nn.Module, *x: fx.Node) -> fx.Node:
        self.modules[name] = module
        return self.graph.call_module(name, x)

    def _module(self, name: str, x: "_Spikes | _Current | fx.Node", *others: _Spikes):
        module = self.model.get_submodule(name)
        if isinstance(module, SpikeAttention):
            return self._attention(name, module, x, *others)
        if isinstance(module, DirectCoding) and isinstance(x, fx.Node):
            return self._pixels(name, module, x)
        if type(module) is LIF and isinstance(x, _Current):
            return self._neuron(name, module, x)
        if isinstance(module, TimeFold) and isinstance(x, _Spikes):
            return self._fold(name, module, x)
        if isinstance(module, ClassifierHead) and isinstance(x, _Spikes):
            return self._head(name, module, x)
        if isinstance(module, nn.Identity):
            return x
        raise NotExactError(f"{name}: no exact form of {type(module).__name__} is known here")

    def _pixels(self, name: str, coding: DirectCoding, x: fx.Node) -> _Current:
        cfg = self.model.pretrained_cfg
        mean, std = (whole_pixels(key, cfg[key]) for key in ("mean", "std"))
        if coding.conv.in_channels != len(mean) or cfg["input_size"][0] != len(mean):
            raise NotExactError(
                f"{name}: expected {len(mean)} channels, as many as pretrained_cfg's mean has, got "
                f"{coding.conv.in_channels}, and {cfg['input_size'][0]} in its input_size"
            )
        stem = PixelConv(_folded(coding.conv, coding.norm), mean, std, cfg["input_size"])
        stem.conv.weight.div_(stem.std)
        if self.exact:
            stem.rest = copy.deepcopy(stem.conv)
            _snap_sums(stem.conv, -stem.mean, 255 - stem.mean)
            stem.rest.weight.sub_(stem.conv.weight)
            stem.rest.bias.sub_(stem.conv.bias)
            _snap_sums(stem.rest, -stem.mean, 255 - stem.mean)
        return _Current(self._call(name, stem, x), pixels=stem)

    def _fold(self, name: str, layers: TimeFold, x: _Spikes) -> "_Spikes | _Current":
        """A pool, a convolution with its norm, or the one before the other."""
        parts = list(layers)
        if _is_plain_maximum(parts[0]):  # of whole multiples it is one of them
            x = replace(x, node=self._call(f"{name}.pool", parts.pop(0), x.node))
        elif isinstance(parts[0], nn.AvgPool2d):
            x = self._pool(f"{name}.pool", parts.pop(0), x)
        if not parts:
            return x
        if [type(part) for part in parts] != [nn.Conv2d, nn.BatchNorm2d]:
            raise NotExactError(f"{name}: no exact form of {layers} is known")
        conv = _folded(*parts)
        conv.weight.div_(x.times)
        return _Current(self._call(f"{name}.conv", conv, x.node), convs=((conv, x),))

    def _pool(self, name: str, pool: nn.AvgPool2d, x: _Spikes) -> _Spikes:
        window = _pool_window(pool)
        if window & (window - 1) == 0:  # a division by a power of two
            fraction = x.fraction + window.bit_length() - 1
            return _Spikes(self._call(name, pool, x.node), x.high, fraction, x.times)
        if x.fraction:
            raise NotExactError(f"{name}: expected whole numbers to sum up, got averages")
        node = self._call(name, SumPool2d(pool), x.node)
        return _Spikes(node, x.high * window, 0, x.times * window)

    def _attention(self, name: str, attention: SpikeAttention, *x: "_Spikes | _Current"):
        """Counts of spikes that meet, which take as many bits in whatever order they are summed."""
        if not all(isinstance(part, _Spikes) and part.times == 1 for part in x):
            raise NotExactError(f"{name}: expected spikes in, got other numbers")
        if not _is_power_of_two(attention.scale):
            raise NotExactError(
                f"{name}: expected a power of two, got a scale of {attention.scale}"
            )
        size = self._size_behind(name)
        folded = FoldedAttention(attention.num_heads, attention.scale, size)
        met = math.prod(size) // attention.num_heads * math.prod(part.high for part in x)
        fraction = sum(part.fraction for part in x) - int(math.log2(attention.scale))
        node = self._call(name, folded, *(part.node for part in x))
        return self._as_current(_Spikes(node, math.ceil(met * attention.scale), fraction))

    def _size_behind(self, name: str) -> tuple[int, int, int]:
        """Channels, height and width of what a layer gives off."""
        found = []
        layer = self.model.get_submodule(name)
        handle = layer.register_forward_hook(lambda *args: found.append(args[2].shape[-3:]))
        self.model.forward_features(torch.zeros(1, *self.model.pretrained_cfg["input_size"]))
        handle.remove()
        return tuple(found[0])

    def _function(self, function, args: tuple, name: str) -> fx.Node:
        return self.graph.create_node("call_function", function, args, name=name)

    def _product(self, left: _Spikes, right: _Spikes) -> _Spikes:
        node = self._function(operator.mul, (left.node, right.node), f"{left.node.name}_and")
        return _Spikes(
            node,
            left.high * right.high,
            left.fraction + right.fraction,
            left.times * right.times,
        )

    def _inverse(self, x: "_Spikes | _Current") -> _Spikes:
        if not (isinstance(x, _Spikes) and (x.high, x.times) == (1, 1)):
            raise NotExactError(f"{x.node.name}: expected spikes to take from 1, got other numbers")
        return replace(x, node=self._function(operator.sub, (1, x.node), f"{x.node.name}_not"))

    def _add(self, left: "_Spikes | _Current", right: "_Spikes | _Current") -> "_Spikes | _Current":
        if isinstance(left, _Spikes) and isinstance(right, _Spikes):
            return self._count(left, right)
        left, right = self._as_current(left), self._as_current(right)
        node = self.graph.create_node(
            "call_function", operator.add, (left.node, right.node), name=f"{left.node.name}_sum"
        )
        if left.pixels or right.pixels:
            raise NotExactError(f"{node.name}: expected a neuron after the first convolution")
        return _Current(node, left.convs + right.convs, left.spikes + right.spikes)

    def _count(self, left: _Spikes, right: _Spikes) -> _Spikes:
        node = self._function(operator.add, (left.node, right.node), f"{left.node.name}_sum")
        if left.times != right.times:
            raise NotExactError(f"{node.name}: expected spikes, got some that are averages")
        fraction = max(left.fraction, right.fraction)
        return _Spikes(node, left.high + right.high, fraction, left.times)

    def _as_current(self, x: "_Spikes | _Current") -> _Current:
        if isinstance(x, _Current):
            return x
        if x.times == 1:
            return _Current(x.node, spikes=(x,))
        # Sums where the raw network has averages: a factor, on the grid as weights are.
        channels = self._channels(x.node)
        factor = nn.Conv2d(channels, channels, 1, groups=channels).double()
        factor.weight.fill_(1 / x.times)
        factor.bias.zero_()
        node = self._call(f"{x.node.target}_average", factor, x.node)
        return _Current(node, convs=((factor, x),))

    def _channels(self, node: fx.Node) -> int:
        module = self.modules[node.target]
        if isinstance(module, nn.Conv2d | PixelConv):
            return getattr(module, "conv", module).out_channels
        return self._channels(node.all_input_nodes[0])

    def _neuron(self, name: str, lif: LIF, x: _Current) -> _Spikes:
        if self.exact:
            self._snap(name, lif, x)
        folded = FoldedLIF(self.T, repeated=x.pixels is not None, **lif.constants())
        return _Spikes(self._call(name, folded, x.node))

    def _snap(self, name: str, lif: LIF, x: _Current) -> None:
        """Choose the grid of a current, channel by channel, and put its convolutions on it."""
        least, lost = self._demands(lif, x)
        raw = [(conv, conv.weight.clone(), conv.bias.clone(), spikes) for conv, spikes in x.convs]
        fraction = self._spare_bits(lif, x) - lost
        finest = int(fraction.max()) + (self.T - 1) * _fraction_bits(lif.decay)
        if finest > SMALLEST:
            raise NotExactError(
                f"{name}: expected at most {SMALLEST} bits behind the point, got {finest}"
            )
        too_fine = torch.ones_like(fraction)
        while too_fine.any():
            self._check_grid(name, lif, int(fraction.min()), least, lost)
            for conv, weight, bias, spikes in raw:
                conv.weight.copy_(_snapped(weight, fraction - spikes.fraction))
                conv.bias.copy_(_snapped(bias, fraction))
            if x.pixels:
                x.pixels.steps = torch.exp2(fraction).float().view(1, -1, 1, 1)
            # Rounding may have made a sum larger.
            too_fine = (fraction > self._spare_bits(lif, x) - lost).double()
            fraction = fraction - too_fine

    def _demands(self, lif: LIF, x: _Current) -> tuple[int, int]:
        """The fewest bits behind the point that a current may have, and those that time takes."""
        least = max([0, *(spikes.fraction for spikes in x.spikes)])
        if _is_power_of_two(lif.decay):
            return least, 0
        if lif.reset == "subtract" and self.T > 1:
            least = max(least, _fraction_bits(lif.v_threshold))
        return least, (self.T - 1) * _fraction_bits(lif.decay)

    def _check_grid(self, name: str, lif: LIF, fraction: int, least: int, lost: int) -> None:
        if fraction < least:
            raise NotExactError(
                f"{name}: expected a grid of at least {least} fractional bits, got {fraction}; "
                f"{self.T} time steps of decay {lif.decay} take {lost} of fp32's {BITS} bits"
            )

    def _spare_bits(self, lif: LIF, x: _Current) -> Tensor:
        """Bits that the largest number to be kept on the grid leaves for the fraction, [C]."""
        nothing = torch.zeros(1, dtype=torch.float64)
        bounds = [(nothing, nothing), *(_sums(conv, 0, spikes.high) for conv, spikes in x.convs)]
        if x.pixels:
            pixels = -x.pixels.mean, 255 - x.pixels.mean
            bounds += [_sums(conv, *pixels) for conv in (x.pixels.conv, x.pixels.rest)]
            if x.pixels.steps is not None:  # both are rounded
                bounds += [(-1 / x.pixels.steps.flatten(), 1 / x.pixels.steps.flatten())]
        low, high = (sum(ends) for ends in zip(*bounds, strict=True))
        high = high + sum(spikes.high for spikes in x.spikes)
        steps = 1 if _is_power_of_two(lif.decay) else self.T
        return _bits_beside(_potential(lif, steps, low, high))

    def _head(self, name: str, head: ClassifierHead, x: _Spikes) -> fx.Node:
        if head.global_pool.pool_type != "avg" or not isinstance(head.fc, nn.Linear):
            raise NotExactError(f"{name}: expected average pooling and a classifier, got {head}")
        pixels = self._pixels_behind()
        fc = copy.deepcopy(head.fc).double()
        fc.weight.copy_(head.fc.weight / (self.T * pixels * x.times))
        fc.bias.copy_(head.fc.bias)
        if self.exact:
            _snap_sums(fc, 0, self.T * pixels * x.high, x.fraction)
        return self._call(name, SpikeCountHead(fc, self.T), x.node)

    def _pixels_behind(self) -> int:
        """Of the last feature map."""
        image = torch.zeros(1, *self.model.pretrained_cfg["input_size"])
        return self.model.forward_features(image)[0, 0].numel()


class _Rule(_Deployment):
    """The same walk, which asks of a neuron's constants alone whether any grid would do."""

    def _neuron(self, name: str, lif: LIF, x: _Current) -> _Spikes:
        least, lost = self._demands(lif, x)
        # A current that makes it fire reaches the threshold, which takes its bits before the point.
        most = BITS - math.ceil(math.log2(lif.v_threshold)) - lost
        self._check_grid(name, lif, most, least, lost)
        return super()._neuron(name, lif, x)

    def _pixels_behind(self) -> int:
        return 1  # any number will do


def _sums(layer: nn.Conv2d | nn.Linear, low, high) -> tuple[Tensor, Tensor]:
    """The least and the greatest partial sum of each output channel, in any order of its terms, of
    inputs between low <= 0 and high >= 0 (numbers, or [1, C, 1, 1]).
    """
    weight, bias = layer.weight.double(), layer.bias.double()
    ends = torch.stack([weight * low, weight * high])
    axes = tuple(range(1, weight.ndim))
    least = ends.amin(0).clamp(max=0).sum(axes) + bias.clamp(max=0)
    return least, ends.amax(0).clamp(min=0).sum(axes) + bias.clamp(min=0)


def _potential(lif: LIF, T: int, low: Tensor, high: Tensor) -> Tensor:
    """The largest potential, [C], after T steps of a current between low <= 0 and high >= 0."""
    v_low, v_high = low, high
    for _ in range(T - 1):
        after = v_low - lif.v_threshold if lif.reset == "subtract" else v_low
        v_low, v_high = lif.decay * after + low, lif.decay * v_high + high
    return torch.maximum(-v_low, v_high)


def _bits_beside(reach: Tensor) -> Tensor:
    """Fractional bits that numbers up to reach leave; twice BITS where all are next to nothing."""
    return BITS - torch.log2(reach).ceil().clamp(min=-BITS)


def _snapped(weight: Tensor, fraction: Tensor) -> Tensor:
    """Rounded to whole multiples of 2^-fraction, one for each output channel."""
    step = torch.exp2(-fraction).view(-1, *[1] * (weight.ndim - 1))
    return (weight / step).round() * step


def _snap_sums(layer: nn.Conv2d | nn.Linear, low, high, fraction: int = 0) -> None:
    """Put a layer whose own sums are all there is on its finest grid, for inputs between low and
    high in steps of 2^-fraction.
    """
    weight, bias = layer.weight.clone(), layer.bias.clone()
    spare = _bits_beside(_reach(layer, low, high))
    too_fine = torch.ones_like(spare)
    while too_fine.any():
        layer.weight.copy_(_snapped(weight, spare - fraction))
        layer.bias.copy_(_snapped(bias, spare))
        too_fine = (spare > _bits_beside(_reach(layer, low, high))).double()  # as in a neuron's
        spare = spare - too_fine


def _reach(layer: nn.Conv2d | nn.Linear, low, high) -> Tensor:
    return torch.maximum(*(ends.abs() for ends in _sums(layer, low, high)))


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """The convolution with the norm's running statistics in its weights, in fp64."""
    folded = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding
    ).double()
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    folded.weight.copy_(conv.weight * scale.view(-1, 1, 1, 1))
    folded.bias.copy_(norm.bias - norm.running_mean * scale)
    return folded


def _is_plain_maximum(pool: nn.Module) -> bool:
    return (
        isinstance(pool, nn.MaxPool2d)
        and pool.dilation == 1
        and not (pool.ceil_mode or pool.return_indices)
    )


def _pool_window(pool: nn.AvgPool2d) -> int:
    """Pixels that a padded average divides by."""
    if not pool.count_include_pad or pool.divisor_override or pool.ceil_mode:
        raise NotExactError(f"{pool}: expected an average that always divides by its window")
    sides = pool.kernel_size if isinstance(pool.kernel_size, tuple) else (pool.kernel_size,) * 2
    return math.prod(sides)


def _fraction_bits(value: float) -> int:
    """How many bits stand behind the point."""
    return Fraction(value).denominator.bit_length() - 1


def _is_power_of_two(decay: float) -> bool:
    """Whether a product with it is never rounded; 0 counts."""
    return math.frexp(decay)[0] in (0.0, 0.5)


def whole_pixels(key: str, values: Sequence[float]) -> list[int]:
    """A pretrained_cfg's mean or std in pixel values.

    Raises:
        NotExactError: They are not whole, so that a normalised pixel is no pixel any more.
    """
    pixels = [round(255 * value) for value in values]
    if any(abs(255 * value - pixel) > 1e-6 for value, pixel in zip(values, pixels, strict=True)):
        raise NotExactError(
            f"pretrained_cfg.{key}: expected whole numbers over 255, got {list(values)}"
        )
    if key == "std" and min(pixels) <= 0:
        raise NotExactError(f"pretrained_cfg.std: expected numbers > 0, got {list(values)}")
    return pixels
