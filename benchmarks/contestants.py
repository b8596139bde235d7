"""The networks and neurons that are compared, each as its own library would have it built.

Shapes: T time steps, B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import snntorch
import torch
from snntorch import surrogate as snn_surrogate
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model.spiking_resnet import BasicBlock, spiking_resnet18
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import zoo
from zoo.training.losses import LossConfig, classification_loss

HEADS = LossConfig(name="evolutionary")
# What SpikingJelly's documentation recommends for deep networks.
SPIKINGJELLY = {"surrogate_function": surrogate.ATan(), "detach_reset": True}


class SnnTorchLeaky(nn.Module):
    """snnTorch's neuron over a sequence, in the loop that its tutorials write."""

    def __init__(self):
        super().__init__()
        self.leaky = snntorch.Leaky(beta=0.5, spike_grad=snn_surrogate.atan(alpha=2.0))

    def forward(self, x: Tensor) -> Tensor:
        mem = torch.zeros_like(x[0])
        spikes = []
        for x_t in x:
            spike, mem = self.leaky(x_t, mem)
            spikes.append(spike)
        return torch.stack(spikes)


def spikingjelly_lif() -> nn.Module:
    """LIFNode over a sequence."""
    return neuron.LIFNode(step_mode="m", **SPIKINGJELLY)


NEURONS: dict[str, Callable[[], nn.Module]] = {
    "ours": zoo.LIF,
    "ours, eager": partial(zoo.LIF, backend="eager"),
    "SpikingJelly": spikingjelly_lif,
    "snnTorch": SnnTorchLeaky,
    "ReLU": nn.ReLU,  # the bound: the cheapest layer that could stand in a neuron's place
}


@dataclass
class Contestant:
    """A network with its loss: ``loss(images, labels)``, images [B, C, H, W]."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    memory_format: torch.memory_format = torch.channels_last


def ours(
    name: str, time_steps: int, heads: bool = True, compiled: bool = False, **kwargs
) -> Contestant:
    model = zoo.create_model(name, time_steps=time_steps, shortcut_heads=heads, **kwargs)
    forward = torch.compile(model) if compiled else model

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        outputs = forward(images)
        logits, side_logits = outputs if heads else (outputs, None)
        return classification_loss(HEADS, logits, side_logits, labels, 0.25)

    return Contestant(model, loss)


def reset_neurons(model: nn.Module) -> None:
    """What SpikingJelly's reset_net does, without the reset of timm's classifier."""
    for module in model.modules():
        if isinstance(module, neuron.BaseNode):
            module.reset()


def with_neuron(name: str, time_steps: int, make: Callable[[], nn.Module]) -> Contestant:
    """Our network without heads, with another library's neuron in it."""
    contestant = ours(name, time_steps, heads=False, spike_layer=make)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        if make is spikingjelly_lif:
            reset_neurons(contestant.model)
        return cross_entropy(contestant.model(images), labels)

    return Contestant(contestant.model, loss)


def spikingjelly_resnet18() -> nn.Module:
    """SpikingJelly's own spiking_resnet18 with the 32-pixel stem."""
    model = spiking_resnet18(spiking_neuron=neuron.LIFNode, num_classes=10, **SPIKINGJELLY)
    model.conv1 = layer.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def spikingjelly_resnet20_slim() -> nn.Module:
    """The shape of short_bp_resnet20_slim in SpikingJelly's layers and blocks."""
    block = partial(BasicBlock, spiking_neuron=neuron.LIFNode, **SPIKINGJELLY)
    layers = [*_conv_norm(3, 16, 3, 1), neuron.LIFNode(**SPIKINGJELLY)]
    for in_chs, chs in ((16, 16), (16, 32), (32, 64)):
        stride = 1 if in_chs == chs else 2
        down = nn.Sequential(*_conv_norm(in_chs, chs, 1, stride)) if stride == 2 else None
        layers += [block(in_chs, chs, stride, down), block(chs, chs), block(chs, chs)]
    pool = layer.AdaptiveAvgPool2d(1), layer.Flatten()
    return nn.Sequential(*layers, *pool, layer.Linear(64, 10))


def _conv_norm(in_chs: int, chs: int, kernel_size: int, stride: int) -> tuple[nn.Module, ...]:
    conv = layer.Conv2d(in_chs, chs, kernel_size, stride, kernel_size // 2, bias=False)
    return conv, layer.BatchNorm2d(chs)


def of_spikingjelly(
    make: Callable[[], nn.Module],
    time_steps: int,
    memory_format: torch.memory_format = torch.contiguous_format,
    compiled: bool = False,
) -> Contestant:
    """A network in SpikingJelly's layers, as its examples train it."""
    model = make()
    functional.set_step_mode(model, "m")
    forward = torch.compile(model) if compiled else model

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        functional.reset_net(model)
        sequence = images.unsqueeze(0).repeat(time_steps, 1, 1, 1, 1)
        return cross_entropy(forward(sequence).mean(0), labels)

    return Contestant(model, loss, memory_format)


def networks(name: str, time_steps: int) -> dict[str, Callable[[], Contestant]]:
    """Who runs the training step of one of our networks, by the name in the table."""
    own = partial(of_spikingjelly, SPIKINGJELLY_NETWORKS[name], time_steps)
    return {
        "ours": partial(ours, name, time_steps),
        "ours, fast": partial(ours, name, time_steps, memory="fast"),
        "SpikingJelly": own,
        "SpikingJelly, channels_last": partial(own, torch.channels_last),
        "SpikingJelly's neuron in ours": partial(with_neuron, name, time_steps, spikingjelly_lif),
        "snnTorch's neuron in ours": partial(with_neuron, name, time_steps, SnnTorchLeaky),
        "ReLU": partial(with_neuron, name, time_steps, nn.ReLU),
    }


def compiled_networks(name: str, time_steps: int) -> dict[str, Callable[[], Contestant]]:
    """Who runs it through torch.compile, with ours as it is beside them."""
    own = SPIKINGJELLY_NETWORKS[name]
    return {
        "ours": partial(ours, name, time_steps),
        "ours, torch.compile": partial(ours, name, time_steps, compiled=True),
        "SpikingJelly, torch.compile": partial(of_spikingjelly, own, time_steps, compiled=True),
    }


SPIKINGJELLY_NETWORKS = {
    "short_bp_resnet18": spikingjelly_resnet18,
    "short_bp_resnet20_slim": spikingjelly_resnet20_slim,
}
