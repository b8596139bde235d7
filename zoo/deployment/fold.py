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
from dataclasses import replace

import torch
from timm.layers import ClassifierHead, to_2tuple, unfreeze_batch_norm_2d
from timm.utils import unwrap_model
from torch import Tensor, fx, nn

from zoo.deployment.currents import (
    Current,
    Reader,
    Spikes,
    check_constants,
    check_kept,
    check_threshold,
    snap,
)
from zoo.deployment.grid import (
    BITS,
    NotExactError,
    is_power_of_two,
    pool_window,
    snap_sums,
    whole_pixels,
)
from zoo.deployment.layers import (
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
from zoo.layers.attention import ChannelSpatialAttention, Gate, SpikeAttention
from zoo.layers.conv import ConvNorm, DirectCoding, TimeFold
from zoo.layers.hooks import hooks, runs_hooks
from zoo.layers.shortcut_heads import strip_heads
from zoo.models._build import check_created
from zoo.neurons import LIF

SIGMAS = 64  # deviations from its norm's bias at which a convolution of a current is cut off


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
        ValueError: The network is none of zoo.create_model, its weights are not finite, or a module
            stands in two places, or has a hook on its forward pass, or a forward of its own, which
            would be lost.
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

    Raises:
        ValueError: The network is none of zoo.create_model, or modules are changed as for deploy.
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
    """A copy in eval mode, without wrapping and heads, and with norms in place of frozen ones.

    Raises:
        ValueError: As deploy.
    """
    model = unwrap_model(model)
    # A weight that a hook makes is not there yet, and what else hooks do would be lost.
    if hooked := [name for name, module in model.named_modules() if runs_hooks(module)]:
        raise ValueError(
            f"model: expected modules without hooks on their forward pass or a forward of their "
            f"own, got {[name or 'the network itself' for name in hooked[:3]]}; take them off, of "
            "pruning and weight norm with torch's remove, of a network that accelerate prepared "
            "with its unwrap_model(model, keep_fp32_wrapper=False)"
        )
    model = strip_heads(model)
    check_created(model)
    return unfreeze_batch_norm_2d(model).eval()


class _Deployment:
    """Walks the network's graph once and builds the deployed one beside it."""

    snaps = True  # whether weights are put on the grid

    def __init__(self, model: nn.Module, exact: bool):
        self.model, self.T, self.exact = model, model.time_steps, exact
        self.graph = fx.Graph()
        self.modules: dict[str, nn.Module] = {}
        self.readers: list[Reader] = []

    def run(self) -> fx.GraphModule:
        values: dict[fx.Node, Spikes | Current | fx.Node] = {}
        for node in _Tracer().trace(self.model).nodes:
            args = [values[arg] for arg in node.all_input_nodes]
            if node.op == "placeholder":
                values[node] = self.graph.placeholder(node.target)
            elif node.op == "output":
                self.graph.output(args[0])
            elif node.op == "call_module":
                values[node] = self._module(node.target, *args)
            elif node.target is operator.add and len(args) == 2:
                values[node] = self._add(*args)
            elif node.target is operator.mul and [type(x) for x in args] == [Spikes] * 2:
                values[node] = self._product(*args)
            elif node.target is operator.sub and node.args[0] == 1:
                values[node] = self._inverse(*args)
            elif node.target == "mean" and node.args[1:] == (0,):
                values[node] = args[0]  # the classifier divides by T
            elif node.target is operator.mul and len(args) == 2 and not self.exact:
                factors = tuple(x.node for x in args)
                values[node] = Current(self._function(operator.mul, factors, node.name))
            else:
                raise NotExactError(f"{node.name}: no exact form of {node.target!r} is known")
        if self.exact and self.snaps:
            snap(self.readers, self.T)
        deployed = fx.GraphModule(self.modules, self.graph, class_name="Deployed").eval()
        deployed.num_classes = self.model.num_classes
        deployed.pretrained_cfg = dict(self.model.pretrained_cfg)
        return deployed.float().requires_grad_(False)

    def _call(self, name: str, module: nn.Module, *x: fx.Node) -> fx.Node:
        if name in self.modules:
            raise NotExactError(
                f"{name}: expected a layer of its own in each place, got one for two"
            )
        self.modules[name] = module
        return self.graph.call_module(name, x)

    def _module(self, name: str, x: Spikes | Current | fx.Node, *others: Spikes):
        module = self.model.get_submodule(name)
        kind = type(module)  # a subclass may compute something else
        if kind is SpikeAttention:
            return self._spike_attention(name, module, x, *others)
        if kind is DirectCoding and isinstance(x, fx.Node):
            return self._pixels(name, module, x)
        if kind is LIF and isinstance(x, Current):
            return self._neuron(name, module, x)
        if kind in (TimeFold, ConvNorm) and isinstance(x, Spikes):
            return self._fold(name, module, x)
        if kind in (TimeFold, ConvNorm) and isinstance(x, Current):
            return self._fold_current(name, module, x)
        if kind in (Gate, ChannelSpatialAttention) and isinstance(x, Current):
            return self._attention(name, module, x)
        if kind is ClassifierHead and isinstance(x, Spikes):
            return self._head(name, module, x)
        if kind is nn.Identity:
            return x
        raise NotExactError(f"{name}: no exact form of {kind.__name__} is known here")

    def _pixels(self, name: str, coding: DirectCoding, x: fx.Node) -> Current:
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
        if self.exact and self.snaps:
            stem.rest = copy.deepcopy(stem.conv)
            snap_sums(stem.conv, -stem.mean, 255 - stem.mean)
            stem.rest.weight.sub_(stem.conv.weight)
            stem.rest.bias.sub_(stem.conv.bias)
            snap_sums(stem.rest, -stem.mean, 255 - stem.mean)
        return Current(self._call(name, stem, x), rounded=(stem,), repeated=True)

    def _fold(self, name: str, layers: TimeFold, x: Spikes) -> Spikes | Current:
        """A pool, a convolution with its norm, or the one before the other."""
        parts = list(layers)
        if _is_plain_maximum(parts[0]):  # of whole multiples it is one of them
            x = replace(x, node=self._call(f"{name}.pool", parts.pop(0), x.node))
        elif type(parts[0]) is nn.AvgPool2d:
            x = self._pool(f"{name}.pool", self._at_size(name, parts.pop(0)), x)
        if not parts:
            return x
        conv = fold_norm(*_conv_and_norm(name, parts))
        if self.exact and (conv.in_channels, conv.kernel_size, conv.stride) == (1, (3, 3), (1, 1)):
            raise NotExactError(
                f"{name}: expected more than one channel, which torch on ARM convolves by Winograd"
            )
        conv.weight.div_(x.times)
        return Current(self._call(f"{name}.conv", conv, x.node), convs=((conv, x),))

    def _fold_current(self, name: str, layers: TimeFold, x: Current) -> Current:
        """A 1x1 convolution of a current with its norm, and a pool before it."""
        parts = list(layers)
        is_pooled = type(parts[0]) is nn.AvgPool2d
        pool = self._at_size(name, parts.pop(0)) if is_pooled else None
        conv, norm = _conv_and_norm(name, parts)
        limit = norm.bias.abs().double() + SIGMAS * norm.weight.abs().double()
        conv = fold_norm(conv, norm)
        if not self.exact:
            node = x.node if pool is None else self._call(f"{name}.pool", pool, x.node)
            return Current(self._call(f"{name}.conv", conv, node), repeated=x.repeated)
        if conv.kernel_size != (1, 1) or conv.padding != (0, 0):
            raise NotExactError(f"{name}: expected a 1x1 convolution of a current, got {conv}")
        if conv.stride != (1, 1):
            if pool is not None:
                raise NotExactError(f"{name}: expected a pool or a stride, got both")
            pool, conv.stride = nn.AvgPool2d(1, conv.stride), (1, 1)
        if pool is not None and not is_power_of_two(pool_window(pool)):
            raise NotExactError(f"{name}: expected averages of 2^n pixels of a current, got {pool}")
        membrane = MembraneConv(conv, pool, limit.log2().ceil().clamp(min=-BITS).exp2())
        self.readers.append(Reader(name, membrane, x))
        node = self._call(f"{name}.conv", membrane, x.node)
        return Current(node, rounded=(membrane,), repeated=x.repeated)

    def _attention(self, name: str, module: nn.Module, x: Current) -> Current:
        if self.exact:
            raise NotExactError(f"{name}: multiplies by learned numbers, products that fp32 rounds")
        folded = FoldedAttention(copy.deepcopy(module), self.T, x.repeated)
        return Current(self._call(name, folded, x.node))

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

    def _pool(self, name: str, pool: nn.AvgPool2d, x: Spikes) -> Spikes:
        window = pool_window(pool)
        if not self.exact or window & (window - 1) == 0:  # a division by a power of two
            fraction = x.fraction + window.bit_length() - 1
            return Spikes(self._call(name, pool, x.node), x.high, fraction, x.times)
        if x.fraction:
            raise NotExactError(f"{name}: expected whole numbers to sum up, got averages or rates")
        node = self._call(name, SumPool2d(pool), x.node)
        return Spikes(node, x.high * window, 0, x.times * window)

    def _spike_attention(self, name: str, attention: SpikeAttention, *x: Spikes | Current):
        """Counts of spikes that meet, which take as many bits in whatever order they are summed."""
        if not all(isinstance(part, Spikes) and part.times == 1 for part in x):
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
        return self._as_current(Spikes(node, math.ceil(met * attention.scale), fraction))

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

    def _product(self, left: Spikes, right: Spikes) -> Spikes:
        if self.exact and left.fraction and right.fraction:  # a bit or more with every block
            raise NotExactError(f"{left.node.name}: expected spikes to multiply, got rates")
        node = self._function(operator.mul, (left.node, right.node), f"{left.node.name}_and")
        return Spikes(
            node,
            left.high * right.high,
            left.fraction + right.fraction,
            left.times * right.times,
        )

    def _inverse(self, x: Spikes | Current) -> Spikes:
        if not (isinstance(x, Spikes) and (x.high, x.times) == (1, 1)):
            raise NotExactError(f"{x.node.name}: expected spikes to take from 1, got other numbers")
        return replace(x, node=self._function(operator.sub, (1, x.node), f"{x.node.name}_not"))

    def _add(self, left: Spikes | Current, right: Spikes | Current) -> Spikes | Current:
        if isinstance(left, Spikes) and isinstance(right, Spikes):
            return self._count(left, right)
        left, right = self._as_current(left), self._as_current(right)
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

    def _at_every_step(self, x: Current) -> Current:
        if not x.repeated:
            return x
        node = self._call(f"{x.node.name}_repeated", Repeat(self.T), x.node)
        return replace(x, node=node, repeated=False)

    def _count(self, left: Spikes, right: Spikes) -> Spikes:
        node = self._function(operator.add, (left.node, right.node), f"{left.node.name}_sum")
        if left.times != right.times:
            raise NotExactError(f"{node.name}: expected spikes, got some that are averages")
        fraction = max(left.fraction, right.fraction)
        return Spikes(node, left.high + right.high, fraction, left.times)

    def _as_current(self, x: Spikes | Current) -> Current:
        if isinstance(x, Current):
            return x
        if x.times == 1:
            return Current(x.node, spikes=(x,))
        # Sums where the raw network has averages: a factor, on the grid as weights are.
        channels = self._channels(x.node)
        factor = nn.Conv2d(channels, channels, 1, groups=channels).double()
        factor.weight.fill_(1 / x.times)
        factor.bias.zero_()
        node = self._call(f"{x.node.target}_average", factor, x.node)
        return Current(node, convs=((factor, x),))

    def _channels(self, node: fx.Node) -> int:
        module = self.modules[node.target]
        if isinstance(module, nn.Conv2d):
            return module.out_channels
        if isinstance(module, PixelConv | MembraneConv):
            return next(module.children()).out_channels
        return self._channels(node.all_input_nodes[0])

    def _neuron(self, name: str, lif: LIF, x: Current) -> Spikes:
        constants = lif.constants()
        if tensors := [key for key, value in constants.items() if isinstance(value, Tensor)]:
            raise NotExactError(f"{name}: expected numbers, got tensors for {tensors}")
        if self.exact:
            check_threshold(name, lif)
            self.readers.append(Reader(name, lif, x))
        folded = FoldedLIF(self.T, x.repeated, **constants)
        return Spikes(self._call(name, folded, x.node), fraction=lif.levels.bit_length() - 1)

    def _head(self, name: str, head: ClassifierHead, x: Spikes) -> fx.Node:
        classifies = type(head.fc) is nn.Linear and head.fc.bias is not None
        if head.global_pool.pool_type != "avg" or not classifies:
            raise NotExactError(
                f"{name}: expected average pooling and a classifier with a bias, got "
                f"{head.global_pool.pool_type!r} and {head.fc}"
            )
        pixels = self.model.forward_features(self._an_image())[0, 0].numel() if self.snaps else 1
        fc = copy.deepcopy(head.fc).double()
        fc.weight.copy_(head.fc.weight / (self.T * pixels * x.times))
        fc.bias.copy_(head.fc.bias)
        if self.exact and self.snaps:
            before = fc.weight.clone()
            snap_sums(fc, 0, self.T * pixels * x.high, x.fraction)
            check_kept(name, before, fc.weight, f", for {self.T} time steps of {pixels} pixels")
        fraction = x.fraction if self.exact and not is_power_of_two(pixels) else None
        return self._call(name, SpikeCountHead(fc, self.T, fraction), x.node)

    def _an_image(self) -> Tensor:
        return torch.zeros(1, *self.model.pretrained_cfg["input_size"], dtype=torch.float32)


class _Rule(_Deployment):
    """The same walk, which asks of a neuron's constants alone whether any grid would do."""

    snaps = False

    def _neuron(self, name: str, lif: LIF, x: Current) -> Spikes:
        spikes = super()._neuron(name, lif, x)
        check_constants(name, lif, self.T, x)
        return spikes


def _conv_and_norm(name: str, parts: list[nn.Module]) -> list[nn.Module]:
    kinds = [type(part) for part in parts]
    if kinds not in ([nn.Conv2d, norm] for norm in (nn.BatchNorm2d, nn.SyncBatchNorm)):
        raise NotExactError(f"{name}: no exact form of {parts} is known")
    conv, norm = parts
    if norm.weight is None or norm.running_var is None:
        raise NotExactError(f"{name}: expected a norm with a gain and statistics, got {norm}")
    plain = (conv.groups, conv.dilation, conv.padding_mode) == (1, (1, 1), "zeros")
    if not plain or isinstance(conv.padding, str):
        raise NotExactError(
            f"{name}: expected a convolution without groups or holes and a number of zeros around "
            f"its images, got {conv}"
        )
    return parts


def _is_plain_maximum(pool: nn.Module) -> bool:
    return (
        type(pool) is nn.MaxPool2d
        and pool.dilation == 1
        and not (pool.ceil_mode or pool.return_indices)
    )
