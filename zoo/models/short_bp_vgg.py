"""Spiking VGG with shortcut heads: 3x3 convolution, norm and LIF, over and over.

Paper: Take A Shortcut Back, NeurIPS 2024, https://arxiv.org/abs/2401.04486. It has no VGG; depths
and widths are configuration D of https://arxiv.org/abs/1409.1556, with one linear layer for 32
pixels, as in pytorch-cifar's VGG16. A 2x2 average pooling begins each stage but the first, as in
TET's VGGSNN; SpikingJelly's VGG has max pooling. The fifth pooling is the head's global average.
Shapes: T time steps, B batch, C channels, H height, W width.
"""

from collections.abc import Sequence

from timm.models import register_model
from torch import Tensor, nn

from zoo.layers.conv import ConvNorm, DirectCoding, TimeFold, conv_spike
from zoo.models._backbone import SpikingBackbone
from zoo.models._build import build, cfg, with_releases
from zoo.neurons import LIF, SpikeLayer, spike_layer_factory
from zoo.validation import sizes_of_stages

__all__ = ["ShortBPVGG"]

PAPER = {"paper_ids": "arXiv:2401.04486", "paper_name": "Take A Shortcut Back"}


class VGGLayer(nn.Module):
    """A convolution and its neuron, with a pooling before the first of a stage; [T, B, C, H, W]."""

    def __init__(self, in_chs: int, chs: int, pool: bool, spike, **dd):
        super().__init__()
        self.pool = TimeFold(nn.AvgPool2d(2)) if pool else nn.Identity()
        self.conv = ConvNorm(in_chs, chs, 3, **dd)
        self.spike = spike()

    def forward(self, x: Tensor) -> Tensor:
        return conv_spike(self.pool(x), self.conv, self.spike)


class ShortBPVGG(SpikingBackbone):
    """Spiking VGG, [B, C, H, W] or event frames [T, B, C, H, W] -> logits [B, num_classes].

    Args:
        depths: Convolutions in each stage; at least 2 in the first, of which one is the stem.
        widths: Channels of each stage.
        time_steps: How often a still image is shown, T. Event frames bring their own.
        spike_layer: Changes the neuron, LIF: a mapping of LIF's arguments or
            ``partial(LIF, decay=0.25)``. Another callable builds each spiking layer.
        kwargs: Arguments of SpikingBackbone: shortcut_heads, head_stages, memory, num_classes, ...
    """

    usual_stages = 5

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 3, 3, 3),
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        time_steps: int = 4,
        spike_layer: SpikeLayer = LIF,
        in_chans: int = 3,
        device=None,
        dtype=None,
        **kwargs,
    ):
        of_stages = sizes_of_stages(depths, widths)
        if depths[0] < 2:
            raise ValueError(f"depths: expected at least 2 convolutions first, got {depths}")
        dd = {"device": device, "dtype": dtype}
        spike = spike_layer_factory(spike_layer)
        stem = nn.Sequential(DirectCoding(in_chans, widths[0], 3, 1, time_steps, **dd), spike())
        stages, feature_info, in_chs = nn.Sequential(), [], widths[0]
        for i, (depth, chs) in enumerate(of_stages):
            layers = nn.Sequential()
            for j in range(depth if i else depth - 1):
                layers.append(VGGLayer(in_chs, chs, i > 0 and j == 0, spike, **dd))
                in_chs = chs
            stages.append(layers)
            feature_info.append(dict(num_chs=chs, reduction=2**i, module=f"stages.{i}"))
        super().__init__(stem, stages, feature_info, **dd, **kwargs)


default_cfgs = with_releases(
    {"short_bp_vgg16.untrained": cfg(**PAPER, pool_size=(2, 2))},
)


@register_model
def short_bp_vgg16(pretrained: bool = False, **kwargs) -> ShortBPVGG:
    """14.72 M parameters at 10 classes: pytorch-cifar's VGG16 without the biases before norms."""
    return build(ShortBPVGG, "short_bp_vgg16", pretrained, {}, kwargs)
