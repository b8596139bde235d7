"""A network of one step of levels, unrolled into steps of binary spikes."""

from functools import partial

import pytest
import torch
from exact_networks import awaken, pixels, settle

import zoo
from zoo.deployment.unroll import BurstLIF
from zoo.diagnostics import count_operations, firing_rates
from zoo.neurons import LIF

LEVELS = {"decay": 1.0, "reset": "subtract", "levels": 4}
create = partial(zoo.create_model, num_classes=10, time_steps=1, spike_layer=LEVELS)
NETWORKS = {
    "short_bp_resnet20_slim": {},
    "short_bp_vgg16": {},
    "sew_resnet18": {},  # with a max pool
}


@pytest.fixture(scope="module", params=NETWORKS)
def model(request):
    return settle(awaken(create(request.param, **NETWORKS[request.param])))


def spikes_of(model, x) -> dict[str, torch.Tensor]:
    """What each neuron sends, [T, B, ...]."""
    sent = {}
    for name, module in model.named_modules():
        if isinstance(module, LIF):
            module.register_forward_hook(lambda _, __, y, name=name: sent.update({name: y}))
    model(x)
    return sent


def test_an_unrolled_deployed_network_gives_the_same_bits(model):
    deployed, x = zoo.deploy(model), pixels(model, 3)
    assert torch.equal(zoo.unroll(deployed)(x), deployed(x))


def test_neurons_send_binary_spikes_whose_means_are_the_levels(model):
    deployed, x = zoo.deploy(model), pixels(model, 2)
    unrolled = zoo.unroll(deployed)
    levels = spikes_of(deployed, x)
    for name, spikes in spikes_of(unrolled, x).items():
        assert set(spikes.unique().tolist()) <= {0, 1}
        assert torch.equal(spikes.unflatten(0, (4, -1)).mean(0), levels[name])


def test_an_unrolled_trained_network_computes_the_same_but_for_rounding():
    model = settle(awaken(create("short_bp_resnet20_slim")))
    x = torch.randn(2, 3, 32, 32, generator=torch.manual_seed(0))
    assert zoo.unroll(model).time_steps == 4
    torch.testing.assert_close(zoo.unroll(model).double()(x.double()), model.double()(x.double()))
    assert model.time_steps == 1


def test_a_burst_has_as_many_spikes_as_the_level():
    current = torch.randn(4, 50, generator=torch.manual_seed(0))
    lif = LIF(**LEVELS)
    burst = BurstLIF(lif)(current)
    assert torch.equal(burst.mean(0), lif(current.mean(0, keepdim=True))[0])
    assert torch.equal(burst, burst.sort(0, descending=True).values)


def test_operations_of_levels_are_the_accumulates_of_their_spikes():
    model = settle(awaken(create("short_bp_resnet20_slim")))
    x = torch.randn(2, 3, 32, 32, generator=torch.manual_seed(0))
    stem, *others, head = count_operations(model, [x])
    assert (stem.inputs, head.inputs) == ("real", "real")
    assert {layer.inputs for layer in others} == {"binary"}
    assert not any(layer.multiply_accumulates for layer in others)
    rates, unrolled = firing_rates(model, [x]), firing_rates(zoo.unroll(model), [x])
    assert rates == pytest.approx(unrolled, rel=0.05)  # fp32 rounds their currents apart


@pytest.mark.parametrize(
    ("network", "layer"),
    [("sew_resnet18", "stages.0.0"), ("spikformer_4_384", "stages.0.0.attention.attention")],
)
def test_what_does_not_unroll_is_named(network, layer):
    model = create(network, **({"residual": "and"} if network == "sew_resnet18" else {}))
    with pytest.raises(zoo.NotExactError, match=f"{layer}.*does not unroll"):
        zoo.unroll(model)


@pytest.mark.parametrize(
    "arguments", [{"time_steps": 4, "spike_layer": LEVELS}, {"spike_layer": {}}]
)
def test_only_one_step_of_levels_is_unrolled(arguments):
    with pytest.raises(ValueError, match="levels"):
        zoo.unroll(create("short_bp_resnet20_slim", **arguments))
