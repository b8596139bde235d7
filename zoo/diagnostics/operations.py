"""Operations of an image: additions, multiplications and the energy that they take.

A torch dispatch mode sees every convolution, matrix product and elementwise product as it is
computed, whatever module computes it, and counts it by its values: a spike adds a weight, and only
numbers other than 0 and 1 are multiplied. ``scaled_dot_product_attention`` is seen as its two
products. What torch multiplies inside other operators (addcmul, bilinear) is not seen.
Shapes: T time steps, B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.deployment.grid import NotExactError
from zoo.deployment.unroll import unroll
from zoo.diagnostics.rates import check_batches
from zoo.layers.hooks import eval_mode, hooks
from zoo.neurons import LIF

ACCUMULATE, MULTIPLY_ACCUMULATE = 0.9, 4.6  # pJ, 45 nm CMOS, fp32: Horowitz, ISSCC 2014
SOURCE = "0.9 pJ an accumulate, 4.6 pJ a multiply-accumulate: 45 nm CMOS, Horowitz 2014"
Values = Literal["binary", "integer", "real"]
KINDS: tuple[Values, ...] = ("binary", "integer", "real")
Counts = tuple[int, int, int]  # number of the kind in KINDS, multiply-accumulates, accumulates
aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)


@dataclass(frozen=True)
class Operations:
    """Operations of one layer for one image, over all time steps."""

    layer: str
    inputs: Values
    """The widest kind of input that the layer was given."""
    multiply_accumulates: float
    accumulates: float

    @property
    def energy(self) -> float:
        """In pJ."""
        return MULTIPLY_ACCUMULATE * self.multiply_accumulates + ACCUMULATE * self.accumulates


def count_operations(model: nn.Module, batches: Iterable[Tensor]) -> list[Operations]:
    """The operations of each layer that convolves or multiplies, in order from the input.

    A layer that runs once for an image and not at every time step, as the first does, is counted
    once. A layer on spikes accumulates each time a spike meets a weight inside the borders. On
    whole numbers it skips zeros, accumulates ones and multiplies the rest. On real numbers it
    multiplies every time, zeros and padding too, as is usual for ordinary networks. A network of
    one step of levels is counted as the binary spikes that zoo.unroll makes of it; where it makes
    none, rates k / levels count as the whole numbers k. A product of two spike trains accumulates
    where both fire; an elementwise product multiplies where neither side is 0 or 1. Norms (which
    deployment folds away), pooling and the inside of a LIF are not counted.

    Args:
        model: Runs in eval mode and stays as it was.
        batches: Normalised images, each [B, C, H, W] or event frames [T, B, C, H, W].
    """
    check_batches(batches)
    first, batches = _peeked(batches)
    model, images = _in_spikes(unwrap_model(model), first), 0
    counter = _Counter(model)
    with _watched_by(counter, model):
        for x in batches:
            with counter:  # not around the loader, which may compute
                model(x)
            images += x.shape[-4]
    return [
        Operations(layer, KINDS[kind], multiplied / images, added / images)
        for layer, (kind, multiplied, added) in counter.layers.items()
    ]


def count_connections(model: nn.Module, x: Tensor, padding: bool = True) -> dict[str, int]:
    """Multiply-accumulates of each layer for a batch as if all inputs were real numbers.

    Works on the meta device too.

    Args:
        padding: Count products with the zeros beyond a border, as is usual for ordinary networks.
            Spikes never meet them.
    """
    model = unwrap_model(model)
    counter = _Counter(model, dense=True, padding=padding)
    with _watched_by(counter, model), counter:
        model(x)
    return {layer: multiplied for layer, (_, multiplied, _) in counter.layers.items()}


def _in_spikes(model: nn.Module, x: Tensor) -> nn.Module:
    """The network in binary spikes if it is one of levels that unrolls; not for event frames."""
    try:
        return unroll(model) if x.ndim == 4 else model
    except (NotExactError, ValueError):
        return model


def _peeked(batches: Iterable[Tensor]) -> tuple[Tensor, Iterable[Tensor]]:
    rest = iter(batches)
    first = next(rest)
    return first, chain([first], rest)


class _Counter(TorchDispatchMode):
    """Counts each operator for the innermost module that runs it.

    Args:
        dense: Take all inputs for real numbers, whatever their values.
        padding: With dense, count products with padding.
    """

    def __init__(self, model: nn.Module, dense: bool = False, padding: bool = True):
        super().__init__()
        self.dense, self.padding = dense, padding
        self.levels = max((m.levels for m in model.modules() if isinstance(m, LIF)), default=1)
        # Parameters and their views by id; holding them keeps an id from being taken again.
        self.weights = {id(parameter): parameter for parameter in model.parameters()}
        self.layers: dict[str, Counts] = {}
        self.within: list[tuple[str, nn.Module]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        layer, module = self.within[-1]
        if not isinstance(module, LIF) and (found := self._count(func, args, output)):
            kind, multiplied, added = self.layers.get(layer, (0, 0, 0))
            self.layers[layer] = max(kind, found[0]), multiplied + found[1], added + found[2]
        given = _tensors(args)
        if given and all(id(value) in self.weights for value in given):
            self.weights.update({id(value): value for value in _tensors(output)})
        return output

    def _count(self, func, args, output) -> Counts | None:
        if func is aten.convolution.default:
            return self._convolution(output, *args)
        if func in PRODUCTS:
            return self._product(*args[-2:])
        if func is aten.mul.Tensor and all(isinstance(a, Tensor) for a in args):
            return self._elementwise(*args, output)
        return None

    def _convolution(
        self,
        output,
        x,
        weight,
        _bias,
        stride,
        padding,
        dilation,
        _transposed,
        _output_padding,
        groups,
    ) -> Counts:
        def meetings(mask: Tensor) -> int:
            """How many weights the marked inputs meet inside the borders."""
            sums = mask.double().unflatten(1, (groups, -1)).sum(2).flatten(0, 1)[:, None]
            window = sums.new_ones(1, 1, *weight.shape[2:])
            met = F.conv2d(sums, window, None, stride, padding, dilation)
            return round(met.sum().item()) * (len(weight) // groups)

        if self.dense and not self.padding:
            return 2, len(x) * meetings(torch.ones(1, *x.shape[1:], device="cpu")), 0
        return self._events(x, output.numel() * weight[0].numel(), meetings)

    def _product(self, left: Tensor, right: Tensor) -> Counts:
        """A product of matrices, or of a batch of them."""
        every = left.numel() * right.shape[-1]
        if self.dense:
            return 2, every, 0
        kinds = [len(KINDS) if id(x) in self.weights else _kind(x) for x in (left, right)]
        if kinds == [0, 0]:
            return 0, 0, int((left.double() @ right.double()).sum())
        # The narrower operand holds the events; the other stands in for weights.
        if kinds[0] <= kinds[1]:
            events, fan_out = left, right.shape[-1]
        else:
            events, fan_out = right, left.shape[-2]
        return self._events(events, every, lambda mask: int(mask.sum()) * fan_out)

    def _events(self, x: Tensor, every: int, meetings: Callable[[Tensor], int]) -> Counts:
        """Counts by the values of x, which take part in ``every`` products."""
        if self.dense:
            return 2, every, 0
        kind = _kind(x)
        if kind == 2 and self.levels > 1:
            rates = x * self.levels
            whole = rates.round()  # k / levels * levels is not always k
            if torch.allclose(rates, whole, rtol=2 * torch.finfo(x.dtype).eps, atol=0):
                x, kind = whole, _kind(whole)
        if kind == 2:
            return 2, every, 0
        return kind, (meetings(x.abs() > 1) if kind else 0), meetings(x.abs() == 1)

    def _elementwise(self, left: Tensor, right: Tensor, output: Tensor) -> Counts | None:
        if self.dense:
            return 2, output.numel(), 0
        multiplied = int((_is_no_spike(left) & _is_no_spike(right)).sum())
        # Where one side is 0 or 1 it selects.
        return (max(_kind(left), _kind(right)), multiplied, 0) if multiplied else None


@contextmanager
def _watched_by(counter: _Counter, model: nn.Module) -> Iterator[None]:
    """Run a network in eval mode and tell the counter which module is running."""
    modules = dict(model.named_modules())
    enter = (
        module.register_forward_pre_hook(lambda *_, at=(name, module): counter.within.append(at))
        for name, module in modules.items()
    )
    leave = (
        module.register_forward_hook(lambda *_: counter.within.pop() and None)
        for module in modules.values()
    )
    # In inference mode torch would hand over linear layers undivided.
    math = sdpa_kernel(SDPBackend.MATH)
    watched = hooks(*enter, *leave)
    with torch.inference_mode(False), torch.no_grad(), math, eval_mode(model), watched:
        yield


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _is_no_spike(x: Tensor) -> Tensor:
    return (x != 0) & (x != 1)


def _kind(x: Tensor) -> int:
    """Number in KINDS."""
    if not _is_no_spike(x).any():
        return 0
    return 1 if (x == x.round()).all() else 2
