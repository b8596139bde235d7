"""Attention: of membrane-shortcut networks, learned factors between 0 and 1; of Spikformer, spikes.

Shapes: T time steps, B batch, C channels, H height, W width.
"""

import torch
from timm.layers import register_notrace_module
from torch import Tensor, fx, nn

from zoo.neurons.lif import traced_whole


class ChannelSpatialAttention(nn.Module):
    """Weighs channels, then pixels, [T, B, C, H, W] -> the same. The weights depend on all time
    steps and are the same for each.

    CSA in the code of Attention Spiking Neural Networks, https://arxiv.org/abs/2209.13929, which
    ends in a ReLU and reduces channels by 8 on ImageNet.
    """

    def __init__(self, chs: int, reduction: int = 8, **dd):
        super().__init__()
        hidden = max(1, chs // reduction)
        self.channels = nn.Sequential(
            nn.Conv2d(chs, hidden, 1, bias=False, **dd),
            nn.ReLU(),
            nn.Conv2d(hidden, chs, 1, bias=False, **dd),
        )
        self.pixels = nn.Conv2d(2, 1, 3, padding=1, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        mean, peak = x.mean((0, 3, 4), keepdim=True)[0], x.amax((0, 3, 4), keepdim=True)[0]
        x = x * (self.channels(mean) + self.channels(peak)).sigmoid()  # [B, C, 1, 1]
        maps = x.mean((0, 2), keepdim=True)[0], x.amax((0, 2), keepdim=True)[0]
        x = x * self.pixels(torch.cat(maps, 1)).sigmoid()  # [B, 1, H, W]
        return x.relu()


@register_notrace_module
class Gate(nn.Module):
    """A factor between 0 and 1 for every value of a current, [T, B, C, H, W] -> the same.

    Gated Attention Coding, https://arxiv.org/abs/2308.06582: one number per time step, from the
    means and maxima of all steps, times a map of channels and pixels of each step.
    """

    def __init__(self, chs: int, time_steps: int, **dd):
        super().__init__()
        hidden = max(1, time_steps // 2)  # the paper has no T = 1
        self.time_steps = time_steps
        self.steps = nn.Sequential(
            nn.Conv2d(time_steps, hidden, 1, bias=False, **dd),
            nn.ReLU(),
            nn.Conv2d(hidden, time_steps, 1, bias=False, **dd),
        )
        self.pixels = nn.Sequential(
            nn.ZeroPad2d((1, 2, 1, 2)),
            nn.Conv2d(chs, chs, 4, bias=False, **dd),
            nn.ReLU(),
            nn.ZeroPad2d((1, 2, 1, 2)),
            nn.Conv2d(chs, chs, 4, bias=False, **dd),
        )

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):
            return traced_whole(self, x)
        if len(x) != self.time_steps:
            raise ValueError(
                f"x: expected {self.time_steps} time steps, got {len(x)}; the gate has weights for "
                "each step, so build the network with that time_steps"
            )
        pooled = x.mean((2, 3, 4)), x.amax((2, 3, 4))  # [T, B]
        steps = sum(self.steps(values.T[..., None, None]) for values in pooled)  # [B, T, 1, 1]
        still = x.stride(0) == 0  # DirectCoding expands the current of a still image
        maps = self.pixels((x[:1] if still else x).flatten(0, 1)).unflatten(
            0, (1 if still else len(x), x.shape[1])
        )
        return (steps.transpose(0, 1).unsqueeze(2) * maps).sigmoid()


class GatedSpikes(nn.Module):
    """Spikes of a current times its gate, [T, B, C, H, W] -> the same, graded."""

    def __init__(self, chs: int, time_steps: int, spike, **dd):
        super().__init__()
        self.gate = Gate(chs, time_steps, **dd)
        self.spike = spike()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x) * self.spike(x)


class SpikeAttention(nn.Module):
    """Attention of spikes without a softmax, (q k^T) v of each head, [T, B, C, H, W] each.

    The products count spikes, so that the order of multiplication changes no bit. v k^T comes
    first: it costs (C / heads) / (H * W) as much as q k^T.

    Args:
        num_heads: Heads, which split the channels.
        scale: Factor of the counts; a power of two keeps them exact.
    """

    def __init__(self, num_heads: int, scale: float):
        super().__init__()
        self.num_heads, self.scale = num_heads, scale

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        size = q.shape[-2:]
        # Tokens last, as pixels are: [T, B, heads, C / heads, H * W].
        q, k, v = (x.flatten(-2).unflatten(-2, (self.num_heads, -1)) for x in (q, k, v))
        x = (v @ k.mT) @ q * self.scale
        return x.flatten(-3, -2).unflatten(-1, size)
