"""SEW ResNet: spike-element-wise residual networks; the shortcut joins after the neuron.

Paper: Deep Residual Learning in Spiking Neural Networks, NeurIPS 2021,
https://arxiv.org/abs/2102.04159; code: github.com/fangwei123456/Spike-Element-Wise-ResNet.
Shapes: T time steps, B batch, C channels, H height, W width.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from timm.models import register_model
from torch import Tensor, nn

from zoo.layers.conv import ConvNorm, ConvSpike, conv_spike
from zoo.models._backbone import SpikingBackbone
from zoo.models._build import build, cfg, cfg_imagenet, with_releases
from zoo.models._resnet import STEM_REDUCTION, Block, Stem, make_stem, resnet_stages
from zoo.neurons import LIF, SpikeLayer, spike_layer_factory
from zoo.validation import flag, one_of, sizes

__all__ = ["SEWResNet"]

PAPER = {
    "paper_ids": "arXiv:2102.04159",
    "paper_name": "Deep Residual Learning in Spiking Neural Networks",
}
# The paper's code: MultiStepIFNode(detach_reset=True), with threshold 1, reset to 0 and the
# surrogate ATan with alpha 2.
IF = partial(LIF, decay=1.0, surrogate="arctan", detach_reset=True)
Residual = Literal["add", "and", "iand"]


def _inverse_and(y: Tensor, shortcut: Tensor) -> Tensor:
    return shortcut * (1 - y)


# connect_f of the paper's code: the block's spikes y, the shortcut's spikes -> output.
RESIDUALS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": operator.add,
    "and": operator.mul,
    "iand": _inverse_and,
}


class SEWBlock(nn.Module):
    """Convolutions, each with a neuron, joined with the shortcut; [T, B, C, H, W].

    With "add" the output counts spikes and its maximum grows by 1 with every block; with "and" and
    "iand" it stays 0 or 1. A subclass computes the block's spikes, ``spikes(x)``.
    """

    expansion: int

    def __init__(self, in_chs: int, out_chs: int, stride: int, spike, residual: Residual, **dd):
        super().__init__()
        self.residual = residual
        same = stride == 1 and in_chs == out_chs
        self.shortcut = (
            nn.Identity() if same else ConvSpike(in_chs, out_chs, 1, spike, stride, **dd)
        )

    def forward(self, x: Tensor) -> Tensor:
        return RESIDUALS[self.residual](self.spikes(x), self.shortcut(x))

    def _zero_init(self, norm: nn.BatchNorm2d, spike: nn.Module) -> None:
        """Start as the identity (zero_init_blocks of the code): never fire, or always for "and"."""
        nn.init.zeros_(norm.weight)
        if self.residual == "and":
            nn.init.constant_(norm.bias, getattr(spike, "v_threshold", 1.0))


class BasicBlock(SEWBlock):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, in_chs: int, chs: int, stride: int, spike, residual: Residual, **dd):
        super().__init__(in_chs, chs, stride, spike, residual, **dd)
        self.conv1 = ConvNorm(in_chs, chs, 3, stride, **dd)
        self.spike1 = spike()
        self.conv2 = ConvNorm(chs, chs, 3, **dd)
        self.spike2 = spike()

    def spikes(self, x: Tensor) -> Tensor:
        y = conv_spike(x, self.conv1, self.spike1)
        return conv_spike(y, self.conv2, self.spike2)

    def zero_init_last(self) -> None:
        self._zero_init(self.conv2.norm, self.spike2)


class Bottleneck(SEWBlock):
    """1x1, 3x3 and 1x1 convolutions."""

    expansion = 4

    def __init__(self, in_chs: int, chs: int, stride: int, spike, residual: Residual, **dd):
        out_chs = chs * self.expansion
        super().__init__(in_chs, out_chs, stride, spike, residual, **dd)
        self.conv1 = ConvNorm(in_chs, chs, 1, **dd)
        self.spike1 = spike()
        self.conv2 = ConvNorm(chs, chs, 3, stride, **dd)
        self.spike2 = spike()
        self.conv3 = ConvNorm(chs, out_chs, 1, **dd)
        self.spike3 = spike()

    def spikes(self, x: Tensor) -> Tensor:
        y = conv_spike(x, self.conv1, self.spike1)
        y = conv_spike(y, self.conv2, self.spike2)
        return conv_spike(y, self.conv3, self.spike3)

    def zero_init_last(self) -> None:
        self._zero_init(self.conv3.norm, self.spike3)


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}


class SEWResNet(SpikingBackbone):
    """SEW ResNet, [B, C, H, W] or event frames [T, B, C, H, W] -> logits [B, num_classes].

    Args:
        block: "basic", two 3x3 convolutions, or "bottleneck", 1x1, 3x3 and 1x1.
        depths: Blocks in each stage.
        widths: Channels of each stage, before a bottleneck's expansion.
        residual: How a block's spikes y join the shortcut's: "add" y + shortcut, "and"
            y * shortcut, "iand" (1 - y) * shortcut.
        stem: Layers before the first stage.
        zero_init_last: Start every block that keeps its shape as the identity: its last neuron
            never fires, or for "and" always. The surrogate needs a slope at v = 0, as the default
            has; a triangle of width 1 and rates have none there.
        time_steps: How often a still image is shown, T. Event frames bring their own.
        spike_layer: Changes the neuron, IF: a mapping of LIF's arguments or
            ``partial(LIF, decay=0.25)``. Another callable builds each spiking layer.
        kwargs: Arguments of SpikingBackbone: shortcut_heads, head_stages, memory, num_classes, ...
    """

    def __init__(
        self,
        block: Block = "basic",
        depths: Sequence[int] = (2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512),
        residual: Residual = "add",  # the paper's ImageNet networks
        stem: Stem = "conv7x7_maxpool",
        zero_init_last: bool = False,  # the paper's ImageNet logs
        time_steps: int = 4,
        spike_layer: SpikeLayer = IF,
        in_chans: int = 3,
        device=None,
        dtype=None,
        **kwargs,
    ):
        one_of("residual", RESIDUALS, residual)
        kind = BLOCKS[one_of("block", BLOCKS, block)]
        flag("zero_init_last", zero_init_last)
        dd = {"device": device, "dtype": dtype}
        spike = spike_layer_factory(spike_layer, IF)
        first = make_stem(stem, in_chans, sizes("widths", widths)[0], time_steps, spike, **dd)

        def make(in_chs: int, chs: int, stride: int) -> SEWBlock:
            made = kind(in_chs, chs, stride, spike, residual, **dd)
            if zero_init_last:
                made.zero_init_last()
            return made

        stages, feature_info = resnet_stages(
            make, kind.expansion, depths, widths, STEM_REDUCTION[stem]
        )
        super().__init__(first, stages, feature_info, **dd, **kwargs)


default_cfgs = with_releases(
    {
        **{f"sew_resnet{n}.untrained": cfg_imagenet(**PAPER) for n in (18, 34, 50, 101, 152)},
        "sew_resnet18_cifar.untrained": cfg(**PAPER),
    }
)


@register_model
def sew_resnet18(pretrained: bool = False, **kwargs) -> SEWResNet:
    return build(SEWResNet, "sew_resnet18", pretrained, {}, kwargs)


@register_model
def sew_resnet34(pretrained: bool = False, **kwargs) -> SEWResNet:
    return build(SEWResNet, "sew_resnet34", pretrained, dict(depths=(3, 4, 6, 3)), kwargs)


@register_model
def sew_resnet50(pretrained: bool = False, **kwargs) -> SEWResNet:
    model_args = dict(block="bottleneck", depths=(3, 4, 6, 3))
    return build(SEWResNet, "sew_resnet50", pretrained, model_args, kwargs)


@register_model
def sew_resnet101(pretrained: bool = False, **kwargs) -> SEWResNet:
    model_args = dict(block="bottleneck", depths=(3, 4, 23, 3))
    return build(SEWResNet, "sew_resnet101", pretrained, model_args, kwargs)


@register_model
def sew_resnet152(pretrained: bool = False, **kwargs) -> SEWResNet:
    model_args = dict(block="bottleneck", depths=(3, 8, 36, 3))
    return build(SEWResNet, "sew_resnet152", pretrained, model_args, kwargs)


@register_model
def sew_resnet18_cifar(pretrained: bool = False, **kwargs) -> SEWResNet:
    """The 32-pixel stem, one 3x3 convolution, is our choice; the paper has no CIFAR ResNet-18."""
    return build(SEWResNet, "sew_resnet18_cifar", pretrained, dict(stem="conv3x3"), kwargs)
