"""Networks in whole numbers of 8 bits: what they compute, and that no runtime computes else."""

from functools import partial

import numpy as np
import pytest
import torch
from exact_networks import awaken, changed, pixels, run_graph, settle
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch.nn import functional

import zoo
from export.graph.proof import certify
from zoo.deployment.integer import BYTE, CountConv, CountingLIF, PixelCountConv
from zoo.deployment.writer import write_graph

FIRE = {"decay": 1.0, "v_threshold": 1.0, "reset": "subtract"}
SLIM = "short_bp_resnet20_slim"
LEVELS = {"time_steps": 1, "spike_layer": FIRE | {"levels": 4}}
SPIKES = {"time_steps": 4, "spike_layer": FIRE}
create = partial(zoo.create_model, num_classes=10)


def network(name: str = SLIM, **arguments) -> torch.nn.Module:
    return settle(awaken(create(name, **arguments)))


@pytest.fixture(scope="module", params=[LEVELS, SPIKES], ids=["1x4", "T4"])
def arguments(request):
    return request.param


@pytest.fixture(scope="module")
def model(arguments):
    return network(**arguments)


@pytest.fixture(scope="module")
def whole(model):
    return zoo.deploy(model, bits=8)


@pytest.mark.parametrize("optimised", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_onnxruntime_computes_the_bits_of_pytorch(whole, model, batch, optimised):
    x = pixels(model, 6)
    assert torch.equal(run_graph(whole, x, batch, optimised=optimised), whole(x))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("short_bp_vgg16", LEVELS, id="averages"),
        pytest.param("sew_resnet18_cifar", SPIKES, id="sums of spikes"),
        pytest.param("sew_resnet18", SPIKES, id="maxima, at 7x7 pixels"),
    ],
)
def test_other_layers_compute_the_same_bits(name, arguments):
    model = network(name, **arguments)
    whole, x = zoo.deploy(model, bits=8), pixels(model, 1)
    assert torch.equal(run_graph(whole, x), whole(x))
    assert certify(write_graph(whole))


def test_normalised_floats_give_the_bits_of_their_pixels(whole, model):
    x = pixels(model, 4)
    cfg = model.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    values = (x / 255 - mean) / std
    assert torch.equal(whole(values), whole(x))
    assert torch.equal(run_graph(whole, values), whole(x))


def test_the_reference_evaluator_computes_the_same_bits(whole, model):
    x = pixels(model, 1)
    graph = ReferenceEvaluator(write_graph(whole, "uint8"))
    (logits,) = graph.run(None, {"pixel_values": x.numpy()})
    assert np.array_equal(logits, whole(x).numpy())


def test_the_graph_is_proved_free_of_ties_and_of_rounding(whole):
    for kind in ("uint8", "float"):
        assert certify(write_graph(whole, kind))


def test_counts_are_those_of_the_neurons_with_rounded_weights(arguments):
    """The trick of the module: counts against spikes of LIF on the same currents."""
    steps, levels = arguments["time_steps"], arguments["spike_layer"].get("levels", 1)
    current = torch.randint(-40, 60, (steps, 2, 500), generator=torch.manual_seed(0)) / 16
    spikes = zoo.LIF(**arguments["spike_layer"])(current)
    reached = (current.cumsum(0) * levels).floor().flatten(0, 1)
    counts = CountingLIF(steps, levels)(reached).unflatten(0, (steps, -1))
    assert torch.equal(counts, (spikes * levels).cumsum(0))


def test_classes_stay_close_to_those_of_a_trained_network():
    blots = torch.rand(64, 3, 5, 5, generator=torch.manual_seed(0)) * 255
    x = functional.interpolate(blots, size=32, mode="bilinear").to(torch.uint8)
    model = zoo.create_model(SLIM, pretrained=True).eval()
    forms = zoo.deploy(model, exact=False), zoo.deploy(model, bits=8)
    classes = [deployed(x).argmax(1) for deployed in forms]
    assert (classes[0] == classes[1]).float().mean() > 0.6


def test_weights_are_even_biases_odd_and_shifts_at_least_two(whole):
    for layer in whole.modules():
        if isinstance(layer, CountConv | PixelCountConv):
            weight = layer.weight if isinstance(layer, CountConv) else layer.conv.weight
            assert not (weight % 2).any()
            assert (layer.bias % 2 == 1).all()
            assert layer.shift.min() >= 2


def test_the_graph_is_less_than_a_third_of_the_one_in_fp32():
    model = network(**LEVELS)
    sizes = [write_graph(zoo.deploy(model, bits=b), "uint8").ByteSize() for b in (8, 24)]
    assert sizes[0] <= 0.3 * sizes[1]


def test_only_standard_operators_are_used(whole):
    graph = write_graph(whole, "uint8")
    assert {node.domain for node in graph.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 20)]


@pytest.mark.parametrize(
    ("name", "arguments", "found"),
    [
        ("short_bp_resnet20_slim", {"time_steps": 2}, "stem.1: expected decay 1 and reset"),
        ("ms_resnet18_cifar", LEVELS, "layer stages.0.0.shortcut|Current"),
        ("spikformer_4_384", LEVELS, "layer stages.0.0.attention"),
    ],
)
def test_what_has_no_form_in_whole_numbers_is_named(name, arguments, found):
    with pytest.raises(zoo.NotExactError, match=found):
        zoo.deploy(create(name, **arguments), bits=8)


def test_a_shortcut_must_be_worth_a_threshold():
    constants = LEVELS["spike_layer"] | {"v_threshold": 0.5}
    with pytest.raises(zoo.NotExactError, match=r"worth a threshold, got 1 and .* 0\.5"):
        zoo.deploy(network(time_steps=1, spike_layer=constants), bits=8)


def test_other_bits_are_refused():
    with pytest.raises(ValueError, match="bits: expected 8 or 24, got 4"):
        zoo.deploy(create(SLIM), bits=4)


@pytest.mark.parametrize(
    ("part", "change", "found"),
    [
        ("weight", lambda weight: weight + 1, "never lie between two whole numbers"),
        ("bias", lambda bias: bias + 1, "never lie between two whole numbers"),
        ("scale", lambda scale: 2 * scale.clip(0.25), "never lie between two whole numbers"),
        ("scale", lambda scale: 1.1 * scale, "bits"),
        ("bias", lambda bias: bias + 2**25, "bits"),
        ("weight", lambda weight: weight.clip(66, 66), "fit 16 bits"),
    ],
)
def test_the_proof_finds_what_could_round_otherwise(whole, part, change, found):
    graph = write_graph(whole, "uint8")
    changes = [t for t in graph.graph.initializer if t.name.startswith(f"stem.0.{part}")]
    assert changes
    for tensor in changes:
        value = numpy_helper.to_array(tensor)
        new = np.asarray(change(value)).astype(value.dtype)
        tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
    with pytest.raises(zoo.NotExactError, match=found):
        certify(graph)


@pytest.mark.parametrize(
    ("op", "place", "value", "found"),
    [
        ("QuantizeLinear", 1, np.float32(2), "scales of 1"),
        ("DequantizeLinear", 1, np.float32(2), "scales of 1"),
        ("DequantizeLinear", 2, None, "zero points of 0"),
    ],
)
def test_the_proof_finds_other_scales_and_zero_points(whole, op, place, value, found):
    graph = write_graph(whole, "uint8")
    is_constant = value is None
    names = {tensor.name for tensor in graph.graph.initializer}
    node = next(
        n for n in graph.graph.node if n.op_type == op and (n.input[0] in names) is is_constant
    )
    if is_constant:
        old = next(t for t in graph.graph.initializer if t.name == node.input[place])
        value = numpy_helper.to_array(old) + 1
    graph.graph.initializer.append(numpy_helper.from_array(np.asarray(value), "another"))
    node.input[place] = "another"
    with pytest.raises(zoo.NotExactError, match=found):
        certify(graph)


def test_a_count_that_leaves_its_byte_is_found():
    graph = write_graph(zoo.deploy(network(**SPIKES), bits=8), "uint8")
    wrong = changed(graph, "byte_1", lambda levels: levels.fill(BYTE))
    with pytest.raises(zoo.NotExactError, match="whole numbers from 0 to 255"):
        certify(wrong)
