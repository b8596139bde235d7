"""Membrane-shortcut ResNets: LIF before each convolution, currents between the blocks.

MS-ResNet: Advancing Spiking Neural Networks Towards Deep Residual Learning,
https://arxiv.org/abs/2112.08954, and its code, Ariande1/MS-ResNet.
Att-MS-ResNet: Attention Spiking Neural Networks, https://arxiv.org/abs/2209.13929, and its code,
BICLab/Attention-SNN.
GAC-MS-ResNet: Gated Attention Coding, https://arxiv.org/abs/2308.06582, and its code,
bollossom/GAC.
Shapes: T time steps, B batch, C channels, H height, W width.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from timm.models import register_model
from torch import Tensor, nn

from zoo.layers.attention import ChannelSpatialAttention, GatedSpikes
from zoo.layers.conv import ConvNorm, DirectCoding, conv_spike, spikes_for
from zoo.models._backbone import SpikingBackbone
from zoo.models._build import build, cfg, cfg_imagenet, with_releases
from zoo.models._resnet import make_shortcut, resnet_stages
from zoo.neurons import LIF, SpikeLayer, spike_layer_factory
from zoo.validation import flag, one_of, whole

__all__ = ["MSResNet"]

MS_LIF = partial(  # Ariande1/MS-ResNet: thresh 0.5, decay 0.25, lens 0.5, the reset detached
    LIF, decay=0.25, v_threshold=0.5, surrogate="rectangle", width=1.0, detach_reset=True
)
MSStem = Literal["conv3x3", "conv7x7"]
STEMS: dict[str, tuple[int, int, int]] = {  # kernel, stride, stride of the first stage
    "conv3x3": (3, 1, 1),
    "conv7x7": (7, 2, 2),
}


class MSBlock(nn.Module):
    """Two 3x3 convolutions, each of spikes; currents in, currents out, [T, B, C, H, W]."""

    def __init__(self, in_chs: int, chs: int, stride: int, shortcut: nn.Module, spike, **dd):
        super().__init__()
        self.spike1 = spike()
        self.conv1 = ConvNorm(in_chs, chs, 3, stride, **dd)
        self.spike2 = spike()
        self.conv2 = ConvNorm(chs, chs, 3, **dd)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)

    def residual(self, x: Tensor) -> Tensor:
        spikes = spikes_for(x, self.conv1, self.spike1)
        return self.conv2(conv_spike(spikes, self.conv1, self.spike2))

    def init_last(self, v_threshold: float) -> None:
        nn.init.zeros_(self.conv2.norm.weight)


class AttMSBlock(MSBlock):
    """MSBlock with channel and spatial attention before the sum."""

    def __init__(self, in_chs: int, chs: int, stride: int, shortcut: nn.Module, spike, **dd):
        super().__init__(in_chs, chs, stride, shortcut, spike, **dd)
        self.attention = ChannelSpatialAttention(chs, **dd)

    def residual(self, x: Tensor) -> Tensor:
        return self.attention(super().residual(x))

    def init_last(self, v_threshold: float) -> None:
        # At zero no gradient would pass: the attention ends in a ReLU.
        nn.init.constant_(self.conv2.norm.weight, 0.2 * v_threshold)


Block = Literal["basic", "attention"]
BLOCKS: dict[str, type[MSBlock]] = {"basic": MSBlock, "attention": AttMSBlock}


class MSResNet(SpikingBackbone):
    """Membrane-shortcut ResNet, [B, C, H, W] or event frames [T, B, C, H, W] -> logits [B, K].

    No neuron follows the addition, so that a current runs from block to block.

    Args:
        block: "basic", or "attention" with channel and spatial attention before the sum.
        depths: Blocks in each stage.
        widths: Channels of each stage.
        stem: "conv7x7" has a stride of 2 in the stem and in the first stage, "conv3x3" in neither.
        stem_width: Channels of the stem.
        gated: Code the image as spikes times a gate, GAC's attention. The gate fixes T.
        avg_down: Downsample shortcuts by average pooling instead of a strided convolution.
        time_steps: How often a still image is shown, T. Event frames bring their own.
        spike_layer: Changes the neuron, MS_LIF: a mapping of LIF's arguments or
            ``partial(LIF, decay=0.25)``. Another callable builds each spiking layer. Norms start
            with a gain of its v_threshold.
        kwargs: Arguments of SpikingBackbone: shortcut_heads, head_stages, memory, num_classes, ...
    """

    def __init__(
        self,
        block: Block = "basic",
        depths: Sequence[int] = (2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: MSStem = "conv7x7",
        stem_width: int = 64,
        gated: bool = False,
        avg_down: bool = False,
        time_steps: int = 4,
        spike_layer: SpikeLayer = MS_LIF,
        in_chans: int = 3,
        device=None,
        dtype=None,
        **kwargs,
    ):
        kind = BLOCKS[one_of("block", BLOCKS, block)]
        dd = {"device": device, "dtype": dtype}
        spike = spike_layer_factory(spike_layer, MS_LIF)
        kernel_size, stride, first_stride = STEMS[one_of("stem", STEMS, stem)]
        stem_width = whole("stem_width", stem_width, 1)
        flag("gated", gated)
        flag("avg_down", avg_down)
        coding = DirectCoding(in_chans, stem_width, kernel_size, stride, time_steps, **dd)
        first = nn.Sequential(coding)
        if gated:
            first.append(GatedSpikes(stem_width, time_steps, spike, **dd))

        def make(in_chs: int, chs: int, stride: int) -> MSBlock:
            shortcut = make_shortcut(in_chs, chs, stride, avg_down, **dd)
            return kind(in_chs, chs, stride, shortcut, spike, **dd)

        stages, feature_info = resnet_stages(
            make, 1, depths, widths, stride, stem_width, first_stride
        )
        super().__init__(first, stages, feature_info, last_spike=spike(), **dd, **kwargs)
        self._init_norms(getattr(self.last_spike, "v_threshold", 1.0))

    def _init_norms(self, v_threshold: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, v_threshold)
        for module in self.modules():
            if isinstance(module, MSBlock):
                module.init_last(v_threshold)


MS = {"paper_ids": "arXiv:2112.08954", "paper_name": "MS-ResNet"}
ATT = {"paper_ids": "arXiv:2209.13929", "paper_name": "Attention Spiking Neural Networks"}
GAC = {"paper_ids": "arXiv:2308.06582", "paper_name": "Gated Attention Coding"}

default_cfgs = with_releases(
    {
        "ms_resnet18.untrained": cfg_imagenet(**MS),
        "ms_resnet34.untrained": cfg_imagenet(**MS),
        "ms_resnet104.untrained": cfg_imagenet(**MS),
        "ms_resnet18_cifar.untrained": cfg(pool_size=(8, 8), **MS),
        "ms_resnet18_cifar_2222.untrained": cfg(**MS),
        "att_ms_resnet18.untrained": cfg_imagenet(**ATT),
        "att_ms_resnet34.untrained": cfg_imagenet(**ATT),
        "gac_ms_resnet18.untrained": cfg_imagenet(**GAC),
        "gac_ms_resnet34.untrained": cfg_imagenet(**GAC),
    }
)


@register_model
def ms_resnet18(pretrained: bool = False, **kwargs) -> MSResNet:
    return build(MSResNet, "ms_resnet18", pretrained, {}, kwargs)


@register_model
def ms_resnet34(pretrained: bool = False, **kwargs) -> MSResNet:
    return build(MSResNet, "ms_resnet34", pretrained, dict(depths=(3, 4, 6, 3)), kwargs)


@register_model
def ms_resnet104(pretrained: bool = False, **kwargs) -> MSResNet:
    """The 7x7 stem is that of the paper and of Attention-SNN; MS-ResNet's code has three 3x3."""
    model_args = dict(depths=(3, 8, 32, 8), avg_down=True)
    return build(MSResNet, "ms_resnet104", pretrained, model_args, kwargs)


# 32-pixel stem: one 3x3 convolution. Neuron and initial norms as for ImageNet.


@register_model
def ms_resnet18_cifar(pretrained: bool = False, **kwargs) -> MSResNet:
    """12.5 M parameters at 10 classes (GAC's msresnet18)."""
    model_args = dict(depths=(3, 3, 2), widths=(128, 256, 512), stem="conv3x3")
    return build(MSResNet, "ms_resnet18_cifar", pretrained, model_args, kwargs)


@register_model
def ms_resnet18_cifar_2222(pretrained: bool = False, **kwargs) -> MSResNet:
    """11.2 M parameters at 10 classes: [2, 2, 2, 2] blocks, the other CIFAR form in the field."""
    return build(MSResNet, "ms_resnet18_cifar_2222", pretrained, dict(stem="conv3x3"), kwargs)


# Published at T = 1, with drop_rate=0.2.


@register_model
def att_ms_resnet18(pretrained: bool = False, **kwargs) -> MSResNet:
    model_args = dict(block="attention", avg_down=True)
    return build(MSResNet, "att_ms_resnet18", pretrained, model_args, kwargs)


@register_model
def att_ms_resnet34(pretrained: bool = False, **kwargs) -> MSResNet:
    model_args = dict(block="attention", depths=(3, 4, 6, 3), avg_down=True)
    return build(MSResNet, "att_ms_resnet34", pretrained, model_args, kwargs)


# Published at T = 4 and T = 6.


@register_model
def gac_ms_resnet18(pretrained: bool = False, **kwargs) -> MSResNet:
    """11.82 M parameters."""
    return build(MSResNet, "gac_ms_resnet18", pretrained, dict(gated=True), kwargs)


@register_model
def gac_ms_resnet34(pretrained: bool = False, **kwargs) -> MSResNet:
    """21.93 M parameters, as published. The gate's kernels are 4; a comment in the authors' code
    says 8 for 34 layers, which gives another number.
    """
    model_args = dict(depths=(3, 4, 6, 3), gated=True)
    return build(MSResNet, "gac_ms_resnet34", pretrained, model_args, kwargs)
