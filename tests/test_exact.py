"""The proof: what it says of every value is so, and what may round is refused by name."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exact_networks import awaken, pixels
from onnx import numpy_helper

import zoo
from export.exact import InexactError, _Proof, certify
from export.graph import write_graph

CFG = {"input_size": (3, 16, 16)}


def create(name="short_bp_resnet20_slim", **kwargs):
    torch.manual_seed(0)
    kwargs = {"time_steps": 3, "depths": (1, 1, 1)} | kwargs
    return awaken(zoo.create_model(name, pretrained_cfg_overlay=CFG, **kwargs))


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    return write_graph(zoo.deploy(create()))


def changed(graph, name, change) -> onnx.ModelProto:
    """A copy of the graph with another constant."""
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    (tensor,) = [t for t in other.graph.initializer if t.name == name]
    array = numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return other


NETWORKS = [
    ("short_bp_resnet20_slim", {}),
    ("short_bp_resnet20_slim", {"spike_layer": {"reset": "subtract"}}),
    ("short_bp_resnet18_imagenet", {"depths": (1, 1, 1, 1), "widths": (8, 8, 8, 8)}),
    ("short_bp_resnet20", {"depths": (1, 1, 1, 1), "widths": (8, 8, 8, 8)}),
    ("short_bp_resnet50", {"depths": (1, 1), "widths": (8, 8)}),
]


@pytest.mark.parametrize(("name", "kwargs"), NETWORKS)
@pytest.mark.parametrize("kind", ["float", "uint8"])
def test_every_value_keeps_within_what_is_proved_of_it(name, kwargs, kind):
    model = create(name, **kwargs)
    graph = write_graph(zoo.deploy(model), kind)
    proof = _Proof(onnx.shape_inference.infer_shapes(graph))
    proof.run()
    kinds = {v.name: v.type.tensor_type.elem_type for v in proof.values}
    names = [n for n, r in proof.ranges.items() if r and kinds.get(n) == onnx.TensorProto.FLOAT]
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names
    )
    x = pixels(model, 4).numpy()
    if kind == "float":
        x = np.random.default_rng(0).normal(0, 2, x.shape).astype(np.float32)
    session = onnxruntime.InferenceSession(watched.SerializeToString())
    assert len(names) > 50
    for n, seen in zip(names, session.run(names, {"pixel_values": x}), strict=True):
        proved = proof.ranges[n]
        if proved.near or proved.divisor != 1:
            continue
        by_channel = np.moveaxis(seen, 1, -1).reshape(-1, seen.shape[1]).astype(np.float64)
        assert (proved.low <= by_channel).all(), n
        assert (by_channel <= proved.high).all(), n
        steps = by_channel * np.exp2(proved.fraction)
        assert (steps == np.round(steps)).all(), n


def test_one_row_for_every_layer(graph):
    rows = {row.layer: row for row in certify(graph)}
    spiking = {n for n, m in create().named_modules() if isinstance(m, zoo.LIF)}
    assert spiking <= rows.keys()
    assert all(row.head_room >= 0 for row in rows.values())
    assert rows["stages.0.0.spike1"].largest > rows["stages.0.0.conv1.conv"].largest


def test_weights_that_were_not_snapped_are_refused():
    with pytest.raises(InexactError, match=r"stem.0.conv: expected at most 24 bits, got"):
        certify(write_graph(zoo.deploy(create(), exact=False)))


def test_one_weight_off_the_grid_by_a_last_bit_is_refused(graph):
    def nudge(weight):
        weight[0, 0, 1, 1] = np.nextafter(weight[0, 0, 1, 1], np.float32(9))

    with pytest.raises(InexactError, match=r"stages.1.0.conv1.conv: expected at most 24 bits"):
        certify(changed(graph, "stages.1.0.conv1.conv.weight", nudge))


def test_a_weight_that_reaches_too_far_is_refused(graph):
    def grow(weight):
        weight[1] *= 64

    with pytest.raises(InexactError, match=r"stages.1.0.conv1.conv: .* in channel 1: sums up to"):
        certify(changed(graph, "stages.1.0.conv1.conv.weight", grow))


def test_a_potential_that_reaches_too_far_is_refused(graph):
    def grow(bias):
        bias[1] += 16

    with pytest.raises(InexactError, match=r"stages.1.0.spike1.\w+: .* in channel 1: sums up to"):
        certify(changed(graph, "stages.1.0.conv1.conv.bias", grow))


def test_a_decay_off_the_grid_is_refused(graph):
    with pytest.raises(InexactError, match="expected at most 24 bits"):
        certify(changed(graph, "number_0.5", lambda decay: np.copyto(decay, np.float32(0.3))))


def test_pixels_that_are_not_rounded_are_refused(graph):
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    (rounding,) = [node for node in other.graph.node if node.name == "stem.0.rounded"]
    rounding.op_type = "Identity"
    with pytest.raises(InexactError, match=r"stem.0.scaled: expected whole steps of a grid"):
        certify(other)


def test_an_operator_that_the_proof_does_not_know_is_refused(graph):
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    (logits,) = [node for node in other.graph.node if node.op_type == "Identity"]
    logits.op_type = "Softmax"
    with pytest.raises(InexactError, match="logits: nothing is known of Softmax"):
        certify(other)
