"""Weights of SpikingJelly's own networks in ours: the same spikes, and what does not fit."""

import pickle
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from exact_networks import awaken
from safetensors.torch import save_file
from spikingjelly.activation_based import functional, neuron, surrogate
from spikingjelly.activation_based.model import ms_resnet, sew_resnet, spiking_resnet
from torch import nn

import zoo
from zoo.models.ms_resnet import MS_LIF
from zoo.models.spikingjelly import KEYS, spikingjelly_names

T = 4
LIF = dict(spiking_neuron=neuron.LIFNode, decay_input=False)
NEURONS = {
    "IF": (dict(spiking_neuron=neuron.IFNode), {"decay": 1.0}),
    "IF, subtracting": (
        dict(spiking_neuron=neuron.IFNode, v_reset=None),
        {"decay": 1.0, "reset": "subtract"},
    ),
    "LIF": (LIF | dict(tau=2.0), {"decay": 0.5}),
    "LIF, subtracting": (
        LIF | dict(tau=2.0, v_reset=None, v_threshold=0.75),
        {"decay": 0.5, "reset": "subtract", "v_threshold": 0.75},
    ),
    "LIF, tau 4": (LIF | dict(tau=4.0), {"decay": 0.75}),
    "LIF, its input scaled": (
        dict(spiking_neuron=neuron.LIFNode, tau=2.0, v_threshold=0.25),
        {"decay": 0.5, "v_threshold": 0.5},
    ),
}


def awake(theirs: nn.Module) -> nn.Module:
    """SpikingJelly's network with statistics as training leaves them, over all time steps at once.
    Its classifier is on a grid on which no average of spikes rounds.
    """
    torch.manual_seed(1)
    functional.set_step_mode(theirs, "m")
    with torch.no_grad():
        for numbers in (theirs.head if hasattr(theirs, "head") else theirs.fc).parameters():
            numbers.normal_().mul_(2**8).round_().div_(2**8)
    return awaken(theirs)


def spikes_of(network: nn.Module, kind: type, x) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Output, and the spikes of each spiking layer in the order in which they ran."""
    spikes = []
    for module in network.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda *args: spikes.append(args[-1]))
    with torch.no_grad():
        return network(x), spikes


SLOPES = {
    "ATan": (surrogate.ATan, "arctan", 2),
    "Sigmoid": (surrogate.Sigmoid, "tanh", 4),
    "Rect, of ms_resnet": (surrogate.Rect, "rectangle", 1),
}


def assert_same(theirs: nn.Module, ours: nn.Module, size: int) -> None:
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    zoo.load_spikingjelly(ours, theirs.state_dict())
    expected, their_spikes = spikes_of(theirs, neuron.BaseNode, x.expand(T, *x.shape))
    logits, our_spikes = spikes_of(ours.eval(), zoo.LIF, x)
    assert len(our_spikes) == len(their_spikes)
    assert all(torch.equal(*pair) for pair in zip(our_spikes, their_spikes, strict=True))
    assert all(0 < spikes.mean() < 1 for spikes in our_spikes)
    assert torch.equal(logits, expected.mean(0) if expected.ndim == 3 else expected)
    assert len(logits.unique()) > logits.numel() / 2


@pytest.mark.parametrize(
    ("tau", "decay_input", "v_reset", "alpha", "slope", "detach_reset"),
    [
        (2.0, False, 0.0, 2.0, "ATan", False),
        (4.0, True, None, 5.0, "ATan", True),
        (2.0, True, None, 5.0, "Sigmoid", False),
        (4.0, False, 0.0, 2.0, "Sigmoid", True),
        (4.0, True, 0.0, 2.0, "Rect, of ms_resnet", False),
        (2.0, False, None, 5.0, "Rect, of ms_resnet", True),
    ],
)
def test_neurons_of_the_docs_have_spikingjellys_gradients(
    tau, decay_input, v_reset, alpha, slope, detach_reset
):
    of_theirs, of_ours, width = SLOPES[slope]
    theirs = neuron.LIFNode(
        tau=tau,
        decay_input=decay_input,
        v_reset=v_reset,
        v_threshold=0.75,
        surrogate_function=of_theirs(alpha),
        detach_reset=detach_reset,
        step_mode="m",
    )
    scale = tau if decay_input else 1
    ours = zoo.LIF(
        decay=1 - 1 / tau,
        v_threshold=scale * 0.75,
        reset="subtract" if v_reset is None else "zero",
        surrogate=of_ours,
        width=scale * width / alpha,
        detach_reset=detach_reset,
    )
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(T, 500, generator=draw, dtype=torch.float64) * scale
    weights = torch.randn(x.shape, generator=draw, dtype=torch.float64)
    spikes, gradients = [], []
    for layer in (theirs, ours):
        current = x.clone().requires_grad_()
        spikes.append(layer(current))
        (spikes[-1] * weights).sum().backward()
        gradients.append(current.grad)
    assert torch.equal(*spikes)
    assert 0.1 < spikes[0].mean() < 0.9
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("which", NEURONS)
def test_a_spiking_resnet_gives_spikingjellys_bits(which):
    theirs, constants = NEURONS[which]
    assert_same(
        awake(spiking_resnet.spiking_resnet18(num_classes=10, **theirs)),
        zoo.create_model(
            "short_bp_resnet18_imagenet",
            stem="conv7x7_maxpool",
            num_classes=10,
            time_steps=T,
            spike_layer=constants,
        ),
        64,
    )


def test_bottlenecks_give_spikingjellys_bits():
    theirs, constants = NEURONS["LIF"]
    assert_same(
        awake(spiking_resnet.spiking_resnet50(num_classes=10, **theirs)),
        zoo.create_model(
            "short_bp_resnet50_imagenet",
            stem="conv7x7_maxpool",
            num_classes=10,
            time_steps=T,
            spike_layer=constants,
        ),
        64,
    )


@pytest.mark.parametrize(
    ("residual", "which"), [("add", "IF"), ("and", "LIF, subtracting"), ("iand", "IF")]
)
def test_a_sew_resnet_gives_spikingjellys_bits(residual, which):
    theirs, constants = NEURONS[which]
    assert_same(
        awake(sew_resnet.sew_resnet18(num_classes=10, cnf=residual.upper(), **theirs)),
        zoo.create_model(
            "sew_resnet18",
            num_classes=10,
            residual=residual,
            time_steps=T,
            spike_layer=constants,
        ),
        64,
    )


def test_sew_bottlenecks_give_spikingjellys_bits():
    theirs, constants = NEURONS["IF"]
    assert_same(
        awake(sew_resnet.sew_resnet50(num_classes=10, cnf="ADD", **theirs)),
        zoo.create_model(
            "sew_resnet50",
            num_classes=10,
            residual="add",
            time_steps=T,
            spike_layer=constants,
        ),
        64,
    )


@pytest.mark.parametrize(
    ("stages", "neuron"),  # ours and as in the docs
    [(3, MS_LIF), (4, partial(MS_LIF, width=0.5))],
)
def test_an_ms_resnet_gives_spikingjellys_bits(stages, neuron):
    depths, widths = (2, 1, 1, 1)[:stages], (16, 32, 64, 128)[:stages]
    assert_same(
        awake(ms_resnet.MSResNet(T, num_classes=10, layers=depths, stage_channels=widths)),
        zoo.create_model(
            "ms_resnet18",
            depths=depths,
            widths=widths,
            num_classes=10,
            time_steps=T,
            spike_layer=neuron,
        ),
        64,
    )


def test_an_ms_resnet_with_more_than_spikingjellys_is_refused():
    theirs = ms_resnet.MSResNet(layers=(1, 1, 1)).state_dict()
    for name, message in [
        ("ms_resnet104", "no average pooling, as here at stages.0.0.shortcut.pool;"),
        ("gac_ms_resnet18", r"missing: \['stem.1.gate.steps.0.weight'"),
    ]:
        model = zoo.create_model(name, depths=(1, 1, 1), widths=(64, 128, 256))
        with pytest.raises(ValueError, match=message):
            zoo.load_spikingjelly(model, theirs)


def small() -> nn.Module:
    """SpikingJelly's network for 32 pixels, made so as its examples do."""
    theirs = spiking_resnet.SpikingResNet(
        spiking_resnet.BasicBlock, [1, 1, 1, 1], num_classes=10, **NEURONS["LIF"][0]
    )
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    return theirs


def ours(**kwargs) -> nn.Module:
    return zoo.create_model("short_bp_resnet18", depths=(1, 1, 1, 1), time_steps=T, **kwargs)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_file_gives_what_the_state_dict_gives(tmp_path, suffix):
    weights = awaken(small()).state_dict()
    path = tmp_path / f"theirs.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(weights, path)
    loaded, from_file = ours(), ours()
    zoo.load_spikingjelly(loaded, weights)
    zoo.load_spikingjelly(from_file, str(path))
    expected = loaded.state_dict()
    assert all(torch.equal(expected[k], v) for k, v in from_file.state_dict().items())


def test_every_tensor_of_the_backbone_is_loaded_and_heads_stay():
    model = ours(shortcut_heads=True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    weights = awaken(small()).state_dict()
    zoo.load_spikingjelly(torch.compile(model), weights)
    names = spikingjelly_names(model)
    assert {*names.values()} == {*weights}
    for name, tensor in model.state_dict().items():
        kept = name.startswith(("shortcut_heads.", "neurons"))
        expected = before[name] if kept else weights[names[name]]
        assert torch.equal(tensor, expected)


def test_everything_that_does_not_fit_is_said_at_once_and_nothing_is_loaded():
    weights = small().state_dict()
    del weights["layer2.0.bn1.bias"], weights["fc.weight"]
    weights["layer9.0.conv1.weight"] = torch.zeros(1)
    weights["conv1.weight"] = torch.zeros(64, 3, 7, 7)
    model = ours()
    before = model.stem[0].norm.weight.clone()
    weights["bn1.weight"] = before + 1
    with pytest.raises(ValueError, match="expected SpikingJelly's of this ShortBP") as refusal:
        zoo.load_spikingjelly(model, weights)
    assert str(refusal.value).partition(", got ")[2] == (
        "missing: ['layer2.0.bn1.bias', 'fc.weight']; unexpected: ['layer9.0.conv1.weight']; "
        "of another shape: ['conv1.weight: expected (64, 3, 3, 3), got (64, 3, 7, 7)']"
    )
    assert torch.equal(model.stem[0].norm.weight, before)


def test_average_pooling_is_not_taken_for_spikingjellys_maximum():
    theirs = spiking_resnet.spiking_resnet18(**NEURONS["LIF"][0]).state_dict()
    for name in ("short_bp_resnet18_imagenet", "short_bp_resnet20"):
        with pytest.raises(
            ValueError, match=r'no average pooling, as here at st.*stem="conv7x7_maxpool"'
        ):
            zoo.load_spikingjelly(zoo.create_model(name), theirs)


def test_weights_of_a_network_in_data_parallel_are_taken_for_its_own():
    weights = awaken(small()).state_dict()
    plain, parallel = ours(), ours()
    zoo.load_spikingjelly(plain, weights)
    zoo.load_spikingjelly(parallel, {f"module.{name}": tensor for name, tensor in weights.items()})
    expected = plain.state_dict()
    assert all(torch.equal(expected[k], v) for k, v in parallel.state_dict().items())
    odd = {f"module.{name}" if "fc" in name else name: weights[name] for name in weights}
    with pytest.raises(ValueError, match=r"unexpected: \['module.fc.weight', 'module.fc.bias'\]"):
        zoo.load_spikingjelly(ours(), odd)


class Command:
    """What a pickle may hold: something that is called when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_with_code_raises_and_does_not_run(tmp_path):
    path, trace = tmp_path / "theirs.pt", tmp_path / "it_ran"
    torch.save({"conv1.weight": Command(trace)}, path)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        zoo.load_spikingjelly(ours(), path)
    assert not trace.exists()
    path.write_bytes(pickle.dumps({"conv1.weight": Command(trace)}))
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        zoo.load_spikingjelly(ours(), path)
    assert not trace.exists()


def test_missing_files_and_other_networks_are_named(tmp_path):
    for name in ("theirs.safetensors", "theirs.pt"):
        with pytest.raises(FileNotFoundError, match=name):
            zoo.load_spikingjelly(ours(), tmp_path / name)
    with pytest.raises(ValueError, match=r"unexpected: \['model', 'epoch'\]"):
        zoo.load_spikingjelly(ours(), {"model": small().state_dict(), "epoch": 3})
    with pytest.raises(ValueError, match=r"model: expected one of \['.*ShortBPResNet.*\], got Lin"):
        zoo.load_spikingjelly(nn.Linear(1, 1), {})


def test_the_example_in_the_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent.parent / "docs" / "convert.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    exec(compile(example, "docs/convert.md", "exec"), {})


def test_every_family_with_names_is_in_the_docs():
    page = (Path(__file__).parent.parent.parent / "docs" / "convert.md").read_text()
    for family in KEYS:
        assert family.__module__.rpartition(".")[2] in page
