"""Spikformer: a transformer whose queries, keys and values are spikes, without a softmax.

Paper: Spikformer: When Spiking Neural Network Meets Transformer, ICLR 2023,
https://arxiv.org/abs/2209.15425; code: github.com/ZK-Zhou/spikformer, cifar10/model.py.
Shapes: T time steps, B batch, C channels, H height, W width; a token is a pixel of a feature map.
"""

import math
from collections.abc import Sequence
from functools import partial
from numbers import Real

from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from zoo.layers.attention import SpikeAttention
from zoo.layers.conv import ConvSpike, DirectCoding, TimeFold
from zoo.models._backbone import SpikingBackbone
from zoo.models._build import build, cfg
from zoo.neurons import LIF, SpikeLayer, spike_layer_factory
from zoo.validation import sizes, whole

__all__ = ["Spikformer"]

PAPER = {"paper_ids": "arXiv:2209.15425", "paper_name": "Spikformer"}
# Their MultiStepLIFNode(tau=2.0, detach_reset=True) halves its input, so that their threshold of
# 1 is 2 here, and their sigmoid's slope, alpha 4, is tanh's at width 2.
NEURON = partial(LIF, decay=0.5, v_threshold=2.0, surrogate="tanh", width=2.0, detach_reset=True)
# They scale by 0.125, before a neuron whose threshold is half that of all others. Twice the scale
# before a neuron like all others is twice every potential, which is exact, and the same spikes; so
# one set of constants is the network's. Only the surrogate is then half as wide there as theirs.
SCALE = 0.25


class PositionEmbedding(nn.Module):
    """Adds what a convolution sees around a token, [T, B, C, H, W]; conditional on its image."""

    def __init__(self, chs: int, spike, **dd):
        super().__init__()
        self.around = ConvSpike(chs, chs, 3, spike, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.around(x)


class SelfAttention(nn.Module):
    """Spiking self attention, counts of spikes in, spikes out, [T, B, C, H, W]."""

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
    """Self attention and two layers for each token; both add spikes to the stream, which counts."""

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
    """Spiking patch splitting: a token for 4 x 4 pixels, with what is around it."""

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
        depths: Blocks in each stage; a shortcut head may hang on a stage's exit.
        num_heads: Of attention.
        mlp_ratio: Channels between the two layers of a block, in those of a token.
        time_steps: How often a still image is shown, T. Event frames bring their own.
        spike_layer: Builds one spiking layer: NEURON, ``partial(LIF, decay=0.25)``, or a mapping of
            LIF's arguments, where what is not given is LIF's default and not NEURON's.
        kwargs: SpikingBackbone's: shortcut_heads, head_stages, memory, num_classes, ...

    Raises:
        ValueError: num_heads < 1, a stage without blocks, embed_dim that does not divide, mlp_ratio
            that leaves no channel, time_steps < 1, an unknown memory, or a bad neuron constant.
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
        if embed_dim % 8 or embed_dim % num_heads:
            raise ValueError(
                f"embed_dim: expected a multiple of 8 and of {num_heads} num_heads, got {embed_dim}"
            )
        if not (isinstance(mlp_ratio, Real) and 0.5 < embed_dim * mlp_ratio < math.inf):
            raise ValueError(
                f"mlp_ratio: expected a finite number that leaves a channel of {embed_dim}, got "
                f"{mlp_ratio!r}"
            )
        dd = {"device": device, "dtype": dtype}
        spike = spike_layer_factory(spike_layer)
        stages, feature_info = nn.Sequential(), []
        for i, depth in enumerate(depths):
            blocks = (Block(embed_dim, num_heads, mlp_ratio, spike, **dd) for _ in range(depth))
            stages.append(nn.Sequential(*blocks))
            feature_info.append(dict(num_chs=embed_dim, reduction=4, module=f"stages.{i}"))
        stem = _patches(in_chans, embed_dim, time_steps, spike, **dd)
        super().__init__(stem, stages, feature_info, **dd, **kwargs)


default_cfgs = generate_default_cfgs(
    {"spikformer_4_384.untrained": cfg(**PAPER, pool_size=(8, 8))},
)


@register_model
def spikformer_4_384(pretrained: bool = False, **kwargs) -> Spikformer:
    """9.31 M parameters at 10 classes: the paper's CIFAR network, 9.32 M with biases that its norms
    take away again.
    """
    return build(Spikformer, "spikformer_4_384", pretrained, {}, kwargs)
