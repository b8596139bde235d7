"""Random networks, and potentials put on the threshold and one step of the grid around it: the
same bits in every way to run them. Without the grid they differ.
"""

import pytest
import torch
from exact_networks import awaken, pixels, that_differ, ways_to_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import zoo
import zoo.deployment.grid
from export.graph.proof import certify
from zoo.deployment.layers import FoldedLIF, PixelConv
from zoo.deployment.writer import write_graph
from zoo.models.sew_resnet import SEWResNet
from zoo.models.short_bp_resnet import ShortBPResNet
from zoo.models.short_bp_vgg import ShortBPVGG

neurons = st.fixed_dictionaries(
    {
        "decay": st.sampled_from([0.5, 0.25, 1.0]),
        "v_threshold": st.sampled_from([0.5, 1.0, 0.625]),
        "reset": st.sampled_from(["zero", "subtract"]),
    }
)
resnets = st.fixed_dictionaries(
    {
        "block": st.sampled_from(["basic", "bottleneck"]),
        "depths": st.sampled_from([(1,), (2,), (1, 1), (1, 2)]),
        "stem": st.sampled_from(["conv3x3", "conv7x7_pool", "conv7x7_maxpool", "conv3x3x3_pool"]),
        "avg_down": st.booleans(),
        "time_steps": st.integers(1, 8),
        "spike_layer": neurons,
    }
)
rates = st.fixed_dictionaries(
    {
        "decay": st.just(1.0),
        "v_threshold": st.sampled_from([0.5, 1.0, 2.0]),
        "reset": st.just("subtract"),
        "levels": st.sampled_from([2, 4, 8]),
    }
)
sews = st.fixed_dictionaries(
    {
        "family": st.just(SEWResNet),
        "block": st.sampled_from(["basic", "bottleneck"]),
        "depths": st.sampled_from([(1,), (3,), (1, 1), (2, 2)]),
        "residual": st.sampled_from(["add", "and", "iand"]),
        "stem": st.sampled_from(["conv3x3", "conv7x7_maxpool"]),
        "time_steps": st.integers(1, 8),
        "spike_layer": neurons,
    }
)
vggs = st.fixed_dictionaries(
    {
        "family": st.just(ShortBPVGG),
        "depths": st.sampled_from([(2,), (2, 1), (3, 2), (2, 1, 1)]),
        "time_steps": st.integers(1, 8),
        "spike_layer": neurons,
    }
)
networks = resnets | sews | vggs
of_rates = st.tuples(
    resnets.filter(lambda n: n["stem"] in ("conv3x3", "conv7x7_maxpool"))
    | sews.filter(lambda n: n["residual"] == "add")
    | vggs,
    rates,
    st.integers(1, 3),
).map(lambda drawn: drawn[0] | {"spike_layer": drawn[1], "time_steps": drawn[2]})
off_the_grid = networks.map(
    lambda n: n | {"spike_layer": n["spike_layer"] | {"v_threshold": 0.3}, "time_steps": 12}
)
fuzz = settings(
    deadline=None,
    max_examples=30,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def build(network: dict, width: int, gain: float, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    widths = [width * 2**stage for stage in range(len(network["depths"]))]
    family = network.get("family", ShortBPResNet)
    kwargs = {key: value for key, value in network.items() if key != "family"}
    model = awaken(family(widths=widths, num_classes=5, **kwargs), seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data *= gain
    thirds = (124 / 255, 116 / 255, 104 / 255)
    model.pretrained_cfg = {"input_size": (3, 16, 16), "mean": thirds, "std": thirds}
    return model


@torch.no_grad()
def push_to_threshold(deployed: fx.GraphModule, x: Tensor, draw: torch.Generator) -> None:
    """Move the bias of every convolution so that a potential of each channel stands on the
    threshold, or one step below or above it, at the first time step of some pixel.
    """
    convs = {}
    for node in deployed.graph.nodes:
        module = deployed.get_submodule(node.target) if node.op == "call_module" else None
        inputs = [convs[arg] for arg in node.all_input_nodes if convs.get(arg) is not None]
        if isinstance(module, FoldedLIF):
            _push(deployed, module, inputs[0], x, draw)
        convs[node] = module if isinstance(module, nn.Conv2d | PixelConv) else None
        if module is None and inputs:
            convs[node] = inputs[0]  # of a sum


def _push(deployed, lif: FoldedLIF, conv: nn.Module, x: Tensor, draw: torch.Generator) -> None:
    seen = []
    handle = lif.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    deployed(x)
    handle.remove()
    current = lif.potentials(seen[0])[0, 0]  # [C, H, W] of the first image and step
    C, H, W = current.shape
    pixel = torch.randint(H * W, (C,), generator=draw)
    v = current.flatten(1)[torch.arange(C), pixel]
    bias = (conv.conv if isinstance(conv, PixelConv) else conv).bias
    step = torch.tensor(1.0)
    while (torch.stack([v, bias]) / step != (torch.stack([v, bias]) / step).round()).any():
        step /= 2
    level = torch.randint(1, lif.levels + 1, (C,), generator=draw) / lif.levels
    bias += level * lif.v_threshold - v + step * torch.randint(-1, 2, (C,), generator=draw)


@fuzz
@given(
    networks | off_the_grid | of_rates,
    st.integers(2, 8),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.integers(0, 999),
)
@torch.inference_mode()
def test_any_network_gives_equal_bits_in_every_way_to_run_it(network, width, gain, seed):
    model = build(network, width, gain, seed)
    deployed, x = zoo.deploy(model), pixels(model, 5, seed)
    assert that_differ(ways_to_run(deployed, x)) == []
    certify(write_graph(deployed, "uint8"))


@fuzz
@given(networks | of_rates, st.integers(2, 8), st.integers(0, 999))
def test_potentials_on_the_threshold_fire_everywhere_or_nowhere(monkeypatch, network, width, seed):
    monkeypatch.setattr(zoo.deployment.grid, "BITS", 20)  # room for the biases to move
    model = build(network, width, 1.0, seed)
    try:
        deployed = zoo.deploy(model)
    except zoo.NotExactError:  # 8 steps of decay 1/4 leave 6 of 20 bits
        return
    x = pixels(model, 5, seed)
    push_to_threshold(deployed, x, torch.Generator().manual_seed(seed))
    certify(write_graph(deployed, "uint8"))
    assert that_differ(ways_to_run(deployed, x)) == []


def test_without_the_grid_bits_differ():
    network = {"depths": (1, 1), "time_steps": 4}
    differ = set()
    for seed in range(12):
        model = build(network, 8, 1.0, seed)
        deployed = zoo.deploy(model, exact=False)
        differ |= {*that_differ(ways_to_run(deployed, pixels(model, 20, seed)))}
    assert differ  # which ways, depends on the CPU


@pytest.mark.parametrize("seed", range(3))
def test_the_push_puts_potentials_on_the_threshold(monkeypatch, seed):
    monkeypatch.setattr(zoo.deployment.grid, "BITS", 20)
    model = build({"depths": (1, 1), "time_steps": 2}, 8, 1.0, seed)
    deployed, x = zoo.deploy(model), pixels(model, 5, seed)
    push_to_threshold(deployed, x, torch.Generator().manual_seed(seed))
    exactly = []

    def count(layer, inputs, _):
        exactly.append(int((layer.potentials(inputs[0]) == layer.v_threshold).sum()))

    for layer in deployed.modules():
        if isinstance(layer, FoldedLIF):
            layer.register_forward_hook(count)
    deployed(x)
    assert sum(exactly) >= 8
