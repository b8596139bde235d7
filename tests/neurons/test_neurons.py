"""The neuron: its trace, its gradients, and the neurons of a peer that it must agree with."""

from functools import partial

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate

from zoo.neurons import LIF, lif_step
from zoo.neurons.kernels import cpu as compiled
from zoo.neurons.surrogates import SLOPES, spike_function

# decay 1/2, threshold 1, constant current 3/4: every value is exact in binary.
TRACE = {
    "zero": ([0, 1, 0, 1], [0.75, 0, 0.75, 0]),
    "subtract": ([0, 1, 0, 1], [0.75, 0.125, 0.8125, 0.15625]),
}


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_lif_step_matches_hand_computed_trace(reset):
    spike_fn, v, x = spike_function("triangle", 1.0), torch.zeros(1), torch.full((1,), 0.75)
    trace = []
    for _ in range(4):
        spike, v = lif_step(x, v, 0.5, 1.0, reset, spike_fn)
        trace.append((spike.item(), v.item()))
    assert list(zip(*trace, strict=True)) == [tuple(values) for values in TRACE[reset]]


def test_lif_fires_at_exactly_the_threshold():
    below = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    assert LIF()(torch.stack([torch.tensor([1.0, below])])).tolist() == [[1.0, 0.0]]


def test_lif_keeps_nothing_between_calls():
    lif, x = LIF(), torch.rand(4, 3, 5)
    assert torch.equal(lif(x), lif(x))
    assert lif.state_dict() == {}


def test_lif_constants_build_the_same_neuron():
    lif = LIF(0.25, 0.5, "subtract", surrogate="arctan", width=0.7, detach_reset=True)
    results = []
    for layer in (lif, LIF(**lif.constants())):
        x = torch.linspace(-2, 2, 400).view(4, 100).requires_grad_()
        spikes = layer(x)
        spikes.sum().backward()
        results.append((spikes, x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert LIF(surrogate="arctan").constants() != lif.constants()


@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("decay", [0.5, 0.25])
def test_lif_equals_spikingjelly(reset, decay, detach_reset):
    theirs = neuron.LIFNode(
        tau=1 / (1 - decay),
        decay_input=False,
        v_threshold=1.0,
        v_reset=0.0 if reset == "zero" else None,
        surrogate_function=surrogate.ATan(alpha=2.0),
        detach_reset=detach_reset,
        step_mode="m",
    )
    ours = LIF(decay, reset=reset, surrogate="arctan", width=1.0, detach_reset=detach_reset)
    x = torch.randn(8, 4, 16, 9, 9, generator=torch.Generator().manual_seed(0))
    x_theirs, x_ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    spikes_theirs, spikes_ours = theirs(x_theirs), ours(x_ours)
    assert torch.equal(spikes_theirs, spikes_ours)
    assert 0.05 < spikes_ours.mean() < 0.95

    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    spikes_theirs.backward(grad)
    spikes_ours.backward(grad)
    torch.testing.assert_close(x_ours.grad, x_theirs.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("v_threshold", [1.0, 0.5])
@pytest.mark.parametrize("levels", [2, 4, 8])
def test_levels_are_the_rate_of_as_many_steps_of_a_constant_current(levels, v_threshold):
    x = torch.arange(-64, 193).div(128)  # -0.5 to 1.5 in steps that no sum here rounds
    neuron = partial(LIF, 1.0, v_threshold, "subtract")
    spikes = neuron()(x.expand(levels, -1))
    assert torch.equal(neuron(levels=levels)(x[None])[0], spikes.mean(0))
    assert len(spikes.mean(0).unique()) == levels + 1


def test_levels_pass_their_gradient_up_a_ramp():
    x = torch.tensor([[-0.1, 0.1, 0.3, 0.5, 0.6]], requires_grad=True)
    rates = LIF(1.0, 0.5, "subtract", levels=4)(x)
    rates.backward(torch.ones_like(rates))
    assert rates.tolist() == [[0, 0, 0.5, 1, 1]]
    assert x.grad.tolist() == [[0, 2, 2, 2, 0]]  # at the threshold the highest step still falls


@pytest.mark.parametrize("surrogate", SLOPES)
@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_every_slope_has_area_one_and_height_one_over_width(surrogate, width):
    u = torch.linspace(-400, 400, 800_001, dtype=torch.float64)
    slope = SLOPES[surrogate](u, width)
    assert torch.trapezoid(slope, u).item() == pytest.approx(1, abs=2e-3)
    assert slope.max().item() == pytest.approx(1 / width)


def test_the_spike_passes_its_gradient_through_the_slope():
    u = torch.tensor([-0.5, 0.0, 0.25], requires_grad=True)
    spikes = spike_function("triangle", 1.0)(u)
    spikes.backward(torch.tensor([1.0, 2.0, 4.0]))
    assert spikes.tolist() == [0, 1, 1]
    assert u.grad.tolist() == [0.5, 2.0, 3.0]


LAYOUTS = {
    "contiguous": ((4, 3, 5, 7, 9), lambda leaf: leaf * 1),
    "channels_last": ((4, 2, 8, 8, 5), lambda leaf: leaf.permute(0, 1, 4, 2, 3)),
    "repeated": ((2, 5, 8, 8), lambda leaf: leaf.expand(4, -1, -1, -1, -1)),
    "strided": ((4, 3, 5, 7, 18), lambda leaf: leaf[..., ::2]),
}


@pytest.mark.skipif(compiled.unavailable() is not None, reason="no C++ compiler")
@pytest.mark.parametrize(
    ("layout", "reset", "surrogate", "detach_reset"),
    [
        ("contiguous", "zero", "triangle", False),
        ("channels_last", "subtract", "rectangle", False),
        ("repeated", "zero", "arctan", True),
        ("strided", "subtract", "triangle", True),
    ],
)
def test_the_compiled_kernel_gives_the_bits_of_the_reference(
    layout, reset, surrogate, detach_reset
):
    shape, arrange = LAYOUTS[layout]
    leaf = 1.5 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for decay, v_threshold in [(0.5, 1.0), (0.25, 0.5), (0.6, 0.9)]:
        results = []
        for backend in ("eager", "compiled"):
            x = leaf.clone().requires_grad_()
            layer = LIF(decay, v_threshold, reset, surrogate, 0.7, detach_reset, backend)
            spikes = layer(arrange(x))
            spikes.backward(torch.linspace(-1, 1, spikes.numel()).view(spikes.shape))
            results.append((spikes, x.grad))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])


@pytest.mark.skipif(compiled.unavailable() is not None, reason="no C++ compiler")
@pytest.mark.parametrize(
    ("dtype", "T", "levels", "v_threshold"),
    [(torch.float32, 1, 4, 0.7), (torch.float32, 3, 3, 1.0), (torch.bfloat16, 3, 4, 0.7)],
)
def test_the_compiled_kernel_gives_the_rates_of_the_reference(dtype, T, levels, v_threshold):
    draw = torch.Generator().manual_seed(0)
    leaf = torch.randn(T, 3, 5, 7, 9, generator=draw).to(dtype)
    for detach_reset in (False, True):
        results = []
        for backend in ("eager", "compiled"):
            x = leaf.clone().requires_grad_()
            layer = LIF(
                1.0,
                v_threshold,
                "subtract",
                detach_reset=detach_reset,
                backend=backend,
                levels=levels,
            )
            rates = layer(x)
            rates.backward(torch.linspace(-1, 1, x.numel()).view(x.shape).to(dtype))
            results.append((rates, x.grad))
        assert len(results[0][0].unique()) == levels + 1
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_a_detached_reset_changes_the_gradient_and_no_spike(reset):
    results = []
    for detach_reset in (False, True):
        x = torch.linspace(-2, 2, 400).view(4, 100).requires_grad_()
        spikes = LIF(reset=reset, detach_reset=detach_reset)(x)
        spikes.sum().backward()
        results.append((spikes, x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][1], results[1][1])


def test_half_precision_currents_meet_a_full_precision_membrane():
    # 0.3 in bf16 is 0.30078125; 256 of them are 77, but a bf16 sum stops growing at 64.
    x = torch.full((256, 1), 0.3, dtype=torch.bfloat16)
    spikes = LIF(decay=1.0, v_threshold=77.0)(x)
    assert spikes.dtype == torch.bfloat16
    assert spikes.sum() == spikes[-1] == 1
    assert [LIF().membrane(x[:T]).dtype for T in (1, 2)] == [torch.float32] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 2.0}, r"decay: expected a number in \[0, 1\], got 2.0"),
        (
            {"v_threshold": 0},
            r"v_threshold: expected a number > 0, from 1\.2e-38 to 3\.4e\+38, got 0",
        ),
        ({"reset": "hard"}, "reset: expected one of .*'zero', 'subtract'.*, got 'hard'"),
        ({"surrogate": "sigmoid"}, "surrogate: expected one of .*'triangle'.*, got 'sigmoid'"),
        ({"detach_reset": 1}, "detach_reset: expected True or False, got 1"),
        ({"width": -1.0}, "width: expected a number > 0, from .*, got -1.0"),
        ({"backend": "cupy"}, "backend: expected one of .*, got 'cupy'"),
        ({"levels": 0}, "levels: expected a whole number >= 1, got 0"),
        ({"decay": 1, "levels": 4}, "decay 1 and reset 'subtract' for 4 levels, got 1 and 'zero'"),
    ],
)
def test_lif_rejects_constants_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        LIF(**arguments)
