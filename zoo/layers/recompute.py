"""Training that remembers little: spikes as bytes, norm and neuron computed again.

Training remembers three tensors for a convolution, its norm and its neuron: the convolution's input
and output and the neuron's current. The input is spikes, for which a byte each is plenty (rates are
remembered as they are), and the current follows from the output; a ReLU network has to remember
more.
Shapes: T time steps, B batch, C channels, H height, W width.
"""

from collections.abc import Callable
from functools import wraps

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from zoo.layers.hooks import runs_hooks
from zoo.neurons import LIF
from zoo.neurons.kernels import cpu as compiled

# In a ResNet-18 with AMX: oneDNN is faster on larger maps and with fewer channels.
SMALL_MAP, MANY_CHANNELS = 64, 256


def spike_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv at every time step, [T, B, C, H, W] -> [T*B, C', H', W']; x is remembered as
    remembered_as was told where it was and nobody watches or changes conv.
    """
    packed = _packed(x)
    plain = type(conv) is nn.Conv2d and conv.padding_mode == "zeros"
    if packed is None or not plain or isinstance(conv.padding, str) or is_hooked(conv):
        return conv(x.flatten(0, 1))
    return _SpikeConv.apply(x.flatten(0, 1), conv.weight, conv.bias, packed.flatten(0, 1), conv)


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody has hooked on to a module, or to all of them, in either direction."""
    backward = module._backward_pre_hooks or module._backward_hooks
    return runs_hooks(module) or bool(backward) or _has_any_global_hook()


def norm_spike(
    y: Tensor, norm: nn.BatchNorm2d, spike: LIF, shortcut: Tensor | None, T: int
) -> Tensor:
    """Batch norm in training mode, the shortcut added, and the neuron; what is remembered is y, and
    the shortcut as remembered_as was told.

    Args:
        y: Output of the convolution, [T*B, C, H, W].
        shortcut: What is added before the neuron, [T, B, C, H, W], if anything.

    Returns:
        Spikes or rates, [T, B, C, H, W].

    Raises:
        ValueError: There is one value per channel, which has no variance.
    """
    if y[:, 0].numel() == 1:
        raise ValueError(
            f"norm: expected more than one value per channel in training, got shape {[*y.shape]}; "
            "take a larger batch, or leave the last one out"
        )
    if shortcut is not None and torch.promote_types(y.dtype, shortcut.dtype) != y.dtype:
        return spike(norm(y).unflatten(0, (T, -1)) + shortcut)  # a current of the shortcut's type
    norm.num_batches_tracked.add_(1)
    apply = _FusedNormSpike.apply if _can_be_fused(y, norm, shortcut, spike) else _NormSpike.apply
    spikes, packed = apply(y, norm.weight, norm.bias, shortcut, norm, spike, T)
    return remembered_as(spikes, spikes.detach() if packed is None else packed)


def remembered_as(spikes: Tensor, packed: Tensor) -> Tensor:
    """The same tensor, which spike_conv and norm_spike will remember as packed: spikes as bytes,
    rates as they are.
    """
    # Once for all that read them; the next layers and the shortcut find it by the tensor.
    spikes.packed = spikes._version, packed
    return spikes


def _can_be_fused(y: Tensor, norm: nn.BatchNorm2d, shortcut: Tensor | None, spike: LIF) -> bool:
    """Whether one kernel computes norm, shortcut and neuron: on the CPU, in training's layout and
    with weights of fp32, as those of autocast are too.
    """
    return (
        spike.kernel(y) is compiled
        and y.shape[-2:] != (1, 1)  # both layouts at once, in which torch's norm adds up otherwise
        and norm.weight.dtype == torch.float32
        and _is_channels_last(y)
        and (shortcut is None or _is_channels_last(shortcut.flatten(0, 1)))
    )


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def _packed(x: Tensor | None) -> Tensor | None:
    """What to remember of a tensor from remembered_as that nobody has changed since."""
    if torch.compiler.is_compiling():  # it cannot ask for a version
        return None
    if not (isinstance(x, Tensor) and hasattr(x, "packed")):  # a tracer's x has any attribute
        return None
    version, packed = x.packed
    return packed if version == x._version else None


def _first_derivative(backward: Callable) -> Callable:
    """backward, which has no derivative of its own. torch's once_differentiable says so only to
    some of those who ask for one: autograd.grad would leave its part of a second one out.
    """

    @wraps(backward)
    def checked(ctx, *grads):
        if torch.is_grad_enabled():
            raise RuntimeError(
                'expected first derivatives, got create_graph=True with memory="lean"; build the '
                'network with memory="fast" and LIF layers of backend="eager"'
            )
        if any(torch._C._functorch.is_legacy_batchedtensor(g) for g in grads if g is not None):
            raise RuntimeError(
                'expected one gradient at a time, got is_grads_batched=True with memory="lean"; '
                'build the network with memory="fast"'
            )
        return backward(ctx, *grads)

    return checked


class _SpikeConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, packed, conv):
        ctx.save_for_backward(packed, weight)
        ctx.conv = conv
        return conv(x)

    @staticmethod
    @_first_derivative
    def backward(ctx, grad):
        (packed, weight), conv = ctx.saved_tensors, ctx.conv
        x, wanted = packed.to(grad.dtype), list(ctx.needs_input_grad[:3])
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
        spike = LIF(**spike.constants(), backend=spike.backend)  # its own may change
        ctx.set_materialize_grads(False)  # packed has none
        stats = norm.running_mean, norm.running_var
        current, mean, invstd = torch.native_batch_norm(
            y, weight, bias, *stats, True, norm.momentum, norm.eps
        )
        ctx.save_for_backward(y, weight, bias, _remembered(shortcut), mean, invstd)
        ctx.eps, ctx.spike, ctx.T = norm.eps, spike, T
        spikes = _fire(spike, _unfold(current, shortcut, T))[1].detach()
        if spike.levels > 1:
            return spikes, None
        packed = spikes.to(torch.int8)
        ctx.mark_non_differentiable(packed)
        return spikes, packed

    @staticmethod
    @_first_derivative
    def backward(ctx, grad, _):
        if grad is None:  # as a function behind it gives where it stops gradients
            return (None,) * 7
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
        ctx.set_materialize_grads(False)
        stats = norm.running_mean, norm.running_var
        mean, var = torch.batch_norm_update_stats(y, *stats, norm.momentum)
        # As torch's norm computes them, bit for bit: bias - mean * scale has one rounding.
        invstd = (var.double() + norm.eps).rsqrt().to(mean.dtype)
        scale = weight * invstd
        offset = (bias.double() - mean.double() * scale.double()).to(scale.dtype)
        remembered = _remembered(shortcut)
        ctx.save_for_backward(y, weight, remembered, mean, invstd, scale, offset)
        ctx.eps, ctx.constants, ctx.T = norm.eps, tuple(spike.constants().values()), T
        pixels = _pixels(y, T), scale, offset, _pixels(remembered, T)
        spikes, packed = compiled.norm_forward(*pixels, *ctx.constants[:3], spike.levels)
        if packed is None:  # rates
            return _maps(spikes, y, T), None
        ctx.mark_non_differentiable(packed)
        return _maps(spikes, y, T), _maps(packed, y, T)

    @staticmethod
    @_first_derivative
    def backward(ctx, grad, _):
        if grad is None:
            return (None,) * 7
        y, weight, shortcut, mean, invstd, scale, offset = ctx.saved_tensors
        grad = grad.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        pixels = _pixels(y, ctx.T), scale, offset, _pixels(shortcut, ctx.T)
        grad = compiled.norm_backward(_pixels(grad, ctx.T), *pixels, *ctx.constants)
        grad = _maps(grad, y, ctx.T)
        return _through_norm(ctx.eps, grad, y, weight, shortcut, mean, invstd)


def _through_norm(eps, grad, y, weight, shortcut, mean, invstd):
    """Gradient of the current -> of y, weight, bias and shortcut, and of what has none."""
    grads = torch.ops.aten.native_batch_norm_backward(
        grad.flatten(0, 1), y, weight, None, None, mean, invstd, True, eps, [True] * 3
    )
    return *grads, None if shortcut is None else grad, None, None, None


def _remembered(shortcut: Tensor | None) -> Tensor | None:
    packed = _packed(shortcut)
    return shortcut if packed is None else packed


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
