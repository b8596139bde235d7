"""The network as it is deployed: norms folded, and every weight on a grid where no sum is rounded.

Spikes are 0 or 1. Where every weight is a whole multiple of 2^-k, so is every partial sum of a
convolution, and while those stay below 2^24 of that step, fp32 adds them without rounding, in any
order. A neuron adds two numbers at a time, its current and what is left of its potential: that has
no order, and IEEE rounds it the same everywhere, alone or fused with the multiplication by a decay
that is a power of two. A network whose sums all keep within that gives the same bits in every
runtime, layout, batch and number of threads. Another decay of m / 2^j is a product that would
round, so that there the potential is kept on the grid too, at j more fractional bits a time step.
Rates of 2^n levels are multiples of 2^-n; their potential is kept on the grid as well, as it meets
more than one comparison.
Shapes: T time steps, B batch, C channels, H height, W width; time is folded into the batch here,
[T*B, C, H, W].
"""

import copy
import functools
import math
import operator
from collections import Counter
from dataclasses import dataclass, replace

import torch
from timm.layers import ClassifierHead, to_2tuple, unfreeze_batch_norm_2d
from timm.utils import unwrap_model
from torch import Tensor, fx, nn

from zoo.attention import ChannelSpatialAttention, Gate
from zoo.folded import (
    CutPool2d,
    FoldedAttention,
    FoldedLIF,
    FoldedSpikeAttention,
    MembraneConv,
    PixelConv,
    Repeat,
    SpikeCountHead,
    SumPool2d,
    fold_norm,
)
from zoo.grid import (
    BITS,
    SMALLEST,
    NotExactError,
    bits_beside,
    fraction_bits,
    is_power_of_two,
    pool_window,
    potential,
    snap_sums,
    snapped,
    snapped_bias,
    sums,
    threshold_bits,
    whole_pixels,
)
from zoo.heads import strip_heads
from zoo.hooks import hooks
from zoo.layers import ConvNorm, DirectCoding, SpikeAttention, TimeFold
from zoo.neurons import LIF

COARSE = 2**-5  # of a layer's weights, by norm, may be lost on the grid
SIGMAS = 64  # deviations from its norm's bias at which a convolution of a current is cut off


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
    """A sum on its way to a neuron: convolutions, each with its input, plain spikes, and what is
    rounded to its grid.
    """

    node: fx.Node
    convs: tuple[tuple[nn.Conv2d, _Spikes], ...] = ()
    spikes: tuple[_Spikes, ...] = ()
    rounded: tuple[PixelConv | MembraneConv, ...] = ()
    repeated: bool = False  # [B, ...] for every step

    def shares_with(self, other: "_Current") -> bool:
        return bool({*self.convs} & {*other.convs} or {*self.rounded} & {*other.rounded})

    def union(self, other: "_Current") -> "_Current":
        """All that either adds up, as often as one of them does."""
        mine, theirs = ((x.convs, x.spikes, x.rounded) for x in (self, other))
        terms = (Counter(a) | Counter(b) for a, b in zip(mine, theirs, strict=True))
        return _Current(self.node, *(tuple(term.elements()) for term in terms))


@dataclass(frozen=True)
class _Reader:
    """What a current is read by, which it must leave bits for."""

    name: str
    module: LIF | MembraneConv
    current: _Current


@dataclass(frozen=True)
class _Stream:
    """Currents that have parts in common, all of which are on one grid then."""

    current: _Current
    readers: list[_Reader]


class _Tracer(fx.Tracer):
    LEAVES = (
        ConvNorm,
        DirectCoding,
        TimeFold,
        LIF,
        SpikeAttention,
        Gate,
        ChannelSpatialAttention,
        ClassifierHead,
    )

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, self.LEAVES) or super().is_leaf_module(module, name)


@torch.no_grad()
def deploy(model: nn.Module, exact: bool = True) -> fx.GraphModule:
    """Fold every norm into its convolution and snap the weights to the finest exact grid.

    Args:
        model: A network of the zoo for still images, also in torch.compile's or
            DistributedDataParallel's wrapping; its heads, if any, are left out.
        exact: Snap. False leaves the folded weights as they are, which fp32 then rounds.

    Returns:
        uint8 pixels or normalised floats [B, C, H, W] of the size in its pretrained_cfg -> logits
        [B, num_classes], on the CPU and in eval mode; spiking layers keep their names. Called with
        images of another size or type, or where a convolution would not be plain fp32 (autocast,
        TF32, cuDNN, NNPACK), it raises ValueError.

    Raises:
        NotExactError: Some layer cannot be exact in fp32; the message names it and says why.
        ValueError: The network is none of the zoo's, or its weights are not finite.
    """
    model = _bare(model).cpu().float()
    model.set_grad_checkpointing(False)
    if broken := [k for k, v in model.state_dict().items() if not v.isfinite().all()]:
        raise ValueError(f"model: expected finite weights, got others in {broken}")
    with torch.device("cpu"):  # whatever torch.set_default_device says
        return _Deployment(model, exact).run()


@torch.no_grad()
def why_not_exact(model: nn.Module) -> str | None:
    """Why a network cannot be exact with any weights.

    Args:
        model: A network of the zoo; it may be on the meta device.

    Returns:
        The reason, where layers or constants of neurons are one; None where weights alone decide.
    """
    model = _bare(model)
    if (device := next(model.parameters()).device).type != "meta":
        device = "cpu"  # some accelerators know no fp64
    with torch.device(device):
        try:
            _Rule(model.to(device), exact=True).run()
        except NotExactError as error:
            return str(error)
    return None


def _bare(model: nn.Module) -> nn.Module:
    """A copy in eval mode, without wrapping and heads, and with norms in place of frozen ones."""
    return unfreeze_batch_norm_2d(strip_heads(unwrap_model(model))).eval()


class _Deployment:
    """Walks the network's graph once and builds the deployed one beside it."""

    def __init__(self, model: nn.Module, exact: bool):
        self.model, self.T, self.exact = model, model.time_steps, exact
        self.graph = fx.Graph()
        self.modules: dict[str, nn.Module] = {}
        self.readers: list[_Reader] = []

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
            elif node.target is operator.mul and not self.exact:
                factors = tuple(x.node for x in args)
                values[node] = _Current(self._function(operator.mul, factors, node.name))
            else:
                raise NotExactError(f"{node.name}: no exact form of {node.target!r} is known")
        if self.exact:
            self._snap()
        deployed = fx.GraphModule(self.modules, self.graph, class_name="Deployed").eval()
        return deployed.float().requires_grad_(False)

    def _call(self, name: str, module: nn.Module, *x: fx.Node) -> fx.Node:
        self.modules[name] = module
        return self.graph.call_module(name, x)

    def _module(self, name: str, x: "_Spikes | _Current | fx.Node", *others: _Spikes):
        module = self.model.get_submodule(name)
        if isinstance(module, SpikeAttention):
            return self._spike_attention(name, module, x, *others)
        if isinstance(module, DirectCoding) and isinstance(x, fx.Node):
            return self._pixels(name, module, x)
        if type(module) is LIF and isinstance(x, _Current):
            return self._neuron(name, module, x)
        if isinstance(module, TimeFold) and isinstance(x, _Spikes):
            return self._fold(name, module, x)
        if isinstance(module, TimeFold) and isinstance(x, _Current):
            return self._fold_current(name, module, x)
        if isinstance(module, Gate | ChannelSpatialAttention) and isinstance(x, _Current):
            return self._attention(name, module, x)
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
        stem = fold_norm(*_conv_and_norm(name, [*coding]))
        stem = PixelConv(stem, mean, std, cfg["input_size"])
        stem.conv.weight.div_(stem.std)
        if self.exact:
            stem.rest = copy.deepcopy(stem.conv)
            self._put_on_grid(stem.conv, -stem.mean, 255 - stem.mean)
            stem.rest.weight.sub_(stem.conv.weight)
            stem.rest.bias.sub_(stem.conv.bias)
            self._put_on_grid(stem.rest, -stem.mean, 255 - stem.mean)
        return _Current(self._call(name, stem, x), rounded=(stem,), repeated=True)

    def _fold(self, name: str, layers: TimeFold, x: _Spikes) -> "_Spikes | _Current":
        """A pool, a convolution with its norm, or the one before the other."""
        parts = list(layers)
        if _is_plain_maximum(parts[0]):  # of whole multiples it is one of them
            x = replace(x, node=self._call(f"{name}.pool", parts.pop(0), x.node))
        elif isinstance(parts[0], nn.AvgPool2d):
            x = self._pool(f"{name}.pool", self._at_size(name, parts.pop(0)), x)
        if not parts:
            return x
        conv = fold_norm(*_conv_and_norm(name, parts))
        conv.weight.div_(x.times)
        return _Current(self._call(f"{name}.conv", conv, x.node), convs=((conv, x),))

    def _fold_current(self, name: str, layers: TimeFold, x: _Current) -> _Current:
        """A 1x1 convolution of a current with its norm, and a pool before it."""
        parts = list(layers)
        is_pooled = isinstance(parts[0], nn.AvgPool2d)
        pool = self._at_size(name, parts.pop(0)) if is_pooled else None
        conv, norm = _conv_and_norm(name, parts)
        limit = norm.bias.abs().double() + SIGMAS * norm.weight.abs().double()
        conv = fold_norm(conv, norm)
        if not self.exact:
            node = x.node if pool is None else self._call(f"{name}.pool", pool, x.node)
            return _Current(self._call(f"{name}.conv", conv, node), repeated=x.repeated)
        if conv.kernel_size != (1, 1) or conv.padding != (0, 0):
            raise NotExactError(f"{name}: expected a 1x1 convolution of a current, got {conv}")
        if conv.stride != (1, 1):
            if pool is not None:
                raise NotExactError(f"{name}: expected a pool or a stride, got both")
            pool, conv.stride = nn.AvgPool2d(1, conv.stride), (1, 1)
        if pool is not None and not is_power_of_two(pool_window(pool)):
            raise NotExactError(f"{name}: expected averages of 2^n pixels of a current, got {pool}")
        membrane = MembraneConv(conv, pool, limit.log2().ceil().clamp(min=-BITS).exp2())
        self.readers.append(_Reader(name, membrane, x))
        node = self._call(f"{name}.conv", membrane, x.node)
        return _Current(node, rounded=(membrane,), repeated=x.repeated)

    def _attention(self, name: str, module: nn.Module, x: _Current) -> _Current:
        if self.exact:
            raise NotExactError(f"{name}: multiplies by learned numbers, products that fp32 rounds")
        folded = FoldedAttention(copy.deepcopy(module), self.T, x.repeated)
        return _Current(self._call(name, folded, x.node))

    def _at_size(self, name: str, pool: nn.AvgPool2d) -> nn.AvgPool2d:
        """The average that a layer begins with, at the size of image that this is deployed for."""
        pool_window(pool)
        if not pool.ceil_mode:
            return pool
        sides, strides = to_2tuple(pool.kernel_size), to_2tuple(pool.stride)
        size = self._sizes[name][0][-2:]
        outside = [(k - n) % s for n, k, s in zip(size, sides, strides, strict=True)]
        # A window that would lie outside as a whole is none.
        beyond = (n if n < k else 0 for n, k in zip(outside, sides, strict=True))
        return CutPool2d(pool, tuple(beyond))

    def _pool(self, name: str, pool: nn.AvgPool2d, x: _Spikes) -> _Spikes:
        window = pool_window(pool)
        if not self.exact or window & (window - 1) == 0:  # a division by a power of two
            fraction = x.fraction + window.bit_length() - 1
            return _Spikes(self._call(name, pool, x.node), x.high, fraction, x.times)
        if x.fraction:
            raise NotExactError(f"{name}: expected whole numbers to sum up, got averages or rates")
        node = self._call(name, SumPool2d(pool), x.node)
        return _Spikes(node, x.high * window, 0, x.times * window)

    def _spike_attention(self, name: str, attention: SpikeAttention, *x: "_Spikes | _Current"):
        """Counts of spikes that meet, which take as many bits in whatever order they are summed."""
        if not all(isinstance(part, _Spikes) and part.times == 1 for part in x):
            raise NotExactError(f"{name}: expected spikes in, got other numbers")
        if self.exact and not is_power_of_two(attention.scale):
            raise NotExactError(
                f"{name}: expected a power of two, got a scale of {attention.scale}"
            )
        size = tuple(self._sizes[name][1][-3:])
        folded = FoldedSpikeAttention(attention.num_heads, attention.scale, size)
        met = math.prod(size) // attention.num_heads * math.prod(part.high for part in x)
        fraction = sum(part.fraction for part in x) - math.floor(math.log2(attention.scale))
        node = self._call(name, folded, *(part.node for part in x))
        return self._as_current(_Spikes(node, math.ceil(met * attention.scale), fraction))

    @functools.cached_property
    def _sizes(self) -> dict[str, tuple[torch.Size, torch.Size]]:
        """Shapes of what each layer with time inside takes and gives off, for one image."""
        found = {}

        def note(name: str, _, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found[name] = inputs[0].shape, output.shape

        layers = [
            module.register_forward_hook(functools.partial(note, name))
            for name, module in self.model.named_modules()
            if isinstance(module, TimeFold | SpikeAttention)
        ]
        with hooks(*layers):
            self.model.forward_features(self._an_image())
        return found

    def _function(self, function, args: tuple, name: str) -> fx.Node:
        return self.graph.create_node("call_function", function, args, name=name)

    def _product(self, left: _Spikes, right: _Spikes) -> _Spikes:
        if self.exact and left.fraction and right.fraction:  # a bit or more with every block
            raise NotExactError(f"{left.node.name}: expected spikes to multiply, got rates")
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
        if left.repeated != right.repeated:
            left, right = self._at_every_step(left), self._at_every_step(right)
        node = self.graph.create_node(
            "call_function", operator.add, (left.node, right.node), name=f"{left.node.name}_sum"
        )
        return _Current(
            node,
            left.convs + right.convs,
            left.spikes + right.spikes,
            left.rounded + right.rounded,
            left.repeated,
        )

    def _at_every_step(self, x: _Current) -> _Current:
        if not x.repeated:
            return x
        node = self._call(f"{x.node.name}_repeated", Repeat(self.T), x.node)
        return replace(x, node=node, repeated=False)

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
        if isinstance(module, nn.Conv2d):
            return module.out_channels
        if isinstance(module, PixelConv | MembraneConv):
            return next(module.children()).out_channels
        return self._channels(node.all_input_nodes[0])

    def _neuron(self, name: str, lif: LIF, x: _Current) -> _Spikes:
        if self.exact:
            _check_threshold(name, lif)
            self.readers.append(_Reader(name, lif, x))
        folded = FoldedLIF(self.T, x.repeated, **lif.constants())
        return _Spikes(self._call(name, folded, x.node), fraction=lif.levels.bit_length() - 1)

    def _snap(self) -> None:
        """Put every current on its grid, those first that others are made of."""
        streams: list[_Stream] = []
        for reader in self.readers:
            alike = [s for s in streams if s.current.shares_with(reader.current)]
            current, readers = reader.current, [reader]
            for stream in alike:
                current, readers = stream.current.union(current), stream.readers + readers
            streams = [s for s in streams if s not in alike] + [_Stream(current, readers)]
        while streams:
            ready = [s for s in streams if all(m.rest is not None for m in s.current.rounded)]
            if not ready:
                name = streams[0].readers[0].name
                raise NotExactError(f"{name}: expected a current that is no part of itself")
            self._snap_stream(ready[0])
            streams.remove(ready[0])

    def _snap_stream(self, stream: _Stream) -> None:
        """Choose the grid of a current, channel by channel, and put its convolutions on it."""
        x = stream.current
        raw = [(conv, conv.weight.clone(), conv.bias.clone(), spikes) for conv, spikes in x.convs]
        fraction = self._finest(stream)
        too_fine = torch.ones_like(fraction)
        while too_fine.any():
            for conv, weight, bias, spikes in raw:
                conv.weight.copy_(snapped(weight, fraction - spikes.fraction))
                conv.bias.copy_(snapped_bias(bias, fraction))
            for module in x.rounded:
                module.steps = torch.exp2(fraction).float().view(1, -1, 1, 1)
            # Rounding may have made a sum larger.
            too_fine = (fraction > self._finest(stream)).double()
            fraction = fraction - too_fine
        for conv, weight, *_ in raw:
            reader = stream.readers[0]
            why = f", of {int(fraction.min())} fractional bits"
            if isinstance(lif := reader.module, LIF):
                why += self._time_takes(lif, self._demands(lif, reader.current)[1])
            self._check_kept(reader.name, weight, conv.weight, why)
        for reader in stream.readers:
            if isinstance(reader.module, MembraneConv):
                reader.module.take_apart(*_bounds(reader.current), fraction)

    def _check_kept(self, name: str, before: Tensor, after: Tensor, grid: str) -> None:
        """Raise where so few bits are left that other weights are on the grid."""
        lost = (after - before).norm() / before.norm()
        if lost > COARSE:  # of weights that are all 0 it is no number
            raise NotExactError(
                f"{name}: expected a grid that keeps the weights, got one that changes them by "
                f"{100 * lost:.0f} %{grid}"
            )

    def _demands(self, lif: LIF, x: _Current) -> tuple[int, int]:
        """The fewest bits behind the point that a current may have, and those that time takes."""
        least = _least(x)
        if lif.levels > 1:
            return max(least, fraction_bits(lif.v_threshold / lif.levels)), 0
        if is_power_of_two(lif.decay):
            return least, 0
        return max(least, self._subtracted(lif)), (self.T - 1) * fraction_bits(lif.decay)

    def _behind(self, lif: LIF, current: int) -> int:
        """Bits behind the point of the last potential, of a current with so many."""
        return (self.T - 1) * fraction_bits(lif.decay) + max(current, self._subtracted(lif))

    def _subtracted(self, lif: LIF) -> int:
        """Bits behind the point of what is subtracted from a potential before another step."""
        return threshold_bits(lif) if lif.reset == "subtract" and self.T > 1 else 0

    def _time_takes(self, lif: LIF, lost: int) -> str:
        said = f"; {self.T} time steps of decay {lif.decay} take {lost} of fp32's {BITS} bits"
        return said if lost else ""

    def _finest(self, stream: _Stream) -> Tensor:
        """The bits behind the point that the largest number to be kept on the grid leaves, [C].

        Raises:
            NotExactError: They are too few, or too many.
        """
        low, high = _bounds(stream.current)
        finest = []
        for reader in stream.readers:
            least, lost, reach, why = _least(stream.current), 0, torch.maximum(-low, high), ""
            if isinstance(lif := reader.module, LIF):
                least, lost = self._demands(lif, stream.current)
                why = self._time_takes(lif, lost)
                if lost:
                    reach = potential(lif, self.T, low, high)
                if lif.levels > 1:  # v - v_threshold is a potential too
                    reach = potential(lif, self.T, low, high) + lif.v_threshold
                finest_current = int((bits_beside(reach) - lost).max())
                _check_behind(reader.name, self._behind(lif, finest_current))
            finest.append(bits_beside(reach) - lost)
            _check_grid(reader.name, int(finest[-1].min()), least, why)
        return torch.stack(finest).amin(0)

    def _put_on_grid(self, layer: nn.Conv2d | nn.Linear, low, high, fraction: int = 0) -> None:
        snap_sums(layer, low, high, fraction)

    def _head(self, name: str, head: ClassifierHead, x: _Spikes) -> fx.Node:
        if head.global_pool.pool_type != "avg" or not isinstance(head.fc, nn.Linear):
            raise NotExactError(
                f"{name}: expected average pooling and a classifier, got "
                f"{head.global_pool.pool_type!r} and {type(head.fc).__name__}"
            )
        pixels = self._pixels_behind()
        fc = copy.deepcopy(head.fc).double()
        fc.weight.copy_(head.fc.weight / (self.T * pixels * x.times))
        fc.bias.copy_(head.fc.bias)
        if self.exact:
            before = fc.weight.clone()
            self._put_on_grid(fc, 0, self.T * pixels * x.high, x.fraction)
            self._check_kept(
                name, before, fc.weight, f", for {self.T} time steps of {pixels} pixels"
            )
        return self._call(name, SpikeCountHead(fc, self.T), x.node)

    def _pixels_behind(self) -> int:
        """Of the last feature map."""
        return self.model.forward_features(self._an_image())[0, 0].numel()

    def _an_image(self) -> Tensor:
        return torch.zeros(1, *self.model.pretrained_cfg["input_size"], dtype=torch.float32)


class _Rule(_Deployment):
    """The same walk, which asks of a neuron's constants alone whether any grid would do."""

    def _neuron(self, name: str, lif: LIF, x: _Current) -> _Spikes:
        _check_threshold(name, lif)
        least, lost = self._demands(lif, x)
        # A current that makes it fire reaches the threshold, which takes its bits before the point.
        most = BITS - math.ceil(math.log2(lif.v_threshold)) - lost
        _check_grid(name, most, least, self._time_takes(lif, lost))
        _check_behind(name, self._behind(lif, least))
        return super()._neuron(name, lif, x)

    def _snap(self) -> None:
        pass

    def _put_on_grid(self, layer: nn.Conv2d | nn.Linear, low, high, fraction: int = 0) -> None:
        pass

    def _check_kept(self, name: str, before: Tensor, after: Tensor, grid: str) -> None:
        pass

    def _pixels_behind(self) -> int:
        return 1  # any number will do


def _conv_and_norm(name: str, parts: list[nn.Module]) -> list[nn.Module]:
    if [type(part) for part in parts] != [nn.Conv2d, nn.BatchNorm2d]:
        raise NotExactError(f"{name}: no exact form of {parts} is known")
    conv = parts[0]
    if (conv.groups, conv.dilation, conv.padding_mode) != (1, (1, 1), "zeros"):
        raise NotExactError(f"{name}: expected a convolution without groups or holes, got {conv}")
    return parts


def _least(x: _Current) -> int:
    """Bits behind the point that the spikes in a current have."""
    return max([0, *(spikes.fraction for spikes in x.spikes)])


def _check_behind(name: str, fraction: int) -> None:
    if fraction > SMALLEST:
        raise NotExactError(
            f"{name}: expected at most {SMALLEST} bits behind the point, got {fraction}"
        )


def _check_threshold(name: str, lif: LIF) -> None:
    if lif.v_threshold < 2.0**-SMALLEST:
        raise NotExactError(
            f"{name}: expected a v_threshold that no runtime takes for 0, 2^-{SMALLEST} or more, "
            f"got {lif.v_threshold}"
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


def _bounds(x: _Current) -> tuple[Tensor, Tensor]:
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


def _is_plain_maximum(pool: nn.Module) -> bool:
    return (
        isinstance(pool, nn.MaxPool2d)
        and pool.dilation == 1
        and not (pool.ceil_mode or pool.return_indices)
    )
