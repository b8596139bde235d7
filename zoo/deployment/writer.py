"""Write a deployed network as an ONNX graph of plain operators that every runtime can read.

There is no shape arithmetic: time is folded into the batch, one Split before a neuron takes it
apart, and one Concat behind the neuron puts it together. Values are named after the layers.
Shapes: T time steps, B batch, C channels, H height, W width.
"""

import math
import operator
from collections.abc import Callable

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from timm.layers import to_2tuple
from torch import Tensor, fx, nn

import zoo
from zoo.deployment.integer import CountingLIF
from zoo.deployment.integer_writer import IntegerWriter
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
from zoo.deployment.nodes import Nodes, Pixels
from zoo.layers.attention import Gate

OPSET = 20
IR_VERSION = 10
FUNCTIONS = {operator.add: "Add", operator.sub: "Sub", operator.mul: "Mul"}


def write_graph(deployed: fx.GraphModule, pixels: Pixels = "float") -> onnx.ModelProto:
    """The graph of a deployed network, its weights inside and its batch dynamic.

    Args:
        deployed: From zoo.deploy.
        pixels: The input ``pixel_values`` [B, C, H, W]: "float" is normalised floats, "uint8" whole
            pixels.

    Returns:
        A checked model, pixel_values [batch, C, H, W] -> logits [batch, num_classes].
    """
    modules = list(deployed.modules())
    is_whole = any(isinstance(module, CountingLIF) for module in modules)
    writer = (IntegerWriter if is_whole else _Writer)(pixels)
    writer.write(deployed)
    (size,) = (module.size for module in modules if isinstance(module, PixelConv))
    (head,) = (module for module in modules if isinstance(module, SpikeCountHead))
    kind = TensorProto.FLOAT if pixels == "float" else TensorProto.UINT8
    logits = ["batch", head.fc.out_features]
    used = {name for node in writer.nodes for name in node.input}
    graph = helper.make_graph(
        writer.nodes,
        "network",
        [helper.make_tensor_value_info("pixel_values", kind, ["batch", *size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)],
        [tensor for name, tensor in writer.constants.items() if name in used],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="short-bp-zoo",
        producer_version=zoo.__version__,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Writer(Nodes):
    """One method writes each kind of layer."""

    def write(self, deployed: fx.GraphModule) -> None:
        names: dict[fx.Node, str] = {}
        for node in deployed.graph.nodes:
            inputs = [names[arg] for arg in node.all_input_nodes]
            if node.op == "placeholder":
                names[node] = "pixel_values"
            elif node.op == "call_module":
                module = deployed.get_submodule(node.target)
                names[node] = LAYERS[type(module)](self, node.target, module, *inputs)
            elif node.op == "call_function":
                args = [names.get(arg) or self._number(arg) for arg in node.args]
                names[node] = self._node(FUNCTIONS[node.target], args, node.name)
            elif node.op == "output":
                self._node("Identity", inputs, "logits")

    def pixel_conv(self, name: str, stem: PixelConv, x: str) -> str:
        if self.pixels == "uint8":
            x = self._node("Cast", [x], f"{name}.pixels", to=TensorProto.FLOAT)
            x = self._node("Sub", [x, self._tensor(f"{name}.mean", stem.mean)], f"{name}.centred")
        else:
            x = self._centred(name, stem, x)
        if stem.steps is None:
            return self.conv(f"{name}.conv", stem.conv, x)
        parts = [
            self._rounded(name, part, self.conv(f"{name}.{part}", conv, x), stem.steps)
            for part, conv in (("conv", stem.conv), ("rest", stem.rest))
        ]
        return self._node("Add", parts, name)

    def _rounded(self, name: str, part: str, x: str, steps: Tensor) -> str:
        """Round a current to its grid of so many steps in 1."""
        at, step = f"{name}.{part}", self._tensor(f"{name}.step", 1 / steps)
        x = self._node("Mul", [x, self._tensor(f"{name}.steps", steps)], f"{at}.in_steps")
        x = self._node("Round", [x], f"{at}.whole_steps")
        return self._node("Mul", [x, step], f"{at}.current")

    def conv(self, name: str, conv: nn.Conv2d, x: str, output: str = "") -> str:
        pads = to_2tuple(conv.padding) * 2
        return self._node(
            "Conv",
            [x, *self._parameters(name, conv)],
            output or name,
            kernel_shape=conv.kernel_size,
            strides=conv.stride,
            pads=pads,
            group=conv.groups,
        )

    def repeat(self, name: str, repeat: Repeat, x: str) -> str:
        return self._node("Concat", [x] * repeat.time_steps, name, axis=0)

    def lif(self, name: str, lif: FoldedLIF, x: str) -> str:
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

    def _time_steps(self, name: str, folded: FoldedLIF | FoldedAttention, x: str) -> list[str]:
        T = folded.time_steps
        return [x] * T if folded.repeated else self._split(x, T, f"{name}.current")

    def _rate(self, name: str, lif: FoldedLIF, v: str, output: str) -> str:
        x = self._node("Mul", [v, self._number(lif.levels / lif.v_threshold)], f"{name}.steep")
        x = self._node("Floor", [x], f"{name}.stairs")
        least, most = self._number(0), self._number(lif.levels)
        x = self._clip(x, least, most, f"{name}.not_below", f"{name}.not_above")
        return self._node("Mul", [x, self._number(1 / lif.levels)], output)

    def pool(self, name: str, pool: nn.AvgPool2d | nn.MaxPool2d, x: str) -> str:
        sides, strides = to_2tuple(pool.kernel_size), to_2tuple(pool.stride)
        pads = to_2tuple(pool.padding) * 2
        attributes = dict(kernel_shape=sides, strides=strides, pads=pads)
        if isinstance(pool, nn.MaxPool2d):
            return self._node("MaxPool", [x], name, **attributes)
        return self._node("AveragePool", [x], name, **attributes, count_include_pad=1)

    def sum_pool(self, name: str, pool: SumPool2d, x: str) -> str:
        x = self.pool(f"{name}.average", pool.pool, x)
        x = self._node("Mul", [x, self._number(pool.pixels)], f"{name}.counts")
        return self._node("Round", [x], name)

    def membrane_conv(self, name: str, conv: MembraneConv, x: str) -> str:
        x = self._rounded(f"{name}.coarse", "input", x, conv.coarse)
        if conv.pool is not None:
            x = self.pool(f"{name}.pool", conv.pool, x)
        currents = []
        for i, (layer, units) in enumerate(zip(conv.convs, conv.units, strict=True)):
            at, scale = f"{name}.digit_{i}", self._tensor(f"{name}.units_{i}", units)
            digits = self._node("Mul", [x, scale], f"{at}.scaled")
            digits = self._node("Round", [digits], at)
            current = self.conv(f"{name}.convs.{i}", layer, digits)
            if i == 0:
                low = self._tensor(f"{name}.low", -conv.limit)
                high = self._tensor(f"{name}.high", conv.limit)
                current = self._clip(current, low, high, f"{at}.not_below", f"{at}.not_above")
                rest = self.conv(f"{name}.rest", conv.rest, digits)
                currents.append(self._rounded(name, "rest", rest, conv.steps))
            currents.append(self._rounded(name, f"convs.{i}", current, conv.steps))
            if layer is conv.convs[-1]:
                break
            unit = self._tensor(f"{name}.unit_{i}", 1 / units)
            taken = self._node("Mul", [digits, unit], f"{at}.taken")
            x = self._node("Sub", [x, taken], f"{at}.left")
            # At most half a unit is left, which a proof by intervals cannot see.
            least = self._tensor(f"{name}.least_{i}", -0.5 / units)
            most = self._tensor(f"{name}.most_{i}", 0.5 / units)
            x = self._clip(x, least, most, f"{at}.at_least", f"{at}.rest")
        x = currents[0]
        for i, current in enumerate(currents[1:], 2):
            x = self._node("Add", [x, current], f"{name}.sum_of_{i}")
        return x

    def attention(self, name: str, folded: FoldedAttention, x: str) -> str:
        if isinstance(folded.attention, Gate):
            return self._gate(name, folded, x)
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
        weights = self.conv(f"{at}.pixels", attention.pixels, maps)
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
        numbers = self._node("Add", sums, f"{at}.numbers")
        numbers = self._split(numbers, T, f"{at}.number", axis=1)
        maps = self._layers(f"{at}.pixels", gate.pixels, x, "maps")
        steps = [self._node("Mul", [maps, n], f"{at}.step_{t}") for t, n in enumerate(numbers)]
        return self._node("Sigmoid", [self._node("Concat", steps, f"{at}.all_steps", axis=0)], name)

    def _layers(self, name: str, layers: nn.Sequential, x: str, kind: str) -> str:
        """Convolutions, ReLUs and paddings that several kinds of input may go through."""
        for i, layer in enumerate(layers):
            output = f"{name}.{i}.{kind}"
            if isinstance(layer, nn.Conv2d):
                x = self.conv(f"{name}.{i}", layer, x, output)
            elif isinstance(layer, nn.ReLU):
                x = self._node("Relu", [x], output)
            else:
                left, right, top, bottom = layer.padding
                pads = np.array([0, 0, top, left, 0, 0, bottom, right], dtype=np.int64)
                x = self._node("Pad", [x, self._tensor(f"{name}.{i}.pads", pads)], output)
        return x

    def spike_attention(
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

    def head(self, name: str, head: SpikeCountHead, x: str) -> str:
        axes = self._tensor("pixel_axes", np.array([2, 3], dtype=np.int64))
        counts = self._node("ReduceSum", [x, axes], f"{name}.counts", keepdims=0)
        if head.fraction is not None:
            counts = self._rounded(name, "counts", counts, torch.tensor(2.0**head.fraction))
        steps = self._split(counts, head.time_steps, f"{name}.counts")
        if head.time_steps > 1:
            counts = self._node("Sum", steps, f"{name}.all_counts")
        inputs = [counts, *self._parameters(f"{name}.fc", head.fc)]
        return self._node("Gemm", inputs, name, transB=1)


LAYERS: dict[type[nn.Module], Callable[..., str]] = {
    PixelConv: _Writer.pixel_conv,
    nn.Conv2d: _Writer.conv,
    Repeat: _Writer.repeat,
    FoldedLIF: _Writer.lif,
    nn.AvgPool2d: _Writer.pool,
    nn.MaxPool2d: _Writer.pool,
    SumPool2d: _Writer.sum_pool,
    MembraneConv: _Writer.membrane_conv,
    FoldedAttention: _Writer.attention,
    FoldedSpikeAttention: _Writer.spike_attention,
    SpikeCountHead: _Writer.head,
}
