"""A proof, from an ONNX file alone, that runtimes that add in its order compute the same bits.

Every value is followed through the graph as an interval and a grid, channel by channel: it lies
between low and high and is a whole multiple of 2^-fraction. Sums count every order of their terms.
A value that needs at most 24 bits is exact in fp32, in every runtime, layout, batch and number of
threads; the first that may need more is refused by name. Only an addition of two numbers may round,
where no runtime would make it part of a longer sum: IEEE rounds it the same everywhere, and fused
with a multiplication as well, since no product here is ever rounded. Runtimes multiply constant
factors with each other, before they meet a value or behind a longer sum, too: fp32 has to hold all
such products. They add up constants first, too, and multiply both terms of an addition apart: where
a constant was added, no other may be, and only powers of two multiply, before the next longer sum.
They sum pixels by an average, too, whose rounding has to be undone. Additions of two tensors are
taken as they stand: a compiler that regroups several of them, or takes a factor out of them, is
outside of this proof.
Shapes: C channels.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce

import numpy as np
import onnx
from onnx import helper, numpy_helper

from zoo.deployment.grid import BITS, SMALLEST, is_power_of_two

OPSET = 20  # whose rules these are

ROUNDED = {"Conv", "Gemm", "MatMul", "AveragePool", "ReduceSum", "Sum", "Add", "Sub", "Mul"}
SUMS = {"Conv", "Gemm", "MatMul", "ReduceSum", "Sum", "Add"}
PRODUCTS = {"Conv", "Gemm", "MatMul", "Mul"}
ADDITIONS = {"Add", "Sub", "Sum"}
LONG_SUMS = {"Conv", "Gemm", "MatMul", "AveragePool", "ReduceSum", "Sum"}
# Nothing behind one becomes part of the sum before it.
ENDS = {"Round", "Floor", "GreaterOrEqual", "Cast"}
CLIPS = {"Round", "Max", "Min"}  # what makes pixels of any floats: they may be endless in between
ULP = 2.0**-23  # no rounding moves an fp32 number further, relative to it
LARGEST = 2.0**127  # this and steps of 2^-SMALLEST fp32 has without fail
MOST = 127  # bits before the point
STEP = re.compile(r"\.(potential|leaked|reset|kept|fall|fires|spike|current|counts)_\d+$")


class InexactError(ValueError):
    """A value that fp32 may have to round; the message names its node."""


@dataclass(frozen=True)
class Row:
    """One line of the certificate: what the values of a layer need, in the worst case."""

    layer: str
    largest: float
    """Largest magnitude of any value or partial sum."""
    whole_bits: int
    """Bits before the point, for that."""
    fraction_bits: int
    """Bits behind the point, of the channel with the most."""
    head_room: int
    """Bits of 24 that are never used, in the channel with the fewest."""


@dataclass(frozen=True)
class _Range:
    """Values of one tensor, all arrays [C] or [1]."""

    low: np.ndarray
    high: np.ndarray
    fraction: np.ndarray
    divisor: int = 1
    """Values are those multiples divided by this, and rounded."""
    near: float = 0.0
    """Values are those multiples but for roundings of that size, relative to the largest."""
    rounded: bool = False
    """Values are those multiples, rounded to fp32 by an addition of two numbers."""


def certify(model: onnx.ModelProto) -> list[Row]:
    """Prove that a graph of export.graph is exact.

    Returns:
        One row for each layer that adds up numbers, in the order of the graph.

    Raises:
        InexactError: It may not be, or it holds an operator that this proof knows nothing of.
    """
    try:
        onnx.checker.check_model(model)
        return _Proof(model).run()
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise InexactError(f"graph: expected a valid one, got {error}") from None


class _Proof:
    def __init__(self, model: onnx.ModelProto):
        versions = [(opset.domain, opset.version) for opset in model.opset_import]
        standard = [found for found in versions if found[0] in ("", "ai.onnx")]  # two names of one
        if standard != [("", OPSET)] or model.functions:
            raise InexactError(
                f"graph: expected operators of opset {OPSET} and no functions, got {versions} and "
                f"{[function.name for function in model.functions]}"
            )
        plain = onnx.ModelProto()
        plain.CopyFrom(model)
        del plain.graph.value_info[:]  # what a file says of its shapes is no proof
        for output in plain.graph.output:
            output.type.tensor_type.ClearField("shape")
        plain = onnx.shape_inference.infer_shapes(plain, check_type=True, strict_mode=True)
        graph = plain.graph
        self.nodes, self.outputs = graph.node, graph.output
        values = {
            v.name: v.type.tensor_type for v in (*graph.value_info, *graph.input, *graph.output)
        }
        self.kinds = {name: kind.elem_type for name, kind in values.items()}
        self.shapes = {name: [d.dim_value for d in kind.shape.dim] for name, kind in values.items()}
        for name, kind in values.items():
            sizes = [d.dim_value for d in kind.shape.dim if d.HasField("dim_value")]
            if min(sizes, default=1) < 1:
                raise InexactError(f"{name}: expected sizes from 1 on, got {sizes}")
        self.constants: dict[str, np.ndarray] = {}
        for tensor in graph.initializer:
            self._keep(tensor.name, tensor)
        self.ranges: dict[str, _Range | None] = {}  # None: any float, a multiple of nothing
        self.whole: dict[str, _Range] = {}  # uint8 and bool, which only a Cast may touch
        for value in graph.input:
            if value.name in self.constants:
                raise InexactError(f"{value.name}: expected a constant, got one to override")
            kind = value.type.tensor_type.elem_type
            if kind == onnx.TensorProto.UINT8:
                self.whole[value.name] = _Range(np.zeros(1), np.full(1, 255.0), np.zeros(1))
            elif kind == onnx.TensorProto.FLOAT:
                self.ranges[value.name] = None
        self.scaled: set[str] = set()  # any floats times a constant
        self.long: set[str] = set()  # sums, and what a runtime may take for one
        self.parts: set[str] = set()  # time steps of such, which together are one again
        self.shifted: set[str] = set()  # numbers with a constant added, and what is made of them
        self.factors: dict[str, tuple[float, float]] = {}  # _factors of the node that gives it
        self.rows: dict[str, Row] = {}

    def run(self) -> list[Row]:
        for node in self.nodes:
            rule: Callable | None = getattr(self, f"_of_{node.op_type.lower()}", None)
            if node.domain or rule is None:
                raise InexactError(f"{node.name}: nothing is known of {node.op_type!r}")
            if node.input and self.constants.keys() >= {*node.input}:
                raise InexactError(
                    f"{node.name}: expected numbers of an image, got constants alone"
                )
            if node.op_type in ADDITIONS | {"Mul"}:
                self._check_shifts(node)
            try:
                attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                result = rule(node, *node.input, **attributes)
            except InexactError:
                raise
            except (LookupError, StopIteration, TypeError, ValueError) as error:
                raise InexactError(
                    f"{node.name}: nothing is known of this {node.op_type} ({error!r})"
                ) from None
            if result and not result.near and result.divisor == 1:
                self._check(node, result)
            self._check_kinds(node)
            ranges = self.whole if node.op_type == "GreaterOrEqual" else self.ranges
            ranges.update(dict.fromkeys(node.output, result))
            self.factors.update(dict.fromkeys(node.output, self._factors(node, result)))
            self._check_factors(node)
            if node.op_type not in ENDS:
                self._pass_on_sums(node)
            if self._is_shifted(node):
                self.shifted.update(node.output)
        for output in self.outputs:
            self._of(output.name)
        if not self.rows:
            raise InexactError("graph: expected a network, found nothing that adds up")
        return list(self.rows.values())

    def _keep(self, name: str, tensor: onnx.TensorProto) -> None:
        """Note a constant that every runtime reads as the same numbers."""
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InexactError(f"{name}: expected numbers in the graph, got some of another file")
        array = numpy_helper.to_array(tensor)
        if array.dtype not in (np.float32, np.int64):
            raise InexactError(f"{name}: expected numbers of fp32 or int64, got {array.dtype}")
        size = np.abs(array)
        if not np.isfinite(size).all() or ((size > 0) & (size < 2.0**-SMALLEST)).any():
            raise InexactError(f"{name}: expected finite numbers that no runtime takes for 0")
        self.constants[name] = array

    def _check_kinds(self, node: onnx.NodeProto) -> None:
        """Raise unless a node gives fp32 alone, or the bits of a comparison."""
        if node.op_type == "Constant":
            return
        bits = node.op_type == "GreaterOrEqual"
        expected = onnx.TensorProto.BOOL if bits else onnx.TensorProto.FLOAT
        if any(self.kinds.get(name) != expected for name in node.output):
            raise InexactError(f"{node.name}: expected fp32 from this {node.op_type}, got others")

    def _is_long(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a longer sum, and not one of a single number, which is left out."""
        return node.op_type in LONG_SUMS and self._terms(node) > 1

    def _pass_on_sums(self, node: onnx.NodeProto) -> None:
        """Note where a runtime may take this node out, or into a sum, and what comes behind it too.
        Time steps taken apart are no sum any more, until they are put together.
        """
        long = self._is_long(node) or not self.long.isdisjoint(node.input)
        part = not self.parts.isdisjoint(node.input)
        if node.op_type == "Split" and len(node.output) > 1:
            long, part = False, long or part
        elif node.op_type == "Concat":
            long = long or part
        if long:
            self.long.update(node.output)
        if part:
            self.parts.update(node.output)

    def _is_shifted(self, node: onnx.NodeProto) -> bool:
        """Whether a runtime may find the constant that is added here, or was before, behind this
        node too: not behind longer sums, and not behind a product of two tensors.
        """
        added = node.op_type in ADDITIONS
        tensors = [name for name in node.input if name not in self.constants]
        if added and len(tensors) < len(node.input):
            return True
        one = len(tensors) == 1 and not self._is_long(node)
        passes = added or one or node.op_type in ("Concat", "Max", "Min")
        return passes and node.op_type not in ENDS and not self.shifted.isdisjoint(tensors)

    def _check_shifts(self, node: onnx.NodeProto) -> None:
        """Raise where a constant is added to what has one added already, or multiplies it and might
        round one of both terms alone.
        """
        constants = [self.constants[name] for name in node.input if name in self.constants]
        if node.op_type in ADDITIONS and sum(name in self.shifted for name in node.input) > 1:
            raise InexactError(
                f"{node.name}: expected a constant added to one of its numbers at most, got more, "
                "which a runtime may first add to each other"
            )
        powers = all(np.isin(np.frexp(c)[0], (-0.5, 0.5)).all() for c in constants)
        moves_the_point = node.op_type == "Mul" and powers
        if constants and not moves_the_point and not self.shifted.isdisjoint(node.input):
            raise InexactError(
                f"{node.name}: expected numbers that no constant was added to before, which a "
                "runtime may first add this one to, or multiply by it"
            )

    def _factors(self, node: onnx.NodeProto, result: _Range | None) -> tuple[float, float]:
        """Bits before the point and behind it that a product of any constants from the last end up
        to this node may take, with the numbers of that end or without.
        """
        if node.op_type == "Constant":
            return 0.0, 0.0
        size = _size(result) if node.op_type in ENDS | CLIPS else (0.0, 0.0)
        if node.op_type in ENDS:
            return size
        own = [self.constants[name] for name in node.input if name in self.constants]
        own = [array.astype(np.float64).ravel() for array in own if array.dtype == np.float32]
        bits = [self.factors[name] for name in node.input if name in self.factors] + [size]
        if own:
            values = np.concatenate(own)
            largest = math.log2(max(np.abs(values).max(initial=0), 1))
            bits.append((largest, max(_fraction(values[None])[0], 0)))
        join = sum if node.op_type in PRODUCTS else partial(max, default=0)
        before, behind = join(b for b, _ in bits), join(b for _, b in bits)
        return before + math.log2(self._terms(node)), float(behind)

    def _terms(self, node: onnx.NodeProto) -> int:
        """How many numbers a long sum adds up; 1 for what is none."""
        if node.op_type == "MatMul":
            return self.shapes[node.input[0]][-1]
        if node.op_type == "ReduceSum":
            return math.prod(self.shapes[node.input[0]][2:])
        if node.op_type == "AveragePool":
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            return math.prod(attributes["kernel_shape"])
        if node.op_type in ("Conv", "Gemm"):
            return math.prod(self.constants[node.input[1]].shape[1:]) + 1
        return len(node.input) if node.op_type == "Sum" else 1

    def _check_factors(self, node: onnx.NodeProto) -> None:
        before, behind = self.factors[node.output[0]]
        if before > MOST or behind > SMALLEST:
            raise InexactError(
                f"{node.name}: expected constants that a runtime may multiply with each other, and "
                f"with what they meet, in any order: at most {MOST} bits before the point and "
                f"{SMALLEST} behind it, got {before:.0f} and {behind:.0f}"
            )

    def _check(self, node: onnx.NodeProto, x: _Range) -> None:
        """Raise unless fp32 holds every value of x; note what a sum needs."""
        reach = np.maximum(-x.low, x.high)
        endless = (node.op_type in CLIPS) & np.isinf(reach)
        if x.fraction.max() > SMALLEST or ((reach >= LARGEST) & ~endless).any():
            raise InexactError(f"{node.name}: expected numbers that fp32 has, got others")
        if node.op_type not in ROUNDED:
            return
        if x.rounded:
            return
        needed = reach * np.exp2(x.fraction)
        if not (np.isfinite(needed).all() and (needed <= 2**BITS).all()):
            worst = int(np.argmax(needed))
            raise InexactError(
                f"{node.name}: expected at most {BITS} bits, got {np.log2(needed.max()):.2f} in "
                f"channel {worst}: sums up to {reach[min(worst, len(reach) - 1)]:.6g} in steps of "
                f"2^-{x.fraction[min(worst, len(x.fraction) - 1)]:.0f}"
            )
        if node.op_type not in SUMS:
            return
        row = Row(
            STEP.sub("", node.name),
            largest=float(reach.max()),
            whole_bits=max(0, math.ceil(math.log2(max(reach.max(), 1)))),
            fraction_bits=int(x.fraction.max()),
            head_room=BITS - max(0, math.ceil(math.log2(max(needed.max(), 1)))),
        )
        before = self.rows.get(row.layer)
        if before is None or row.head_room <= before.head_room:
            self.rows[row.layer] = row

    def _of(self, name: str) -> _Range:
        """The range of a tensor that must be exact."""
        x = self.ranges.get(name)
        if x is None or x.near or x.divisor != 1:
            raise InexactError(f"{name}: expected whole steps of a grid, got rounded numbers")
        return x

    def _operand(self, name: str, other: str) -> _Range:
        """The range of what stands beside another tensor: one like it, a number, or a constant
        [1, C, 1, 1] beside [N, C, H, W].
        """
        if name not in self.constants:
            if other not in self.constants and self.shapes[name] != self.shapes[other]:
                raise InexactError(f"{name}: expected the shape of {other}")
            return self._of(name)
        array, shape = self.constants[name].astype(np.float64), self.shapes[other]
        numbers = array.size == 1 and array.ndim <= len(shape)
        if not numbers and (len(shape) != 4 or array.shape != (1, shape[1], 1, 1)):
            raise InexactError(f"{name}: expected a number, or one for each channel of {other}")
        values = array.reshape(-1)
        return _Range(values, values, _fraction(values[:, None]))

    def _weights(self, x: str, weight: str, bias: str, pads: Sequence[int]) -> list[np.ndarray]:
        if x in self.shifted and not all(pads):
            raise InexactError(
                f"{weight}: expected zeros around numbers that a constant was added to, which a "
                "runtime may else add to the bias"
            )
        if (np.signbit(self.constants[bias]) & (self.constants[bias] == 0)).any():
            raise InexactError(f"{bias}: expected 0, beside which no sum is -0, got -0")
        shapes = [self.constants[name].shape for name in (weight, bias)]
        if shapes[1] != shapes[0][:1]:  # some runtimes broadcast it, others read past its end
            raise InexactError(
                f"{bias}: expected a number for each output of a weight {list(shapes[0])}, got "
                f"{list(shapes[1])}"
            )
        return [self.constants[name].astype(np.float64) for name in (weight, bias)]

    def _of_constant(self, node, value) -> None:
        self._keep(node.output[0], value)

    def _of_identity(self, node, x) -> _Range:
        return self._of(x)

    def _of_cast(self, node, x, to) -> _Range:
        if to != onnx.TensorProto.FLOAT:
            raise InexactError(f"{node.name}: expected a cast to float")
        return self.whole[x]

    def _of_greaterorequal(self, node, x, threshold) -> _Range:
        self._of(x), self._operand(threshold, x)
        return _Range(np.zeros(1), np.ones(1), np.zeros(1))

    def _of_split(self, node, x, axis, num_outputs) -> _Range:
        if axis != 0:
            raise InexactError(f"{node.name}: expected time steps taken apart, got axis {axis}")
        return self._of(x)

    def _of_concat(self, node, *parts, axis) -> _Range:
        if axis != 0:
            raise InexactError(f"{node.name}: expected time steps put together, got axis {axis}")
        ranges = [self._of(part) for part in parts]
        return _Range(
            reduce(np.minimum, [r.low for r in ranges]),
            reduce(np.maximum, [r.high for r in ranges]),
            reduce(np.maximum, [r.fraction for r in ranges]),
            rounded=any(r.rounded for r in ranges),
        )

    def _of_sum(self, node, *parts) -> _Range:
        like = next(part for part in parts if part not in self.constants)
        ranges = [self._operand(part, like) for part in parts]
        return _Range(
            sum(np.minimum(r.low, 0) for r in ranges),
            sum(np.maximum(r.high, 0) for r in ranges),
            reduce(np.maximum, [r.fraction for r in ranges]),
        )

    def _of_add(self, node, left, right) -> _Range:
        left, right = self._operand(left, right), self._operand(right, left)
        fraction = np.maximum(left.fraction, right.fraction)
        return self._alone(node, _Range(left.low + right.low, left.high + right.high, fraction))

    def _of_sub(self, node, left, right) -> _Range:
        left, right = self._operand(left, right), self._operand(right, left)
        fraction = np.maximum(left.fraction, right.fraction)
        return self._alone(node, _Range(left.low - right.high, left.high - right.low, fraction))

    def _alone(self, node, x: _Range) -> _Range:
        """What an addition of two numbers gives: x, or x rounded, unless an operand is a constant,
        or a longer sum, into which a runtime may draw the addition.
        """
        reach = np.maximum(-x.low, x.high)
        if (reach * np.exp2(x.fraction) <= 2**BITS).all():
            return x
        if not (self.long | self.constants.keys()).isdisjoint(node.input):
            return x
        low, high = x.low - np.abs(x.low) * ULP, x.high + np.abs(x.high) * ULP
        return _Range(low, high, x.fraction, rounded=True)

    def _of_mul(self, node, left, right) -> _Range | None:
        if left in self.ranges and right in self.constants:
            x = self.ranges[left]
            if x is None:
                if left in self.scaled:
                    raise InexactError(f"{node.name}: expected floats times one factor, got two")
                factor = np.abs(self.constants[right])
                # What some runtimes take for 0 has to round to it, and infinity to stay one.
                if not ((factor >= 2.0**-SMALLEST) & (factor <= 2.0 ** (SMALLEST - 2))).all():
                    raise InexactError(
                        f"{node.name}: expected floats times a factor from 2^-{SMALLEST} to "
                        f"2^{SMALLEST - 2}, got {factor.min()} to {factor.max()}"
                    )
                self.scaled.update(node.output)
                return None  # one rounding, the same everywhere
            if x.divisor != 1:
                if (self._operand(right, left).low != x.divisor).any():
                    raise InexactError(f"{node.name}: expected a factor of {x.divisor}")
                return replace(x, divisor=1, near=_of_average(x.divisor))
            if x.near and _shifts_or_keeps(by := self._operand(right, left)) and (by.low > 0).all():
                bits = np.log2(by.low)
                return replace(
                    x, low=x.low * by.low, high=x.high * by.low, fraction=x.fraction - bits
                )
        left, right = self._operand(left, right), self._operand(right, left)
        ends = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
        fraction = left.fraction + right.fraction
        pairs = (left, right), (right, left)
        kept = any(x.rounded and _shifts_or_keeps(factor) for x, factor in pairs)
        return _Range(np.minimum.reduce(ends), np.maximum.reduce(ends), fraction, rounded=kept)

    def _of_round(self, node, x) -> _Range:
        x, whole = self.ranges[x], np.zeros(1)
        if x is None:
            return _Range(np.full(1, -np.inf), np.full(1, np.inf), whole)
        off = np.maximum(-x.low, x.high) * x.near
        unclear = x.near and (x.fraction.any() or (off >= 0.5).any())
        if x.divisor != 1 or unclear:
            raise InexactError(f"{node.name}: expected numbers that are whole but for a rounding")
        return _Range(np.floor(x.low), np.ceil(x.high), np.minimum(x.fraction, whole))

    def _of_floor(self, node, x) -> _Range:
        x = self._of(x)
        return _Range(np.floor(x.low), np.floor(x.high), np.minimum(x.fraction, 0))

    def _of_max(self, node, x, least) -> _Range:
        return self._both(x, least, np.maximum)

    def _of_min(self, node, x, most) -> _Range:
        return self._both(x, most, np.minimum)

    def _both(self, left, right, choose) -> _Range:
        left, right = self._operand(left, right), self._operand(right, left)
        low, high = choose(left.low, right.low), choose(left.high, right.high)
        return _Range(low, high, np.maximum(left.fraction, right.fraction))

    def _of_conv(
        self,
        node,
        x,
        weight,
        bias,
        group=1,
        auto_pad=b"NOTSET",
        pads=(0, 0, 0, 0),
        kernel_shape=None,
        dilations=(1, 1),
        **_,
    ) -> _Range:
        of, (weight, bias) = x, self._weights(x, weight, bias, pads)
        x = self._of(x)
        contradicts = kernel_shape is not None and [*weight.shape[2:]] != kernel_shape
        if weight.ndim != 4 or auto_pad != b"NOTSET" or contradicts:
            raise InexactError(f"{node.name}: expected a convolution of images with its own pads")
        holes = zip(weight.shape[2:], dilations, strict=True)
        self._check_windows(node, of, [(side - 1) * d + 1 for side, d in holes], pads)
        low, high, fraction = (
            np.broadcast_to(v, weight.shape[1] * group) for v in (x.low, x.high, x.fraction)
        )
        if group == 1:
            low, high = (v.reshape(1, -1, 1, 1) for v in (low, high))
            coarsest = np.full(len(weight), fraction.max())
        elif group == len(weight) == len(low):
            low, high = (v.reshape(-1, 1, 1, 1) for v in (low, high))
            coarsest = fraction
        else:
            raise InexactError(f"{node.name}: nothing is known of {group} groups")
        return _weighted_sum(weight, bias, low, high, coarsest)

    def _of_gemm(self, node, x, weight, bias, transB=0, alpha=1.0, beta=1.0, transA=0) -> _Range:
        x, (weight, bias) = self._of(x), self._weights(x, weight, bias, (0,))
        if (transA, transB, alpha, beta) != (0, 1, 1.0, 1.0):
            raise InexactError(f"{node.name}: expected x W^T + b")
        low, high = (np.broadcast_to(v, weight.shape[1])[None] for v in (x.low, x.high))
        coarsest = np.full(len(weight), x.fraction.max())
        return _weighted_sum(weight, bias, low, high, coarsest)

    def _of_matmul(self, node, left, right) -> _Range:
        terms = self.shapes[left][-1]
        if not terms or len(self.shapes[left]) < 3 or self.shapes[right][-2] != terms:
            raise InexactError(f"{node.name}: expected matrices with a known number of terms")
        left, right = _everywhere(self._of(left)), _everywhere(self._of(right))
        ends = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
        return _Range(
            terms * np.minimum(np.minimum.reduce(ends), 0),
            terms * np.maximum(np.maximum.reduce(ends), 0),
            left.fraction + right.fraction,
        )

    def _of_reshape(self, node, x, shape, allowzero=0) -> _Range:
        return _everywhere(self._of(x))

    def _of_transpose(self, node, x, perm) -> _Range:
        return _everywhere(self._of(x))

    def _check_windows(self, node: onnx.NodeProto, x: str, sides, pads) -> None:
        """Raise unless every window has a pixel of the image under it and lies within its pads."""
        pads = [int(pad) for pad in pads]
        image, before, after = self.shapes[x][2:], pads[:2], pads[2:]
        axes = [*zip(image, sides, before, after, strict=True)]
        if len(axes) != 2 or any(
            max(a, b) >= side or not size or size + a + b < side for size, side, a, b in axes
        ):
            raise InexactError(f"{node.name}: expected a pixel of the image under every window")

    def _sum_of(self, node: onnx.NodeProto, x: _Range, pixels: int) -> _Range:
        """The sum of so many numbers, checked, of which a runtime may take the average first."""
        if x.fraction.max() + math.ceil(math.log2(pixels)) > SMALLEST:
            raise InexactError(f"{node.name}: expected averages that no runtime takes for 0")
        total = _Range(np.minimum(x.low, 0) * pixels, np.maximum(x.high, 0) * pixels, x.fraction)
        self._check(node, total)
        return total

    def _of_averagepool(
        self,
        node,
        x,
        kernel_shape,
        count_include_pad=0,
        ceil_mode=0,
        auto_pad=b"NOTSET",
        pads=(0, 0, 0, 0),
        strides=(1, 1),
    ) -> _Range:
        of, x, window = x, self._of(x), math.prod(kernel_shape)
        if ceil_mode or len(kernel_shape) != 2 or auto_pad != b"NOTSET":
            raise InexactError(f"{node.name}: expected a window of pixels with its own pads")
        if not count_include_pad and not _halves(kernel_shape, pads):
            raise InexactError(f"{node.name}: expected a division by the whole window")
        self._check_windows(node, of, kernel_shape, pads)
        sums = self._sum_of(node, x, window)
        if is_power_of_two(window):
            steps = x.fraction + window.bit_length() - 1
            return _Range(sums.low / window, sums.high / window, steps)
        return replace(sums, divisor=window)

    def _of_maxpool(self, node, x, kernel_shape, pads=(0, 0, 0, 0), strides=(1, 1)) -> _Range:
        self._check_windows(node, x, kernel_shape, pads)
        return self._of(x)  # whatever was the largest is one of them

    def _of_reducesum(self, node, x, axes, keepdims=1, noop_with_empty_axes=0) -> _Range:
        shape, axes = self.shapes[x], self.constants[axes].tolist()
        if axes != [2, 3] or keepdims or len(shape) != 4 or not shape[2] * shape[3]:
            raise InexactError(f"{node.name}: expected a sum over a fixed number of pixels")
        x, pixels = self._of(x), shape[2] * shape[3]
        total = self._sum_of(node, x, pixels)
        # Some runtimes average, and multiply by the number of pixels.
        return total if is_power_of_two(pixels) else replace(total, near=_of_average(pixels))


def _size(x: _Range | None) -> tuple[float, float]:
    """Bits before the point and behind it of numbers that have an end."""
    if x is None:
        return 0.0, 0.0
    reach = float(np.maximum(-x.low, x.high).max())
    before = math.log2(max(reach, 1)) if math.isfinite(reach) else 0.0
    return before, float(max(x.fraction.max(), 0))


def _of_average(pixels: int) -> float:
    """How far off an average of so many, in whatever way and order, times their number may be."""
    return (pixels + 3) * 2.0**-BITS


def _halves(kernel_shape, pads) -> bool:
    """Whether windows cut off by the far borders hold one pixel, two or all of them."""
    return max(kernel_shape) <= 2 and not any(pads[:2]) and max(pads) < min(kernel_shape)


def _everywhere(x: _Range) -> _Range:
    """What holds in every channel, for a tensor whose channels go elsewhere."""
    ends = x.low.min(keepdims=True), x.high.max(keepdims=True)
    return replace(x, low=ends[0], high=ends[1], fraction=x.fraction.max(keepdims=True))


def _shifts_or_keeps(factor: _Range) -> bool:
    """Whether products with a factor need no more bits: it is a power of two, or 0 or 1."""
    if np.array_equal(factor.low, factor.high):
        return bool(np.isin(np.frexp(factor.low)[0], (0.0, 0.5)).all())
    return bool((factor.low >= 0).all() and (factor.high <= 1).all() and not factor.fraction.any())


def _weighted_sum(weight, bias, low, high, fraction) -> _Range:
    """Every partial sum of bias and weights times inputs, in any order."""
    ends = weight * low, weight * high
    axes = tuple(range(1, weight.ndim))
    # A padded pixel is 0 and so is a sum before its first term.
    least = np.minimum(np.minimum(*ends), 0).sum(axes) + np.minimum(bias, 0)
    most = np.maximum(np.maximum(*ends), 0).sum(axes) + np.maximum(bias, 0)
    products = _fraction(weight.reshape(len(weight), -1)) + fraction
    with_bias = np.maximum(products, _fraction(bias[:, None]))
    return _Range(least, most, np.where(bias == 0, products, with_bias))  # a 0 is on any grid


def _fraction(values: np.ndarray) -> np.ndarray:
    """For each row, the least k such that every value is a whole multiple of 2^-k."""
    mantissas, exponents = np.frexp(values)
    whole = (np.abs(mantissas) * 2.0**53).astype(np.int64)
    trailing = np.log2((whole & -whole).clip(1)).astype(np.int64)
    steps = 53 - trailing - exponents
    least = np.where(whole == 0, -(2**10), steps).max(axis=1)
    return np.where(least == -(2**10), 0, least).astype(np.float64)
