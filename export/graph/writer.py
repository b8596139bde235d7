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
import torch
from onnx import TensorProto, helper, numpy_helper
from timm.layers import to_2tuple
from torch import Tensor, fx, nn

import zoo
from export.folder import GRAPH, READABLE_GRAPH
from export.graph.proof import OPSET
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
)
from zoo.hub import UINT8_GRAPH
from zoo.layers.attention import Gate

STANDARD, OURS = helper.make_opsetid("", OPSET), helper.make_opsetid("zoo", 1)
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

    Returns:
        A checked model, pixel_values [batch, C, H, W] -> logits [batch, num_classes].

    Raises:
        TypeError: The network has an operation that zoo.deploy never gives.
    """
    return _Writer(deployed, pixels, readable).model()


def write_graphs(deployed: fx.GraphModule) -> dict[str, onnx.ModelProto]:
    """All graphs of a published folder, by their paths in it."""
    return {
        GRAPH: write_graph(deployed),
        UINT8_GRAPH: write_graph(deployed, pixels="uint8"),
        READABLE_GRAPH: write_graph(deployed, readable=True),
    }


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
        used = {name for node in self.nodes for name in node.input}
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
            [tensor for name, tensor in self.constants.items() if name in used],
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
        if isinstance(module, MembraneConv):
            return self._membrane_conv(name, module, x)
        if isinstance(module, FoldedAttention):
            gate = isinstance(module.attention, Gate)
            return (self._gate if gate else self._attention)(name, module, x)
        if isinstance(module, Repeat):
            return self._node("Concat", [x] * module.time_steps, name, axis=0)
        if isinstance(module, nn.Conv2d):
            return self._conv(name, module, x)
        if isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
            return self._pool(name, module, x)
        if isinstance(module, SumPool2d):
            average = self._pool(f"{name}.average", module.pool, x)
            counts = self._node("Mul", [average, self._number(module.pixels)], f"{name}.counts")
            return self._node("Round", [counts], name)
        if isinstance(module, FoldedSpikeAttention):
            return self._spike_attention(name, module, x, *others)
        if isinstance(module, SpikeCountHead):
            return self._head(name, module, x)
        raise TypeError(f"{name}: expected a layer of zoo.folded, got {type(module).__name__}")

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
            self._rounded(name, part, self._conv(f"{name}.{part}", conv, x), stem.steps)
            for part, conv in (("conv", stem.conv), ("rest", stem.rest))
        ]
        return self._node("Add", parts, name)

    def _rounded(self, name: str, part: str, x: str, steps: Tensor) -> str:
        at, step = f"{name}.{part}", self._tensor(f"{name}.step", 1 / steps)
        x = self._node("Mul", [x, self._tensor(f"{name}.steps", steps)], f"{at}.in_steps")
        x = self._node("Round", [x], f"{at}.whole_steps")
        return self._node("Mul", [x, step], f"{at}.current")

    def _membrane_conv(self, name: str, conv: MembraneConv, x: str) -> str:
        x = self._rounded(f"{name}.coarse", "input", x, conv.coarse)
        if conv.pool is not None:
            x = self._pool(f"{name}.pool", conv.pool, x)
        currents = []
        for i, (layer, units) in enumerate(zip(conv.convs, conv.units, strict=True)):
            at, scale = f"{name}.digit_{i}", self._tensor(f"{name}.units_{i}", units)
            digits = self._node("Mul", [x, scale], f"{at}.scaled")
            digits = self._node("Round", [digits], at)
            current = self._conv(f"{name}.convs.{i}", layer, digits)
            if i == 0:
                limits = [
                    self._tensor(f"{name}.{k}", v)
                    for k, v in (("low", -conv.limit), ("high", conv.limit))
                ]
                current = self._node("Max", [current, limits[0]], f"{at}.not_below")
                current = self._node("Min", [current, limits[1]], f"{at}.not_above")
                currents.append(
                    self._rounded(
                        name, "rest", self._conv(f"{name}.rest", conv.rest, digits), conv.steps
                    )
                )
            currents.append(self._rounded(name, f"convs.{i}", current, conv.steps))
            if layer is conv.convs[-1]:
                break
            unit = self._tensor(f"{name}.unit_{i}", 1 / units)
            taken = self._node("Mul", [digits, unit], f"{at}.taken")
            x = self._node("Sub", [x, taken], f"{at}.left")
            # Half a unit is left at most, which a proof by intervals cannot see.
            least = self._tensor(f"{name}.least_{i}", -0.5 / units)
            x = self._node("Max", [x, least], f"{at}.at_least")
            x = self._node("Min", [x, self._tensor(f"{name}.most_{i}", 0.5 / units)], f"{at}.rest")
        x = currents[0]
        for i, current in enumerate(currents[1:], 2):
            x = self._node("Add", [x, current], f"{name}.sum_of_{i}")
        return x

    def _attention(self, name: str, folded: FoldedAttention, x: str) -> str:
        attention, at = folded.attention, f"{name}.attention"
        steps, sums = self._time_steps(name, folded, x), []
        for kind, pixels, time in (
            ("mean", "GlobalAveragePool", "Mean"),
            ("peak", "GlobalMaxPool", "Max"),
        ):
            pooled = [self._node(pixels, [x], f"{at}.{kind}_{t}") for t, x in enumerate(steps)]
            pooled = self._node(time, pooled, f"{at}.{kind}")
            sums.append(self._layers(f"{at}.channels", attention.channels, pooled, kind))
        weights = self._node("Add", sums, f"{at}.channel_sum")
        weights = self._node("Sigmoid", [weights], f"{at}.channel_weights")
        steps = [self._node("Mul", [x, weights], f"{at}.weighed_{t}") for t, x in enumerate(steps)]
        axis, maps = self._tensor("channel_axis", np.array([1], dtype=np.int64)), []
        for kind, channels, time in (("mean", "ReduceMean", "Mean"), ("peak", "ReduceMax", "Max")):
            pooled = [
                self._node(channels, [x, axis], f"{at}.{kind}_map_{t}") for t, x in enumerate(steps)
            ]
            maps.append(self._node(time, pooled, f"{at}.{kind}_map"))
        maps = self._node("Concat", maps, f"{at}.maps", axis=1)
        weights = self._conv(f"{at}.pixels", attention.pixels, maps)
        weights = self._node("Sigmoid", [weights], f"{at}.pixel_weights")
        steps = [self._node("Mul", [x, weights], f"{at}.kept_{t}") for t, x in enumerate(steps)]
        return self._node("Relu", [self._node("Concat", steps, f"{at}.kept", axis=0)], name)

    def _gate(self, name: str, folded: FoldedAttention, x: str) -> str:
        gate, at, T = folded.attention, f"{name}.attention", folded.time_steps
        axes, sums = self._tensor("image_axes", np.array([1, 2, 3], dtype=np.int64)), []
        for kind, over in (("mean", "ReduceMean"), ("peak", "ReduceMax")):
            pooled = self._node(over, [x, axes], f"{at}.{kind}")
            pooled = self._node("Concat", [pooled] * T, f"{at}.{kind}s", axis=1)  # of all steps
            sums.append(self._layers(f"{at}.steps", gate.steps, pooled, kind))
        numbers = [self._node("Add", sums, f"{at}.numbers")]
        if T > 1:
            (whole,), numbers = numbers, [f"{at}.number_{t}" for t in range(T)]
            self._add("Split", [whole], numbers, axis=1, num_outputs=T)
        maps = self._layers(f"{at}.pixels", gate.pixels, x, "maps")
        steps = [self._node("Mul", [maps, n], f"{at}.step_{t}") for t, n in enumerate(numbers)]
        return self._node("Sigmoid", [self._node("Concat", steps, f"{at}.all_steps", axis=0)], name)

    def _layers(self, name: str, layers: nn.Sequential, x: str, of: str) -> str:
        """Convolutions, ReLUs and paddings, which several inputs may go through."""
        for i, layer in enumerate(layers):
            output = f"{name}.{i}.{of}"
            if isinstance(layer, nn.Conv2d):
                x = self._conv(f"{name}.{i}", layer, x, output)
            elif isinstance(layer, nn.ReLU):
                x = self._node("Relu", [x], output)
            elif isinstance(layer, nn.ZeroPad2d):
                left, right, top, bottom = layer.padding
                pads = np.array([0, 0, top, left, 0, 0, bottom, right], dtype=np.int64)
                x = self._node("Pad", [x, self._tensor(f"{name}.{i}.pads", pads)], output)
            else:
                raise TypeError(f"{name}.{i}: expected a layer known here, got {layer}")
        return x

    def _conv(self, name: str, conv: nn.Conv2d, x: str, output: str = "") -> str:
        inputs = [x, *(self._tensor(f"{name}.{k}", p) for k, p in conv.named_parameters())]
        pads = [side for _ in range(2) for side in to_2tuple(conv.padding)]
        return self._node(
            "Conv",
            inputs,
            output or name,
            kernel_shape=conv.kernel_size,
            strides=conv.stride,
            pads=pads,
            group=conv.groups,
        )

    def _pool(self, name: str, pool: nn.AvgPool2d | nn.MaxPool2d, x: str) -> str:
        average = isinstance(pool, nn.AvgPool2d)
        # Pads at the far borders say what ceil_mode does, and runtimes agree on them.
        beyond = pool.beyond if isinstance(pool, CutPool2d) else (0, 0)
        before = to_2tuple(pool.padding)
        after = (side + outside for side, outside in zip(before, beyond, strict=True))
        return self._node(
            "AveragePool" if average else "MaxPool",
            [x],
            name,
            kernel_shape=to_2tuple(pool.kernel_size),
            strides=to_2tuple(pool.stride),
            pads=[*before, *after],
            **(dict(count_include_pad=0 if any(beyond) else 1) if average else {}),
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
        currents = self._time_steps(name, lif, x)
        threshold, one = self._number(lif.v_threshold), self._number(1)
        spikes, v = [], ""  # v after reset
        for t, current in enumerate(currents):
            if t:
                v = self._node("Mul", [v, self._number(lif.decay)], f"{name}.leaked_{t}")
                current = self._node("Add", [v, current], f"{name}.potential_{t}")
            output = f"{name}.spike_{t}" if T > 1 else name
            if lif.levels == 1:
                fires = self._node("GreaterOrEqual", [current, threshold], f"{name}.fires_{t}")
                spike = self._node("Cast", [fires], output, to=TensorProto.FLOAT)
            else:
                spike = self._rate(f"{name}.rate_{t}", lif, current, output)
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

    def _rate(self, name: str, lif: FoldedLIF, v: str, output: str) -> str:
        x = self._node("Mul", [v, self._number(lif.levels / lif.v_threshold)], f"{name}.steep")
        x = self._node("Floor", [x], f"{name}.stairs")
        x = self._node("Max", [x, self._number(0)], f"{name}.not_below")
        x = self._node("Min", [x, self._number(lif.levels)], f"{name}.not_above")
        return self._node("Mul", [x, self._number(1 / lif.levels)], output)

    def _spike_attention(
        self, name: str, attention: FoldedSpikeAttention, q: str, k: str, v: str
    ) -> str:
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

    def _time_steps(self, name: str, folded: FoldedLIF | FoldedAttention, x: str) -> list[str]:
        T = folded.time_steps
        if T == 1 or folded.repeated:
            return [x] * T
        currents = [f"{name}.current_{t}" for t in range(T)]
        self._add("Split", [x], currents, axis=0, num_outputs=T)
        return currents

    def _head(self, name: str, head: SpikeCountHead, x: str) -> str:
        axes = self._tensor("pixel_axes", np.array([2, 3], dtype=np.int64))
        counts = self._node("ReduceSum", [x, axes], f"{name}.counts", keepdims=0)
        if head.fraction is not None:
            counts = self._rounded(name, "counts", counts, torch.tensor(2.0**head.fraction))
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
