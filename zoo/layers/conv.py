"""Ordinary layers inside a spiking network.

Shapes: T time steps, B batch, C channels, H height, W width.
"""

from collections import OrderedDict

from timm.layers import register_notrace_module
from torch import Tensor, fx, nn

from zoo.layers.recompute import can_recompute, neuron_spikes, norm_spike, spike_conv
from zoo.neurons import LIF
from zoo.neurons.lif import traced_whole
from zoo.validation import whole


class TimeFold(nn.Sequential):
    """Ordinary layers applied at every time step: [T, B, ...] -> [T*B, ...] -> [T, B, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))


def conv_norm(
    in_chs: int, out_chs: int, kernel_size: int, stride: int = 1, **dd
) -> "OrderedDict[str, nn.Module]":
    """A padded convolution and its norm; inside a TimeFold its statistics run over T and B."""
    conv = nn.Conv2d(
        in_chs, out_chs, kernel_size, stride, padding=kernel_size // 2, bias=False, **dd
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_chs, **dd))


class ConvNorm(TimeFold):
    """Convolution and batch norm at every time step, [T, B, C, H, W] -> [T, B, C', H', W']."""

    lean = False  # save spikes as bytes and compute norm and neuron again; set by SpikingBackbone

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int, stride: int = 1, **dd):
        super().__init__(conv_norm(in_chs, out_chs, kernel_size, stride, **dd))

    def forward(self, x: Tensor) -> Tensor:
        if not (self.lean and type(self.conv) is nn.Conv2d and can_recompute(x, self.conv)):
            return super().forward(x)
        return self.norm(spike_conv(self.conv, x)).unflatten(0, (x.shape[0], -1))


def conv_spike(
    x: Tensor, conv: ConvNorm, spike: nn.Module, shortcut: Tensor | None = None
) -> Tensor:
    """spike(conv(x) + shortcut), [T, B, C, H, W] -> spikes [T, B, C', H', W']."""
    if _is_lean(x, conv, spike):
        return norm_spike(spike_conv(conv.conv, x), conv.norm, spike, shortcut, x.shape[0])
    current = conv(x)
    return spike(current if shortcut is None else current + shortcut)


def spikes_for(x: Tensor, conv: ConvNorm, spike: nn.Module) -> Tensor:
    """spike(x), [T, B, C, H, W] -> the same, which conv saves as bytes if it is lean."""
    return neuron_spikes(spike, x) if _is_lean(x, conv, spike) else spike(x)


def _is_lean(x: Tensor, conv: ConvNorm, spike: nn.Module) -> bool:
    """Whether norm and neuron can run twice: they keep no state, and the norm is in training."""
    layers = conv.conv, conv.norm, spike
    return (
        conv.lean
        and tuple(map(type, layers)) == (nn.Conv2d, nn.BatchNorm2d, LIF)
        and conv.norm.training
        and conv.norm.momentum is not None  # as while torch.optim.swa_utils.update_bn runs
        and spike.kernel_limitation() is None
        and can_recompute(x, conv, *layers)
    )


class ConvSpike(nn.Module):
    """Convolution, norm and neuron, [T, B, C, H, W] -> spikes [T, B, C', H', W']."""

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int, spike, stride: int = 1, **dd):
        super().__init__()
        self.conv = ConvNorm(in_chs, out_chs, kernel_size, stride, **dd)
        self.spike = spike()

    def forward(self, x: Tensor) -> Tensor:
        return conv_spike(x, self.conv, self.spike)


@register_notrace_module
class DirectCoding(nn.Sequential):
    """Shows a still image at every time step; its convolution and norm run once, not T times.

    [B, C, H, W] -> [T, B, C', H', W'] as a view that repeats one current. Event frames,
    [T, B, C, H, W], bring their own T and are convolved step by step.
    """

    def __init__(
        self, in_chs: int, out_chs: int, kernel_size: int, stride: int, time_steps: int, **dd
    ):
        in_chs = whole("in_chans", in_chs, 1)
        super().__init__(conv_norm(in_chs, out_chs, kernel_size, stride, **dd))
        self.time_steps = whole("time_steps", time_steps, 1)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):
            return traced_whole(self, x)
        if x.ndim not in (4, 5):
            raise ValueError(
                f"x: expected [B, C, H, W] or [T, B, C, H, W], got shape {tuple(x.shape)}"
            )
        if x.ndim == 4:
            return super().forward(x).expand(self.time_steps, -1, -1, -1, -1)
        return super().forward(x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))
