"""A network in the forms that are published, and the graphs of them."""

from dataclasses import dataclass

import onnx
from torch import fx, nn

import zoo
from export.folder import GRAPH, QUANTIZED_GRAPH
from zoo.deployment.writer import write_graph
from zoo.hub import INT8_GRAPH, UINT8_GRAPH


@dataclass(frozen=True)
class Deployed:
    """A network in fp32 and in int8.

    Args:
        fp32: On the grid, unless it cannot be exact.
        why_not_exact: The reason, or None.
        int8: In whole numbers, or None.
        why_not_int8: The reason, or None.
    """

    fp32: fx.GraphModule
    why_not_exact: str | None
    int8: fx.GraphModule | None
    why_not_int8: str | None

    def graphs(self) -> dict[str, onnx.ModelProto]:
        """All graphs of a published folder, by their paths in it."""
        found = {GRAPH: write_graph(self.fp32)}
        if self.int8 is None:
            return found | {UINT8_GRAPH: write_graph(self.fp32, pixels="uint8")}
        pixels, floats = write_graph(self.int8, pixels="uint8"), write_graph(self.int8)
        return found | {INT8_GRAPH: pixels, QUANTIZED_GRAPH: floats}

    def is_exact(self, graph: str) -> bool:
        """Whether a graph gives the same bits in every runtime."""
        return self.of(graph) is self.int8 or self.why_not_exact is None

    def of(self, graph: str) -> fx.GraphModule:
        """The network that a graph holds."""
        return self.int8 if graph in (INT8_GRAPH, QUANTIZED_GRAPH) else self.fp32


def deploy(model: nn.Module) -> Deployed:
    """Deploy a network in fp32, on the grid if possible, and in int8 if possible.

    Raises:
        NotExactError: A network of several levels is not exact in fp32.
    """
    int8, why_not_exact, why_not_int8 = None, None, None
    try:
        int8 = zoo.deploy(model, bits=8)
    except zoo.NotExactError as error:
        why_not_int8 = str(error)
    try:
        fp32 = zoo.deploy(model)
    except zoo.NotExactError as error:
        if any(isinstance(module, zoo.LIF) and module.levels > 1 for module in model.modules()):
            raise zoo.NotExactError(f"{error}; rates can only be exported exactly") from None
        fp32, why_not_exact = zoo.deploy(model, exact=False), str(error)
    return Deployed(fp32, why_not_exact, int8, why_not_int8)
