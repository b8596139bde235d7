"""Lean memory gives the bits of fast memory and saves less."""

import weakref
from collections import Counter

import pytest
import torch
from networks import assert_it_sees, awake, create, images
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import prune

import zoo
from zoo.layers import recompute as lean
from zoo.layers.hooks import hooks
from zoo.neurons.kernels import cpu as compiled
from zoo.neurons.kernels import dispatch

with_compiler = pytest.mark.skipif(compiled.unavailable() is not None, reason="no C++ compiler")

RATES = {"decay": 1.0, "reset": "subtract", "levels": 4}


@pytest.mark.parametrize(
    ("name", "bf16", "spike_layer"),
    [
        ("short_bp_resnet20_slim", False, {}),
        ("short_bp_resnet20_slim", True, {}),
        ("short_bp_resnet20_slim", True, RATES),
        ("short_bp_resnet50", False, {}),
    ],
)
def test_lean_memory_changes_no_bit_of_a_training_step(name, bf16, spike_layer):
    fast, lean = (
        a_training_step(name, memory, "cpu", torch.bfloat16 if bf16 else None, spike_layer)
        for memory in ("fast", "lean")
    )
    assert all(torch.equal(*pair) for pair in zip(fast, lean, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spike_layer", [{}, RATES])
def test_lean_memory_changes_no_bit_of_a_training_step_on_a_gpu(dtype, spike_layer):
    # cuDNN's norm, which the fast one takes, rounds otherwise than torch's own.
    with torch.backends.cudnn.flags(enabled=False):
        fast, lean = (
            a_training_step("short_bp_resnet20_slim", memory, "cuda", dtype, spike_layer)
            for memory in ("fast", "lean")
        )
    assert all(torch.equal(*pair) for pair in zip(fast, lean, strict=True))


def a_training_step(name, memory, device, dtype, spike_layer) -> list[torch.Tensor]:
    """Logits, gradients and statistics of norms."""
    model = create(name, shortcut_heads=True, memory=memory, spike_layer=spike_layer)
    model.train().to(device)
    with torch.autocast(device, dtype, enabled=dtype is not None):
        logits, side_logits = model(images(model).to(device))
    (logits.square().sum() + side_logits.square().sum()).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return [logits, side_logits, *gradients, *model.buffers()]


@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), ((3, 1), (1, 2))])
def test_the_weight_gradient_as_one_product_is_right(kernel_size, stride, monkeypatch):
    products = []
    monkeypatch.setattr(
        lean, "_weight_gradient", lambda *a, f=lean._weight_gradient: products.append(1) or f(*a)
    )
    padding = tuple(side // 2 for side in torch.nn.modules.utils._pair(kernel_size))
    conv = torch.nn.Conv2d(24, lean.MANY_CHANNELS, kernel_size, stride, padding, bias=False)
    current = torch.randn(2, 3, 24, 7, 5, requires_grad=True)
    spikes = lean.neuron_spikes(zoo.LIF(), current)
    with torch.autocast("cpu", torch.bfloat16):
        y = lean.spike_conv(conv, spikes)
    grad = torch.randn_like(y)
    y.backward(grad)
    (expected,) = torch.autograd.grad(
        conv.double()(spikes.detach().flatten(0, 1).double()), [conv.weight], grad.double()
    )
    error = (conv.weight.grad - expected).abs().max() / expected.abs().max()
    assert products == [1]
    assert error < 2**-8


@pytest.mark.parametrize(
    ("name", "layers", "spike_layer"),
    [("short_bp_resnet18", 1, {}), ("ms_resnet18", 2, {}), ("ms_resnet18", 2, RATES)],
)
def test_spikes_and_rates_give_weight_gradients_as_one_product(
    name, layers, spike_layer, monkeypatch
):
    products = []
    monkeypatch.setattr(
        lean, "_weight_gradient", lambda *a, f=lean._weight_gradient: products.append(1) or f(*a)
    )
    widths = (lean.MANY_CHANNELS,)
    model = create(name, depths=(1,), widths=widths, spike_layer=spike_layer).train()
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert products == [1] * layers


@with_compiler
def test_a_network_of_bf16_throughout_gives_the_bits_of_fast_memory():
    results = []
    for memory in ("fast", "lean"):
        neuron = {"backend": "compiled"}
        model = create("short_bp_resnet20_slim", memory=memory, spike_layer=neuron).train()
        model.to(torch.bfloat16, memory_format=torch.channels_last)
        logits = model(images(model, 4).bfloat16().contiguous(memory_format=torch.channels_last))
        results.append([logits, *model.buffers()])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@with_compiler
@pytest.mark.parametrize(
    ("size", "in_one", "spike_layer", "bf16"),  # the last stage has 16 pixels, or one
    [(4, 12, {"reset": "subtract"}, False), (16, 18, RATES, True)],
)
def test_the_fused_norm_and_neuron_give_the_bits_of_separate_ones(
    size, in_one, spike_layer, bf16, monkeypatch
):
    fused = []
    monkeypatch.setattr(
        compiled, "norm_forward", lambda *a, f=compiled.norm_forward: fused.append(1) or f(*a)
    )
    spike_layer = spike_layer | {"v_threshold": 0.7}  # no whole number of the grid
    results = []
    for memory in ("fast", "lean"):
        model = create(
            "short_bp_resnet20_slim",
            shortcut_heads=True,
            memory=memory,
            spike_layer=spike_layer | {"backend": "compiled"},
        )
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.uniform_(module.bias, -0.2, 0.5)
        model.train().to(memory_format=torch.channels_last)
        x = images(model, 4)[..., :size, :size].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", enabled=bf16):
            logits, side_logits = model(x)
        (logits.square().sum() + side_logits.square().sum()).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append([logits, side_logits, *gradients, *model.buffers()])
        assert len(fused) == (in_one if memory == "lean" else 0)
        assert logits.abs().max() > 0
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_lean_memory_saves_less_than_half():
    remembered = {}
    for memory in ("fast", "lean"):
        saved = []

        def keep(tensor, saved=saved):
            tensor = tensor.detach()
            saved.append(weakref.ref(tensor))  # alive only for as long as the graph holds it
            return tensor

        model = create("short_bp_resnet20_slim", memory=memory).train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = model(torch.randn(8, 3, 32, 32))
        alive = [tensor.untyped_storage() for ref in saved if (tensor := ref()) is not None]
        remembered[memory] = sum({s.data_ptr(): s.nbytes() for s in alive}.values())
        del logits
    assert 0 < remembered["lean"] < 0.5 * remembered["fast"]


def test_a_hooked_neuron_runs_once_and_passes_gradients():
    gradients = []
    for memory in ("fast", "lean"):
        model = create("short_bp_resnet20_slim", memory=memory).train()
        rates = []
        for module in model.modules():
            if isinstance(module, zoo.LIF):
                module.register_forward_hook(lambda _, __, spikes, r=rates: r.append(spikes.mean()))
        model(torch.ones(2, 3, 16, 16))
        sum(rates).backward()
        gradients.append((len(rates), model.stages[1][0].conv1.conv.weight.grad))
    assert gradients[0][0] == gradients[1][0] == 19
    assert gradients[1][1].any()
    assert torch.equal(gradients[0][1], gradients[1][1])


CHANGES = {
    "output": lambda m: m.register_forward_hook(lambda _, __, output: 3 * output),
    "input": lambda m: m.register_forward_pre_hook(lambda _, inputs: (3 * inputs[0],)),
    "gradient": lambda m: m.register_full_backward_hook(lambda _, grads, __: (2 * grads[0],)),
    "gradient before": lambda m: m.register_full_backward_pre_hook(lambda _, g: (2 * g[0],)),
    # A weight that is made anew of others at every step.
    "pruned": lambda m: prune.l1_unstructured(m, "weight", amount=0.5),
    "weight norm": torch.nn.utils.weight_norm,
    "parametrized": torch.nn.utils.parametrizations.weight_norm,
    "forward": lambda m: setattr(m, "forward", lambda *x, f=m.forward: 3 * f(*x)),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    ("change", "place"),
    [(change, "conv1.conv") for change in CHANGES]
    + [("output", "conv1"), ("input", "spike1"), ("gradient", "conv1.norm"), ("forward", "spike1")],
)
def test_hooks_on_a_layer_do_the_same_with_either_memory(change, place):
    gradients = {}
    for memory in ("fast", "lean"):
        for changes in (False, True):
            model = create("short_bp_resnet20_slim", memory=memory, depths=(1, 1, 1)).train()
            if changes:
                CHANGES[change](model.stages[1][0].get_submodule(place))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(2):
                optimizer.step()
                optimizer.zero_grad()
                model(images(model).abs()).square().sum().backward()
            gradients[memory, changes] = [p.grad for p in model.parameters()]
    assert all(
        torch.equal(*pair)
        for pair in zip(gradients["fast", True], gradients["lean", True], strict=True)
    )
    without = {g.abs().sum().item() for g in gradients["lean", False]}
    assert {g.abs().sum().item() for g in gradients["lean", True]} != without


def test_global_hooks_see_every_module_with_either_memory():
    calls = []
    for memory in ("fast", "lean"):
        model = create("short_bp_resnet20_slim", memory=memory, depths=(1, 1, 1)).train()
        calls.append(Counter())
        with hooks(register_module_forward_hook(lambda m, *_: calls[-1].update([type(m)]))):
            model(images(model))
    assert calls[0][torch.nn.Conv2d] == calls[0][torch.nn.BatchNorm2d] == 9
    assert calls[0] == calls[1]


def test_spikes_changed_in_place_give_the_right_gradients():
    gradients = []
    for memory in ("fast", "lean"):
        model = create("short_bp_resnet20_slim", memory=memory).train()
        model.stages[0][1].register_forward_hook(lambda _, __, spikes: spikes.mul_(3))
        model(torch.ones(2, 3, 16, 16)).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


class Scaled(zoo.LIF):
    """A subclass of LIF with a gain that learns."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        return super().forward(x * self.gain) * self.gain


@pytest.mark.parametrize("name", ["short_bp_resnet20_slim", "ms_resnet18_cifar_2222"])
def test_a_subclass_of_lif_is_not_recomputed(name):
    results = []
    for memory in ("fast", "lean"):
        model = create(name, memory=memory, spike_layer=Scaled).train()
        model(images(model)).square().sum().backward()
        results.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    assert any(gradient.any() for gradient in results[0])


class Learned(zoo.LIF):
    """A leak that learns, as in PLIF (https://arxiv.org/abs/2007.05785)."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        self.decay = self.w.sigmoid()
        return super().forward(x)


def with_a_threshold_that_learns():
    neuron = zoo.LIF()
    neuron.v_threshold = torch.nn.Parameter(torch.tensor(0.7))
    return neuron


@pytest.mark.parametrize("spike_layer", [Learned, with_a_threshold_that_learns])
def test_learned_constants_get_gradients_with_either_memory(spike_layer, monkeypatch):
    monkeypatch.setattr(dispatch, "WORTH_COMPILING", 0)
    results = []
    for memory in ("fast", "lean"):
        model = create("short_bp_resnet20_slim", memory=memory, spike_layer=spike_layer).train()
        model(images(model)).square().sum().backward()
        results.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    learned = [g for g, p in zip(results[0], model.parameters(), strict=True) if p.ndim == 0]
    assert len(learned) == 19
    assert sum(gradient.any().item() for gradient in learned) > 15


class Stopped(torch.autograd.Function):
    """No gradient, which is not one of zeros."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


@pytest.mark.parametrize(("memory", "channels_last"), [("fast", False), ("lean", True)])
def test_a_gradient_stopped_after_a_neuron_reaches_nothing(memory, channels_last):
    model = create("short_bp_resnet20_slim", memory=memory, depths=(1, 1, 1)).train()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.stages[1].register_forward_hook(lambda *args: Stopped.apply(args[2]))
    model(images(model, 32).contiguous(memory_format=layout)).sum().backward()
    assert model.head.fc.weight.grad is not None
    before = model.stem[0].norm.weight, model.stages[1][0].conv2.conv.weight
    assert not any(weight.grad.any() for weight in before if weight.grad is not None)


def test_lean_memory_does_not_update_a_frozen_norm():
    x = torch.randn(2, 3, 16, 16)
    results = []
    for memory in ("fast", "lean"):
        model = awake("short_bp_resnet20_slim", memory=memory)
        assert_it_sees(model, x)
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        results.append((model(x), *model.buffers()))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_a_neuron_of_another_library_runs_once_for_each_step_of_training():
    calls = []

    class Stateful(torch.nn.Module):
        def forward(self, x):
            calls.append(x)
            return (x > 0).to(x) * x

    model = create("short_bp_resnet20_slim", spike_layer=Stateful).train()
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert len(calls) == 19


def test_functional_gradients_are_the_same_with_either_memory():
    gradients = []
    for memory in ("fast", "lean"):
        model = create("short_bp_resnet20_slim", memory=memory, depths=(1, 1, 1)).train()
        x, state = images(model), {n: b.clone() for n, b in model.named_buffers()}

        def loss(parameters, state, model=model, x=x):
            return torch.func.functional_call(model, (parameters, state), (x,)).square().sum()

        gradients.append(torch.func.grad(loss)(dict(model.named_parameters()), state))
    assert all(torch.equal(*pair) for pair in zip(*(g.values() for g in gradients), strict=True))


def test_second_derivatives_need_fast_memory():
    def twice(memory, backend="eager"):
        neuron = {"surrogate": "arctan", "backend": backend}
        small = {"depths": (1, 1, 1), "widths": (8, 8, 8)}
        model = create("short_bp_resnet20_slim", memory=memory, spike_layer=neuron, **small).train()
        x = images(model).requires_grad_()
        (first,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    assert twice("fast").any()
    for backend in ("auto", "eager"):
        with pytest.raises(
            RuntimeError, match='for create_graph=True build the network with memory="fast"'
        ):
            twice("lean", backend)


@with_compiler
def test_a_compiled_stage_gives_the_gradients_of_an_eager_one():
    results = []
    for compiled_alone in (False, True):
        model = create("short_bp_resnet20_slim").train()
        if compiled_alone:
            model.stages[1].compile(fullgraph=True)
        logits = model(images(model))
        logits.square().sum().backward()
        results.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
    for eager, one in zip(*results, strict=True):
        assert (eager - one).abs().max() <= 1e-3 * eager.abs().max()
