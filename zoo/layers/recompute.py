"""Training that saves less memory: spikes as bytes, norm and neuron computed again.

For a convolution, its norm and its neuron, autograd saves three tensors: the convolution's input
and output and the neuron's current. The functions here save the input as bytes where it is spikes,
and compute the current from the output again. A ReLU network has to save more.
Shapes: T time steps, B batch, C channels, H height, W width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.hooks import is_hooked
from zoo.neurons import LIF
from zoo.neurons.kernels import cpu
from zoo.neurons.kernels.dispatch import choose_kernel
from zoo.neurons.kernels.operator import refuse_second_derivative

# In a ResNet-18 with AMX: oneDNN is faster on larger maps and with fewer channels.
SMALL_MAP, MANY_CHANNELS = 64, 256


def can_recompute(x: Tensor, *modules: nn.Module) -> bool:
    """Whether autograd runs eagerly on x, and no hook watches or changes the modules."""
    return (
        isinstance(x, Tensor)  # a tracer passes proxies
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not any(map(is_hooked, modules))
    )


def neuron_spikes(spike: LIF, x: Tensor) -> Tensor:
    """spike(x), which the next convolution saves as bytes."""
    return _Spikes.apply(spike(x), spike.levels)


def spike_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv at every time step, [T, B, C, H, W] -> [T*B, C', H', W'], saving spikes as bytes."""
    if _levels(x) is None:
        return conv(x.flatten(0, 1))
    return _SpikeConv.apply(x.flatten(0, 1), conv.weight, conv.bias, conv, _levels(x))


def norm_spike(
    y: Tensor, norm: nn.BatchNorm2d, spike: LIF, shortcut: Tensor | None, T: int
) -> Tensor:
    """Batch norm in training mode, the sum with the shortcut, and the neuron; y is saved.

    Args:
        y: Output of the convolution, [T*B, C, H, W].
        shortcut: Added before the neuron, [T, B, C, H, W].

    Returns:
        Spikes or rates, [T, B, C, H, W].
    """
    F._verify_batch_size(y.shape)  # of one value per channel the variance would be NaN
    norm.num_batches_tracked.add_(1)
    function = _FusedNormSpike if _can_be_fused(y, norm, shortcut, spike) else _NormSpike
    return function.apply(y, norm.weight, norm.bias, shortcut, norm, spike, T)


def _levels(x: Tensor | None) -> int | None:
    """The levels of x if it comes straight from a neuron of this file, else None."""
    return getattr(x.grad_fn, "levels", None) if x is not None else None


def _compact(x: Tensor | None, levels: int | None) -> Tensor | None:
    """Spikes as bytes; rates and other tensors as they are."""
    return x.to(torch.int8) if levels == 1 else x


def _can_be_fused(y: Tensor, norm: nn.BatchNorm2d, shortcut: Tensor | None, spike: LIF) -> bool:
    """Whether one kernel computes norm, shortcut and neuron: on the CPU, in training's layout and
    with weights of fp32, as those of autocast are too.
    """
    return (
        choose_kernel(spike.backend, y) is cpu
        and y.shape[-2:] != (1, 1)  # is in both layouts, and torch's norm then adds up differently
        and norm.weight.dtype == torch.float32
        and _is_channels_last(y)
        and (shortcut is None or _is_channels_last(shortcut.flatten(0, 1)))
    )


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


class _Spikes(torch.autograd.Function):
    """The same spikes. Their node in autograd's graph says that they are spikes."""

    @staticmethod
    def forward(ctx, spikes, levels):
        ctx.levels = levels
        return spikes

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class _SpikeConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, conv, levels):
        ctx.save_for_backward(_compact(x, levels), weight)
        ctx.conv = conv
        return conv(x)

    @staticmethod
    def backward(ctx, grad):
        refuse_second_derivative()
        (x, weight), conv = ctx.saved_tensors, ctx.conv
        x, wanted = x.to(grad.dtype), list(ctx.needs_input_grad[:3])
        product = wanted[1] and _is_product(conv, grad)
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            grad,
            x,
            weight.to(grad.dtype),
            None if conv.bias is None else [conv.out_channels],
            conv.stride,
            conv.padding,
            conv.dilation,
            False,
            [0, 0],
            conv.groups,
            [wanted[0], wanted[1] and not product, wanted[2]],
        )
        return of_x, _weight_gradient(conv, x, grad) if product else of_weight, of_bias, None, None


def _is_product(conv: nn.Conv2d, grad: Tensor) -> bool:
    """Whether one matrix product makes the weight's gradient faster than oneDNN: in bf16 on a CPU,
    where maps are small and channels many.
    """
    plain = conv.groups == 1 and conv.dilation == (1, 1)
    deep = grad.shape[-1] * grad.shape[-2] <= SMALL_MAP and conv.out_channels >= MANY_CHANNELS
    return plain and deep and grad.device.type == "cpu" and grad.dtype == torch.bfloat16


def _weight_gradient(conv: nn.Conv2d, x: Tensor, grad: Tensor) -> Tensor:
    """Of the weight, [C', C, kh, kw], from the input [N, C, H, W] and the output's gradient
    [N, C', H', W']: what each weight saw, as a column, times what its output was to change.
    """
    (kh, kw), (sh, sw), (ph, pw) = conv.kernel_size, conv.stride, conv.padding
    N, C, H, W = grad.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, pw, pw, ph, ph))
    n, h, w, c = padded.stride()
    seen = padded.as_strided((N, H, W, kh, kw, x.shape[1]), (n, sh * h, sw * w, h, w, c))
    product = grad.permute(0, 2, 3, 1).reshape(-1, C).t() @ seen.reshape(N * H * W, -1)
    return product.view(C, kh, kw, -1).permute(0, 3, 1, 2)


class _NormSpike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, weight, bias, shortcut, norm, spike, T):
        stats = norm.running_mean, norm.running_var
        current, mean, invstd = torch.native_batch_norm(
            y, weight, bias, *stats, True, norm.momentum, norm.eps
        )
        shortcut = _compact(shortcut, _levels(shortcut))
        ctx.save_for_backward(y, weight, bias, shortcut, mean, invstd)
        ctx.eps, ctx.spike, ctx.T, ctx.levels = norm.eps, spike, T, spike.levels
        return _fire(spike, _unfold(current, shortcut, T))[1].detach()

    @staticmethod
    def backward(ctx, grad):
        refuse_second_derivative()
        y, weight, bias, shortcut, mean, invstd = ctx.saved_tensors
        # The same call on the same input: the current has the bits that the forward pass saw.
        current = torch.native_batch_norm(y, weight, bias, None, None, True, 0.0, ctx.eps)[0]
        current, spikes = _fire(ctx.spike, _unfold(current, shortcut, ctx.T))
        (grad,) = torch.autograd.grad(spikes, current, grad)
        del spikes, current
        return _through_norm(ctx.eps, grad, y, weight, shortcut, mean, invstd)


class _FusedNormSpike(torch.autograd.Function):
    """_NormSpike, the current never in memory, with the same bits where torch's norm rounds once,
    as it does with AVX2. Without, it was not tried.
    """

    @staticmethod
    def forward(ctx, y, weight, bias, shortcut, norm, spike, T):
        stats = norm.running_mean, norm.running_var
        mean, var = torch.batch_norm_update_stats(y, *stats, norm.momentum)
        # As torch's norm computes them, bit for bit: bias - mean * scale has one rounding.
        invstd = (var.double() + norm.eps).rsqrt().to(mean.dtype)
        scale = weight * invstd
        offset = (bias.double() - mean.double() * scale.double()).to(scale.dtype)
        shortcut = _compact(shortcut, _levels(shortcut))
        ctx.save_for_backward(y, weight, shortcut, mean, invstd, scale, offset)
        ctx.eps, ctx.T, ctx.levels = norm.eps, T, spike.levels
        ctx.constants = tuple(spike.constants().values())
        pixels = _pixels(y, T), scale, offset, _pixels(shortcut, T)
        spikes = cpu.norm_forward(*pixels, *ctx.constants[:3], spike.levels)
        return _maps(spikes, y, T)

    @staticmethod
    def backward(ctx, grad):
        refuse_second_derivative()
        y, weight, shortcut, mean, invstd, scale, offset = ctx.saved_tensors
        grad = grad.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        pixels = _pixels(y, ctx.T), scale, offset, _pixels(shortcut, ctx.T)
        grad = cpu.norm_backward(_pixels(grad, ctx.T), *pixels, *ctx.constants)
        grad = _maps(grad, y, ctx.T)
        return _through_norm(ctx.eps, grad, y, weight, shortcut, mean, invstd)


def _through_norm(eps, grad, y, weight, shortcut, mean, invstd):
    """Gradient of the current -> of y, weight, bias and shortcut, and of what has none."""
    grads = torch.ops.aten.native_batch_norm_backward(
        grad.flatten(0, 1), y, weight, None, None, mean, invstd, True, eps, [True] * 3
    )
    return *grads, None if shortcut is None else grad, None, None, None


def _pixels(x: Tensor | None, T: int) -> Tensor | None:
    """Feature maps in channels_last, [T*B, C, H, W] or [T, B, C, H, W] -> [T, M, C], no copy."""
    return None if x is None else x.movedim(-3, -1).reshape(T, -1, x.shape[-3])


def _maps(x: Tensor, y: Tensor, T: int) -> Tensor:
    """[T, M, C] -> [T, B, C, H, W], with B, H and W of y [T*B, C, H, W], no copy."""
    _, C, H, W = y.shape
    return x.view(T, -1, H, W, C).movedim(-1, -3)


def _fire(spike: LIF, current: Tensor) -> tuple[Tensor, Tensor]:
    """Current and spikes, with the graph between them: a neuron picks its kernel by that."""
    current = current.detach().requires_grad_()
    with torch.enable_grad():
        return current, spike(current)


def _unfold(current: Tensor, shortcut: Tensor | None, T: int) -> Tensor:
    current = current.unflatten(0, (T, -1))
    return current if shortcut is None else current.add_(shortcut)
