"""What an image costs: additions, multiplications and the energy that they take.

Every convolution, product of matrices and vectors and product number by number is seen as it is
computed, whatever the module that computes it, and is counted by what it is given: a spike is an
addition of a weight, and only what is neither 0 nor 1 is multiplied. Of what torch multiplies
within one operator (addcmul, a power, bilinear) only scaled_dot_product_attention is seen, as the
products that it is made of.
Shapes: T time steps, B batch, C channels, H height, W width.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from zoo.diagnostics.rates import check_batches
from zoo.layers.hooks import eval_mode, hooks
from zoo.neurons import LIF

ACCUMULATE, MULTIPLY_ACCUMULATE = 0.9, 4.6  # pJ, 45 nm CMOS, fp32: Horowitz, ISSCC 2014
SOURCE = "0.9 pJ an accumulate, 4.6 pJ a multiply-accumulate: 45 nm CMOS, Horowitz 2014"
Values = Literal["binary", "integer", "real"]
KINDS: tuple[Values, ...] = ("binary", "integer", "real")
aten = torch.ops.aten
PRODUCTS = (
    *(aten.mm.default, aten.addmm.default),
    *(aten.bmm.default, aten.baddbmm.default),
    *(aten.mv.default, aten.addmv.default),
    aten.dot.default,
)
GATES = (aten.mul.Tensor, aten.mul_.Tensor)
AVERAGES = (
    aten.avg_pool2d.default,
    aten._adaptive_avg_pool2d.default,
    aten.mean.default,
    aten.mean.dim,
)


@dataclass(frozen=True)
class Operations:
    """What one layer computes for one image, over all time steps."""

    layer: str
    inputs: Values
    """The widest that it was given: spikes, whole numbers, or any."""
    multiply_accumulates: float
    accumulates: float

    @property
    def energy(self) -> float:
        """In pJ."""
        return MULTIPLY_ACCUMULATE * self.multiply_accumulates + ACCUMULATE * self.accumulates


@torch.no_grad()
def count_operations(model: nn.Module, batches: Iterable[Tensor]) -> list[Operations]:
    """The operations of each layer that convolves or multiplies, in order from the input.

    A layer that runs once for an image and not at every time step, as the first does, is counted
    once. A layer on spikes accumulates as often as a spike meets a weight, borders minded; on whole
    numbers it skips zeros, accumulates ones and multiplies the rest; on real numbers it multiplies
    every time, zeros and padding too, which is how the operations of ordinary networks are counted.
    Rates k / levels are counted as the whole numbers k, but as spikes where all of a batch are 0 or
    1. A product of two spike trains accumulates where both fire, and a gate multiplies where
    neither side is 0 or 1. Norms, which deployment folds away, pooling, and what goes on inside a
    LIF are not counted; what another library's neuron multiplies is.

    Args:
        model: Run in eval mode; left as it was.
        batches: Normalised images, each [B, C, H, W] or event frames [T, B, C, H, W].

    Raises:
        ValueError: A layer is a transposed convolution.
    """
    check_batches(batches)
    model = unwrap_model(model)
    levels = max((m.levels for m in model.modules() if isinstance(m, LIF)), default=1)
    counter, images = _Counter(model, levels=levels), 0
    with eval_mode(model), _inside(model, counter), sdpa_kernel(SDPBackend.MATH):
        for x in batches:
            with counter:  # not around the loader, which may compute
                model(x)
            images += x.shape[-4]
    return [
        Operations(layer, KINDS[kind], multiplied / images, added / images)
        for layer, (kind, multiplied, added) in counter.layers.items()
    ]


def count_connections(model: nn.Module, x: Tensor, padding: bool = True) -> dict[str, int]:
    """Multiply-accumulates of each layer for a batch if all that it is given were real numbers; on
    the meta device as well.

    Args:
        padding: Whether those with the zeros beyond a border are among them, as the operations of
            ordinary networks are counted. Spikes never are, and compare with those without.
    """
    model = unwrap_model(model)
    counter = _Counter(model, dense=True, padding=padding)
    products = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), eval_mode(model), _inside(model, counter), products, counter:
        model(x)
    return {layer: multiplied for layer, (_, multiplied, _) in counter.layers.items()}


def part_connections(model: nn.Module, x: Tensor) -> tuple[dict[str, int], dict[str, int]]:
    """What count_connections gives, in two: layers that are given nothing but spikes of LIF layers,
    their sums and products, without padding; and those that multiply pixels, averages and currents.
    """
    model = unwrap_model(model)
    sources = _Sources(model)
    lif = [m for m in model.modules() if isinstance(m, LIF) and m.levels == 1]
    marks = hooks(*(m.register_forward_hook(lambda *args: sources.fired(args[2])) for m in lif))
    products = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), eval_mode(model), _inside(model, sources), marks, products, sources:
        model(x)
    on_spikes, others = {}, {}
    for layer, (_, multiplied, _) in sources.layers.items():
        (others if layer in sources.on_others else on_spikes)[layer] = multiplied
    return on_spikes, others


class _Counter(TorchDispatchMode):
    """Sees every operator of torch on its way to the kernel, and what is made of weights alone,
    which no layer is given.
    """

    def __init__(
        self, model: nn.Module, dense: bool = False, levels: int = 1, padding: bool = True
    ):
        super().__init__()
        self.dense, self.levels, self.padding = dense, levels, padding
        self.weights = {id(parameter): parameter for parameter in model.parameters()}
        self.layers: dict[str, tuple[int, int, int]] = {}  # kind, multiplied, added
        self.within: list[tuple[str, nn.Module]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._can_decompose():  # in inference mode it comes here whole
            with self:
                output = func.decompose(*args, **(kwargs or {}))
            if output is not NotImplemented:
                return output
        # A product in its left side's place leaves nothing of that to count.
        factors = tree_map_only(Tensor, Tensor.clone, args) if func is aten.mul_.Tensor else args
        output = func(*args, **(kwargs or {}))
        layer, module = self.within[-1]
        if not isinstance(module, LIF) and (found := self._count(func, factors, output)):
            kind, multiplied, added = self.layers.get(layer, (0, 0, 0))
            self.layers[layer] = max(kind, found[0]), multiplied + found[1], added + found[2]
        given = _tensors(args)
        if given and all(id(value) in self.weights for value in given):
            self.weights.update({id(value): value for value in _tensors(output)})
        return output

    def _count(self, func, args, output) -> tuple[int, int, int] | None:
        if func is aten.convolution.default:
            x, weight = args[:2]
            stride, padding, dilation, groups = args[3], args[4], args[5], args[8]
            if args[6]:
                raise ValueError("count_operations: expected no transposed convolution")
            every = output.numel() * weight[0].numel()

            def meetings(mask: Tensor) -> int:
                sums = mask.double().unflatten(1, (groups, -1)).sum(2).flatten(0, 1)[:, None]
                window = sums.new_ones(1, 1, *weight.shape[2:])
                met = _convolution(sums, window, stride, padding, dilation)
                return round(met.sum().item()) * (len(weight) // groups)

            return self._events(x, every, meetings)
        if func in PRODUCTS:
            return self._product(*args[-2:])
        if func in GATES and all(isinstance(a, Tensor) for a in args):
            return self._gate(*args, output)
        return None

    def _events(self, x: Tensor, every: int, meetings) -> tuple[int, int, int]:
        kind = 2 if self.dense else _kind(x)
        if kind == 2 and self.levels > 1:
            times = x * self.levels  # the weights may be those of whole numbers as well
            whole = times.round()  # k / levels * levels is not always k
            if ((times - whole).abs() <= 2 * torch.finfo(x.dtype).eps * whole.abs()).all():
                x, kind = whole, _kind(whole)
        if kind == 2:
            if self.padding:
                return kind, every, 0
            return kind, len(x) * meetings(torch.ones(1, *x.shape[1:], device="cpu")), 0
        ones = meetings(x.abs() == 1)
        return kind, (meetings(x.abs() > 1) if kind else 0), ones

    def _gate(self, left: Tensor, right: Tensor, output: Tensor) -> tuple[int, int, int] | None:
        if id(left) in self.weights and id(right) in self.weights:
            return None
        if self.dense:
            return 2, output.numel(), 0
        multiplied = int((_is_no_spike(left) & _is_no_spike(right)).sum())
        # Where one side is 0 or 1 it selects.
        return (max(_kind(left), _kind(right)), multiplied, 0) if multiplied else None

    def _product(self, left: Tensor, right: Tensor) -> tuple[int, int, int] | None:
        """Of a matrix or a vector with another, or of as many of them."""
        are_weights = id(left) in self.weights, id(right) in self.weights
        if all(are_weights):
            return None
        left = left[None] if left.ndim == 1 else left
        right = right[:, None] if right.ndim == 1 else right
        left, right = (x if x.ndim == 3 else x[None] for x in (left, right))
        every = left.numel() * right.shape[2]
        if self.dense:
            return 2, every, 0
        # A weight is none of the events, whatever its values.
        kinds = [3 if w else _kind(x) for w, x in zip(are_weights, (left, right), strict=True)]
        if kinds == [0, 0]:
            return 0, 0, int((left.double() @ right.double()).sum())
        # The narrower operand's values are the events; the other stands in for weights.
        if kinds[0] <= kinds[1]:
            events, fan_out = left, right.shape[2]
        else:
            events, fan_out = right, left.shape[1]
        return self._events(events, every, lambda mask: int(mask.sum()) * fan_out)


class _Sources(_Counter):
    """Follows what is made of spikes alone."""

    def __init__(self, model: nn.Module):
        super().__init__(model, dense=True)
        self.spikes: dict[int, Tensor] = {}  # by id, and held, so that no other takes it
        self.on_others: set[str] = set()

    def fired(self, spikes: Tensor) -> None:
        self.spikes[id(spikes)] = spikes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        layer = self.within[-1][0]
        before = self.layers.get(layer)
        tensors = _tensors(args)
        given = [value for value in tensors if id(value) not in self.weights]
        is_of_spikes = all(id(value) in self.spikes for value in given)
        self.padding = not is_of_spikes
        output = super().__torch_dispatch__(func, types, args, kwargs)
        if self.layers.get(layer) != before and not is_of_spikes:
            self.on_others.add(layer)
        if given and is_of_spikes and len(given) == len(tensors) and func not in AVERAGES:
            self.spikes.update({id(value): value for value in _tensors(output)})
        return output


def _inside(model: nn.Module, counter: _Counter):
    """Tells the counter which module is running; the innermost is what it counts for."""
    modules = dict(model.named_modules())
    return hooks(
        *(
            module.register_forward_pre_hook(
                lambda *_, at=(name, module): counter.within.append(at)
            )
            for name, module in modules.items()
        ),
        *(
            module.register_forward_hook(lambda *_: counter.within.pop() and None)
            for module in modules.values()
        ),
    )


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _is_no_spike(x: Tensor) -> Tensor:
    return (x != 0) & (x != 1)


def _kind(x: Tensor) -> int:
    """Which of KINDS: 0, 1 or 2."""
    if not _is_no_spike(x).any():
        return 0
    return 1 if (x == x.round()).all() else 2


def _convolution(x: Tensor, weight: Tensor, stride, padding, dilation) -> Tensor:
    convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
    return convolve(x, weight, None, tuple(stride), tuple(padding), tuple(dilation))
