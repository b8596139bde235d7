"""Leaky integrate-and-fire neurons.

Shapes: T time steps, B batch, C channels, H height, W width.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from numbers import Real
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from zoo.neurons.kernels import cpu as compiled
from zoo.neurons.kernels import cuda as triton
from zoo.neurons.kernels.operator import lif
from zoo.neurons.surrogates import rate_function, spike_function
from zoo.validation import flag, positive, whole

Reset = Literal["zero", "subtract"]
Backend = Literal["auto", "eager", "compiled", "triton"]
BACKENDS = {"compiled": compiled, "triton": triton}
KERNELS = {"cpu": compiled, "cuda": triton}  # that "auto" takes
WORTH_COMPILING = 1 << 18  # elements of x; below, a graph costs more to build than it ever saves


def lif_step(
    x: Tensor,
    v: Tensor,
    decay: float,
    v_threshold: float,
    reset: Reset,
    spike_fn: Callable[[Tensor], Tensor],
    detach_reset: bool = False,
) -> tuple[Tensor, Tensor]:
    """One time step: v = decay * v + x, spike where v >= v_threshold, then reset. A potential that
    meets its threshold fires, as in SpikingJelly; Take A Shortcut Back, sec. 3, has a > there.

    Args:
        x: Input current, [B, ...].
        v: Membrane potential after the previous step, [B, ...].
        decay: Fraction of the membrane potential that survives a step.
        v_threshold: Membrane potential at which the neuron fires, in the unit of x and v, which has
            no name: norms set it.
        reset: "zero" sets a neuron that fired to 0, "subtract" takes v_threshold off it.
        spike_fn: v - v_threshold -> spike, with a surrogate slope as its derivative.
        detach_reset: Let no gradient through the spike into the reset.

    Returns:
        Spikes (0 or 1) and the membrane potential after reset, both [B, ...].

    Raises:
        ValueError: An unknown reset.
    """
    _check_reset(reset)
    v = decay * v + x
    spike = spike_fn(v - v_threshold)
    fired = spike.detach() if detach_reset else spike
    v = v - fired * v_threshold if reset == "subtract" else v * (1 - fired)
    return spike, v


def _check_reset(reset: Reset) -> None:
    if reset not in get_args(Reset):
        raise ValueError(f"reset: expected one of {list(get_args(Reset))}, got {reset!r}")


@register_notrace_module
class LIF(nn.Module):
    """Leaky integrate-and-fire over a whole sequence, [T, B, ...] -> [T, B, ...].

    Every call starts from v = 0; nothing is kept between calls, so there is nothing to reset, and
    nothing but weights in a network's state dict.

    The membrane potential is kept in at least fp32, whatever the type of x.

    Args:
        decay: Fraction of the membrane potential that survives a step, in [0, 1].
        v_threshold: Membrane potential at which the neuron fires, > 0.
        reset: "zero" (Take A Shortcut Back, sec. 3) or "subtract".
        surrogate: Shape of the slope: "triangle", "rectangle", "tanh" or "arctan".
        width: Scale of the slope, in units of the membrane potential.
        detach_reset: Let no gradient through the spike into the reset; the outputs are the same.
        backend: "eager" is the loop below; "compiled" (CPU) and "triton" (CUDA) are fused kernels
            with the same spikes; "auto" takes Triton on a GPU, and on a CPU compiles what is
            trained and large enough to gain. What cannot run here falls back with one warning.
            Second derivatives need "eager".
        levels: Of what a step gives off, k / levels for k from 0 to levels: the rate at which so
            many steps of one current would fire, after the I-LIF of
            https://arxiv.org/abs/2407.20708, which leaks, and rounds to the nearest. For training
            at few time steps; 1 is spikes. More need decay=1 and reset="subtract", and leave
            surrogate and width aside.

    Raises:
        ValueError: A constant is outside its range; the message names it.
    """

    def __init__(
        self,
        decay: float = 0.5,  # this and v_threshold: Take A Shortcut Back, sec. 3
        v_threshold: float = 1.0,
        reset: Reset = "zero",
        surrogate: str = "triangle",
        width: float = 1.0,
        detach_reset: bool = False,
        backend: Backend = "auto",
        levels: int = 1,
    ):
        super().__init__()
        if not (isinstance(decay, Real) and 0 <= decay <= 1):
            raise ValueError(f"decay: expected a number in [0, 1], got {decay!r}")
        v_threshold = positive("v_threshold", v_threshold)
        _check_reset(reset)
        flag("detach_reset", detach_reset)
        if backend not in get_args(Backend):
            raise ValueError(f"backend: expected one of {list(get_args(Backend))}, got {backend!r}")
        levels = whole("levels", levels, 1)
        if levels > 1 and (decay, reset) != (1, "subtract"):
            raise ValueError(
                f"levels: expected decay 1 and reset 'subtract' for {levels} levels, got {decay} "
                f"and {reset!r}"
            )
        spike_function(surrogate, width)  # raises where there is none
        self.decay, self.v_threshold, self.reset = float(decay), v_threshold, reset
        self.surrogate, self.width, self.detach_reset = surrogate, float(width), detach_reset
        self.backend, self.levels = backend, levels

    @property
    def spike_fn(self) -> Callable[[Tensor], Tensor]:
        """v - v_threshold -> spike; a subclass with another one runs the loop, never a kernel."""
        if self.levels > 1:
            return rate_function(self.v_threshold, self.levels)
        return spike_function(self.surrogate, self.width)

    def constants(self) -> dict[str, Any]:
        """What a weight file does not hold and no output can do without; ``LIF(**constants)``."""
        constants = {
            "decay": self.decay,
            "v_threshold": self.v_threshold,
            "reset": self.reset,
            "surrogate": self.surrogate,
            "width": self.width,
            "detach_reset": self.detach_reset,
        }
        return constants | ({"levels": self.levels} if self.levels > 1 else {})

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.constants().items())

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel(x):
            slope = self.surrogate, self.width
            constants = self.decay, self.v_threshold, self.reset, *slope, self.detach_reset
            return lif(x, *constants, self.levels)
        spikes = [spike for spike, _ in self._steps(x)]
        return torch.stack(spikes).to(x.dtype)

    def membrane(self, x: Tensor) -> Tensor:
        """The potential that each step compares with the threshold, [T, B, ...], at least fp32."""
        after_reset = [v for _, v in self._steps(x)]
        before = [torch.zeros_like(after_reset[0]), *after_reset[:-1]]
        return torch.stack([self.decay * v + x_t for v, x_t in zip(before, x, strict=True)])

    def _steps(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each step's spikes and the potential after its reset."""
        if len(x) == 0:
            raise ValueError(f"x: expected at least one time step, got shape {tuple(x.shape)}")
        v = torch.zeros_like(x[0], dtype=torch.promote_types(x.dtype, torch.float32))
        constants = self.decay, self.v_threshold, self.reset, self.spike_fn, self.detach_reset
        for x_t in x:
            spike, v = lif_step(x_t, v, *constants)
            yield spike, v

    def kernel(self, x: Tensor) -> ModuleType | None:
        """The fused kernel that a current like x goes to, or None for the loop; warns once where
        one was asked for in vain.
        """
        if self.backend == "eager" or torch.compiler.is_exporting() or len(x) == 0:
            return None
        if torch._C._are_functorch_transforms_active():  # the fused operators have no batching rule
            return None
        if unpack_dual(x).tangent is not None:  # nor a forward derivative
            return None
        device = x.device.type
        own = self.what_no_kernel_knows()
        if self.backend == "auto":
            if device not in KERNELS or own:
                return None
            trained = torch.is_grad_enabled() and x.requires_grad
            if device == "cpu" and not (trained and x.numel() >= WORTH_COMPILING):
                return None
            kernel = KERNELS[device]
        else:
            kernel = BACKENDS[self.backend]
        reason = own or kernel.unavailable()
        if reason is None and KERNELS.get(device) is not kernel:
            reason = f"it does not run on {device}"
        elif x.dtype == torch.float64 and kernel is triton:
            reason = "it computes in fp32, got fp64"
        if reason is not None:
            if not torch.compiler.is_compiling():  # which cannot warn inside of a graph
                _warn_once("compiled" if kernel is compiled else "triton", reason)
            return None
        return kernel

    def what_no_kernel_knows(self) -> str | None:
        """What this neuron has that only the loop computes: a slope of its own, or constants that
        are tensors, which learn or differ from neuron to neuron.
        """
        if type(self).spike_fn is not LIF.spike_fn:
            return "it knows no spike_fn of a subclass"
        tensors = [name for name, value in self.constants().items() if isinstance(value, Tensor)]
        return f"it knows no tensor for {' and '.join(tensors)}" if tensors else None


@functools.cache
def _warn_once(backend: str, reason: str) -> None:
    warnings.warn(f"LIF: backend {backend!r} falls back to 'eager': {reason}", stacklevel=3)


SpikeLayer = Callable[[], nn.Module] | Mapping[str, Any]


def spike_layer_factory(spike_layer: SpikeLayer) -> Callable[[], nn.Module]:
    """What builds one spiking layer: ``LIF``, ``partial(LIF, decay=0.25)``, or LIF's arguments as a
    mapping, which is how a config.json or a recipe spells them.

    Raises:
        ValueError: It is a layer itself, or nothing that builds one.
    """
    if isinstance(spike_layer, nn.Module) or not (
        callable(spike_layer) or isinstance(spike_layer, Mapping)
    ):
        raise ValueError(
            "spike_layer: expected LIF, partial(LIF, decay=0.25) or a mapping of its arguments, "
            f"got {spike_layer!r}"
        )
    return partial(LIF, **spike_layer) if isinstance(spike_layer, Mapping) else spike_layer
