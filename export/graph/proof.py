"""Prove that an exported graph computes the same bits in every runtime.

The proof follows every tensor through the graph as an interval and a grid, channel by channel: its
values lie between low and high and are whole multiples of 2^-fraction. Bounds of a sum hold for
every order of its terms. A value that needs at most 24 bits is exact in fp32, in every runtime,
layout, batch and number of threads; the first value that may need more raises NotExactError.

Two kinds of values may be rounded. An addition of two numbers has only one order and IEEE 754 fixes
its result, unless a runtime merges it into the long sum before it. An average over any number of
pixels is rounded in some way, and the graph undoes it with a Round.

In int8 graphs a convolution reads and gives bytes. Runtimes compute it in fp32 or in integers, and
round a tie in two ways. It is proved to have none: its sums are odd whole numbers, and its scales
divide them by at least 4. Two products fit the 16 bits in which older processors add them.

The proof knows the operators that zoo.deployment.writer emits, as it emits them. It shares no code
with zoo.deployment, whose result it checks, but a test of powers of two.
Shapes: C channels.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import onnx
from onnx import helper, numpy_helper

from zoo.deployment.grid import BITS, SMALLEST, NotExactError, is_power_of_two

LONG_SUMS = {"Conv", "Gemm", "MatMul", "AveragePool", "ReduceSum", "Sum"}
# A runtime merges no later addition into a sum that one of these separates from it.
SEPARATORS = {"Round", "Floor", "GreaterOrEqual", "Cast", "Split", "QuantizeLinear"}
ULP = 2.0**-23  # the largest relative rounding of an fp32 number
LARGEST = 2.0**127  # with steps of at least 2^-SMALLEST, fp32 holds every number below
ANY_GRID = -1000.0  # fraction of 0, which is a multiple of every step
STEP = re.compile(r"\.(potential|leaked|reset|kept|fall|fires|spike|current|counts|step)_\d+$")


@dataclass(frozen=True)
class Row:
    """One line of the certificate: what the values of a layer need in the worst case."""

    layer: str
    largest: float
    """Largest magnitude of any value or partial sum."""
    whole_bits: int
    """Bits before the point of the largest magnitude."""
    fraction_bits: int
    """Bits behind the point, in the channel with the most."""
    head_room: int
    """Bits of 24 that are never used, in the channel with the fewest."""


@dataclass(frozen=True)
class Range:
    """The values of one tensor; all arrays are [C] or [1]."""

    low: np.ndarray
    high: np.ndarray
    fraction: np.ndarray
    error: float = 0.0
    """Relative rounding error of an average; 0 where the values are on the grid."""
    divisor: int = 1
    """The values of an average are multiples of 2^-fraction divided by this."""

    @property
    def reach(self) -> np.ndarray:
        """The largest magnitude, [C]."""
        return np.maximum(-self.low, self.high)

    @property
    def steps(self) -> np.ndarray:
        """The largest magnitude in steps of the grid, [C]; fp32 holds up to 2^24 of them."""
        return self.reach * np.exp2(self.fraction)


PIXELS = Range(np.zeros(1), np.full(1, 255.0), np.zeros(1))
BYTES = (0, 255)
SHORTEST_SHIFT = 2  # bits, for which an odd number lies between two halves
PAIR = 2**15 - 1  # what two products may add up to
SPIKES = Range(np.zeros(1), np.ones(1), np.zeros(1))


def certify(model: onnx.ModelProto) -> list[Row]:
    """Prove that a graph of zoo.deployment.writer is exact.

    Args:
        model: The graph.

    Returns:
        One row for each layer that adds numbers, in the order of the graph.

    Raises:
        NotExactError: A node may round its values.
    """
    return list(Proof(model).rows.values())


class Proof:
    """Ranges of all tensors of a graph, and the certificate's rows by layer.

    Raises:
        NotExactError: As certify.
    """

    def __init__(self, model: onnx.ModelProto):
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        self.shapes = {
            value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*graph.value_info, *graph.input)
        }
        self.types = {
            value.name: value.type.tensor_type.elem_type
            for value in (*graph.value_info, *graph.input)
        }
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.ranges: dict[str, Range | None] = {}  # None: any floats
        for value in graph.input:
            is_uint8 = value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
            self.ranges[value.name] = PIXELS if is_uint8 else None
        self.quantized: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # constants: integers, scales
        self.tieless: set[str] = set()  # sums that never lie between two whole numbers
        self.long: set[str] = set()  # long sums, and what a runtime may take for one
        self.rows: dict[str, Row] = {}
        for node in graph.node:
            self._visit(node)

    def _visit(self, node: onnx.NodeProto) -> None:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        result = RULES[node.op_type](self, node, *node.input, **attributes)
        if result is not None:
            reach = result.reach[np.isfinite(result.reach)]
            if result.fraction.max() > SMALLEST or (reach >= LARGEST).any():
                raise NotExactError(f"{node.name}: values exceed the exponents of fp32")
        self.ranges.update(dict.fromkeys(node.output, result))
        merges = node.op_type not in SEPARATORS and not self.long.isdisjoint(node.input)
        if node.op_type in LONG_SUMS or merges:
            self.long.update(node.output)

    def exact(self, name: str) -> Range:
        """The range of a constant, or of a tensor on a grid."""
        if name in self.constants:
            values = self.constants[name].astype(np.float64).ravel()
            return Range(values, values, fraction_of(values[:, None]))
        x = self.ranges[name]
        if x is None or x.error:
            raise NotExactError(f"{name}: expected values on a grid, got rounded ones")
        return x

    def check(self, node: onnx.NodeProto, x: Range) -> Range:
        """Raise unless fp32 holds every value of x."""
        if not (x.steps <= 2**BITS).all():
            bits = np.log2(x.steps.max())
            raise NotExactError(f"{node.name}: expected at most {BITS} bits, got {bits:.2f}")
        return x

    def check_ones(self, node: onnx.NodeProto, *scales: str) -> None:
        """Raise unless these scales are 1."""
        if any((self.constants[scale] != 1).any() for scale in scales):
            raise NotExactError(f"{node.name}: expected scales of 1")

    def check_sum(self, node: onnx.NodeProto, x: Range) -> Range:
        """As check, with a row for the layer."""
        self.check(node, x)
        row = Row(
            STEP.sub("", node.name),
            largest=float(x.reach.max()),
            whole_bits=_whole_bits(x.reach.max()),
            fraction_bits=int(x.fraction.max()),
            head_room=BITS - _whole_bits(x.steps.max()),
        )
        before = self.rows.get(row.layer)
        if before is None or row.head_room <= before.head_room:
            self.rows[row.layer] = row
        return x


def _identity(proof: Proof, node: onnx.NodeProto, x: str, *_, **__) -> Range:
    return proof.exact(x)


def _cast(proof: Proof, node: onnx.NodeProto, x: str, to: int) -> Range:
    x = proof.exact(x)
    return _check_bytes(node, x) if to == onnx.TensorProto.UINT8 else x


def _check_bytes(node: onnx.NodeProto, x: Range) -> Range:
    """Raise unless every value is a whole number of 8 bits."""
    if (x.fraction > 0).any() or (x.low < BYTES[0]).any() or (x.high > BYTES[1]).any():
        raise NotExactError(f"{node.name}: expected whole numbers from 0 to {BYTES[1]}")
    return x


def _split(proof: Proof, node: onnx.NodeProto, x: str, axis: int, **_) -> Range:
    return (_anywhere if axis == 1 else _identity)(proof, node, x)


def _pad(proof: Proof, node: onnx.NodeProto, x: str, pads: str, value: str) -> Range:
    return _union([proof.exact(x), proof.exact(value)])


def _dequantize(
    proof: Proof, node: onnx.NodeProto, x: str, scale: str, zero: str, axis: int = 1
) -> Range | None:
    if x in proof.constants:
        return _dequantize_constant(proof, node, x, scale, zero, axis)
    proof.check_ones(node, scale)
    x, zero = proof.exact(x), float(proof.constants[zero])
    return replace(x, low=x.low - zero, high=x.high - zero)


def _dequantize_constant(
    proof: Proof, node: onnx.NodeProto, x: str, scale: str, zeros: str, axis: int
) -> None:
    """Weights or biases, with a scale for each output channel."""
    if axis != 0 or proof.constants[zeros].any():
        raise NotExactError(f"{node.name}: expected axis 0 and zero points of 0")
    values, scales = proof.constants[x], proof.constants[scale]
    (output,) = node.output
    proof.quantized[output] = values.astype(np.int64), scales
    proof.constants[output] = values * scales.reshape(-1, *[1] * (values.ndim - 1))


def _quantize(proof: Proof, node: onnx.NodeProto, x: str, scale: str, zero: str) -> Range:
    proof.check_ones(node, scale)
    values, zero = proof.exact(x), float(proof.constants[zero])
    if (values.fraction > 0).any() and x not in proof.tieless:
        raise NotExactError(f"{node.name}: expected whole numbers")
    low, high = np.floor(values.low) + zero, np.ceil(values.high) + zero
    return Range(low.clip(*BYTES), high.clip(*BYTES), np.zeros(1))


def _convolution(
    proof: Proof, node: onnx.NodeProto, x: str, weight: str, bias: str, **shape
) -> Range:
    sums = _weighted_sum(proof, node, x, weight, bias, **shape)
    if weight in proof.quantized:
        _check_in_integers(proof, node, x, weight, bias)
    return sums


def _check_in_integers(proof: Proof, node: onnx.NodeProto, x: str, weight: str, bias: str) -> None:
    """Raise unless a convolution gives the same bytes in integers as in fp32."""
    (weights, scale), (biases, bias_scale) = proof.quantized[weight], proof.quantized[bias]
    if not np.array_equal(scale, bias_scale):
        raise NotExactError(f"{node.name}: expected one scale of weights and biases")
    pair = 2 * proof.exact(x).reach.max() * np.abs(weights).max()
    if pair > PAIR:
        raise NotExactError(f"{node.name}: expected products that fit 16 bits, got {pair:.0f}")
    shifts = fraction_of(scale[:, None])
    has_ties = (weights % 2).any() or not (biases % 2).all() or (shifts < SHORTEST_SHIFT).any()
    if has_ties and (scale != 1).any():
        raise NotExactError(f"{node.name}: expected sums that never lie between two whole numbers")
    proof.tieless.update(node.output)


def _anywhere(proof: Proof, node: onnx.NodeProto, x: str, *_, **__) -> Range:
    """The same values, whose channels move to another axis."""
    x = proof.exact(x)
    return Range(x.low.min(keepdims=True), x.high.max(keepdims=True), x.fraction.max(keepdims=True))


def _compare(proof: Proof, node: onnx.NodeProto, x: str, threshold: str) -> Range:
    proof.exact(x)
    return SPIKES


def _round(proof: Proof, node: onnx.NodeProto, x: str) -> Range:
    x, whole = proof.ranges[x], np.zeros(1)
    if x is None:
        return Range(np.full(1, -np.inf), np.full(1, np.inf), whole)
    if x.error and (x.divisor != 1 or (x.fraction > 0).any() or (x.reach * x.error >= 0.5).any()):
        raise NotExactError(f"{node.name}: expected averages that are whole but for their rounding")
    return Range(np.floor(x.low), np.ceil(x.high), np.minimum(x.fraction, whole))


def _floor(proof: Proof, node: onnx.NodeProto, x: str) -> Range:
    x = proof.exact(x)
    return Range(np.floor(x.low), np.floor(x.high), np.minimum(x.fraction, 0))


def _clip(proof: Proof, node: onnx.NodeProto, x: str, limit: str) -> Range:
    choose = np.maximum if node.op_type == "Max" else np.minimum
    x, limit = proof.exact(x), proof.exact(limit)
    fraction = np.maximum(x.fraction, limit.fraction)
    return Range(choose(x.low, limit.low), choose(x.high, limit.high), fraction)


def _concat(proof: Proof, node: onnx.NodeProto, *parts: str, axis: int) -> Range:
    by_channel = _anywhere if axis == 1 else _identity
    return _union([by_channel(proof, node, part) for part in parts])


def _union(ranges: list[Range]) -> Range:
    return Range(
        reduce(np.minimum, [x.low for x in ranges]),
        reduce(np.maximum, [x.high for x in ranges]),
        reduce(np.maximum, [x.fraction for x in ranges]),
    )


def _add(proof: Proof, node: onnx.NodeProto, left: str, right: str) -> Range:
    """The sum or difference of two numbers, which alone may be rounded."""
    is_merged = not (proof.long | proof.constants.keys()).isdisjoint((left, right))
    left, right = proof.exact(left), proof.exact(right)
    if node.op_type == "Sub":
        right = replace(right, low=-right.high, high=-right.low)
    fraction = np.maximum(left.fraction, right.fraction)
    total = Range(left.low + right.low, left.high + right.high, fraction)
    if not is_merged and (total.steps > 2**BITS).any():
        low, high = (
            ends + np.abs(ends) * sign * ULP for ends, sign in ((total.low, -1), (total.high, 1))
        )
        return Range(low, high, fraction)
    if proof.types.get(node.output[0]) == onnx.TensorProto.UINT8:
        return _check_bytes(node, total)
    return (proof.check_sum if node.op_type == "Add" else proof.check)(node, total)


def _mul(proof: Proof, node: onnx.NodeProto, left: str, right: str) -> Range | None:
    x, factor = proof.ranges.get(left), proof.exact(right)
    if left in proof.ranges and x is None:
        return None  # one rounding, the same everywhere
    if x is not None and x.error:
        scale = factor.low / x.divisor
        if not (factor.low == factor.high).all() or not _are_powers_of_two(scale):
            raise NotExactError(f"{node.name}: expected averages times {x.divisor} or 2^n")
        fraction = x.fraction - np.log2(scale)
        return Range(x.low * scale, x.high * scale, fraction, x.error)
    x = proof.exact(left)
    ends = [a * b for a in (x.low, x.high) for b in (factor.low, factor.high)]
    fraction = x.fraction + factor.fraction
    product = Range(np.minimum.reduce(ends), np.maximum.reduce(ends), fraction)
    is_exact = _moves_the_point(x) or _moves_the_point(factor)
    return product if is_exact else proof.check(node, product)


def _moves_the_point(factor: Range) -> bool:
    """Whether no product with a factor is rounded: it is a power of two, or a spike."""
    if np.array_equal(factor.low, factor.high):
        return _are_powers_of_two(factor.low)
    is_spike = (factor.low >= 0).all() and (factor.high <= 1).all()
    return bool(is_spike and (factor.fraction <= 0).all())


def _are_powers_of_two(values: np.ndarray) -> bool:
    return all(value > 0 and is_power_of_two(value) for value in values)


def _sum(proof: Proof, node: onnx.NodeProto, *parts: str) -> Range:
    ranges = [proof.exact(part) for part in parts]
    low, high = (
        sum(np.minimum(x.low, 0) for x in ranges),
        sum(np.maximum(x.high, 0) for x in ranges),
    )
    return proof.check_sum(node, replace(_union(ranges), low=low, high=high))


def _weighted_sum(
    proof: Proof, node: onnx.NodeProto, x: str, weight: str, bias: str, group: int = 1, **_
) -> Range:
    """Every partial sum of a bias and of weights times inputs, in any order."""
    x, weight, bias = proof.exact(x), proof.constants[weight], proof.constants[bias]
    weight, bias = weight.astype(np.float64), bias.astype(np.float64)
    rows, inputs = len(weight), weight.shape[1]
    products = fraction_of(weight.reshape(rows, -1))
    weight = weight.reshape(group, rows // group, inputs, -1)
    low, high, fraction = (
        np.broadcast_to(v, group * inputs).reshape(group, 1, inputs, 1)
        for v in (x.low, x.high, x.fraction)
    )
    ends = weight * low, weight * high
    # A padded pixel is 0, and so is a sum before its first term.
    least = np.minimum(np.minimum(*ends), 0).sum((2, 3)).ravel() + np.minimum(bias, 0)
    most = np.maximum(np.maximum(*ends), 0).sum((2, 3)).ravel() + np.maximum(bias, 0)
    products += fraction.max((1, 2, 3)).repeat(rows // group)
    fraction = np.maximum(products, fraction_of(bias[:, None]))
    return proof.check_sum(node, Range(least, most, fraction))


def _matmul(proof: Proof, node: onnx.NodeProto, left: str, right: str) -> Range:
    terms = proof.shapes[left][-1]
    left, right = _anywhere(proof, node, left), _anywhere(proof, node, right)
    ends = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
    low = terms * np.minimum(np.minimum.reduce(ends), 0)
    high = terms * np.maximum(np.maximum.reduce(ends), 0)
    return proof.check_sum(node, Range(low, high, left.fraction + right.fraction))


def _average(proof: Proof, node: onnx.NodeProto, x: str, kernel_shape: list[int], **_) -> Range:
    x, window = proof.exact(x), math.prod(kernel_shape)
    total = proof.check(node, _sum_of_pixels(x, window))
    if is_power_of_two(window):
        fraction = x.fraction + window.bit_length() - 1
        return Range(total.low / window, total.high / window, fraction)
    return replace(total, error=_average_error(window), divisor=window)


def _count(proof: Proof, node: onnx.NodeProto, x: str, axes: str, **_) -> Range:
    pixels = math.prod(proof.shapes[x][2:])
    total = proof.check_sum(node, _sum_of_pixels(proof.exact(x), pixels))
    # Some runtimes average, and multiply by the number of pixels.
    return total if is_power_of_two(pixels) else replace(total, error=_average_error(pixels))


def _sum_of_pixels(x: Range, pixels: int) -> Range:
    return Range(np.minimum(x.low, 0) * pixels, np.maximum(x.high, 0) * pixels, x.fraction)


def _average_error(pixels: int) -> float:
    """The largest relative error of an average of so many numbers, computed in any order."""
    return (pixels + 3) * 2.0**-BITS


RULES: dict[str, Callable[..., Range | None]] = {
    "Add": _add,
    "AveragePool": _average,
    "Cast": _cast,
    "Concat": _concat,
    "Conv": _convolution,
    "DequantizeLinear": _dequantize,
    "Floor": _floor,
    "Gemm": _weighted_sum,
    "GreaterOrEqual": _compare,
    "Identity": _identity,
    "MatMul": _matmul,
    "Max": _clip,
    "MaxPool": _identity,
    "Min": _clip,
    "Mul": _mul,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "ReduceSum": _count,
    "Reshape": _anywhere,
    "Round": _round,
    "Slice": _identity,
    "Split": _split,
    "Sub": _add,
    "Sum": _sum,
    "Transpose": _anywhere,
}


def _whole_bits(value: float) -> int:
    return max(0, math.ceil(math.log2(max(value, 1))))


def fraction_of(values: np.ndarray) -> np.ndarray:
    """For each row, the least k such that every value is a whole multiple of 2^-k."""
    mantissas, exponents = np.frexp(values)
    whole = (np.abs(mantissas) * 2.0**53).astype(np.int64)
    trailing_zeros = np.log2((whole & -whole).clip(1))
    return np.where(whole == 0, ANY_GRID, 53 - trailing_zeros - exponents).max(axis=1)
