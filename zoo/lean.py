"""Training that remembers little: spikes as bytes, norm and neuron computed again.

Training remembers three tensors for a convolution, its norm and its neuron: the convolution's input
and output and the neuron's current. The input is spikes, for which a byte each is plenty, and the
current follows from the output; a ReLU network has to remember more.
Shapes: T time steps, B batch, C channels, H height, W width.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def spike_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv at every time step, [T, B, C, H, W] -> [T*B, C', H', W']; what x was is remembered as
    bytes where x came from norm_spike.
    """
    packed = _packed(x)
    if packed is None or type(conv) is not nn.Conv2d:
        return conv(x.flatten(0, 1))
    return _SpikeConv.apply(x.flatten(0, 1), conv.weight, conv.bias, packed.flatten(0, 1), conv)


def norm_spike(
    y: Tensor, norm: nn.BatchNorm2d, spike: nn.Module, shortcut: Tensor | None, T: int
) -> Tensor:
    """Batch norm in training mode, the shortcut added, and the neuron; only y is remembered.

    Args:
        y: Output of the convolution, [T*B, C, H, W].
        shortcut: What is added before the neuron, [T, B, C, H, W], if anything.

    Returns:
        Spikes, [T, B, C, H, W].
    """
    norm.num_batches_tracked.add_(1)
    spikes = _NormSpike.apply(y, norm.weight, norm.bias, shortcut, norm, spike, T)
    # Once for all that read them; the next layers and the shortcut find it by the tensor.
    spikes.packed = spikes._version, spikes.detach().to(torch.int8)
    return spikes


def _packed(x: Tensor | None) -> Tensor | None:
    """Spikes as bytes, of a tensor that norm_spike gave and that nobody has changed since."""
    if not (isinstance(x, Tensor) and hasattr(x, "packed")):  # a tracer's x has any attribute
        return None
    version, packed = x.packed
    return packed if version == x._version else None


class _SpikeConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, packed, conv):
        ctx.save_for_backward(packed, weight)
        ctx.conv = conv
        return conv(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (packed, weight), conv = ctx.saved_tensors, ctx.conv
        wanted = list(ctx.needs_input_grad[:3])
        grads = torch.ops.aten.convolution_backward(
            grad,
            packed.to(grad.dtype),
            weight.to(grad.dtype),
            None if conv.bias is None else [conv.out_channels],
            conv.stride,
            conv.padding,
            conv.dilation,
            False,
            [0, 0],
            conv.groups,
            wanted,
        )
        return *grads, None, None


class _NormSpike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, weight, bias, shortcut, norm, spike, T):
        stats = norm.running_mean, norm.running_var
        current, mean, invstd = torch.native_batch_norm(
            y, weight, bias, *stats, True, norm.momentum, norm.eps
        )
        packed = _packed(shortcut)
        remembered = shortcut if packed is None else packed
        ctx.save_for_backward(y, weight, bias, remembered, mean, invstd)
        ctx.eps, ctx.spike, ctx.T = norm.eps, spike, T
        return _fire(spike, _unfold(current, shortcut, T))[1].detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        y, weight, bias, shortcut, mean, invstd = ctx.saved_tensors
        # The same call on the same input: the current has the bits that the forward pass saw.
        current = torch.native_batch_norm(y, weight, bias, None, None, True, 0.0, ctx.eps)[0]
        current, spikes = _fire(ctx.spike, _unfold(current, shortcut, ctx.T))
        (grad,) = torch.autograd.grad(spikes, current, grad)
        del spikes, current
        grads = torch.ops.aten.native_batch_norm_backward(
            grad.flatten(0, 1), y, weight, None, None, mean, invstd, True, ctx.eps, [True] * 3
        )
        return *grads, None if shortcut is None else grad, None, None, None


def _fire(spike: nn.Module, current: Tensor) -> tuple[Tensor, Tensor]:
    """Current and spikes, with the graph between them: a neuron picks its kernel by that."""
    current = current.detach().requires_grad_()
    with torch.enable_grad():
        return current, spike(current)


def _unfold(current: Tensor, shortcut: Tensor | None, T: int) -> Tensor:
    current = current.unflatten(0, (T, -1))
    return current if shortcut is None else current.add_(shortcut)
