"""The nodes and constants of an ONNX graph while it is written; each node has its output's name."""

from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor, nn

from zoo.deployment.layers import PixelConv

Pixels = Literal["float", "uint8"]


class Nodes:
    """Collects nodes and constants.

    Args:
        pixels: The input: normalised floats or whole pixels.
    """

    def __init__(self, pixels: Pixels):
        self.pixels = pixels
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def _centred(self, name: str, stem: PixelConv, x: str) -> str:
        """Whole pixels less their mean from normalised floats."""
        x = self._node("Mul", [x, self._tensor(f"{name}.std", stem.std)], f"{name}.scaled")
        x = self._node("Round", [x], f"{name}.rounded")
        least = self._tensor(f"{name}.least", -stem.mean)
        most = self._tensor(f"{name}.most", 255 - stem.mean)
        return self._clip(x, least, most, f"{name}.at_least", f"{name}.centred")

    def _clip(self, x: str, low: str, high: str, not_below: str, not_above: str) -> str:
        return self._node("Min", [self._node("Max", [x, low], not_below), high], not_above)

    def _split(self, x: str, parts: int, name: str, axis: int = 0) -> list[str]:
        if parts == 1:
            return [x]
        outputs = [f"{name}_{i}" for i in range(parts)]
        self._add("Split", [x], outputs, axis=axis, num_outputs=parts)
        return outputs

    def _node(self, op: str, inputs: list[str], output: str, **attributes) -> str:
        self._add(op, inputs, [output], **attributes)
        return output

    def _add(self, op: str, inputs: list[str], outputs: list[str], **attributes) -> None:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))

    def _parameters(self, name: str, layer: nn.Module) -> list[str]:
        return [self._tensor(f"{name}.{key}", p) for key, p in layer.named_parameters()]

    def _number(self, value: float) -> str:
        number = np.array(value, dtype=np.float32)
        return self._tensor(f"number_{float(number)!r}", number)

    def _tensor(self, name: str, value: Tensor | np.ndarray) -> str:
        array = value.detach().numpy() if isinstance(value, Tensor) else value
        self.constants.setdefault(name, numpy_helper.from_array(array, name))
        return name
