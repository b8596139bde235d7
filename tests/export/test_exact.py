"""The proof bounds every value, and refuses graphs whose values may be rounded."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exact_networks import awaken, changed, pixels
from onnx import helper, numpy_helper

import zoo
from export.graph.proof import Proof, certify
from zoo.deployment.writer import write_graph


def create(name="short_bp_resnet20_slim", size=16, **kwargs):
    torch.manual_seed(0)
    kwargs = {"time_steps": 3, "depths": (1, 1, 1)} | kwargs
    cfg = {"input_size": (3, size, size)}
    return awaken(zoo.create_model(name, pretrained_cfg_overlay=cfg, **kwargs))


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    return write_graph(zoo.deploy(create()))


RATES = {"decay": 1.0, "reset": "subtract", "levels": 4}
NETWORKS = [
    ("short_bp_resnet20_slim", "uint8", {"spike_layer": {"reset": "subtract"}}),
    ("short_bp_resnet20_slim", "float", {"spike_layer": RATES, "size": 28}),
    ("short_bp_resnet18_imagenet", "uint8", {"depths": (1, 1, 1, 1), "widths": (8, 8, 8, 8)}),
    ("short_bp_resnet20", "float", {"depths": (1, 1), "widths": (8, 8), "size": 16}),
    ("short_bp_resnet50", "float", {"depths": (1, 1), "widths": (8, 8)}),
    ("spikformer_4_384", "float", {"embed_dim": 16, "num_heads": 2, "mlp_ratio": 2.0}),
    ("sew_resnet50", "uint8", {"depths": (2, 1), "widths": (8, 8), "residual": "and"}),
    ("sew_resnet18_cifar", "float", {"depths": (2, 1), "widths": (8, 8), "residual": "iand"}),
    ("short_bp_vgg16", "uint8", {"depths": (2, 1), "widths": (8, 8)}),
    ("ms_resnet18_cifar", "uint8", {"widths": (8, 16, 16), "stem_width": 4}),
    ("ms_resnet104", "float", {"depths": (2, 1), "widths": (8, 16), "size": 32}),
]


@pytest.mark.parametrize(("name", "kind", "kwargs"), NETWORKS)
def test_every_value_lies_within_its_proven_range(name, kind, kwargs):
    model = create(name, **kwargs)
    graph = write_graph(zoo.deploy(model), kind)
    proof = Proof(graph)
    made = {output for node in graph.graph.node for output in node.output}
    bits = {node.output[0] for node in graph.graph.node if node.op_type == "GreaterOrEqual"}
    ranges = {
        name: x for name, x in proof.ranges.items() if name in made - bits and x and not x.error
    }
    graph.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ranges
    )
    x = pixels(model, 4).numpy()
    if kind == "float":
        x = np.random.default_rng(0).normal(0, 2, x.shape).astype(np.float32)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    assert len(ranges) > 50
    for name, seen in zip(ranges, session.run([*ranges], {"pixel_values": x}), strict=True):
        proven = ranges[name]
        by_channel = np.moveaxis(seen, 1, -1).reshape(-1, seen.shape[1]).astype(np.float64)
        assert (proven.low <= by_channel).all(), name
        assert (by_channel <= proven.high).all(), name
        steps = by_channel * np.exp2(proven.fraction)
        assert (steps == np.round(steps)).all(), name


def test_certificate_has_one_row_for_every_layer(graph):
    rows = {row.layer: row for row in certify(graph)}
    convs = {n for n, m in create().named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert convs | {"stem.0.rest", "head"} <= rows.keys()
    assert all(row.head_room >= 0 for row in rows.values())
    assert rows["stages_0_0_conv2_conv_sum"].largest > rows["stages.0.0.conv2.conv"].largest


def test_weights_off_the_grid_are_refused():
    with pytest.raises(zoo.NotExactError, match=r"stem.0.conv: expected at most 24 bits, got"):
        certify(write_graph(zoo.deploy(create(), exact=False)))


def nudge(weight):
    weight[0, 0, 1, 1] = np.nextafter(weight[0, 0, 1, 1], np.float32(9))


@pytest.mark.parametrize(
    ("constant", "change", "message"),
    [
        ("stages.1.0.conv1.conv.weight", nudge, r"stages.1.0.conv1.conv: expected at most 24"),
        ("stages.1.0.conv1.conv.weight", lambda w: w.__imul__(64), "at most 24"),
        ("stages.1.0.conv1.conv.bias", lambda b: b.__iadd__(16), "at most 24"),
        ("number_0.5", lambda decay: np.copyto(decay, np.float32(0.3)), "at most 24 bits"),
        ("stem.0.step", lambda step: step.__imul__(np.float32(1.1)), "at most 24 bits"),
    ],
)
def test_graphs_with_other_constants_are_refused(graph, constant, change, message):
    with pytest.raises(zoo.NotExactError, match=message):
        certify(changed(graph, constant, change))


def test_a_graph_without_the_rounding_of_floats_is_refused(graph):
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    next(n for n in other.graph.node if n.name == "stem.0.rounded").op_type = "Identity"
    with pytest.raises(zoo.NotExactError, match=r"stem.0.\w+: expected values on a grid"):
        certify(other)


def network(*nodes: onnx.NodeProto, **constants) -> onnx.ModelProto:
    """Nodes behind whole numbers q from 0 to 255, [b, 1, 4, 4], and c, their convolution."""
    constants = {"weight": np.ones((1, 1, 1, 1)), "bias": np.zeros(1)} | constants
    first = [node("Cast", "x", "q", to=1), node("Conv", "q weight bias", "c")]
    return helper.make_model(
        helper.make_graph(
            [*first, *nodes],
            "small",
            [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, ["b", 1, 4, 4])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.float32(v), k) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
    )


def node(operator: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    outputs = output.split()
    return helper.make_node(operator, inputs.split(), outputs, name=outputs[0], **attributes)


def test_sums_of_24_bits_are_exact_and_larger_ones_are_not():
    (row,) = certify(network(bias=[2.0**24 - 255]))
    assert (row.largest, row.whole_bits, row.head_room) == (2.0**24, 24, 0)
    for weight, bias in ((1.0, 2.0**24), (-1.0, -(2.0**24) + 254)):
        with pytest.raises(zoo.NotExactError, match="expected at most 24 bits"):
            certify(network(weight=np.full((1, 1, 1, 1), weight), bias=[bias]))


SMALL = {"small": 2.0**-24, "half": 0.5, "three": 3.0}
TINY_PART = node("Mul", "q small", "m")


def test_an_addition_of_two_numbers_may_be_rounded():
    scaled_and_compared = [
        node("Add", "q m", "a"),
        node("Mul", "a half", "h"),
        node("GreaterOrEqual", "h half", "f"),
        node("Cast", "f", "s", to=1),
        node("Mul", "h s", "y"),
    ]
    assert [row.layer for row in certify(network(TINY_PART, *scaled_and_compared, **SMALL))] == [
        "c"
    ]
    for separator in (
        node("Round", "c", "b"),
        node("Split", "c", "b d", axis=0, num_outputs=2),
    ):
        certify(network(TINY_PART, separator, node("Add", "b m", "y"), **SMALL))


@pytest.mark.parametrize(
    "between",
    [
        node("Identity", "c", "b"),
        node("Mul", "c half", "b"),
        node("Max", "c half", "b"),
        node("MaxPool", "c", "b", kernel_shape=[1, 1]),
    ],
)
def test_an_addition_that_a_runtime_may_merge_into_a_sum_is_refused(between):
    with pytest.raises(zoo.NotExactError, match="y: expected at most 24 bits"):
        certify(network(TINY_PART, between, node("Add", "b m", "y"), **SMALL))


@pytest.mark.parametrize(
    "behind",
    [
        node("Conv", "a weight bias", "y"),
        node("Mul", "a three", "y"),
        node("Sum", "a q q", "y"),
        node("AveragePool", "a", "y", kernel_shape=[2, 2]),
    ],
)
def test_a_rounded_number_in_a_sum_or_product_is_refused(behind):
    with pytest.raises(zoo.NotExactError, match="y: expected at most 24 bits"):
        certify(network(TINY_PART, node("Add", "q m", "a"), behind, **SMALL))


def averaged(weight: float, times: float) -> onnx.ModelProto:
    return network(
        node("AveragePool", "c", "a", kernel_shape=[3, 3], count_include_pad=1),
        node("Mul", "a times", "m"),
        node("Round", "m", "r"),
        node("Conv", "r weight bias", "y"),
        weight=np.full((1, 1, 1, 1), weight),
        times=times,
    )


def test_a_rounded_average_is_exact_once_it_is_rounded_to_the_sum():
    rows = {row.layer: row for row in certify(averaged(1.0, 9.0))}
    assert rows["y"].largest == 9 * 255
    for weight, times in ((0.5, 9.0), (1.0, 7.0), (7001.0, 9.0)):
        with pytest.raises(zoo.NotExactError, match=r"(m|r|c): expected"):
            certify(averaged(weight, times))


def test_averages_of_four_pixels_take_two_bits():
    pool = node("AveragePool", "c", "p", kernel_shape=[2, 2], pads=[0, 0, 1, 1])
    rows = {row.layer: row for row in certify(network(pool, node("Conv", "p weight bias", "y")))}
    assert (rows["y"].largest, rows["y"].fraction_bits) == (255, 2)


def test_a_product_of_matrices_sums_over_its_inner_side():
    rows = {row.layer: row for row in certify(network(node("MatMul", "q q", "y")))}
    assert (rows["y"].largest, rows["y"].fraction_bits) == (4 * 255**2, 0)
