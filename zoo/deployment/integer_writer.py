"""Write a network of whole numbers as an ONNX graph: QLinearConv, and a few passes over bytes.

Each time step has its own nodes, which share their weights. At more than one step the number of the
step ends a node's name.
Shapes: T time steps, B batch, C channels, H height, W width.
"""

import numpy as np
import torch
from onnx import TensorProto
from timm.layers import to_2tuple
from torch import Tensor, fx, nn

from zoo.deployment.integer import (
    COPIES,
    CountConv,
    CountHead,
    CountingLIF,
    Join,
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
                zero = getattr(self._source(deployed, node.args[0]), "zero", 0)
                values[node] = self._sum(node.name, *x, zero)
            elif node.op == "output":
                self._node("Identity", x[0], "logits")

    def _source(self, deployed: fx.GraphModule, node: fx.Node) -> nn.Module | None:
        return deployed.get_submodule(node.target) if node.op == "call_module" else None

    def pixel_conv(self, name: str, stem: PixelCountConv, pixels: Steps) -> Steps:
        (x,) = pixels
        if self.pixels == "float":
            x = self._centred(name, stem, x)
            x = self._node("Add", [x, self._tensor(f"{name}.mean", stem.mean)], f"{name}.whole")
            x = self._node("Cast", [x], f"{name}.pixels", to=TensorProto.UINT8)
        x = self._padded(name, stem, x)
        x = self._node("Concat", [x] * COPIES, f"{name}.copies", axis=1)
        weight = torch.cat(_in_copies(stem.conv.weight), 1)
        taken = (stem.conv.weight * stem.mean).sum(
            (1, 2, 3)
        )  # by the mean, which is not subtracted
        return [
            self._conv(
                f"{name}{end}",
                name,
                x,
                weight,
                bias - taken,
                t * torch.exp2(-stem.shift),
                stride=stem.conv.stride,
            )
            for t, (end, bias) in enumerate(zip(_ends(len(stem.bias)), stem.bias, strict=True), 1)
        ]

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
        scale = torch.exp2(-conv.shift)
        return [
            self._conv(
                f"{name}{end}",
                name,
                x_t,
                conv.weight,
                bias,
                scale,
                conv.zero,
                conv.stride,
                conv.padding,
            )
            for end, x_t, bias in zip(_ends(len(x)), x, conv.bias, strict=True)
        ]

    def _conv(
        self,
        output: str,
        layer: str,
        x: str,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor,
        zero: int = 0,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        group: int = 1,
    ) -> str:
        """A convolution times a scale per channel, rounded to a byte; zero is the code of 0."""
        channels = len(weight)
        inputs = [
            x,
            self._number(1),
            self._byte(0),
            self._tensor(f"{layer}.weight", weight.to(torch.int8)),
            self._tensor(f"{output}.scale", scale),
            self._tensor(f"zeros_{channels}", np.zeros(channels, dtype=np.int8)),
            self._number(1),
            self._byte(zero),
            self._tensor(f"{output}.bias", bias.to(torch.int32)),
        ]
        sides = tuple(weight.shape[2:])
        return self._node(
            "QLinearConv",
            inputs,
            output,
            kernel_shape=sides,
            strides=stride,
            pads=padding * 2,
            group=group,
        )

    def sum_pool(self, name: str, pool: SumCounts, x: Steps) -> Steps:
        """Sums as a convolution with ones, since runtimes round averages of bytes."""
        ones = torch.ones(pool.channels, 1, *to_2tuple(pool.pool.kernel_size))
        bias, scale = torch.zeros(pool.channels), torch.ones(pool.channels)
        shape = dict(stride=to_2tuple(pool.pool.stride), padding=to_2tuple(pool.pool.padding))
        return [
            self._conv(f"{name}{end}", name, x_t, ones, bias, scale, **shape, group=pool.channels)
            for end, x_t in zip(_ends(len(x)), x, strict=True)
        ]

    def max_pool(self, name: str, pool: nn.MaxPool2d, x: Steps) -> Steps:
        sides, pads = to_2tuple(pool.kernel_size), to_2tuple(pool.padding) * 2
        strides = to_2tuple(pool.stride)
        return [self._node("MaxPool", x, name, kernel_shape=sides, strides=strides, pads=pads)]

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

    def _sum(self, name: str, left: Steps, right: Steps, zero: int) -> Steps:
        one, sums = self._number(1), []
        for end, l_t, r_t in zip(_ends(len(left)), left, right, strict=True):
            parts = [
                self._node("DequantizeLinear", [part, one, self._byte(z)], f"{name}.{side}{end}")
                for side, part, z in (("left", l_t, zero), ("right", r_t, 0))
            ]
            x = self._node("Add", parts, f"{name}.float{end}")
            sums.append(self._node("QuantizeLinear", [x, one, self._byte(0)], f"{name}{end}"))
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
        inputs = [x[-1], self._number(1), self._byte(0)]
        counts = self._node("DequantizeLinear", inputs, f"{name}.floats")
        axes = self._tensor("pixel_axes", np.array([2, 3], dtype=np.int64))
        counts = self._node("ReduceSum", [counts, axes], f"{name}.counts", keepdims=0)
        inputs = [counts, *self._parameters(f"{name}.fc", head.fc)]
        return [self._node("Gemm", inputs, name, transB=1)]

    def _byte(self, value: int) -> str:
        return self._tensor(f"byte_{value}", np.array(value, dtype=np.uint8))


def _ends(T: int) -> list[str]:
    return [f"_{t}" for t in range(T)] if T > 1 else [""]


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
    nn.MaxPool2d: IntegerWriter.max_pool,
    Join: IntegerWriter.join,
    CountingLIF: IntegerWriter.lif,
    CountHead: IntegerWriter.head,
}
