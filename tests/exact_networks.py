"""Small networks whose neurons fire, whose bits can be compared wherever they run."""

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn

from export.checks.check import session
from zoo.deployment.writer import write_graph


def awaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random norms, as training leaves them, so that every layer fires."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(0, 0.1, generator=draw)
                norm.running_var.uniform_(0.5, 1.5, generator=draw)
                norm.weight.uniform_(0.5, 1.5, generator=draw)
                norm.bias.normal_(0.2, 0.3, generator=draw)
    return model.eval()


def settle(model: nn.Module, x: Tensor | None = None) -> nn.Module:
    """Statistics of images in all norms, random ones unless given, for a network that random
    statistics would silence.
    """
    x = pixels(model, 2) / 64.0 - 2 if x is None else x
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # the mean of what is seen
            norm.reset_running_stats()
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def pixels(model: nn.Module, count: int, seed: int = 0) -> Tensor:
    shape = (count, *model.pretrained_cfg["input_size"])
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, dtype=torch.uint8, generator=draw)


def run_graph(
    deployed: fx.GraphModule,
    x: Tensor,
    batch: int = 64,
    threads: int = 1,
    optimised: bool = True,
) -> Tensor:
    """Logits of onnxruntime on the graph of a deployed network."""
    kind = "uint8" if x.dtype == torch.uint8 else "float"
    running = session(write_graph(deployed, kind).SerializeToString(), threads, optimised)
    parts = [running.run(None, {"pixel_values": part.numpy()})[0] for part in x.split(batch)]
    return torch.cat([torch.from_numpy(part) for part in parts])


def changed(graph: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    """A copy of the graph with another constant."""
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    (tensor,) = [t for t in other.graph.initializer if t.name == name]
    array = numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return other


@torch.inference_mode()
def ways_to_run(deployed: fx.GraphModule, x: Tensor) -> dict[str, Tensor]:
    """Logits from every way to run a deployed network that a user may come upon."""
    return {
        "contiguous": deployed(x),
        "channels_last": deployed(x.contiguous(memory_format=torch.channels_last)),
        "one by one": torch.cat([deployed(image) for image in x.split(1)]),
        "onnxruntime": run_graph(deployed, x),
        "onnxruntime, one by one": run_graph(deployed, x, batch=1, threads=2),
        "onnxruntime, not optimised": run_graph(deployed, x, batch=3, optimised=False),
    }


def that_differ(ways: dict[str, Tensor]) -> list[str]:
    """Those whose bits are others than the first's; 0 and -0 are not the same."""
    expected = ways["contiguous"].view(torch.int32)
    return [n for n, logits in ways.items() if not torch.equal(logits.view(torch.int32), expected)]
