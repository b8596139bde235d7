"""The fused operator as torch sees it: in a compiled graph, in an exported one, and in autograd."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import zoo
from zoo.neurons.kernels import cpu as compiled
from zoo.neurons.kernels import dispatch
from zoo.neurons.kernels import operator as lif_kernel
from zoo.neurons.kernels.operator import lif as lif_op
from zoo.neurons.surrogates import SLOPES

pytestmark = pytest.mark.skipif(compiled.unavailable() is not None, reason="no C++ compiler")
CONSTANTS = (0.5, 1.0, "zero", "triangle", 1.0, False)
RATES = (1.0, 1.0, "subtract", "triangle", 1.0, False, 4)
SMOOTH_STEPS = {
    "tanh": lambda u, width: torch.tanh(2 * u / width) / 2 + 0.5,
    "arctan": lambda u, width: torch.arctan(torch.pi * u / width) / torch.pi + 0.5,
}


def test_large_currents_in_training_are_fused_and_others_are_not():
    large = torch.zeros(4, dispatch.WORTH_COMPILING // 4, requires_grad=True)
    assert dispatch.WORTH_COMPILING <= 1 << 20
    assert dispatch.choose_kernel("auto", large) is compiled
    assert dispatch.choose_kernel("auto", large[:, :-1]) is None
    assert dispatch.choose_kernel("auto", large.detach()) is None
    with torch.no_grad():
        assert dispatch.choose_kernel("auto", large) is None


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("surrogate", SMOOTH_STEPS)
def test_the_chain_rule_holds_where_the_spike_is_smooth(surrogate, reset):
    class SmoothSpike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u):
            ctx.save_for_backward(u)
            return SMOOTH_STEPS[surrogate](u, 0.8)

        @staticmethod
        def backward(ctx, grad):
            return grad * SLOPES[surrogate](ctx.saved_tensors[0], 0.8)

    class SmoothLIF(zoo.LIF):
        spike_fn = SmoothSpike.apply

    layer = SmoothLIF(reset=reset, backend="eager")
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


@pytest.mark.parametrize("shape", [(4, 2, 3, 4, 4), (2, 5)])
def test_the_operator_keeps_torchs_contract(shape):
    x = torch.randn(shape, requires_grad=True)
    torch.library.opcheck(lif_op, (x, *CONSTANTS))
    torch.library.opcheck(lif_op, (x, *RATES))
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last).expand(4, -1, -1, -1, -1)
    torch.library.opcheck(lif_op, (x, *CONSTANTS))


def test_the_operator_of_another_device_is_called_as_torch_calls_it():
    # The dispatcher passes arguments by position, without those that are the default.
    seen = []
    kernel = SimpleNamespace(forward=lambda x, *constants: seen.append(constants) or x)
    for constants in (CONSTANTS, RATES):
        lif_kernel._forward(kernel, torch.randn(4, 6), *constants)
    assert seen == [(0.5, 1.0, "zero", 1), (1.0, 1.0, "subtract", 4)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("constants", [CONSTANTS, RATES], ids=["spikes", "rates"])
def test_the_operator_runs_on_a_gpu(constants):
    x = torch.randn(4, 6, 100)
    reference = zoo.LIF(*constants[:6], backend="eager", levels=(*constants, 1)[6])
    assert torch.equal(lif_op(x.cuda(), *constants).cpu(), reference(x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_operator_is_one_of_torchs_on_a_gpu():
    x = torch.randn(2, 3, 4, 4, device="cuda").to(memory_format=torch.channels_last)
    for current in (x.requires_grad_(), x.detach().expand(4, -1, -1, -1, -1)):
        torch.library.opcheck(lif_op, (current, *CONSTANTS))


def test_a_compiled_network_has_one_graph_and_the_gradients_of_an_eager_one():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 8), zoo.LIF(backend="compiled"), nn.Linear(8, 2))
    x = torch.randn(4, 5, 8)
    expected = network(x)
    expected.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    logits = torch.compile(network, fullgraph=True)(x)
    logits.square().sum().backward()
    torch.testing.assert_close(logits, expected)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_make_fx_traces_the_operator():
    graph = make_fx(zoo.LIF(backend="compiled"))(torch.randn(4, 6))
    assert [n.target for n in graph.graph.nodes if n.op == "call_function"] == [
        torch.ops.short_bp.lif.default
    ]


def test_export_sees_plain_operations_only():
    model = zoo.create_model(
        "short_bp_resnet20_slim", spike_layer={"backend": "compiled"}, time_steps=2
    )
    program = torch.export.export(model.eval(), (torch.randn(2, 3, 16, 16),))
    targets = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert not [target for target in targets if "short_bp" in target]
    assert "aten.ge.Scalar" in targets


def test_a_backend_that_cannot_run_falls_back_with_one_warning_that_says_why(monkeypatch):
    monkeypatch.setattr(compiled, "unavailable", lambda: "no C++ compiler: none found")
    dispatch._warn_once.cache_clear()
    layer, x = zoo.LIF(backend="compiled"), torch.randn(4, 6)
    with pytest.warns(UserWarning, match="'compiled' falls back to 'eager': no C"):
        spikes = layer(x)
    assert torch.equal(spikes, zoo.LIF(backend="eager")(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)


def test_a_custom_spike_fn_is_used_by_every_backend():
    class Straight(zoo.LIF):
        @property
        def spike_fn(self):
            return lambda u: (u >= 0).to(u.dtype).detach() + 7 * (u - u.detach())

    dispatch._warn_once.cache_clear()
    for backend in ("auto", "eager", "compiled"):
        x = torch.randn(2, dispatch.WORTH_COMPILING, requires_grad=True)
        layer = Straight(backend=backend)
        if backend == "compiled":
            with pytest.warns(UserWarning, match="it knows no spike_fn of a subclass"):
                spikes = layer(x)
        else:
            spikes = layer(x)
        spikes[1].sum().backward()
        assert x.grad[1].unique().tolist() == [7]


def test_a_width_set_later_is_used_by_every_backend():
    x, gradients = torch.randn(2, 1000), []
    for backend in ("eager", "compiled"):
        layer, leaf = zoo.LIF(backend=backend), x.clone().requires_grad_()
        layer.width = 4.0
        layer(leaf).sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)
    narrow = x.clone().requires_grad_()
    zoo.LIF()(narrow).sum().backward()
    assert gradients[0].count_nonzero() > narrow.grad.count_nonzero()


def test_a_backend_of_another_device_falls_back():
    dispatch._warn_once.cache_clear()
    with pytest.warns(UserWarning, match="'triton' falls back to 'eager': "):
        zoo.LIF(backend="triton")(torch.randn(4, 6))


@pytest.mark.parametrize("width", [0.1, 1.0])
def test_the_tanh_slope_is_compiled_to_within_rounding(width):
    x = torch.randn(4, 10_000)
    gradients = []
    for backend in ("eager", "compiled"):
        leaf = x.clone().requires_grad_()
        zoo.LIF(surrogate="tanh", width=width, backend=backend)(leaf).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=2e-6 / width)


def test_a_second_derivative_raises():
    x = torch.randn(4, 6, requires_grad=True)
    spikes = zoo.LIF(surrogate="arctan", backend="compiled")(x)
    with pytest.raises(RuntimeError, match="for create_graph=True build the network"):
        torch.autograd.grad(spikes.sum(), x, create_graph=True)


@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_a_forward_derivative_raises(backend):
    with forward_ad.dual_level():
        x = forward_ad.make_dual(torch.randn(4, 6), torch.ones(4, 6))
        with pytest.raises(NotImplementedError, match="jvp"):
            zoo.LIF(backend=backend)(x)


@pytest.mark.parametrize("backend", ["triton", "compiled"])
def test_a_fallback_compiles_without_a_graph_break(backend):
    class Straight(zoo.LIF):
        @property
        def spike_fn(self):
            return zoo.LIF().spike_fn

    dispatch._warn_once.cache_clear()
    layer, x = Straight(backend=backend), torch.randn(2, 4, 6)
    spikes = torch.compile(layer, fullgraph=True)(x)
    with pytest.warns(UserWarning, match="falls back to 'eager': it knows no spike_fn"):
        assert torch.equal(spikes, layer(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-nostdinc", "fatal error: .*: No such file or directory"),
        ("-fno-such-option", "error: unrecognized command-line option"),
    ],
)
def test_a_compiler_that_builds_no_kernel_leaves_the_loop_and_a_reason(
    arguments, message, tmp_path, monkeypatch
):
    wrapper = tmp_path / "g++"
    wrapper.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec g++ "$@"\nexec g++ {arguments} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setattr(compiled, "_missing_compiler", compiled._missing_compiler.__wrapped__)
    dispatch._warn_once.cache_clear()
    reason = f"falls back to 'eager': no C\\+\\+ compiler with OpenMP and Python.h.*{message}"
    taken = torch._inductor.config.patch({"cpp.cxx": str(wrapper)})
    with taken, pytest.warns(UserWarning, match=reason):
        zoo.LIF(backend="compiled")(torch.randn(4, 6))


def test_a_missing_compiler_is_named():
    with torch._inductor.config.patch({"cpp.cxx": "/nowhere/g++"}):
        reason = compiled._missing_compiler.__wrapped__()
    assert reason.startswith("no C++ compiler with OpenMP and Python.h, as Debian has in g++ and ")
    assert "No working C++ compiler found" in reason
