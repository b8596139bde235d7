"""Write a network of whole numbers as an ONNX graph of quantised convolutions, in QDQ form.

Each time step has its own nodes, whose names end in its number; they share their weights.
Shapes: T time steps, B batch, C channels, H height, W width.
"""

import numpy as np
import onnx
import torch
from onnx import TensorProto
from timm.layers import to_2tuple
from torch import Tensor, fx

from zoo.deployment.integer import (
    COPIES,
    CountConv,
    CountHead,
    CountingLIF,
    Join,
    MaxCounts,
    PixelCountConv,
    SumCounts,
)
from zoo.deployment.nodes import Nodes

Steps = list[str]  # the tensors of one value at all time steps


class IntegerWriter(Nodes):
    """One method writes each kind of layer."""

    def write(self, deployed: fx.GraphModule) -> None:
        values: dict[fx.Node, Steps] = {}
        for node in deployed.graph.nodes:
            x = [values[arg] for arg in node.all_input_nodes]
            if node.op == "placeholder":
                values[node] = ["pixel_values"]
            elif node.op == "call_module":
                module = deployed.get_submodule(node.target)
                values[node] = LAYERS[type(module)](self, node.target, module, *x)
            elif node.op == "call_function":
                values[node] = self._sum(deployed, node, *x)
            elif node.op == "output":
                self._node("Identity", x[0], "logits")

    def pixel_conv(self, name: str, stem: PixelCountConv, pixels: Steps) -> Steps:
        (x,) = pixels
        if self.pixels == "float":
            x = self._centred(name, stem, x)
            x = self._node("Add", [x, self._tensor(f"{name}.mean", stem.mean)], f"{name}.whole")
            x = self._node("Cast", [x], f"{name}.pixels", to=TensorProto.UINT8)
        x = self._padded(name, stem, x)
        x = self._node("Concat", [x] * COPIES, f"{name}.copies", axis=1)
        self._tensor(f"{name}.weight", torch.cat(_in_copies(stem.conv.weight), 1).to(torch.int8))
        mean = (stem.conv.weight * stem.mean).sum((1, 2, 3))  # which pixels still have
        step, steps = torch.exp2(-stem.shift), []
        for t, (end, bias) in enumerate(zip(_ends(len(stem.bias)), stem.bias, strict=True), 1):
            scale = self._tensor(f"{name}.scale{end}", t * step)
            bias = bias - mean
            strides = stem.conv.stride
            steps.append(self._conv(name, end, x, scale, bias, strides=strides))
        return steps

    def _padded(self, name: str, stem: PixelCountConv, x: str) -> str:
        """Every channel padded with its mean, which stands for 0."""
        pads = np.array([0, 0, *stem.conv.padding] * 2, dtype=np.int64)
        pads = self._tensor(f"{name}.pads", pads)
        channels = self._split(x, stem.mean.numel(), f"{name}.channel", axis=1)
        padded = [
            self._node("Pad", [x, pads, self._byte(int(mean))], f"{name}.padded_{i}")
            for i, (x, mean) in enumerate(zip(channels, stem.mean.flatten(), strict=True))
        ]
        return self._node("Concat", padded, f"{name}.padded", axis=1)

    def conv(self, name: str, conv: CountConv, x: Steps) -> Steps:
        self._tensor(f"{name}.weight", conv.weight.to(torch.int8))
        scale = self._tensor(f"{name}.scale", torch.exp2(-conv.shift))
        shape = dict(strides=conv.stride, pads=conv.padding * 2)
        return [
            self._conv(name, end, x_t, scale, bias, conv.zero, **shape)
            for end, x_t, bias in zip(_ends(len(x)), x, conv.bias, strict=True)
        ]

    def _conv(
        self, layer: str, end: str, x: str, scale: str, bias: Tensor, zero: int = 0, **shape
    ) -> str:
        """A convolution times a scale per channel, rounded to a byte; zero is the code of 0.

        Runtimes make one convolution of bytes of these nodes, or compute the same bits in fp32.
        """
        bias = self._tensor(f"{layer}.bias{end}", bias.to(torch.int32))
        inputs = [
            self._floats(x, f"{layer}.input{end}"),
            self._scaled(f"{layer}.weight", scale, f"{layer}.weight.scaled{end}"),
            self._scaled(bias, scale, f"{layer}.bias.scaled{end}"),
        ]
        sums = self._node("Conv", inputs, f"{layer}.sum{end}", **shape)
        return self._bytes(sums, f"{layer}{end}", zero)

    def _scaled(self, whole: str, scale: str, output: str) -> str:
        """Whole numbers with a scale for each output channel."""
        array = self.constants[whole]
        kind = onnx.helper.tensor_dtype_to_np_dtype(array.data_type)
        zeros = self._tensor(f"zeros_{array.dims[0]}_{kind}", np.zeros(array.dims[0], dtype=kind))
        return self._node("DequantizeLinear", [whole, scale, zeros], output, axis=0)

    def sum_pool(self, name: str, pool: SumCounts, x: Steps) -> Steps:
        """Sums as a convolution with ones, since runtimes round averages of bytes."""
        channels, sides = pool.channels, to_2tuple(pool.pool.kernel_size)
        self._tensor(f"{name}.weight", torch.ones(channels, 1, *sides).to(torch.int8))
        scale = self._tensor(f"ones_{channels}", torch.ones(channels))
        shape = dict(
            strides=to_2tuple(pool.pool.stride),
            pads=to_2tuple(pool.pool.padding) * 2,
            group=channels,
        )
        return [
            self._conv(name, end, x_t, scale, torch.zeros(channels), **shape)
            for end, x_t in zip(_ends(len(x)), x, strict=True)
        ]

    def max_pool(self, name: str, layer: MaxCounts, x: Steps) -> Steps:
        pool, counts = layer.pool, []
        window = dict(
            kernel_shape=to_2tuple(pool.kernel_size),
            strides=to_2tuple(pool.stride),
            pads=to_2tuple(pool.padding) * 2,
        )
        for t, (end, x_t) in enumerate(zip(_ends(len(x)), x, strict=True)):
            if t == 0:
                counts.append(self._node("MaxPool", [x_t], f"{name}{end}", **window))
                continue
            parts = [
                self._floats(part, f"{name}.{key}{end}")
                for key, part in (("after", x_t), ("before", x[t - 1]))
            ]
            spikes = self._node("Sub", parts, f"{name}.change{end}")
            # Counts never fall, which a proof by intervals cannot see.
            spikes = self._node("Max", [spikes, self._number(0)], f"{name}.rise{end}")
            spikes = self._bytes(spikes, f"{name}.spikes{end}")
            pooled = self._node("MaxPool", [spikes], f"{name}.pooled{end}", **window)
            counts.append(self._node("Add", [counts[-1], pooled], f"{name}{end}"))
        return counts

    def join(self, name: str, join: Join, x: Steps, shortcut: Steps) -> Steps:
        joined = []
        for end, x_t, s_t in zip(_ends(len(x)), x, shortcut, strict=True):
            if join.stride != (1, 1):
                ints = [(0, 0), (2**31, 2**31), (2, 3), join.stride]
                names = ("starts", "ends", "axes", "strides")
                ints = [
                    self._tensor(f"{name}.{key}", np.array(value, dtype=np.int64))
                    for key, value in zip(names, ints, strict=True)
                ]
                s_t = self._node("Slice", [s_t, *ints], f"{name}.picked{end}")
            joined.append(self._node("Concat", [x_t, s_t], f"{name}{end}", axis=1))
        return joined

    def _sum(self, deployed: fx.GraphModule, node: fx.Node, left: Steps, right: Steps) -> Steps:
        """A convolution and a shortcut, or counts; onnxruntime makes one pass over bytes of it."""
        first, name, zero = node.args[0], node.name, 0
        if first.op == "call_module":
            name = f"{first.target}.with_shortcut"
            zero = getattr(deployed.get_submodule(first.target), "zero", 0)
        sums = []
        for end, l_t, r_t in zip(_ends(len(left)), left, right, strict=True):
            parts = [
                self._floats(part, f"{name}.{side}{end}", z)
                for side, part, z in (("left", l_t, zero), ("right", r_t, 0))
            ]
            x = self._node("Add", parts, f"{name}.float{end}")
            sums.append(self._bytes(x, f"{name}{end}"))
        return sums

    def lif(self, name: str, lif: CountingLIF, x: Steps) -> Steps:
        levels = self._byte(lif.levels)
        counts = []
        for end, reached in zip(_ends(len(x)), x, strict=True):
            most = levels
            if counts:
                most = self._node("Add", [counts[-1], levels], f"{name}.most{end}")
                reached = self._node("Max", [reached, counts[-1]], f"{name}.at_least{end}")
            counts.append(self._node("Min", [reached, most], f"{name}{end}"))
        return counts

    def head(self, name: str, head: CountHead, x: Steps) -> Steps:
        counts = self._floats(x[-1], f"{name}.floats")
        axes = self._tensor("pixel_axes", np.array([2, 3], dtype=np.int64))
        counts = self._node("ReduceSum", [counts, axes], f"{name}.counts", keepdims=0)
        if head.fraction is not None:
            counts = self._node("Round", [counts], f"{name}.counts.whole")
        inputs = [counts, *self._parameters(f"{name}.fc", head.fc)]
        return [self._node("Gemm", inputs, name, transB=1)]

    def _floats(self, x: str, output: str, zero: int = 0) -> str:
        return self._node("DequantizeLinear", [x, self._number(1), self._byte(zero)], output)

    def _bytes(self, x: str, output: str, zero: int = 0) -> str:
        return self._node("QuantizeLinear", [x, self._number(1), self._byte(zero)], output)

    def _byte(self, value: int) -> str:
        return self._tensor(f"byte_{value}", np.array(value, dtype=np.uint8))


def _ends(T: int) -> list[str]:
    return [f".step_{t}" for t in range(T)] if T > 1 else [""]


def _in_copies(weight: Tensor) -> list[Tensor]:
    """Even weights as the sum of COPIES even ones of nearly the same size."""
    half, parts = weight / 2, []
    for left in range(COPIES, 0, -1):
        part = (half / left).trunc()
        parts.append(2 * part)
        half = half - part
    return parts


LAYERS = {
    PixelCountConv: IntegerWriter.pixel_conv,
    CountConv: IntegerWriter.conv,
    SumCounts: IntegerWriter.sum_pool,
    MaxCounts: IntegerWriter.max_pool,
    Join: IntegerWriter.join,
    CountingLIF: IntegerWriter.lif,
    CountHead: IntegerWriter.head,
}
