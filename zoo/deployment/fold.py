"""Deploy a network: fold its norms, and put every weight on a grid where no sum is rounded.

Spikes are 0 or 1. If every weight is a whole multiple of 2^-k, so is every partial sum of a
convolution, and while it stays below 2^24 of that step, fp32 holds it exactly, in any order of the
terms. A neuron adds two numbers at a time, its current and the rest of its potential: IEEE 754
rounds that sum the same everywhere, alone or fused with the product by a decay that is a power of
two. Such a network gives the same bits in every runtime, layout, batch and number of threads.

Rates of 2^n levels are multiples of 2^-n; their potential is kept on the grid as well, since it
meets more than one comparison.
Shapes: T time steps, B batch, C channels, H height, W width; time is folded into the batch,
[T*B, C, H, W].
"""

import copy
import math
import operator
from dataclasses import replace
from typing import Literal

import torch
from timm.layers import ClassifierHead, unfreeze_batch_norm_2d
from timm.utils import unwrap_model
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from zoo.deployment.currents import (
    Current,
    Reader,
    Spikes,
    check_constants,
    check_kept,
    snap_currents,
)
from zoo.deployment.grid import (
    BITS,
    NotExactError,
    is_power_of_two,
    pool_window,
    snap_sums,
    unsupported,
    whole_pixels,
)
from zoo.deployment.integer import to_whole_numbers
from zoo.deployment.layers import (
    FoldedAttention,
    FoldedLIF,
    FoldedSpikeAttention,
    MembraneConv,
    PixelConv,
    Repeat,
    SpikeCountHead,
    SumPool2d,
)
from zoo.layers.attention import ChannelSpatialAttention, Gate, SpikeAttention
from zoo.layers.conv import ConvNorm, DirectCoding, TimeFold
from zoo.layers.hooks import runs_hooks
from zoo.layers.shortcut_heads import strip_heads
from zoo.models._build import check_created
from zoo.neurons import LIF

SIGMAS = 64  # deviations from its norm's bias at which a convolution of a current is cut off


@torch.no_grad()
def deploy(model: nn.Module, exact: bool = True, bits: Literal[8, 24] = 24) -> fx.GraphModule:
    """Fold every norm into its convolution and put the weights on an exact grid.

    Args:
        model: A network of the zoo for still images, also wrapped by torch.compile or
            DistributedDataParallel; shortcut heads are left out.
        exact: False leaves the folded weights as they are, whose sums fp32 rounds.
        bits: 24 takes the finest grid whose sums fp32 holds. 8 rounds weights to 7 bits and the
            results of convolutions to 8, see zoo.deployment.integer: for int8 graphs.

    Returns:
        uint8 pixels or normalised floats [B, C, H, W], of the size in its pretrained_cfg -> logits
        [B, num_classes], on the CPU and in eval mode; spiking layers keep their names. It raises
        ValueError for images of another size or type, and where a convolution would not be plain
        fp32 (autocast, TF32, cuDNN, NNPACK).

    Raises:
        NotExactError: A layer cannot be exact, or is not supported; the message names it.
        ValueError: The network is not from zoo.create_model, its weights are not finite, or it has
            forward hooks.
    """
    if bits not in (8, 24):
        raise ValueError(f"bits: expected 8 or 24, got {bits!r}")
    model = _bare(model).cpu().float()
    model.set_grad_checkpointing(False)
    if broken := [k for k, v in model.state_dict().items() if not v.isfinite().all()]:
        raise ValueError(f"model: expected finite weights, got NaN or infinity in {broken}")
    with torch.device("cpu"):  # overrides torch.set_default_device
        if bits == 8:
            return to_whole_numbers(_Deployment(model, exact=False, snaps=False).run())
        return _Deployment(model, exact, snaps=exact).run()


@torch.no_grad()
def why_not_exact(model: nn.Module) -> str | None:
    """The reason why a network cannot be exact with any weights; None if its weights decide.

    Args:
        model: A network of the zoo; it may be on the meta device.

    Raises:
        ValueError: As deploy.
    """
    model = _bare(model)
    with torch.device(next(model.parameters()).device):
        try:
            _Deployment(model, exact=True, snaps=False).run()
        except NotExactError as error:
            return str(error)
    return None


def _bare(model: nn.Module) -> nn.Module:
    """A copy in eval mode without wrapper and heads, with plain norms in place of frozen ones."""
    model = unwrap_model(model)
    if hooked := [name for name, module in model.named_modules() if runs_hooks(module)]:
        raise ValueError(
            "model: expected modules without forward hooks or a forward of their own, got "
            f"{[name or 'the network itself' for name in hooked[:3]]}; remove pruning and wrappers "
            "first"
        )
    model = strip_heads(model)
    check_created(model)
    return unfreeze_batch_norm_2d(model).eval()


class _Deployment:
    """Walks a network's graph once and builds the deployed graph beside it."""

    def __init__(self, model: nn.Module, exact: bool, snaps: bool):
        self.model, self.T, self.exact, self.snaps = model, model.time_steps, exact, snaps
        self.graph = fx.Graph()
        self.modules: dict[str, nn.Module] = {}
        self.readers: list[Reader] = []

    def run(self) -> fx.GraphModule:
        graph = Tracer().trace(self.model)
        size = self.model.pretrained_cfg["input_size"][1:]
        image = torch.zeros(1, self.model.in_chans, *size, dtype=torch.float32)
        ShapeProp(fx.GraphModule(self.model, graph)).propagate(image)
        values: dict[fx.Node, Spikes | Current | fx.Node] = {}
        for node in graph.nodes:
            args = [values[arg] for arg in node.all_input_nodes]
            if node.op == "placeholder":
                values[node] = self.graph.placeholder(node.target)
            elif node.op == "output":
                self.graph.output(args[0])
            elif node.op == "call_module":
                values[node] = self._module(node, *args)
            else:
                values[node] = self._operation(node, *args)
        if self.snaps:
            snap_currents(self.readers, self.T)
        deployed = fx.GraphModule(self.modules, self.graph, class_name="Deployed").eval()
        deployed.num_classes = self.model.num_classes
        deployed.pretrained_cfg = dict(self.model.pretrained_cfg)
        return deployed.float().requires_grad_(False)

    def _module(self, node: fx.Node, *x: Spikes | Current | fx.Node) -> Spikes | Current | fx.Node:
        name, module = node.target, self.model.get_submodule(node.target)
        self.size = _size(node.args[0])
        kind = type(module)  # a subclass may compute something else
        if kind is nn.Identity:
            return x[0]
        if kind not in LAYERS:
            raise unsupported(name, kind.__name__)
        return LAYERS[kind](self, name, module, *x)

    def _operation(self, node: fx.Node, *x: Spikes | Current) -> Spikes | Current:
        if node.target is operator.add and len(x) == 2:
            return self._add(*x, channels=_size(node)[0])
        if node.target is operator.mul and all(isinstance(part, Spikes) for part in x):
            left, right = x
            product = self._function(operator.mul, (left.node, right.node), f"{left.node.name}_and")
            fraction, times = left.fraction + right.fraction, left.times * right.times
            return Spikes(product, left.high * right.high, fraction, times)
        if node.target is operator.mul:  # by a gate, which is not exact
            factors = tuple(part.node for part in x)
            return Current(self._function(operator.mul, factors, node.name))
        if node.target is operator.sub and node.args[0] == 1:  # spikes that did not fire
            (spikes,) = x
            args, name = (1, spikes.node), f"{spikes.node.name}_not"
            return replace(spikes, node=self._function(operator.sub, args, name))
        if node.target == "mean" and node.args[1:] == (0,):
            return x[0]  # the classifier divides by T
        raise unsupported(node.name, f"{node.target}")

    def _call(self, name: str, module: nn.Module, *x: fx.Node) -> fx.Node:
        if name in self.modules:
            raise unsupported(name, "a module that is used twice")
        self.modules[name] = module
        return self.graph.call_module(name, x)

    def _function(self, function, args: tuple, name: str) -> fx.Node:
        return self.graph.create_node("call_function", function, args, name=name)

    def pixels(self, name: str, coding: DirectCoding, x: fx.Node) -> Current:
        cfg = self.model.pretrained_cfg
        mean, std = (whole_pixels(key, cfg[key]) for key in ("mean", "std"))
        if not coding.conv.in_channels == len(mean) == cfg["input_size"][0]:
            raise NotExactError(
                f"{name}: expected as many channels as pretrained_cfg's mean and input_size have, "
                f"got {coding.conv.in_channels}"
            )
        conv, norm = _conv_and_norm(name, [*coding])
        stem = PixelConv(fold_norm(conv, norm), mean, std, cfg["input_size"])
        stem.conv.weight.div_(stem.std)
        if self.snaps:
            stem.take_apart()
        return Current(self._call(name, stem, x), rounded=(stem,), repeated=True)

    def fold(self, name: str, layers: TimeFold, x: Spikes | Current) -> Spikes | Current:
        """A pool, a convolution with its norm, or the one before the other."""
        parts, pool = list(layers), None
        if isinstance(parts[0], nn.MaxPool2d | nn.AvgPool2d):
            pool = parts.pop(0)
            # Runtimes disagree on windows that the far borders cut off.
            if pool.ceil_mode and any(side % pool.stride for side in self.size[1:]):
                raise unsupported(name, f"avg_down from {self.size[1:]} pixels; take even sides")
        if isinstance(x, Current):
            return self._fold_current(name, pool, parts, x)
        if isinstance(pool, nn.MaxPool2d):
            x = replace(x, node=self._call(f"{name}.pool", pool, x.node))
        elif pool is not None:
            x = self._pool(f"{name}.pool", pool, x)
        if not parts:
            return x
        conv = fold_norm(*_conv_and_norm(name, parts))
        conv.weight.div_(x.times)
        return Current(self._call(f"{name}.conv", conv, x.node), convs=((conv, x),))

    def _fold_current(
        self, name: str, pool: nn.AvgPool2d | None, parts: list[nn.Module], x: Current
    ) -> Current:
        """A 1x1 convolution of a current with its norm, and a pool before it."""
        conv, norm = _conv_and_norm(name, parts)
        limit = norm.bias.abs().double() + SIGMAS * norm.weight.abs().double()
        conv = fold_norm(conv, norm)
        if not self.exact:
            node = x.node if pool is None else self._call(f"{name}.pool", pool, x.node)
            return Current(self._call(f"{name}.conv", conv, node), repeated=x.repeated)
        if pool is None and conv.stride != (1, 1):
            pool, conv.stride = nn.AvgPool2d(1, conv.stride), (1, 1)
        membrane = MembraneConv(conv, pool, limit.log2().ceil().clamp(min=-BITS).exp2())
        self.readers.append(Reader(name, membrane, x))
        node = self._call(f"{name}.conv", membrane, x.node)
        return Current(node, rounded=(membrane,), repeated=x.repeated)

    def _pool(self, name: str, pool: nn.AvgPool2d, x: Spikes) -> Spikes:
        window = pool_window(pool)
        if not self.exact or is_power_of_two(window):
            fraction = x.fraction + window.bit_length() - 1
            return replace(x, node=self._call(name, pool, x.node), fraction=fraction)
        if x.fraction:
            raise unsupported(name, f"averages of {window} rates or averages")
        node = self._call(name, SumPool2d(pool), x.node)
        return Spikes(node, x.high * window, 0, x.times * window)

    def attention(self, name: str, module: Gate | ChannelSpatialAttention, x: Current) -> Current:
        if self.exact:
            raise NotExactError(f"{name}: multiplies by learned numbers, products that fp32 rounds")
        folded = FoldedAttention(copy.deepcopy(module), self.T, x.repeated)
        return Current(self._call(name, folded, x.node))

    def spike_attention(self, name: str, attention: SpikeAttention, *x: Spikes) -> Current:
        """Counts of spikes that meet, which take the same bits in any order of their sums."""
        if self.exact and not is_power_of_two(attention.scale):
            raise unsupported(name, f"attention scaled by {attention.scale}, not a power of two")
        folded = FoldedSpikeAttention(attention.num_heads, attention.scale, self.size)
        met = math.prod(self.size) // attention.num_heads * math.prod(part.high for part in x)
        fraction = sum(part.fraction for part in x) - math.floor(math.log2(attention.scale))
        node = self._call(name, folded, *(part.node for part in x))
        spikes = Spikes(node, math.ceil(met * attention.scale), fraction)
        return Current(node, spikes=(spikes,))

    def neuron(self, name: str, lif: LIF, x: Current) -> Spikes:
        folded = FoldedLIF(self.T, x.repeated, **lif.constants())
        if self.exact:
            check_constants(name, lif, self.T)
            self.readers.append(Reader(name, lif, x))
        return Spikes(self._call(name, folded, x.node), fraction=lif.levels.bit_length() - 1)

    def head(self, name: str, head: ClassifierHead, x: Spikes) -> fx.Node:
        if head.global_pool.pool_type != "avg" or not isinstance(head.fc, nn.Linear):
            pool = head.global_pool.pool_type
            raise unsupported(name, f"{pool} pooling before {head.fc}; use avg and a classifier")
        pixels = math.prod(self.size[1:])
        fc = copy.deepcopy(head.fc).double()
        fc.weight.copy_(head.fc.weight / (self.T * pixels * x.times))
        fc.bias.copy_(head.fc.bias)
        if self.snaps:
            before = fc.weight.clone()
            snap_sums(fc, 0, self.T * pixels * x.high, x.fraction)
            check_kept(name, before, fc.weight)
        fraction = x.fraction if self.exact and not is_power_of_two(pixels) else None
        return self._call(name, SpikeCountHead(fc, self.T, fraction), x.node)

    def _add(
        self, left: Spikes | Current, right: Spikes | Current, channels: int
    ) -> Spikes | Current:
        if isinstance(left, Spikes) and isinstance(right, Spikes):
            return self._count(left, right)
        left, right = self._as_current(left, channels), self._as_current(right, channels)
        if left.repeated != right.repeated:
            left, right = self._at_every_step(left), self._at_every_step(right)
        node = self._function(operator.add, (left.node, right.node), f"{left.node.name}_sum")
        return Current(
            node,
            left.convs + right.convs,
            left.spikes + right.spikes,
            left.rounded + right.rounded,
            left.repeated,
        )

    def _count(self, left: Spikes, right: Spikes) -> Spikes:
        node = self._function(operator.add, (left.node, right.node), f"{left.node.name}_sum")
        if left.times != right.times:
            raise unsupported(node.name, "a sum of spikes and averages")
        fraction = max(left.fraction, right.fraction)
        return Spikes(node, left.high + right.high, fraction, left.times)

    def _at_every_step(self, x: Current) -> Current:
        if not x.repeated:
            return x
        node = self._call(f"{x.node.name}_repeated", Repeat(self.T), x.node)
        return replace(x, node=node, repeated=False)

    def _as_current(self, x: Spikes | Current, channels: int) -> Current:
        if isinstance(x, Current):
            return x
        if x.times == 1:
            return Current(x.node, spikes=(x,))
        # A sum stands for an average: divide it by a convolution, whose weights are on the grid.
        factor = nn.Conv2d(channels, channels, 1, groups=channels).double()
        factor.weight.fill_(1 / x.times)
        factor.bias.zero_()
        node = self._call(f"{x.node.target}_average", factor, x.node)
        return Current(node, convs=((factor, x),))


LAYERS = {
    DirectCoding: _Deployment.pixels,
    TimeFold: _Deployment.fold,
    ConvNorm: _Deployment.fold,
    LIF: _Deployment.neuron,
    SpikeAttention: _Deployment.spike_attention,
    Gate: _Deployment.attention,
    ChannelSpatialAttention: _Deployment.attention,
    ClassifierHead: _Deployment.head,
}


class Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, tuple(LAYERS)) or super().is_leaf_module(module, name)


def _size(node: fx.Node) -> tuple[int, int, int]:
    """[C, H, W] of one image."""
    return tuple(node.meta["tensor_meta"].shape[-3:])


def _conv_and_norm(name: str, parts: list[nn.Module]) -> list[nn.Module]:
    kinds = [type(part) for part in parts]
    is_known = kinds in ([nn.Conv2d, nn.BatchNorm2d], [nn.Conv2d, nn.SyncBatchNorm])
    if not is_known:
        raise unsupported(name, f"layers other than a convolution and its norm: {parts}")
    return parts


def fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """The convolution with the norm's running statistics in its weights, in fp64."""
    folded = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding
    ).double()
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    folded.weight.copy_(conv.weight * scale.view(-1, 1, 1, 1))
    folded.bias.copy_(norm.bias - norm.running_mean.double() * scale)
    return folded
