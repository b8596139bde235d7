"""Chooses between the fused kernels and the loop of zoo.neurons.lif."""

import functools
import warnings
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from zoo.neurons.kernels import cpu, cuda

Backend = Literal["auto", "eager", "compiled", "triton"]
BACKENDS = {"compiled": cpu, "triton": cuda}
KERNELS = {"cpu": cpu, "cuda": cuda}  # by device
WORTH_COMPILING = 1 << 18  # elements of x; below, building a graph costs more than it saves


def choose_kernel(backend: Backend, x: Tensor, limitation: str | None = None) -> ModuleType | None:
    """The fused kernel for a current like x, or None for the loop. Warns once if the backend that
    was asked for cannot run.

    Args:
        backend: "auto" takes Triton on a GPU, and compiles large currents in training on a CPU.
        x: Input current, [T, B, ...].
        limitation: Why no kernel can compute this neuron, if so.
    """
    if backend == "eager" or torch.compiler.is_exporting():
        return None
    # The fused operator has no batching rule and no forward derivative.
    if torch._C._are_functorch_transforms_active() or unpack_dual(x).tangent is not None:
        return None
    device = x.device.type
    if backend == "auto":
        if limitation or device not in KERNELS:
            return None
        in_training = torch.is_grad_enabled() and x.requires_grad
        if device == "cpu" and not (in_training and x.numel() >= WORTH_COMPILING):
            return None
        kernel, backend = KERNELS[device], "compiled" if device == "cpu" else "triton"
    else:
        kernel = BACKENDS[backend]
    reason = limitation or kernel.unavailable() or _mismatch(kernel, x)
    if reason and not torch.compiler.is_compiling():  # a compiled graph cannot warn
        _warn_once(backend, reason)
    return None if reason else kernel


def _mismatch(kernel: ModuleType, x: Tensor) -> str | None:
    if KERNELS.get(x.device.type) is not kernel:
        return f"it does not run on {x.device.type}"
    if kernel is cuda and x.dtype == torch.float64:
        return "it computes in fp32, got fp64"
    return None


@functools.cache
def _warn_once(backend: str, reason: str) -> None:
    warnings.warn(f"LIF: backend {backend!r} falls back to 'eager': {reason}", stacklevel=4)
