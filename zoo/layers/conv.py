"""Ordinary layers inside a spiking network.

Shapes: T time steps, B batch, C channels, H height, W width.
"""

from collections import OrderedDict

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from zoo.layers.recompute import is_hooked, norm_spike, remembered_as, spike_conv
from zoo.neurons import LIF
from zoo.validation import whole


class TimeFold(nn.Sequential):
    """Ordinary layers applied at every time step: [T, B, ...] -> [T*B, ...] -> [T, B, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))


def conv_norm(
    in_chs: int, out_chs: int, kernel_size: int, stride: int = 1, **dd
) -> "OrderedDict[str, nn.Module]":
    """A padded convolution and its norm; inside a TimeFold the statistics run over T and B."""
    conv = nn.Conv2d(
        in_chs, out_chs, kernel_size, stride, padding=kernel_size // 2, bias=False, **dd
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_chs, **dd))


class ConvNorm(TimeFold):
    """Convolution and batch norm at every time step, [T, B, C, H, W] -> [T, B, C', H', W']."""

    lean = True

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int, stride: int = 1, **dd):
        super().__init__(conv_norm(in_chs, out_chs, kernel_size, stride, **dd))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(spike_conv(self.conv, x)).unflatten(0, (x.shape[0], -1))


def fire(spike: nn.Module, conv: ConvNorm, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """spike(conv(x) + shortcut), [T, B, C, H, W] -> spikes [T, B, C', H', W']."""
    if conv.lean and _can_be_lean(spike, conv, x):
        return norm_spike(spike_conv(conv.conv, x), conv.norm, spike, shortcut, x.shape[0])
    current = conv(x)
    return spike(current if shortcut is None else current + shortcut)


def spikes_of(spike: nn.Module, conv: ConvNorm, x: Tensor) -> Tensor:
    """spike(x), [T, B, C, H, W] -> the same, for conv, which is to remember spikes as bytes."""
    spikes = spike(x)
    if not (conv.lean and _can_be_lean(spike, conv, x)):
        return spikes
    rates = spike.levels > 1
    return remembered_as(spikes, spikes.detach().to(spikes.dtype if rates else torch.int8))


def _can_be_lean(spike: nn.Module, conv: ConvNorm, x: Tensor) -> bool:
    """Whether norm and neuron may run twice, and somebody asks for their gradient. A neuron that
    keeps a state may not, nor may one that learns, or that somebody watches or made another of; a
    compiler decides for itself, a tracer's x is no tensor, and torch.func's transforms know no such
    function.
    """
    return (
        type(spike) is LIF
        and spike.what_no_kernel_knows() is None
        and type(conv.norm) is nn.BatchNorm2d
        and conv.norm.training
        and conv.norm.affine
        and conv.norm.track_running_stats
        and conv.norm.momentum is not None
        and isinstance(x, Tensor)
        and x.numel() > 0
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not any(map(is_hooked, (spike, conv, conv.norm)))
    )


class ConvSpike(nn.Module):
    """Convolution, norm and neuron, [T, B, C, H, W] -> spikes [T, B, C', H', W']."""

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int, spike, stride: int = 1, **dd):
        super().__init__()
        self.conv = ConvNorm(in_chs, out_chs, kernel_size, stride, **dd)
        self.spike = spike()

    def forward(self, x: Tensor) -> Tensor:
        return fire(self.spike, self.conv, x)


@register_notrace_module
class DirectCoding(nn.Sequential):
    """Shows a still image at every time step; its convolution and norm run once, not T times.

    [B, C, H, W] -> [T, B, C', H', W'] as a view that repeats one current. Event frames,
    [T, B, C, H, W], bring their own T and are convolved step by step.

    Raises:
        ValueError: time_steps or in_chs < 1; x has another number of axes or of channels, or no
            steps.
    """

    def __init__(
        self, in_chs: int, out_chs: int, kernel_size: int, stride: int, time_steps: int, **dd
    ):
        in_chs = whole("in_chans", in_chs, 1)
        super().__init__(conv_norm(in_chs, out_chs, kernel_size, stride, **dd))
        self.time_steps = whole("time_steps", time_steps, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in (4, 5):
            raise ValueError(
                f"x: expected [B, C, H, W] or [T, B, C, H, W], got shape {tuple(x.shape)}"
            )
        if x.ndim == 5 and x.shape[0] == 0:
            raise ValueError(f"x: expected at least one time step, got shape {tuple(x.shape)}")
        if x.shape[-3] != self.conv.in_channels:
            raise ValueError(
                f"x: expected {self.conv.in_channels} channels in axis {x.ndim - 3}, "
                f"got shape {tuple(x.shape)}"
            )
        if x.ndim == 4:
            return super().forward(x).expand(self.time_steps, -1, -1, -1, -1)
        return super().forward(x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))
