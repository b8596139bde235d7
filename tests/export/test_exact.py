"""The proof: what it says of every value is so, and what may round is refused by name."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exact_networks import awaken, changed, pixels
from onnx import helper, numpy_helper

import zoo
from export.graph.proof import OPSET, InexactError, _Proof, certify
from export.graph.writer import write_graph


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
    ("short_bp_resnet20_slim", {}),
    ("short_bp_resnet20_slim", {"spike_layer": {"reset": "subtract"}}),
    ("short_bp_resnet20_slim", {"spike_layer": RATES}),
    ("short_bp_resnet18_imagenet", {"depths": (1, 1, 1, 1), "widths": (8, 8, 8, 8)}),
    ("short_bp_resnet20", {"depths": (1, 1, 1, 1), "widths": (8, 8, 8, 8)}),
    ("short_bp_resnet50", {"depths": (1, 1), "widths": (8, 8)}),
    ("spikformer_4_384", {"embed_dim": 16, "num_heads": 2, "mlp_ratio": 2.0}),
    ("sew_resnet18", {"depths": (2, 1), "widths": (8, 8)}),
    ("sew_resnet50", {"depths": (2, 1), "widths": (8, 8), "residual": "and"}),
    ("sew_resnet18_cifar", {"depths": (2, 1), "widths": (8, 8), "residual": "iand"}),
    ("short_bp_vgg16", {"depths": (2, 1), "widths": (8, 8)}),
    ("ms_resnet18_cifar", {"widths": (8, 16, 16), "stem_width": 4}),
    ("ms_resnet104", {"depths": (2, 1), "widths": (8, 16)}),
    ("ms_resnet104", {"depths": (2, 1), "widths": (8, 16), "size": 19}),
    ("short_bp_resnet20", {"depths": (1, 1), "widths": (8, 8), "size": 15}),
]


@pytest.mark.parametrize(("name", "kwargs"), NETWORKS)
@pytest.mark.parametrize("kind", ["float", "uint8"])
def test_every_value_keeps_within_what_is_proved_of_it(name, kwargs, kind):
    model = create(name, **kwargs)
    graph = write_graph(zoo.deploy(model), kind)
    proof = _Proof(graph)
    proof.run()
    names = [n for n, r in proof.ranges.items() if r]
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
    convs = {n for n, m in create().named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert convs | {"stem.0.rest", "head"} <= rows.keys()
    assert all(row.head_room >= 0 for row in rows.values())
    assert rows["stages_0_0_conv2_conv_sum"].largest > rows["stages.0.0.conv2.conv"].largest


def test_weights_that_were_not_snapped_are_refused():
    with pytest.raises(InexactError, match=r"stem.0.conv: expected at most 24 bits, got"):
        certify(write_graph(zoo.deploy(create(), exact=False)))


def test_one_weight_off_the_grid_by_a_last_bit_is_refused(graph):
    def nudge(weight):
        weight[0, 0, 1, 1] = np.nextafter(weight[0, 0, 1, 1], np.float32(9))

    with pytest.raises(InexactError, match=r"stages.1.0.conv1.conv: expected at most 24 bits"):
        certify(changed(graph, "stages.1.0.conv1.conv.weight", nudge))


def test_biases_that_the_grid_makes_0_take_no_bits_behind_the_point():
    torch.manual_seed(3)
    neuron = {"decay": 0.25, "reset": "zero", "v_threshold": 64.0}
    sizes = {"widths": [8] * 4, "depths": [1] * 4, "time_steps": 2}
    model = awaken(zoo.create_model("ms_resnet18_cifar", spike_layer=neuron, **sizes))
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.weight.mul_(2 * 64)
                norm.bias.mul_(2 * 64)
    graph = write_graph(zoo.deploy(model))
    assert all(row.head_room >= 0 for row in certify(graph))


def test_a_weight_that_reaches_too_far_is_refused(graph):
    def grow(weight):
        weight[1] *= 64

    with pytest.raises(InexactError, match=r"stages.1.0.conv1.conv: .* in channel 1: sums up to"):
        certify(changed(graph, "stages.1.0.conv1.conv.weight", grow))


def test_a_current_that_reaches_too_far_is_refused(graph):
    def grow(bias):
        bias[1] += 16

    with pytest.raises(InexactError, match=r"stages.1.0.conv1.conv: .* in channel 1: sums up to"):
        certify(changed(graph, "stages.1.0.conv1.conv.bias", grow))


def test_a_decay_off_the_grid_is_refused(graph):
    with pytest.raises(InexactError, match="expected at most 24 bits"):
        certify(changed(graph, "number_0.5", lambda decay: np.copyto(decay, np.float32(0.3))))


def test_a_threshold_that_a_runtime_may_take_for_nothing_is_refused(graph):
    def shrink(threshold):
        np.copyto(threshold, np.float32(1e-39))

    with pytest.raises(InexactError, match="expected finite numbers that no runtime takes for 0"):
        certify(changed(graph, "number_1.0", shrink))


def test_pixels_that_are_not_rounded_are_refused(graph):
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    (rounding,) = [node for node in other.graph.node if node.name == "stem.0.rounded"]
    rounding.op_type = "Identity"
    with pytest.raises(InexactError, match=r"stem.0.\w+: expected whole steps of a grid"):
        certify(other)


def test_an_operator_that_the_proof_does_not_know_is_refused(graph):
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    (logits,) = [node for node in other.graph.node if node.op_type == "Identity"]
    logits.op_type = "Softmax"
    with pytest.raises(InexactError, match="logits: nothing is known of 'Softmax'"):
        certify(other)


def small(nodes, constants, size=4, kind=onnx.TensorProto.FLOAT, channels=1):
    """A graph of whole numbers q from 0 to 255, [b, channels, size, size], and some nodes."""
    shape = ["b", channels, size, size]
    if kind == onnx.TensorProto.UINT8:
        nodes = [helper.make_node("Cast", ["x"], ["q"], name="q", to=1), *nodes]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["?"])],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    return model


def conv(weight, bias=0.0, name="y", **attributes):
    weight = np.float32(weight).reshape(-1, 1, 1, 1)
    constants = {f"{name}.w": weight, f"{name}.b": np.full(len(weight), bias, np.float32)}
    node = helper.make_node(
        "Conv", ["q", f"{name}.w", f"{name}.b"], [name], name=name, **attributes
    )
    return node, constants


UINT8 = onnx.TensorProto.UINT8
node = helper.make_node


def two(first, *rest, **constants):
    made, mine = first
    return [made, *rest], mine | constants


def number(value):
    return np.float32(value)


def pool(**attributes):
    return node("MaxPool", ["c"], ["y"], name="y", **dict(kernel_shape=[2, 2]) | attributes)


def average(**attributes):
    pooled = node("AveragePool", ["c"], ["y"], name="y", **dict(kernel_shape=[2, 2]) | attributes)
    return two(conv([1.0], name="c"), pooled)


def average_times(weight, times):
    return two(
        conv([weight], name="c"),
        node("AveragePool", ["c"], ["a"], name="a", kernel_shape=[3, 3], count_include_pad=1),
        node("Mul", ["a", "n"], ["m"], name="m"),
        node("Round", ["m"], ["y"], name="y"),
        n=number(times),
    )


def drawn_in(*between, **constants):
    """An addition that rounds behind a convolution c and nodes b that a runtime may take out."""
    return two(
        conv([1.0], name="c"),
        *between,
        node("Mul", ["q", "small"], ["m"], name="m"),
        node("Add", ["b", "m"], ["y"], name="y"),
        small=number(2.0**-24),
        **constants,
    )


REFUSED = {
    "a factor behind a number added to a sum": two(
        conv([401.0], name="c"),
        node("Add", ["c", "shift"], ["a"], name="a"),
        node("Mul", ["a", "n"], ["m"], name="m"),
        node("MaxPool", ["m"], ["y"], name="y", kernel_shape=[1, 1]),
        shift=np.full((1, 1, 1, 1), -51000, np.float32),
        n=number(257 / 256),
    ),
    "an addition of a number that rounds": two(
        conv([1.0], name="c"),
        pool(),
        node("Mul", ["q", "small"], ["m"], name="m"),
        node("Add", ["m", "one"], ["z"], name="z"),
        small=number(2.0**-24),
        one=number(1),
    ),
    "numbers added one after the other": two(
        conv([1.0], name="c"),
        node("Add", ["c", "far"], ["f"], name="f"),
        node("Sub", ["f", "far"], ["b"], name="b"),
        node("Add", ["b", "eighth"], ["y"], name="y"),
        far=number(2.0**23),
        eighth=number(0.125),
    ),
    "a sum of numbers one of which was added to before": two(
        conv([1.0], name="c"),
        node("Sub", ["c", "n"], ["s"], name="s"),
        node("Add", ["s", "c"], ["a"], name="a"),
        node("Sum", ["a", "n"], ["y"], name="y"),
        n=number(0.5),
    ),
    "averages of halves, rounded": average_times(0.5, 9),
    "a comparison of averages that are rounded": two(
        conv([1.0], name="c"),
        node("AveragePool", ["c"], ["a"], name="a", kernel_shape=[3, 3], count_include_pad=1),
        node("GreaterOrEqual", ["a", "n"], ["f"], name="f"),
        node("Cast", ["f"], ["y"], name="y", to=1),
        n=number(1 / 3),
    ),
    "one bit too many": two(conv([1.0], 2.0**24)),
    "negative sums too": two(conv([-1.0], -(2.0**24) + 254)),
    "a vector runs along the width": two(
        conv([2.0**-16, 1, 1, 1], name="c"),
        node("Add", ["c", "v"], ["y"], name="y"),
        v=np.float32([0, 0, 0, 2**20]),
    ),
    "a split of channels": two(
        conv([2.0**-16, 2.0**12], name="c"),
        node("Split", ["c"], ["l", "r"], name="l", axis=1, num_outputs=2),
        node("Add", ["l", "r"], ["y"], name="y"),
    ),
    "other shapes": two(
        conv([2.0**-16, 2.0**12], name="c"),
        node("ReduceSum", ["q", "axes"], ["l"], name="l", keepdims=0),
        node("Add", ["c", "l"], ["y"], name="y"),
        axes=np.int64([2, 3]),
    ),
    "a sum of channels": two(
        conv([1.0, 1.0], name="c"),
        node("ReduceSum", ["c", "axes"], ["y"], name="y", keepdims=0),
        axes=np.int64([1]),
    ),
    "a product of matrices times a number": two(
        conv([1.0], name="c"),
        node("ReduceSum", ["c", "axes"], ["s"], name="s", keepdims=0),
        node("Gemm", ["s", "w", "b"], ["y"], name="y", transB=1, alpha=3.0),
        axes=np.int64([2, 3]),
        w=np.ones((2, 1), np.float32),
        b=np.zeros(2, np.float32),
    ),
    "averages put out": two(
        conv([1.0], name="c"),
        node("AveragePool", ["c"], ["y"], name="y", kernel_shape=[3, 3], count_include_pad=1),
    ),
    "averages of what is inside only": average(pads=[1, 1, 1, 1]),
    "averages of windows cut off to no power of two": average(
        kernel_shape=[4, 4], pads=[0, 0, 1, 1]
    ),
    "averages of nothing but padding": average(pads=[0, 0, 2, 2]),
    "averages beyond the border": average(ceil_mode=1, count_include_pad=1),
    "averages with holes": average(dilations=[2, 2]),
    "averages times another number": average_times(1.0, 8),
    "averages of far too much": average_times(-7001.0, 9),
    "numbers next to nothing": two(
        conv([1.0], name="c"),
        node("Mul", ["q", "n"], ["m"], name="m"),
        node("Mul", ["m", "n"], ["y"], name="y"),
        n=number(2.0**-100),
    ),
    "numbers too large": two(
        conv([1.0], name="c"),
        node("Mul", ["q", "n"], ["m"], name="m"),
        node("Mul", ["m", "n"], ["y"], name="y"),
        n=number(2.0**100),
    ),
    "groups": two(
        conv([1.0, 1.0], group=1),
        node("Conv", ["y", "w", "b"], ["z"], group=2, name="z"),
        w=np.ones((4, 1, 1, 1), np.float32),
        b=np.zeros(4, np.float32),
    ),
    "an automatic pad": two(conv([1.0], auto_pad="SAME_UPPER")),
    "a concatenation of channels": (
        [
            node("Concat", ["q", "q"], ["c"], name="c", axis=1),
            node("Add", ["c", "c"], ["y"], name="y"),
        ],
        {},
    ),
    "a bias from elsewhere": (
        [
            node("ReduceSum", ["q", "axes"], ["s"], name="s", keepdims=0),
            node("Reshape", ["s", "one"], ["b"], name="b"),
            node("Conv", ["q", "w", "b"], ["y"], name="y"),
        ],
        {
            "axes": np.int64([2, 3]),
            "one": np.ones(1, np.int64),
            "w": np.ones((1, 1, 1, 1), np.float32),
        },
    ),
    "a product of matrices of too many bits": two(
        conv([2.0**8 + 1], name="c"), node("MatMul", ["c", "q"], ["y"], name="y")
    ),
    "a product of matrices of nobody knows how many terms": (
        [
            node("Transpose", ["q"], ["l"], name="l", perm=[3, 1, 2, 0]),
            node("Transpose", ["q"], ["r"], name="r", perm=[3, 1, 0, 2]),
            node("MatMul", ["l", "r"], ["y"], name="y"),
        ],
        {},
    ),
    "channels that changed places": two(
        conv([2.0**-16, 2.0**12], name="c"),
        node("Transpose", ["c"], ["t"], name="t", perm=[0, 2, 1, 3]),
        node("Add", ["t", "t"], ["y"], name="y"),
    ),
    "channels that went elsewhere": two(
        conv([2.0**-16, 2.0**12], name="c"),
        node("Reshape", ["c", "shape"], ["r"], name="r"),
        node("Add", ["r", "r"], ["y"], name="y"),
        shape=np.int64([0, 8, 2, 2]),
    ),
    "a rounded addition that a product of matrices could draw in": (
        [
            node("MatMul", ["q", "q"], ["p"], name="p"),
            node("Reshape", ["p", "shape"], ["r"], name="r"),
            node("Mul", ["r", "small"], ["m"], name="m"),
            node("Add", ["r", "m"], ["y"], name="y"),
        ],
        {"shape": np.int64([0, 1, 2, 8]), "small": number(2.0**-24)},
    ),
    "a rounded addition that a convolution could draw in": two(
        conv([1.0], name="c"),
        node("Mul", ["q", "small"], ["m"], name="m"),
        node("Add", ["c", "m"], ["y"], name="y"),
        small=number(2.0**-24),
    ),
    "the same behind an identity": drawn_in(node("Identity", ["c"], ["b"], name="b")),
    "the same behind a product with one": drawn_in(
        node("Mul", ["c", "one"], ["b"], name="b"), one=number(1)
    ),
    "the same behind a sum with nothing": drawn_in(
        node("Add", ["c", "zero"], ["b"], name="b"), zero=number(0)
    ),
    "the same behind time steps put together of one": drawn_in(
        node("Concat", ["c"], ["b"], name="b", axis=0)
    ),
    "the same behind the one part of a split": drawn_in(
        node("Split", ["c"], ["b"], name="b", axis=0, num_outputs=1)
    ),
    "the same behind the maximum of one pixel": drawn_in(
        node("MaxPool", ["c"], ["b"], name="b", kernel_shape=[1, 1])
    ),
    "the same behind a maximum with the least number": drawn_in(
        node("Max", ["c", "zero"], ["b"], name="b"), zero=number(0)
    ),
    "a rounded number in a long sum": two(
        conv([1.0], name="c"),
        node("Mul", ["q", "small"], ["m"], name="m"),
        node("Add", ["q", "m"], ["a"], name="a"),
        node("ReduceSum", ["a", "axes"], ["y"], name="y", keepdims=0),
        small=number(2.0**-24),
        axes=np.int64([2, 3]),
    ),
    "a rounded number times three": two(
        conv([1.0], name="c"),
        node("Mul", ["q", "small"], ["m"], name="m"),
        node("Add", ["q", "m"], ["a"], name="a"),
        node("Mul", ["a", "three"], ["y"], name="y"),
        small=number(2.0**-24),
        three=number(3),
    ),
    "a product of two long numbers": two(
        conv([1 + 2.0**-5], name="c"), node("Mul", ["c", "c"], ["y"], name="y")
    ),
    "a maximum of rounded numbers, weighted": two(
        conv([1.0], name="f"),
        node("Mul", ["q", "small"], ["m"], name="m"),
        node("Add", ["q", "m"], ["c"], name="c"),
        pool(),
        node("Conv", ["y", "f.w", "f.b"], ["z"], name="z"),
        small=number(2.0**-24),
    ),
    "a maximum of averages": two(
        conv([1.0], name="f"),
        node("AveragePool", ["f"], ["c"], name="c", kernel_shape=[3, 3], count_include_pad=1),
        pool(),
    ),
    "a window that holds nothing but padding": two(conv([1.0], name="c"), pool(pads=[0, 0, 2, 0])),
    "a maximum with holes": two(conv([1.0], name="c"), pool(dilations=[2, 2])),
    "a maximum beyond the border": two(conv([1.0], name="c"), pool(ceil_mode=1, strides=[2, 2])),
    "a maximum with an automatic pad": two(conv([1.0], name="c"), pool(auto_pad="SAME_UPPER")),
    "a sum that begins with a number": two(
        conv([2.0**-16, 1, 1, 1], name="c"),
        node("ReduceSum", ["c", "axes"], ["r"], name="r", keepdims=0),
        node("Sum", ["zero", "c", "r"], ["y"], name="y"),
        axes=np.int64([2, 3]),
        zero=number(0),
    ),
    "a number that moves the channels to another axis": two(
        conv([2.0**-6, 2.0**9], name="c"),
        node("ReduceSum", ["c", "axes"], ["r"], name="r", keepdims=0),
        node("Mul", ["r", "one"], ["m"], name="m"),
        node("ReduceSum", ["m", "axes"], ["y"], name="y", keepdims=0),
        axes=np.int64([2, 3]),
        one=np.ones((1, 1, 1, 1), np.float32),
    ),
    "averages times a number that does so": average_times(1.0, np.full((1, 1, 1, 1, 1), 9)),
    "a factor that a runtime may take for 0": two(
        conv([2.0**20], name="c"),
        node("Mul", ["c", "small"], ["m"], name="m"),
        node("Mul", ["m", "large"], ["y"], name="y"),
        small=number(2.0**-140),
        large=number(2.0**120),
    ),
    "factors of which a runtime may make 0": two(
        conv([2.0**40], 2.0**40, name="c"),
        node("Round", ["c"], ["r"], name="r"),
        node("Mul", ["r", "small"], ["m"], name="m"),
        node("Mul", ["m", "smaller"], ["n"], name="n"),
        node("GreaterOrEqual", ["n", "limit"], ["f"], name="f"),
        node("Cast", ["f"], ["y"], name="y", to=1),
        small=number(2.0**-50),
        smaller=number(2.0**-100),
        limit=number(101 * 2.0**-110),
    ),
    "factors of which a runtime may make infinity": two(
        conv([1.0], name="c"),
        node("Round", ["c"], ["r"], name="r"),
        node("Mul", ["r", "small"], ["m"], name="m"),
        node("Mul", ["m", "large"], ["n"], name="n"),
        node("Mul", ["n", "large"], ["y"], name="y"),
        small=number(2.0**-120),
        large=number(2.0**70),
    ),
    "products that a runtime may take before their factors": two(
        conv([1.0], name="c"),
        node("Mul", ["c", "m"], ["l"], name="l"),
        node("Round", ["l"], ["r"], name="r"),
        node("Mul", ["r", "n"], ["d"], name="d"),
        node("MatMul", ["d", "d"], ["p"], name="p"),
        node("Identity", ["p"], ["y"], name="y"),
        m=number(2.0**70),
        n=number(2.0**-60),
    ),
    "products of small parts that a runtime may take before their factors": two(
        conv([2.0**-80], name="c"),
        node("Concat", ["c", "c"], ["b"], name="b", axis=0),
        node("Mul", ["b", "n"], ["d"], name="d"),
        node("MatMul", ["d", "d"], ["y"], name="y"),
        n=number(2.0**50),
    ),
    "a number that a runtime adds to one before, past parts put together": two(
        conv([1.0], 2.0**22, name="c"),
        node("Max", ["c", "n"], ["m"], name="m"),
        node("Sub", ["m", "n"], ["s"], name="s"),
        node("Split", ["s"], ["a", "b"], name="a", axis=0, num_outputs=2),
        node("Concat", ["a", "b"], ["o"], name="o", axis=0),
        node("Add", ["o", "k"], ["y"], name="y"),
        n=number(2.0**22),
        k=number(2.0**-10),
    ),
    "a number that a runtime adds to one before, past parts taken apart": two(
        conv([1.0], 2.0**22, name="c"),
        node("Max", ["c", "n"], ["m"], name="m"),
        node("Sub", ["m", "n"], ["s"], name="s"),
        node("Concat", ["s", "s"], ["o"], name="o", axis=0),
        node("Split", ["o"], ["a", "b"], name="a", axis=0, num_outputs=2),
        node("Add", ["a", "k"], ["y"], name="y"),
        n=number(2.0**22),
        k=number(2.0**-10),
    ),
    "a number that a runtime adds to one before, past an average of one pixel": two(
        conv([1.0], 2.0**22, name="c"),
        node("Max", ["c", "n"], ["m"], name="m"),
        node("Sub", ["m", "n"], ["s"], name="s"),
        node("AveragePool", ["s"], ["a"], name="a", kernel_shape=[1, 1], count_include_pad=1),
        node("Add", ["a", "k"], ["y"], name="y"),
        n=number(2.0**22),
        k=number(2.0**-10),
    ),
    "a number that a runtime makes of others": two(
        conv([1.0], name="c"),
        node("Max", ["n", "zero"], ["m"], name="m"),
        node("Add", ["c", "m"], ["y"], name="y"),
        n=number(2.0**24),
        zero=number(0),
    ),
    "a number in both terms": two(
        conv([1.0], name="c"),
        node("Add", ["c", "n"], ["a"], name="a"),
        node("Mul", ["c", "small"], ["m"], name="m"),
        node("Add", ["m", "k"], ["b"], name="b"),
        node("Add", ["a", "b"], ["y"], name="y"),
        n=number(2.0**15),
        small=number(2.0**-16),
        k=number(2.0**-10 + 2.0**-16),
    ),
    "a number that a runtime may add to a bias": (
        [node("Sub", ["q", "n"], ["s"], name="s"), node("Conv", ["s", "w", "b"], ["y"], name="y")],
        dict(n=number(128), w=np.full((1, 1, 1, 1), 65535, np.float32), b=np.zeros(1, np.float32)),
    ),
    "a sum of nine pixels, which may be an average times nine": (
        [
            node("AveragePool", ["q"], ["p"], name="p", kernel_shape=[2, 2]),
            node("ReduceSum", ["p", "axes"], ["s"], name="s", keepdims=0),
            node("Gemm", ["s", "w", "b"], ["y"], name="y", transB=1),
        ],
        dict(axes=np.int64([2, 3]), w=np.ones((2, 1), np.float32), b=np.zeros(2, np.float32)),
    ),
    "a convolution of another size than its weight": two(conv([1.0], kernel_shape=[3, 3])),
    "an average that a runtime may take for 0": two(
        conv([1.0], name="c"),
        node("Mul", ["c", "small"], ["m"], name="m"),
        node("AveragePool", ["m"], ["a"], name="a", kernel_shape=[3, 3], count_include_pad=1),
        node("Mul", ["a", "nine"], ["y"], name="y"),
        small=number(2.0**-124),
        nine=number(9),
    ),
    "a constant three times": two(
        conv([1.0], 2.0**23, name="c"),
        node("Max", ["c", "n"], ["m"], name="m"),
        node("Sub", ["m", "n"], ["s"], name="s"),
        node("Sum", ["s", "s", "s"], ["y"], name="y"),
        n=number(2.0**23),
    ),
    "a number that a runtime adds to one before, past the larger of two equals": two(
        conv([1.0], 2.0**22, name="c"),
        node("Max", ["c", "n"], ["m"], name="m"),
        node("Sub", ["m", "n"], ["s"], name="s"),
        node("Max", ["s", "s"], ["t"], name="t"),
        node("Add", ["t", "k"], ["y"], name="y"),
        n=number(2.0**22),
        k=number(2.0**-10),
    ),
    "an average of more pixels than there are": average(
        kernel_shape=[5, 5], strides=[2, 2], count_include_pad=1
    ),
    "windows with nothing of the image under them": two(conv([1.0], pads=[1, 1, 1, 1])),
    "a bias for every other channel": two(conv([1.0, 1.0]), **{"y.b": np.ones(1, np.float32)}),
    "more biases than channels": two(conv([1.0]), **{"y.b": np.ones(3, np.float32)}),
    "which of equal pixels is the largest": two(
        conv([1.0]), node("MaxPool", ["y"], ["p", "i"], name="p", kernel_shape=[2, 2])
    ),
    "numbers of 16 bits": two(
        conv([1.0]), node("Sum", ["h", "h", "h"], ["z"], name="z"), h=np.float16(1)
    ),
    "a bias of -0": two(conv([1.0], -0.0)),
    "nothing to add up": ([node("Identity", ["q"], ["y"], name="y")], {}),
}


SAID = {  # where another check would refuse it too
    "a bias from elsewhere": "nothing is known of this Conv",
    "averages of halves, rounded": "y: expected numbers that are whole but for a rounding",
    "other shapes": "expected the shape of",
    "a sum of channels": "expected a sum over a fixed number of pixels",
    "a product of matrices times a number": "expected x W^T + b",
    "a sum that begins with a number": "r: expected the shape of c",
    "a number that moves the channels to another axis": "one: expected a number, or one for each",
    "averages times a number that does so": "n: expected a number, or one for each",
    "a factor that a runtime may take for 0": "small: expected finite numbers that no runtime",
    "factors of which a runtime may make 0": "n: expected constants that a runtime may multiply",
    "factors of which a runtime may make infinity": "y: expected constants that a runtime may",
    "products that a runtime may take before their factors": "p: expected constants that a runtime",
    "products of small parts that a runtime may take before their factors": "y: expected constants",
    "a number that a runtime adds to one before, past parts put together": "y: expected numbers ",
    "a number that a runtime adds to one before, past parts taken apart": "y: expected numbers ",
    "a number that a runtime adds to one before, past an average of one pixel": "y: expected ",
    "a number that a runtime makes of others": "m: expected numbers of an image",
    "a number in both terms": "y: expected a constant added to one of its numbers",
    "a number that a runtime may add to a bias": "w: expected zeros around numbers that a constant",
    "a sum of nine pixels, which may be an average times nine": "s: expected whole steps of a grid",
    "a convolution of another size than its weight": "y: expected a convolution of images with",
    "an average that a runtime may take for 0": "a: expected averages that no runtime takes for 0",
    "a constant three times": "y: expected a constant added to one of its numbers at most",
    "a number that a runtime adds to one before, past the larger of two equals": "y: expected numb",
    "an average of more pixels than there are": "y: expected a pixel of the image under every",
    "windows with nothing of the image under them": "y: expected a pixel of the image under every",
    "a bias for every other channel": "y.b: expected a number for each output of a weight [2, 1, ",
    "more biases than channels": "y.b: expected a number for each output of a weight [1, 1, 1, 1]",
    "which of equal pixels is the largest": "p: expected fp32 from this MaxPool",
    "numbers of 16 bits": "h: expected numbers of fp32 or int64, got float16",
    "a bias of -0": "y.b: expected 0, beside which no sum is -0",
}


@pytest.mark.parametrize("what", REFUSED)
def test_small_graphs_that_round_or_are_not_known_are_refused(what):
    nodes, constants = REFUSED[what]
    with pytest.raises(InexactError) as refusal:
        certify(small(nodes, constants, kind=UINT8))
    assert ("found nothing that adds up" in str(refusal.value)) == (what == "nothing to add up")
    assert SAID.get(what, "") in str(refusal.value)


@pytest.mark.parametrize("size", [-1, 0])
def test_sizes_below_one_are_refused(size):
    first, constants = conv([1.0])
    with pytest.raises(InexactError, match=rf"expected sizes from 1 on, got \[1, {size}, {size}\]"):
        certify(small([first], constants, size=size, kind=UINT8))


BETWEEN = {  # what a runtime leaves out, between time steps taken apart and put together
    "nothing": ([], "a", "b"),
    "names": ([node("Identity", [p], [f"{p}1"], name=f"{p}1") for p in "ab"], "a1", "b1"),
    "transpositions": (
        [node("Transpose", [p], [f"{p}1"], name=f"{p}1", perm=[0, 1, 2, 3]) for p in "ab"],
        *("a1", "b1"),
    ),
    "parts of one": (
        [node("Concat", [p], [f"{p}1"], name=f"{p}1", axis=0) for p in "ab"],
        "a1",
        "b1",
    ),
    "parts of parts": (
        [
            node("Split", ["a"], ["a1", "a2"], name="a1", axis=0, num_outputs=2),
            node("Concat", ["a1", "a2"], ["a3"], name="a3", axis=0),
        ],
        *("a3", "b"),
    ),
}


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize(
    ("bias", "first", "last", "message"),
    [
        (
            2.0**22,
            [("Max", 2.0**22), ("Sub", 2.0**22)],
            ("Add", 2.0**-10),
            "no constant was added to bef",
        ),
        (
            0,
            [("Mul", 2.0**-100), ("Mul", 2.0**100)],
            ("Mul", 2.0**110),
            "constants that a runtime may",
        ),
        (0, [("Mul", 1.0)], ("Add", "h"), "at most 24 bits"),  # a sum into which it is drawn
    ],
)
def test_time_steps_taken_apart_and_put_together_hold_no_runtime_back(
    between, bias, first, last, message
):
    nodes, constants = two(conv([1.0], bias, name="c"))
    at = "c"
    for i, (op, value) in enumerate(first):
        nodes += [node(op, [at, f"n{i}"], [f"s{i}"], name=f"s{i}")]
        constants[f"n{i}"], at = number(value), f"s{i}"
    nodes += [node("Split", [at], ["a", "b"], name="a", axis=0, num_outputs=2)]
    middle, a, b = BETWEEN[between]
    nodes += [*middle, node("Concat", [a, b], ["o"], name="o", axis=0)]
    if last[1] == "h":
        nodes += [node("Mul", ["q", "tiny"], ["h"], name="h")]
        constants["tiny"] = number(2.0**-30)
    else:
        constants["h"] = number(last[1])
    nodes += [node(last[0], ["o", "h"], ["y"], name="y")]
    with pytest.raises(InexactError, match=f"y: expected .*{message}"):
        certify(small(nodes, constants, kind=UINT8))


def test_weights_in_another_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.bin").write_bytes(np.float32(1).tobytes())
    model = small(*two(conv([1.0])), kind=UINT8)
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == "y.w"]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.bin")
    with pytest.raises(InexactError, match=r"expected numbers in the graph, got some of another"):
        certify(model)


def test_an_attribute_of_no_function_is_refused():
    first, constants = conv([1.0])
    first.attribute.add(name="group", ref_attr_name="g", type=onnx.AttributeProto.INT)
    with pytest.raises(InexactError, match="y: nothing is known of this Conv"):
        certify(small([first], constants, kind=UINT8))


def test_a_power_of_two_behind_an_added_number_is_exact():
    for factor in (0.25, -2):
        nodes, constants = two(
            conv([1.0], name="c"),
            node("Sub", ["one", "c"], ["s"], name="s"),
            node("Mul", ["s", "n"], ["y"], name="y"),
            one=number(1),
            n=number(factor),
        )
        layers = [row.layer for row in certify(small(nodes, constants, kind=UINT8))]
        assert layers == ["c"]


def floats(*nodes, **constants):
    """A graph of any floats x, rounded, with a convolution to find at its end."""
    last, mine = conv([1.0])
    last.input[0] = "r"
    return small([*nodes, last], constants | mine)


def test_any_floats_times_two_factors_are_refused():
    nodes = [
        node("Mul", ["x", "n"], ["a"], name="a"),
        node("Mul", ["a", "m"], ["b"], name="b"),
        node("Round", ["b"], ["r0"], name="r0"),
        node("Min", ["r0", "most"], ["r1"], name="r1"),
        node("Max", ["r1", "least"], ["r"], name="r"),
    ]
    ends = dict(least=number(0), most=number(255))
    with pytest.raises(InexactError, match="b: expected floats times one factor, got two"):
        certify(floats(*nodes, n=number(0.1), m=number(5), **ends))
    nodes[2].input[0] = "a"
    (row,) = certify(floats(nodes[0], *nodes[2:], n=number(0.1), **ends))
    assert row.largest == 255
    for factor in (0, 2.0**125):  # infinity times 0; and what some runtimes take for 0 times it
        with pytest.raises(InexactError, match="a: expected floats times a factor from 2\\^-126"):
            certify(floats(nodes[0], *nodes[2:], n=number(factor), **ends))


def test_rounded_floats_that_nothing_holds_back_are_refused():
    nodes = [
        node("Round", ["x"], ["a"], name="a"),
        node("Add", ["a", "a"], ["s"], name="s"),
        node("Mul", ["s", "two"], ["t"], name="t"),
        node("Sub", ["t", "a"], ["r"], name="r"),
    ]
    with pytest.raises(InexactError, match="s: expected numbers that fp32 has"):
        certify(floats(*nodes, two=number(2)))


def one_more_of_the_weights(model):
    model.graph.initializer.append(numpy_helper.from_array(np.full((1, 1, 1, 1), 0.1, np.float32)))
    model.graph.initializer[-1].name = "y.w"


def a_late_constant(model):
    value = numpy_helper.from_array(np.full((1, 1, 1, 1), 0.1, np.float32))
    model.graph.node.append(node("Constant", [], ["y.w"], name="late", value=value))


def an_attribute_twice(model):
    model.graph.node[-1].attribute.extend(
        [helper.make_attribute("group", 1), helper.make_attribute("group", 1)]
    )


def a_function_in_place_of_an_operator(model):
    inner = [node("Mul", ["a", "b"], ["m"]), node("Add", ["m", "c"], ["o"])]
    model.functions.append(
        helper.make_function("", "Conv", ["a", "b", "c"], ["o"], inner, [*model.opset_import])
    )


def another_opset(model):
    model.opset_import[0].version = 19


def two_opsets(model):
    model.opset_import[0].version = 11
    model.opset_import.append(helper.make_opsetid("", OPSET))


def another_opset_by_its_other_name(model):
    model.opset_import.append(helper.make_opsetid("ai.onnx", 11))


def an_operator_of_our_own(model):
    model.graph.node[-1].op_type = "Alone"


@pytest.mark.parametrize(
    "change",
    [
        one_more_of_the_weights,
        a_late_constant,
        an_attribute_twice,
        a_function_in_place_of_an_operator,
        another_opset,
        two_opsets,
        another_opset_by_its_other_name,
        an_operator_of_our_own,
    ],
)
def test_a_graph_that_tools_read_in_two_ways_is_refused(change):
    nodes, constants = conv([1.0])
    model = small([nodes], constants, kind=UINT8)
    certify(model)
    change(model)
    with pytest.raises(InexactError, match="graph: expected"):
        certify(model)


def test_time_steps_that_need_other_numbers_of_channels_are_put_together():
    nodes, constants = two(
        conv([1.0, 2.0], name="c"),
        node("GreaterOrEqual", ["c", "one"], ["f"], name="f"),
        node("Cast", ["f"], ["s"], name="s", to=1),
        node("Sum", ["c", "s"], ["t"], name="t"),
        node("Concat", ["t", "s"], ["y"], name="y", axis=0),
        one=number(1),
    )
    rows = {row.layer: row for row in certify(small(nodes, constants, kind=UINT8))}
    assert rows["t"].largest == 2 * 255 + 1


def test_two_numbers_alone_may_be_rounded_shifted_and_kept_or_dropped():
    nodes, constants = two(
        conv([1.0], name="c"),
        node("Mul", ["q", "small"], ["m"], name="m"),
        node("Add", ["q", "m"], ["a"], name="a"),
        node("Mul", ["a", "half"], ["h"], name="h"),
        node("GreaterOrEqual", ["h", "half"], ["f"], name="f"),
        node("Cast", ["f"], ["s"], name="s", to=1),
        node("Mul", ["h", "s"], ["y"], name="y"),
        small=number(2.0**-24),
        half=number(0.5),
    )
    (row,) = certify(small(nodes, constants, kind=UINT8))
    assert row.layer == "c"


def test_the_maximum_of_exact_numbers_is_one_of_them():
    nodes, constants = two(
        conv([0.5], -9.0, name="c"),
        pool(kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Conv", ["y", "w", "b"], ["z"], name="z"),
        w=np.full((1, 1, 1, 1), 2, np.float32),
        b=np.zeros(1, np.float32),
    )
    rows = {row.layer: row for row in certify(small(nodes, constants, kind=UINT8))}
    assert rows["z"].largest == 2 * rows["c"].largest == 2 * (0.5 * 255)


def test_halves_and_quarters_are_exact_where_the_far_borders_cut_windows_off():
    nodes, constants = average(pads=[0, 0, 1, 1])
    second = node("Conv", ["y", "c.w", "c.b"], ["z"], name="z")
    rows = {row.layer: row for row in certify(small([*nodes, second], constants, kind=UINT8))}
    assert (rows["z"].largest, rows["z"].fraction_bits) == (255, 2)


def test_a_product_of_matrices_is_so_many_sums_of_so_many_terms():
    nodes = [node("MatMul", ["q", "q"], ["y"], name="y")]
    (row,) = certify(small(nodes, {}, kind=UINT8))
    assert (row.largest, row.fraction_bits) == (4 * 255**2, 0)


def test_factors_whose_product_fp32_lacks_are_refused():
    def there_and_back(bits):
        nodes = [
            node("Mul", ["q", "up"], ["a"], name="a"),
            node("MaxPool", ["a"], ["b"], name="b", kernel_shape=[1, 1]),
            node("Mul", ["b", "down"], ["c"], name="c"),
            node("MatMul", ["c", "c"], ["y"], name="y"),
        ]
        return small(nodes, dict(up=number(2.0**bits), down=number(2.0**-bits)), kind=UINT8)

    x = {"x": np.full((1, 1, 4, 4), 255, np.uint8)}

    def runs(model):
        levels = onnxruntime.GraphOptimizationLevel
        for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL):
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = level
            yield onnxruntime.InferenceSession(model.SerializeToString(), options).run(["y"], x)[0]

    certify(there_and_back(50))
    plain, optimised = runs(there_and_back(50))
    assert (plain == optimised).all()
    plain, optimised = runs(there_and_back(60))
    assert np.isfinite(plain).all()
    assert np.isinf(optimised).all()
    with pytest.raises(InexactError, match=r"y: expected constants that .* got 138 and 120"):
        certify(there_and_back(60))


def test_exactly_24_bits_are_accepted():
    nodes, constants = two(conv([1.0], 2.0**24 - 255))
    (row,) = certify(small(nodes, constants, kind=UINT8))
    assert (row.largest, row.whole_bits, row.head_room) == (2.0**24, 24, 0)


def test_arithmetic_on_uint8_is_refused():
    nodes = [node("Add", ["x", "x"], ["s"], name="s"), node("Cast", ["s"], ["y"], name="y", to=1)]
    with pytest.raises(InexactError):
        certify(small(nodes, {}, kind=UINT8))


def test_floats_that_are_put_out_as_they_come_are_refused():
    with pytest.raises(InexactError, match="y: expected whole steps of a grid"):
        certify(small([node("Mul", ["x", "n"], ["y"], name="y")], {"n": number(0.1)}))


def test_two_numbers_behind_a_comparison_or_time_steps_taken_apart_may_be_rounded():
    for between in (
        [node("Round", ["c"], ["b"], name="b")],
        [
            node("GreaterOrEqual", ["c", "small"], ["f"], name="f"),
            node("Cast", ["f"], ["b"], name="b", to=1),
        ],
        [node("Split", ["c"], ["b", "d"], name="b", axis=0, num_outputs=2)],
    ):
        nodes, constants = drawn_in(*between)
        assert [row.layer for row in certify(small(nodes, constants, kind=UINT8))] == ["c"]


@pytest.mark.parametrize("where", ["value_info", "output"])
def test_what_a_file_says_of_its_shapes_is_not_believed(where):
    nodes, constants = two(
        conv([2.0**-10 + 2.0**-14], name="c"),
        node("ReduceSum", ["c", "axes"], ["y"], name="y", keepdims=0),
        axes=np.int64([2, 3]),
    )
    model = small(nodes, constants, size="side", kind=UINT8)
    getattr(model.graph, where).append(
        helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["b", 1, 1, 1])
    )
    with pytest.raises(InexactError):
        certify(model)


def test_a_constant_that_a_caller_may_override_is_refused(graph):
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    other.graph.input.append(
        helper.make_tensor_value_info("head.fc.bias", onnx.TensorProto.FLOAT, [10])
    )
    with pytest.raises(InexactError, match=r"head.fc.bias: expected a constant"):
        certify(other)
