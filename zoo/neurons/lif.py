"""Leaky integrate-and-fire neurons.

Shapes: T time steps, B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from numbers import Real
from typing import Any, Literal, get_args

import torch
from timm.layers import register_notrace_module
from torch import Tensor, fx, nn

from zoo.neurons.kernels.dispatch import Backend, choose_kernel
from zoo.neurons.kernels.operator import lif
from zoo.neurons.rates import rate_function
from zoo.neurons.surrogates import spike_function
from zoo.validation import flag, one_of, positive, whole

Reset = Literal["zero", "subtract"]


def lif_step(
    x: Tensor,
    v: Tensor,
    decay: float,
    v_threshold: float,
    reset: Reset,
    spike_fn: Callable[[Tensor], Tensor],
    detach_reset: bool = False,
) -> tuple[Tensor, Tensor]:
    """One time step: v = decay * v + x, spike where v >= v_threshold, then reset.

    A potential that equals the threshold fires, as in SpikingJelly; Take A Shortcut Back, sec. 3,
    has a > there.

    Args:
        x: Input current, [B, ...].
        v: Membrane potential after the previous step, [B, ...].
        decay: Fraction of the membrane potential that survives a step.
        v_threshold: Membrane potential at which the neuron fires.
        reset: "zero" sets a neuron that fired to 0, "subtract" subtracts v_threshold.
        spike_fn: v - v_threshold -> spike, with a surrogate slope as its derivative.
        detach_reset: Let no gradient through the spike into the reset.

    Returns:
        Spikes (0 or 1) and the membrane potential after reset, both [B, ...].
    """
    v = decay * v + x
    spike = spike_fn(v - v_threshold)
    fired = spike.detach() if detach_reset else spike
    v = v - fired * v_threshold if reset == "subtract" else v * (1 - fired)
    return spike, v


@register_notrace_module
class LIF(nn.Module):
    """Leaky integrate-and-fire over a whole sequence, [T, B, ...] -> [T, B, ...].

    Every call starts from v = 0. Nothing is kept between calls, so there is nothing to reset. The
    membrane potential is at least fp32, whatever the type of x.

    Args:
        decay: Fraction of the membrane potential that survives a step, in [0, 1].
        v_threshold: Membrane potential at which the neuron fires, > 0.
        reset: "zero" (Take A Shortcut Back, sec. 3) or "subtract".
        surrogate: Shape of the slope: "triangle", "rectangle", "tanh" or "arctan".
        width: Scale of the slope, in units of the membrane potential.
        detach_reset: Let no gradient through the spike into the reset; the outputs are the same.
        backend: "eager" is the loop below; "compiled" (CPU) and "triton" (CUDA) are fused kernels
            with the same spikes; "auto" takes Triton on a GPU, and on a CPU compiles large layers
            in training. A backend that cannot run here falls back to the loop with one warning.
            Second derivatives need "eager".
        levels: Output levels per step: 1 gives binary spikes, n gives rates k / n, see
            zoo.neurons.rates. For training at few time steps. More than 1 needs decay=1 and
            reset="subtract", and ignores surrogate and width.

    Raises:
        ValueError: A constant is out of range; the message names it.
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
        if whole("levels", levels, 1) > 1 and (decay, reset) != (1, "subtract"):
            raise ValueError(
                f"levels: expected decay 1 and reset 'subtract' for {levels} levels, got {decay} "
                f"and {reset!r}"
            )
        self.decay, self.v_threshold = float(decay), positive("v_threshold", v_threshold)
        self.reset = one_of("reset", get_args(Reset), reset)
        spike_function(surrogate, width)  # raises if either is wrong
        self.surrogate, self.width = surrogate, float(width)
        self.detach_reset = flag("detach_reset", detach_reset)
        self.backend, self.levels = one_of("backend", get_args(Backend), backend), int(levels)

    @property
    def spike_fn(self) -> Callable[[Tensor], Tensor]:
        """v - v_threshold -> spike. A subclass may override it and then runs the loop."""
        if self.levels > 1:
            return rate_function(self.v_threshold, self.levels)
        return spike_function(self.surrogate, self.width)

    def constants(self) -> dict[str, Any]:
        """The constants that determine its outputs and gradients; ``LIF(**constants)``."""
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
        if isinstance(x, fx.Proxy) and type(self).forward is LIF.forward:
            return traced_whole(self, x)
        if choose_kernel(self.backend, x, self.kernel_limitation()):
            slope = self.surrogate, self.width, self.detach_reset
            return lif(x, self.decay, self.v_threshold, self.reset, *slope, self.levels)
        return torch.stack([spike for spike, _ in self._steps(x)]).to(x.dtype)

    def membrane(self, x: Tensor) -> Tensor:
        """The potential that each step compares with the threshold, [T, B, ...], at least fp32."""
        after_reset = [v for _, v in self._steps(x)]
        before = [torch.zeros_like(after_reset[0]), *after_reset[:-1]]
        return torch.stack([self.decay * v + x_t for v, x_t in zip(before, x, strict=True)])

    def _steps(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The spikes of each step and the potential after its reset."""
        v = torch.zeros_like(x[0], dtype=torch.promote_types(x.dtype, torch.float32))
        constants = self.decay, self.v_threshold, self.reset, self.spike_fn, self.detach_reset
        for x_t in x:
            spike, v = lif_step(x_t, v, *constants)
            yield spike, v

    def kernel_limitation(self) -> str | None:
        """Why only the loop can compute this neuron: a spike function of its own, or constants that
        are tensors, which learn or differ from neuron to neuron.
        """
        if type(self).spike_fn is not LIF.spike_fn:
            return "it knows no spike_fn of a subclass"
        tensors = [name for name, value in self.constants().items() if isinstance(value, Tensor)]
        return f"it knows no tensor for {' and '.join(tensors)}" if tensors else None


def traced_whole(module: nn.Module, x: fx.Proxy) -> fx.Proxy:
    """A node for a whole module, whose Python torch.fx cannot trace."""
    path = x.tracer.path_of_module(module)
    return x.tracer.create_proxy("call_module", path, (x,), {})


SpikeLayer = Callable[[], nn.Module] | Mapping[str, Any]


def spike_layer_factory(
    spike_layer: SpikeLayer, family: Callable[..., LIF] = LIF
) -> Callable[[], nn.Module]:
    """A function that builds one spiking layer.

    Args:
        spike_layer: A mapping of LIF's arguments, as config.json and recipes write it, or
            ``partial(LIF, decay=0.25)``: the family's neuron with these changes. Any other
            callable builds the layer alone.
        family: Builds the family's own neuron.

    Raises:
        ValueError: It builds nothing, such as a layer itself.
    """
    if (changes := changed_constants(spike_layer)) is not None:
        return partial(family, **changes)
    if isinstance(spike_layer, nn.Module) or not callable(spike_layer):
        raise ValueError(
            "spike_layer: expected LIF, partial(LIF, decay=0.25) or a mapping of its arguments, "
            f"got {spike_layer!r}"
        )
    return spike_layer


def changed_constants(spike_layer: SpikeLayer) -> Mapping[str, Any] | None:
    """The arguments of LIF that a mapping or ``partial(LIF, ...)`` names; None for other layers."""
    if isinstance(spike_layer, partial) and spike_layer.func is LIF and not spike_layer.args:
        return spike_layer.keywords
    return spike_layer if isinstance(spike_layer, Mapping) else None
