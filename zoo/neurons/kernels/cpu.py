"""LIF over a sequence on the CPU: one fused pass forward, one backward, through torch.compile.

The backward pass needs the input current alone; it runs the membrane potential again. With a norm
before the neuron the current itself is computed on the way, from the convolution's output.
Shapes: T time steps, N neurons times batch; with a norm C channels, M pixels times batch.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from zoo.neurons.rates import rises, stairs
from zoo.neurons.surrogates import SLOPES

# What a compiler has to build, as torch's kernels have it.
PROBE = """#include <Python.h>
#include <omp.h>
int threads() { return omp_get_max_threads(); }
"""

# One graph per T, type, reset and surrogate, shared by every size of layer; and where make_fx runs
# the operator on real tensors, plain operations instead of an error.
_many_graphs = torch._dynamo.config.patch(recompile_limit=256, error_on_nested_fx_trace=False)


def _membrane(x: Tensor, decay: float, v_threshold: float, reset: str, levels: int):
    """Each step's potential before reset and what it gives off, T pairs of [N]."""
    v = torch.zeros_like(x[0], dtype=torch.promote_types(x.dtype, torch.float32))
    trace = []
    for x_t in x.unbind():
        v = decay * v + x_t
        u = v - v_threshold
        spike = (u >= 0).to(v.dtype) if levels == 1 else stairs(u, v_threshold, levels)
        trace.append((v, spike))
        v = v - spike * v_threshold if reset == "subtract" else v * (1 - spike)
    return trace


def _spikes(x: Tensor, decay: float, v_threshold: float, reset: str, levels: int) -> Tensor:
    return torch.stack([s for _, s in _membrane(x, decay, v_threshold, reset, levels)]).to(x.dtype)


def _chain_rule(
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
    """Through lif_step from the last step to the first, in autograd's own order of operations."""
    trace = _membrane(x, decay, v_threshold, reset, levels)
    grads: list[Tensor] = []
    grad_v = None  # of the potential after reset
    for (v, spike), grad_spike in zip(reversed(trace), reversed(grad.unbind()), strict=True):
        if grad_v is not None and not detach_reset:
            fall = v_threshold if reset == "subtract" else v
            grad_spike = grad_spike - grad_v * fall
        u = v - v_threshold
        if levels == 1:
            grad_x = grad_spike * SLOPES[surrogate](u, width)
        else:
            grad_x = grad_spike.to(v.dtype) * rises(u, v_threshold, levels) / v_threshold
        if grad_v is not None:
            grad_x = (grad_v if reset == "subtract" else grad_v * (1 - spike)) + grad_x
        grads.append(grad_x)
        grad_v = grad_x * decay
    return torch.stack(grads[::-1]).to(x.dtype)


def _current(y: Tensor, scale: Tensor, offset: Tensor, shortcut: Tensor | None) -> Tensor:
    """The norm as torch computes it, one rounding for scale * y + offset, and the shortcut."""
    x = torch.ops.prims.fma(y.to(scale.dtype), scale.expand_as(y), offset.expand_as(y)).to(y.dtype)
    return x if shortcut is None else x + shortcut


def _normed_spikes(y, scale, offset, shortcut, *constants) -> Tensor:
    return _spikes(_current(y, scale, offset, shortcut), *constants)


def _normed_chain_rule(grad, y, scale, offset, shortcut, *constants) -> Tensor:
    return _chain_rule(grad, _current(y, scale, offset, shortcut), *constants)


@functools.cache
def _graph(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    import torch._inductor.inductor_prims  # has fma; on first use: it takes seconds to import

    return torch.compile(function, dynamic=True, options={"emulate_precision_casts": True})


@_many_graphs
def forward(x: Tensor, decay: float, v_threshold: float, reset: str, levels: int = 1) -> Tensor:
    """Input current -> spikes, both [T, N]."""
    return _graph(_spikes)(x, decay, v_threshold, reset, levels)


@_many_graphs
def backward(grad: Tensor, x: Tensor, *constants) -> Tensor:
    """Gradient of the spikes -> of the input current, [T, N]; the constants are those of LIF."""
    return _graph(_chain_rule)(grad, x, *constants)


@_many_graphs
def norm_forward(
    y: Tensor,
    scale: Tensor,
    offset: Tensor,
    shortcut: Tensor | None,
    decay: float,
    v_threshold: float,
    reset: str,
    levels: int = 1,
) -> Tensor:
    """Spikes of the current scale * y + offset + shortcut.

    Args:
        y: Output of a convolution, [T, M, C]; the spikes have its shape.
        scale, offset: Of the norm, [C].
        shortcut: [T, M, C], of any type, if there is one.
    """
    return _graph(_normed_spikes)(y, scale, offset, shortcut, decay, v_threshold, reset, levels)


@_many_graphs
def norm_backward(
    grad: Tensor,
    y: Tensor,
    scale: Tensor,
    offset: Tensor,
    shortcut: Tensor | None,
    *constants,
) -> Tensor:
    """Gradient of norm_forward's spikes -> of their current, [T, M, C]."""
    return _graph(_normed_chain_rule)(grad, y, scale, offset, shortcut, *constants)


@functools.cache
def _missing_compiler() -> str | None:
    from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions  # slow to import

    try:
        with TemporaryDirectory() as folder:
            source = Path(folder, "probe.cpp")
            source.write_text(PROBE)
            CppBuilder("probe", str(source), CppTorchOptions(warning_all=False), folder).build()
    except Exception as error:  # of torch, of the compiler, or of the disk
        lines = str(error).splitlines() or [repr(error)]
        (line, *_) = [line for line in lines if "error:" in line] or lines
        return (
            "no C++ compiler with OpenMP and Python.h, as Debian has in g++ and python3-dev: "
            f"{line.strip()}"
        )
    return None


@torch.compiler.assume_constant_result
def unavailable() -> str | None:
    """Why this backend cannot run here, or None where it can."""
    return _missing_compiler()
