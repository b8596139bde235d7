"""A deployed network (zoo.deployed) as an ONNX graph that every runtime can read.

Plain operators only, no shape arithmetic: time is folded into the batch, one Split takes it apart
before a neuron and one Concat puts it together after it. Values are named after the layers. A
readable graph shows a neuron as one node, a function of the model's own, which runtimes that know
functions put in its place.
"""

import math
import operator
from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

import zoo
from zoo.deployed import FoldedAttention, FoldedLIF, PixelConv, SpikeCountHead, SumPool2d

STANDARD, OURS = helper.make_opsetid("", 20), helper.make_opsetid("zoo", 1)
IR_VERSION = 10
FUNCTIONS = {operator.add: "Add", operator.sub: "Sub", operator.mul: "Mul"}
Pixels = Literal["float", "uint8"]


def write_graph(
    deployed: fx.GraphModule, pixels: Pixels = "float", readable: bool = False
) -> onnx.ModelProto:
    """The graph of a deployed network, its weights inside and its batch dynamic.

    Args:
        pixels: What goes in as ``pixel_values`` [B, C, H, W]: "float" is normalised floats,
            "uint8" whole pixels.
        readable: Write neurons as functions zoo::LIF and, after the first convolution, whose
            current is the same at every step, zoo::RepeatedLIF.
    """
    return _Writer(deployed, pixels, readable).model()


class _Writer:
    def __init__(self, deployed: fx.GraphModule, pixels: Pixels, readable: bool):
        self.deployed, self.pixels, self.readable = deployed, pixels, readable
        self.functions: list[onnx.FunctionProto] = []
        self.function_names: dict[tuple, str] = {}  # by kind and constants
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        names: dict[fx.Node, str] = {}
        for node in self.deployed.graph.nodes:
            inputs = [names[arg] for arg in node.all_input_nodes]
            if node.op == "placeholder":
                names[node] = "pixel_values"
            elif node.op == "call_module":
                module = self.deployed.get_submodule(node.target)
                names[node] = self._module(node.target, module, *inputs)
            elif node.op == "call_function":
                args = [names.get(arg) or self._number(arg) for arg in node.args]
                names[node] = self._node(FUNCTIONS[node.target], args, node.name)
            elif node.op == "output":
                self._node("Identity", inputs, "logits")
        kind = TensorProto.FLOAT if self.pixels == "float" else TensorProto.UINT8
        modules = list(self.deployed.modules())
        (size,) = (module.size for module in modules if isinstance(module, PixelConv))
        (head,) = (module for module in modules if isinstance(module, SpikeCountHead))
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("pixel_values", kind, ["batch", *size])],
            [
                helper.make_tensor_value_info(
                    "logits", TensorProto.FLOAT, ["batch", head.fc.out_features]
                )
            ],
            list(self.constants.values()),
        )
        model = helper.make_model(
            graph,
            functions=self.functions,
            opset_imports=[STANDARD, OURS] if self.readable else [STANDARD],
            ir_version=IR_VERSION,
            producer_name="short-bp-zoo",
            producer_version=zoo.__version__,
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _module(self, name: str, module: nn.Module, x: str, *others: str) -> str:
        if isinstance(module, PixelConv):
            return self._pixel_conv(name, module, x)
        if isinstance(module, FoldedLIF):
            return (self._call_lif if self.readable else self._lif)(name, module, x)
        if isinstance(module, nn.Conv2d):
            return self._conv(name, module, x)
        if isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
            return self._pool(name, module, x)
        if isinstance(module, SumPool2d):
            average = self._pool(f"{name}.average", module.pool, x)
            counts = self._node("Mul", [average, self._number(module.pixels)], f"{name}.counts")
            return self._node("Round", [counts], name)
        if isinstance(module, FoldedAttention):
            return self._attention(name, module, x, *others)
        if isinstance(module, SpikeCountHead):
            return self._head(name, module, x)
        raise TypeError(f"{name}: expected a layer of zoo.deployed, got {type(module).__name__}")

    def _pixel_conv(self, name: str, stem: PixelConv, x: str) -> str:
        if self.pixels == "uint8":
            x = self._node("Cast", [x], f"{name}.pixels", to=TensorProto.FLOAT)
            x = self._node("Sub", [x, self._tensor(f"{name}.mean", stem.mean)], f"{name}.centred")
        else:
            x = self._node("Mul", [x, self._tensor(f"{name}.std", stem.std)], f"{name}.scaled")
            x = self._node("Round", [x], f"{name}.rounded")
            least = self._tensor(f"{name}.least", -stem.mean)
            x = self._node("Max", [x, least], f"{name}.at_least")
            most = self._tensor(f"{name}.most", 255 - stem.mean)
            x = self._node("Min", [x, most], f"{name}.centred")
        if stem.steps is None:
            return self._conv(f"{name}.conv", stem.conv, x)
        parts = [
            self._on_grid(f"{name}.{kind}", conv, stem, x)
            for kind, conv in (("conv", stem.conv), ("rest", stem.rest))
        ]
        return self._node("Add", parts, name)

    def _on_grid(self, name: str, conv: nn.Conv2d, stem: PixelConv, x: str) -> str:
        steps, step = self._tensor("steps", stem.steps), self._tensor("step", 1 / stem.steps)
        x = self._node("Mul", [self._conv(name, conv, x), steps], f"{name}.in_steps")
        x = self._node("Round", [x], f"{name}.whole_steps")
        return self._node("Mul", [x, step], f"{name}.current")

    def _conv(self, name: str, conv: nn.Conv2d, x: str) -> str:
        inputs = [x, *(self._tensor(f"{name}.{k}", p) for k, p in conv.named_parameters())]
        pads = [side for _ in range(2) for side in _pair(conv.padding)]
        return self._node(
            "Conv",
            inputs,
            name,
            kernel_shape=conv.kernel_size,
            strides=conv.stride,
            pads=pads,
            group=conv.groups,
        )

    def _pool(self, name: str, pool: nn.AvgPool2d | nn.MaxPool2d, x: str) -> str:
        average = isinstance(pool, nn.AvgPool2d)
        return self._node(
            "AveragePool" if average else "MaxPool",
            [x],
            name,
            kernel_shape=_pair(pool.kernel_size),
            strides=_pair(pool.stride),
            pads=[side for _ in range(2) for side in _pair(pool.padding)],
            **(dict(count_include_pad=1) if average else {}),
        )

    def _call_lif(self, name: str, lif: FoldedLIF, x: str) -> str:
        kind = "RepeatedLIF" if lif.repeated else "LIF"
        constants = (kind, *lif.constants().values())
        if constants not in self.function_names:
            alike = sum(known[0] == kind for known in self.function_names)
            self.function_names[constants] = f"{kind}_{alike + 1}" if alike else kind
            body = _Writer(self.deployed, self.pixels, readable=False)
            body._lif("spikes", lif, "x")
            numbers = [
                helper.make_node("Constant", [], [number], value=tensor)
                for number, tensor in body.constants.items()
            ]
            function = helper.make_function(
                OURS.domain,
                self.function_names[constants],
                ["x"],
                ["spikes"],
                numbers + body.nodes,
                [STANDARD],
            )
            self.functions.append(function)
        return self._node(self.function_names[constants], [x], name, domain=OURS.domain)

    def _lif(self, name: str, lif: FoldedLIF, x: str) -> str:
        T = lif.time_steps
        currents = [x] * T
        if T > 1 and not lif.repeated:
            currents = [f"{name}.current_{t}" for t in range(T)]
            self._add("Split", [x], currents, axis=0, num_outputs=T)
        threshold, one = self._number(lif.v_threshold), self._number(1)
        spikes, v = [], ""  # v after reset
        for t, current in enumerate(currents):
            if t:
                v = self._node("Mul", [v, self._number(lif.decay)], f"{name}.leaked_{t}")
                current = self._node("Add", [v, current], f"{name}.potential_{t}")
            fires = self._node("GreaterOrEqual", [current, threshold], f"{name}.fires_{t}")
            output = f"{name}.spike_{t}" if T > 1 else name
            spike = self._node("Cast", [fires], output, to=TensorProto.FLOAT)
            spikes.append(spike)
            if t == T - 1:
                break
            if lif.reset == "subtract":
                fall = self._node("Mul", [spike, threshold], f"{name}.fall_{t}")
                v = self._node("Sub", [current, fall], f"{name}.reset_{t}")
            else:
                kept = self._node("Sub", [one, spike], f"{name}.kept_{t}")
                v = self._node("Mul", [current, kept], f"{name}.reset_{t}")
        return self._node("Concat", spikes, name, axis=0) if T > 1 else spikes[0]

    def _attention(self, name: str, attention: FoldedAttention, q: str, k: str, v: str) -> str:
        chs, *sides = attention.size
        heads = attention.num_heads
        whole = np.array([0, heads, chs // heads, math.prod(sides)], dtype=np.int64)
        shape = self._tensor(f"{name}.heads", whole)
        q, k, v = (
            self._node("Reshape", [x, shape], f"{name}.{kind}")
            for kind, x in (("queries", q), ("keys", k), ("values", v))
        )
        k = self._node("Transpose", [k], f"{name}.turned_keys", perm=[0, 1, 3, 2])
        x = self._node("MatMul", [v, k], f"{name}.values_by_keys")
        x = self._node("MatMul", [x, q], f"{name}.met")
        x = self._node("Mul", [x, self._number(attention.scale)], f"{name}.scaled")
        shape = self._tensor(f"{name}.size", np.array([0, *attention.size], dtype=np.int64))
        return self._node("Reshape", [x, shape], name)

    def _head(self, name: str, head: SpikeCountHead, x: str) -> str:
        axes = self._tensor("pixel_axes", np.array([2, 3], dtype=np.int64))
        counts = self._node("ReduceSum", [x, axes], f"{name}.counts", keepdims=0)
        if head.time_steps > 1:
            steps = [f"{name}.counts_{t}" for t in range(head.time_steps)]
            self._add("Split", [counts], steps, axis=0, num_outputs=head.time_steps)
            counts = self._node("Sum", steps, f"{name}.all_counts")
        fc = [self._tensor(f"{name}.fc.{k}", p) for k, p in head.fc.named_parameters()]
        return self._node("Gemm", [counts, *fc], name, transB=1)

    def _node(self, op: str, inputs: Sequence[str], output: str, **attributes) -> str:
        self._add(op, inputs, [output], **attributes)
        return output

    def _add(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes) -> None:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))

    def _number(self, value: float) -> str:
        number = np.array(value, dtype=np.float32)
        return self._tensor(f"number_{float(number)!r}", number)

    def _tensor(self, name: str, value: Tensor | np.ndarray) -> str:
        array = value.detach().numpy() if isinstance(value, Tensor) else value
        self.constants.setdefault(name, numpy_helper.from_array(array, name))
        return name


def _pair(sides: int | tuple[int, int]) -> tuple[int, int]:
    return sides if isinstance(sides, tuple) else (sides, sides)
