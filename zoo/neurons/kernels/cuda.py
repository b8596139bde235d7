"""LIF over a sequence on a GPU: one fused Triton program forward, one backward.

The backward pass needs the input current alone; it runs the membrane potential again. Both keep
the potential in registers, in fp32, whatever the type of the current (fp32, bf16 or fp16).
Shapes: T time steps, N neurons times batch.
"""

import functools
import math
from types import SimpleNamespace

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl

    _import_error = None
except ImportError as error:  # the kernels below are then defined, never launched
    triton, tl = SimpleNamespace(jit=lambda fn: fn), SimpleNamespace(constexpr=None)
    _import_error = error

BLOCK = 1024  # neurons per program
# An FMA would round decay * v + x once where the reference rounds twice: other spikes.
LAUNCH_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def _given_off(v, v_threshold, steepness, LEVELS: tl.constexpr):
    """A spike or, with more levels than one, zoo.surrogates.stairs; rounded as by torch on CUDA."""
    u = v - v_threshold
    if LEVELS == 1:
        given_off = (u >= 0).to(tl.float32)
    else:
        stairs = tl.maximum(tl.floor(u * steepness) + LEVELS, 0.0, tl.PropagateNan.ALL)
        per_level = tl.div_rn(tl.full((), 1.0, tl.float32), LEVELS)
        given_off = tl.minimum(stairs, 1.0 * LEVELS, tl.PropagateNan.ALL) * per_level
    return given_off


@triton.jit
def _after_reset(v, spike, v_threshold, RESET: tl.constexpr):
    return v - spike * v_threshold if RESET == "subtract" else v * (1 - spike)


@triton.jit
def _slope(u, SURROGATE: tl.constexpr, WIDTH: tl.constexpr):
    """SLOPES[SURROGATE](u, WIDTH) of the surrogates, rounded as torch on CUDA, which divides by
    a number as it multiplies by its reciprocal.
    """
    per_width = tl.div_rn(tl.full((), 1.0, tl.float32), WIDTH)
    if SURROGATE == "triangle":
        bump = tl.maximum(1 - tl.abs(u) * per_width, 0.0, tl.PropagateNan.ALL)
    elif SURROGATE == "rectangle":
        bump = (tl.abs(u) < WIDTH / 2).to(tl.float32)
    elif SURROGATE == "tanh":
        # 1 - tanh(z)^2 = 4 e / (1 + e)^2; Triton has no tanh that its interpreter knows.
        e = tl.exp(-2 * tl.abs(u * (2 / WIDTH)))
        bump = 4 * e / ((1 + e) * (1 + e))
    else:
        tl.static_assert(SURROGATE == "arctan")
        z = u * (math.pi / WIDTH)
        bump = tl.div_rn(1.0, 1 + z * z)
    return bump * per_width


@triton.jit
def _forward(
    x,
    spikes,
    n,
    x_stride,
    decay,
    v_threshold,
    steepness,
    T: tl.constexpr,
    RESET: tl.constexpr,
    LEVELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    # The pointers walk from step to step, since t * n may not fit into 32 bits.
    x += at
    spikes += at
    v = tl.full((BLOCK,), 0.0, tl.float32)
    for _ in tl.static_range(T):
        v = decay * v + tl.load(x, mask=inside, other=0.0).to(tl.float32)
        spike = _given_off(v, v_threshold, steepness, LEVELS)
        tl.store(spikes, spike, mask=inside)
        v = _after_reset(v, spike, v_threshold, RESET)
        x += x_stride
        spikes += n


@triton.jit
def _backward(
    grad,
    x,
    grad_x,
    n,
    grad_stride,
    x_stride,
    half_a_step,
    decay,
    v_threshold,
    steepness,
    T: tl.constexpr,
    RESET: tl.constexpr,
    LEVELS: tl.constexpr,
    SURROGATE: tl.constexpr,
    WIDTH: tl.constexpr,
    DETACH_RESET: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    x += at
    grad += at
    grad_x += at
    v = tl.full((BLOCK,), 0.0, tl.float32)
    trace = ()  # each step's potential before reset
    for _ in tl.static_range(T):
        v = decay * v + tl.load(x, mask=inside, other=0.0).to(tl.float32)
        trace += (v,)
        spike = _given_off(v, v_threshold, steepness, LEVELS)
        v = _after_reset(v, spike, v_threshold, RESET)
        x += x_stride
        grad += grad_stride
        grad_x += n

    grad_v = None  # of the potential after reset, which nothing reads after the last step
    for t in tl.static_range(T - 1, -1, -1):
        grad -= grad_stride
        grad_x -= n
        v = trace[t]
        grad_spike = tl.load(grad, mask=inside, other=0.0).to(tl.float32)
        if t < T - 1 and not DETACH_RESET:
            if RESET == "subtract":
                grad_spike -= grad_v * v_threshold
            else:
                grad_spike -= grad_v * v
        u = v - v_threshold
        if LEVELS == 1:
            grad_t = grad_spike * _slope(u, SURROGATE, WIDTH)
        else:
            rises = (u > -v_threshold) & (u < half_a_step)
            per_threshold = tl.div_rn(tl.full((), 1.0, tl.float32), v_threshold)
            grad_t = grad_spike * rises.to(tl.float32) * per_threshold
        if t < T - 1:
            if RESET == "subtract":
                grad_t = grad_v + grad_t
            else:
                spike = _given_off(v, v_threshold, steepness, LEVELS)
                grad_t = grad_v * (1 - spike) + grad_t
        tl.store(grad_x, grad_t, mask=inside)
        grad_v = grad_t * decay


def _neurons_per_program(T: int) -> int:
    """4096 / T in the backward pass: the registers of 128 threads hold T potentials of each."""
    return max(128, BLOCK >> max(0, (T - 1).bit_length() - 2))


def forward(x: Tensor, decay: float, v_threshold: float, reset: str, levels: int = 1) -> Tensor:
    """Input current -> spikes, both [T, N]; a step of x is one dense block of memory."""
    T, n = x.shape
    spikes = x.new_empty(T, n)
    constants = decay, v_threshold, levels / v_threshold, T, reset, levels
    with torch.cuda.device_of(x):
        _forward[(triton.cdiv(n, BLOCK),)](
            x, spikes, n, x.stride(0), *constants, BLOCK, **LAUNCH_OPTIONS
        )
    return spikes


def backward(
    grad: Tensor,
    x: Tensor,
    decay: float,
    v_threshold: float,
    reset: str,
    surrogate: str,
    width: float,
    detach_reset: bool,
    levels: int = 1,
) -> Tensor:
    """Gradient of the spikes -> of the input current, [T, N]: the chain rule through lif_step, last
    step first, in autograd's own order of operations.
    """
    T, n = x.shape
    grad_x = x.new_empty(T, n)
    strides, half_a_step = (grad.stride(0), x.stride(0)), v_threshold / (2 * levels)
    constants = decay, v_threshold, levels / v_threshold, T, reset, levels
    slope = surrogate, width, detach_reset
    block = _neurons_per_program(T)
    with torch.cuda.device_of(x):
        _backward[(triton.cdiv(n, block),)](
            grad, x, grad_x, n, *strides, half_a_step, *constants, *slope, block, **LAUNCH_OPTIONS
        )
    return grad_x


@torch.compiler.assume_constant_result
def unavailable() -> str | None:
    """Why this backend cannot run here, or None where it can."""
    if _import_error:
        return f"Triton cannot be imported: {_import_error}"
    interpreted = not isinstance(_forward, triton.JITFunction)
    if not (interpreted or torch.cuda.is_available()):
        return "no CUDA device, and TRITON_INTERPRET=1 was not set before the import"
    return None if interpreted else _no_launcher()


@functools.cache
def _no_launcher() -> str | None:
    """Why Triton's launcher, which a C compiler builds on first use, cannot be built, or None."""
    try:
        return triton.runtime.driver.active.utils and None
    except Exception as error:  # whatever a compiler comes to
        return f"Triton cannot build its launcher: {error}"
