"""Spikformer: a transformer whose queries, keys and values are spikes, without a softmax.

Paper: Spikformer: When Spiking Neural Network Meets Transformer, ICLR 2023,
https://arxiv.org/abs/2209.15425; code: github.com/ZK-Zhou/spikformer, cifar10/model.py.
Shapes: T time steps, B batch, C channels, H height, W width; a token is a pixel of a feature map.
"""

from collections.abc import Sequence
from functools import partial

from timm.models import register_model
from torch import Tensor, nn

from zoo.layers.attention import SpikeAttention
from zoo.layers.conv import ConvSpike, DirectCoding, TimeFold
from zoo.models._backbone import SpikingBackbone
from zoo.models._build import build, cfg, with_releases
from zoo.neurons import LIF, SpikeLayer, spike_layer_factory
from zoo.validation import positive, sizes, whole

__all__ = ["Spikformer"]

PAPER = {"paper_ids": "arXiv:2209.15425", "paper_name": "Spikformer"}
# The code's MultiStepLIFNode(tau=2.0, detach_reset=True) halves its input. A threshold of 1 is 2
# here, and the slope of a sigmoid with alpha 4 is that of tanh at width 2.
NEURON = partial(LIF, decay=0.5, v_threshold=2.0, surrogate="tanh", width=2.0, detach_reset=True)
# The code scales by 0.125, before a neuron with half the threshold of all others. We double both,
# so that all neurons share their constants: potentials double exactly, the spikes are the same.
# Only the surrogate is then half as wide there.
SCALE = 0.25


class PositionEmbedding(nn.Module):
    """Adds a convolution of the tokens around each token, [T, B, C, H, W]."""

    def __init__(self, chs: int, spike, **dd):
        super().__init__()
        self.around = ConvSpike(chs, chs, 3, spike, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.around(x)


class SelfAttention(nn.Module):
    """Spiking self attention; spike counts in, spikes out, [T, B, C, H, W]."""

    def __init__(self, chs: int, num_heads: int, spike, **dd):
        super().__init__()
        self.query = ConvSpike(chs, chs, 1, spike, **dd)
        self.key = ConvSpike(chs, chs, 1, spike, **dd)
        self.value = ConvSpike(chs, chs, 1, spike, **dd)
        self.attention = SpikeAttention(num_heads, SCALE)
        self.spike = spike()
        self.project = ConvSpike(chs, chs, 1, spike, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(self.query(x), self.key(x), self.value(x))
        return self.project(self.spike(x))


class Block(nn.Module):
    """Self attention and an MLP, which both add spikes to the stream of counts."""

    def __init__(self, chs: int, num_heads: int, mlp_ratio: float, spike, **dd):
        super().__init__()
        hidden = round(chs * mlp_ratio)
        self.attention = SelfAttention(chs, num_heads, spike, **dd)
        self.mlp = nn.Sequential(
            ConvSpike(chs, hidden, 1, spike, **dd), ConvSpike(hidden, chs, 1, spike, **dd)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


def _patches(in_chans: int, chs: int, time_steps: int, spike, **dd) -> nn.Sequential:
    """Spiking patch splitting: one token per 4 x 4 pixels."""

    def pool() -> TimeFold:
        return TimeFold(nn.MaxPool2d(3, stride=2, padding=1))

    return nn.Sequential(
        DirectCoding(in_chans, chs // 8, 3, 1, time_steps, **dd),
        spike(),
        ConvSpike(chs // 8, chs // 4, 3, spike, **dd),
        ConvSpike(chs // 4, chs // 2, 3, spike, **dd),
        pool(),
        ConvSpike(chs // 2, chs, 3, spike, **dd),
        pool(),
        PositionEmbedding(chs, spike, **dd),
    )


class Spikformer(SpikingBackbone):
    """Spikformer, [B, C, H, W] or event frames [T, B, C, H, W] -> logits [B, num_classes].

    Args:
        embed_dim: Channels of a token.
        depths: Blocks in each stage; each stage can have a shortcut head.
        num_heads: Attention heads.
        mlp_ratio: Hidden channels of a block's MLP, as a multiple of embed_dim.
        time_steps: How often a still image is shown, T. Event frames bring their own.
        spike_layer: Changes the neuron, NEURON: a mapping of LIF's arguments or
            ``partial(LIF, decay=0.25)``. Another callable builds each spiking layer.
        kwargs: Arguments of SpikingBackbone: shortcut_heads, head_stages, memory, num_classes, ...
    """

    def __init__(
        self,
        embed_dim: int = 384,
        depths: Sequence[int] = (1, 1, 1, 1),
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        time_steps: int = 4,
        spike_layer: SpikeLayer = NEURON,
        in_chans: int = 3,
        device=None,
        dtype=None,
        **kwargs,
    ):
        num_heads = whole("num_heads", num_heads, 1)
        embed_dim = whole("embed_dim", embed_dim, 8)
        depths = sizes("depths", depths)
        positive("mlp_ratio", mlp_ratio)
        if embed_dim % 8 or embed_dim % num_heads:
            raise ValueError(
                f"embed_dim: expected a multiple of 8 and of {num_heads} num_heads, got {embed_dim}"
            )
        dd = {"device": device, "dtype": dtype}
        spike = spike_layer_factory(spike_layer, NEURON)
        stages, feature_info = nn.Sequential(), []
        for i, depth in enumerate(depths):
            blocks = (Block(embed_dim, num_heads, mlp_ratio, spike, **dd) for _ in range(depth))
            stages.append(nn.Sequential(*blocks))
            feature_info.append(dict(num_chs=embed_dim, reduction=4, module=f"stages.{i}"))
        stem = _patches(in_chans, embed_dim, time_steps, spike, **dd)
        super().__init__(stem, stages, feature_info, **dd, **kwargs)


default_cfgs = with_releases(
    {"spikformer_4_384.untrained": cfg(**PAPER, pool_size=(8, 8))},
)


@register_model
def spikformer_4_384(pretrained: bool = False, **kwargs) -> Spikformer:
    """9.31 M parameters at 10 classes: the paper's CIFAR network, without 0.01 M biases that its
    norms cancel.
    """
    return build(Spikformer, "spikformer_4_384", pretrained, {}, kwargs)
