"""Spiking ResNet with shortcut heads: LIF after the addition, the paper's vanilla block.

Paper: Take A Shortcut Back: Mitigating the Gradient Vanishing for Training Spiking Neural Networks,
NeurIPS 2024, https://arxiv.org/abs/2401.04486. It names no stems or widths; ours follow public code
of the same authors, named at each entrypoint.
Shapes: T time steps, B batch, C channels, H height, W width.
"""

from collections.abc import Sequence

import torch
from timm.models import register_model
from torch import Tensor, nn

from zoo.layers.conv import ConvNorm, conv_spike
from zoo.models._backbone import SpikingBackbone
from zoo.models._build import build, cfg, cfg_imagenet, with_releases
from zoo.models._resnet import STEM_REDUCTION, Block, Stem, make_shortcut, make_stem, resnet_stages
from zoo.neurons import LIF, SpikeLayer, spike_layer_factory
from zoo.validation import flag, one_of, positive, sizes

__all__ = ["ShortBPResNet"]

PAPER = {"paper_ids": "arXiv:2401.04486", "paper_name": "Take A Shortcut Back"}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; spikes in, spikes out, [T, B, C, H, W]."""

    expansion = 1

    def __init__(self, in_chs: int, chs: int, stride: int, shortcut: nn.Module, spike, **dd):
        super().__init__()
        self.conv1 = ConvNorm(in_chs, chs, 3, stride, **dd)
        self.spike1 = spike()
        self.conv2 = ConvNorm(chs, chs, 3, **dd)
        self.shortcut = shortcut
        self.spike2 = spike()

    def forward(self, x: Tensor) -> Tensor:
        y = conv_spike(x, self.conv1, self.spike1)
        return conv_spike(y, self.conv2, self.spike2, self.shortcut(x))

    def last_norm(self) -> nn.BatchNorm2d:
        return self.conv2.norm


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; spikes in, spikes out, [T, B, C, H, W]."""

    expansion = 4

    def __init__(self, in_chs: int, chs: int, stride: int, shortcut: nn.Module, spike, **dd):
        super().__init__()
        self.conv1 = ConvNorm(in_chs, chs, 1, **dd)
        self.spike1 = spike()
        self.conv2 = ConvNorm(chs, chs, 3, stride, **dd)
        self.spike2 = spike()
        self.conv3 = ConvNorm(chs, chs * self.expansion, 1, **dd)
        self.shortcut = shortcut
        self.spike3 = spike()

    def forward(self, x: Tensor) -> Tensor:
        y = conv_spike(x, self.conv1, self.spike1)
        y = conv_spike(y, self.conv2, self.spike2)
        return conv_spike(y, self.conv3, self.spike3, self.shortcut(x))

    def last_norm(self) -> nn.BatchNorm2d:
        return self.conv3.norm


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}


class ShortBPResNet(SpikingBackbone):
    """Spiking ResNet, [B, C, H, W] or event frames [T, B, C, H, W] -> logits [B, num_classes].

    Args:
        block: "basic", two 3x3 convolutions, or "bottleneck", 1x1, 3x3 and 1x1.
        depths: Blocks in each stage.
        widths: Channels of each stage, before a bottleneck's expansion.
        stem: Layers before the first stage.
        avg_down: Downsample shortcuts by average pooling instead of a strided convolution.
        norm_gain: Initial gain of every norm, in units of the membrane potential (the alpha * V_th
            of tdBN, https://arxiv.org/abs/2011.05280).
        zero_init_last: Start the last norm of every block at zero.
        last_bias: Initial bias of that norm, in units of the membrane potential. A shortcut alone
            brings a neuron exactly to its threshold, so that any negative current removes a spike.
            Half of v_threshold / levels, or of v_threshold / time_steps, leaves a margin.
        time_steps: How often a still image is shown, T. Event frames bring their own.
        spike_layer: Changes the neuron, LIF: a mapping of LIF's arguments or
            ``partial(LIF, decay=0.25)``. Another callable builds each spiking layer.
        kwargs: Arguments of SpikingBackbone: shortcut_heads, head_stages, memory, num_classes, ...
    """

    def __init__(
        self,
        block: Block = "basic",
        depths: Sequence[int] = (2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: Stem = "conv3x3",
        avg_down: bool = False,
        norm_gain: float = 1.0,
        zero_init_last: bool = False,
        last_bias: float = 0.0,
        time_steps: int = 4,
        spike_layer: SpikeLayer = LIF,
        in_chans: int = 3,
        device=None,
        dtype=None,
        **kwargs,
    ):
        kind = BLOCKS[one_of("block", BLOCKS, block)]
        flag("avg_down", avg_down)
        flag("zero_init_last", zero_init_last)
        positive("norm_gain", norm_gain)
        dd = {"device": device, "dtype": dtype}
        spike = spike_layer_factory(spike_layer)
        first = make_stem(stem, in_chans, sizes("widths", widths)[0], time_steps, spike, **dd)

        def make(in_chs: int, chs: int, stride: int) -> BasicBlock | Bottleneck:
            shortcut = make_shortcut(in_chs, chs * kind.expansion, stride, avg_down, **dd)
            made = kind(in_chs, chs, stride, shortcut, spike, **dd)
            last = made.last_norm()
            nn.init.constant_(last.bias, last_bias)
            if zero_init_last:
                nn.init.zeros_(last.weight)
            return made

        stages, feature_info = resnet_stages(
            make, kind.expansion, depths, widths, STEM_REDUCTION[stem]
        )
        super().__init__(first, stages, feature_info, **dd, **kwargs)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.mul_(norm_gain)  # zeros stay zeros


default_cfgs = with_releases(
    {
        **{f"short_bp_resnet{n}.untrained": cfg(**PAPER) for n in (18, 34, 50, 101, 152)},
        **{
            f"short_bp_resnet{n}_imagenet.untrained": cfg_imagenet(**PAPER)
            for n in (18, 34, 50, 101, 152)
        },
        "short_bp_resnet19.untrained": cfg(**PAPER, pool_size=(8, 8)),
        "short_bp_resnet20.untrained": cfg(**PAPER, pool_size=(2, 2)),
        "short_bp_resnet20_slim.untrained": cfg(**PAPER, pool_size=(8, 8)),
    }
)


# 32-pixel stem: one 3x3 convolution, no pooling (Joint-A-SNN).


@register_model
def short_bp_resnet18(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    """11.17 M parameters at 10 classes (Joint-A-SNN's CIFAR ResNet-18)."""
    return build(ShortBPResNet, "short_bp_resnet18", pretrained, {}, kwargs)


@register_model
def short_bp_resnet34(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    return build(ShortBPResNet, "short_bp_resnet34", pretrained, dict(depths=(3, 4, 6, 3)), kwargs)


@register_model
def short_bp_resnet50(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    model_args = dict(block="bottleneck", depths=(3, 4, 6, 3))
    return build(ShortBPResNet, "short_bp_resnet50", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet101(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    model_args = dict(block="bottleneck", depths=(3, 4, 23, 3))
    return build(ShortBPResNet, "short_bp_resnet101", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet152(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    model_args = dict(block="bottleneck", depths=(3, 8, 36, 3))
    return build(ShortBPResNet, "short_bp_resnet152", pretrained, model_args, kwargs)


# ImageNet stem: 7x7 convolution, average pooling in place of max pooling (Ternary-Spike, MPBN).


@register_model
def short_bp_resnet18_imagenet(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    model_args = dict(stem="conv7x7_pool")
    return build(ShortBPResNet, "short_bp_resnet18_imagenet", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet34_imagenet(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    model_args = dict(stem="conv7x7_pool", depths=(3, 4, 6, 3))
    return build(ShortBPResNet, "short_bp_resnet34_imagenet", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet50_imagenet(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    model_args = dict(stem="conv7x7_pool", block="bottleneck", depths=(3, 4, 6, 3))
    return build(ShortBPResNet, "short_bp_resnet50_imagenet", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet101_imagenet(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    model_args = dict(stem="conv7x7_pool", block="bottleneck", depths=(3, 4, 23, 3))
    return build(ShortBPResNet, "short_bp_resnet101_imagenet", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet152_imagenet(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    model_args = dict(stem="conv7x7_pool", block="bottleneck", depths=(3, 8, 36, 3))
    return build(ShortBPResNet, "short_bp_resnet152_imagenet", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet19(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    """12.57 M parameters at 10 classes (MPBN's resnet19_cifar)."""
    model_args = dict(depths=(3, 3, 2), widths=(128, 256, 512))
    return build(ShortBPResNet, "short_bp_resnet19", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet20(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    """11.25 M parameters at 10 classes: MPBN's resnet20_cifar_modified, by the same authors. The
    paper does not give the stem and widths of its ResNet20.
    """
    model_args = dict(stem="conv3x3x3_pool", avg_down=True, zero_init_last=True)
    return build(ShortBPResNet, "short_bp_resnet20", pretrained, model_args, kwargs)


@register_model
def short_bp_resnet20_slim(pretrained: bool = False, **kwargs) -> ShortBPResNet:
    """0.27 M parameters at 10 classes: the CIFAR ResNet-20 of He et al. 2016, sec. 4.2, with 1x1
    convolutions as shortcuts between stages (option B) instead of padding.
    """
    model_args = dict(depths=(3, 3, 3), widths=(16, 32, 64))
    return build(ShortBPResNet, "short_bp_resnet20_slim", pretrained, model_args, kwargs)
