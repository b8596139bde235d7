"""Currents that are summed from block to block and convolved: exact, near to what was trained, and
refused where a graph of them is not what it should be.
"""

import json

import numpy as np
import onnx
import pytest
import torch
from exact_networks import awaken, changed, pixels, run_graph, that_differ, ways_to_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import zoo
from export.graph.proof import certify
from export.to_onnx import Options, export
from zoo import hub
from zoo.deployment.layers import MembraneConv
from zoo.deployment.writer import write_graph
from zoo.models.ms_resnet import MSResNet

PIXELS = {"mean": (125 / 255, 123 / 255, 114 / 255), "std": (63 / 255, 62 / 255, 67 / 255)}


def build(seed=0, size=16, gain=1.0, **kwargs) -> MSResNet:
    """A network whose norms have seen its currents, as after training."""
    torch.manual_seed(seed)
    small = {"depths": (2, 1), "widths": (8, 16), "stem_width": 4, "time_steps": 3}
    model = MSResNet(num_classes=5, **small | kwargs)
    model.pretrained_cfg = PIXELS | {"input_size": (3, size, size)}
    return calibrated(model, seed, gain)


@torch.no_grad()
def calibrated(model, seed=0, gain=1.0) -> MSResNet:
    awaken(model, seed)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.mul_(gain)
            norm.momentum = None
            norm.reset_running_stats()
    model.train()(torch.randn(16, *model.pretrained_cfg["input_size"]))
    return model.eval()


def convs_of_currents(deployed) -> dict[str, MembraneConv]:
    return {n: m for n, m in deployed.named_modules() if isinstance(m, MembraneConv)}


networks = st.fixed_dictionaries(
    {
        "depths": st.sampled_from([(1,), (2,), (1, 1), (2, 1), (1, 1, 1)]),
        "stem": st.sampled_from(["conv3x3", "conv7x7"]),
        "stem_width": st.sampled_from([3, 8]),
        "avg_down": st.booleans(),
        "size": st.sampled_from([16, 32]),
        "time_steps": st.integers(1, 6),
        "spike_layer": st.fixed_dictionaries(
            {
                "decay": st.sampled_from([0.5, 0.25]),
                "v_threshold": st.sampled_from([0.5, 1.0, 0.625]),
                "reset": st.sampled_from(["zero", "subtract"]),
            }
        ),
    }
)


@settings(
    deadline=None,
    max_examples=12,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(networks, st.integers(2, 8), st.sampled_from([0.5, 1.0, 3.0]), st.integers(0, 999))
@torch.inference_mode()
def test_any_network_of_currents_gives_equal_bits_in_every_way_to_run_it(
    network, width, gain, seed
):
    widths = [width * 2**stage for stage in range(len(network["depths"]))]
    model = build(seed, gain=gain, widths=widths, **network)
    deployed, x = zoo.deploy(model), pixels(model, 5, seed)
    assert that_differ(ways_to_run(deployed, x)) == []
    certify(write_graph(deployed, "uint8"))


def test_without_the_grid_bits_differ():
    differ = set()
    for seed in range(4):
        model = build(seed)
        deployed = zoo.deploy(model, exact=False)
        differ |= {*that_differ(ways_to_run(deployed, pixels(model, 20, seed)))}
    assert differ  # which ways, depends on the CPU


@pytest.mark.parametrize("avg_down", [False, True])
@torch.inference_mode()
def test_a_convolution_of_a_current_is_near_to_what_it_was(avg_down):
    model = build(avg_down=avg_down)
    deployed, folded = zoo.deploy(model), zoo.deploy(model, exact=False)
    for name, conv in convs_of_currents(deployed).items():
        x = torch.randn(2, conv.convs[0].in_channels, 16, 16)
        place, _, _ = name.rpartition(".")
        expected = folded.get_submodule(place)
        expected = expected.conv(expected.pool(x) if avg_down and conv.pool else x)
        allowed = 3 / conv.steps.min() + 4 / conv.coarse.min()
        assert allowed < 2.0**-10
        torch.testing.assert_close(conv(x), expected, atol=float(allowed), rtol=0)


@torch.inference_mode()
def test_its_digits_lose_nothing_and_its_limit_cuts_off_what_no_current_reaches():
    model = build()
    deployed, x = zoo.deploy(model), pixels(model, 16)
    for name, conv in convs_of_currents(deployed).items():
        seen = []
        handle = conv.register_forward_hook(lambda _, i, o, seen=seen: seen.append((i[0], o)))
        deployed(x)
        handle.remove()
        ((current, output),) = seen
        current = (current * conv.coarse).round() / conv.coarse
        current = current if conv.pool is None else conv.pool(current)
        left = current.double()
        for units in conv.units.double():
            digits = (left * units).round()
            assert digits.abs().max() <= 2**7, name
            left = left - digits / units
        assert (left.abs() <= 0.5 / conv.units[-1].double()).all(), name
        assert output.abs().max() < conv.limit.max() / 4, name


def test_all_currents_of_a_stage_are_on_one_grid():
    deployed = zoo.deploy(build(depths=(3,), widths=(8,), stem="conv3x3", stem_width=8))
    steps = deployed.get_submodule("stem.0").steps.flatten()
    for block in range(3):
        conv = deployed.get_submodule(f"stages.0.{block}.conv2.conv")
        in_steps = conv.weight * steps.view(-1, 1, 1, 1)
        assert torch.equal(in_steps, in_steps.round())


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    return write_graph(zoo.deploy(build(depths=(1, 1), widths=(64, 16))))


def without(graph, name) -> onnx.ModelProto:
    """The graph with a node that hands on its first input."""
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    (node,) = [node for node in other.graph.node if node.name == name]
    node.op_type = "Identity"
    del node.input[1:]
    return other


AT = "stages.1.0.shortcut.conv"


@pytest.mark.parametrize(
    "step",
    [
        "coarse.input.whole_steps",
        "digit_0",
        "digit_1",
        "digit_0.at_least",
        "digit_0.rest",
        "digit_0.not_below",
        "rest.whole_steps",
    ],
)
def test_a_graph_that_lacks_a_step_of_the_construction_is_refused(graph, step):
    with pytest.raises(zoo.NotExactError, match="expected at most 24 bits"):
        certify(without(graph, f"{AT}.{step}"))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (f"{AT}.convs.1.weight", lambda w: w.__imul__(np.float32(1.1))),
        (f"{AT}.units_0", lambda u: u.__imul__(np.float32(256))),
        (f"{AT}.unit_1", lambda u: u.__imul__(np.float32(1.1))),
        (f"{AT}.steps", lambda s: s.__imul__(np.float32(2**12))),
        (f"{AT}.high", lambda h: h.__imul__(np.float32(2**20))),
        (f"{AT}.most_0", lambda m: m.__imul__(np.float32(4))),
    ],
)
def test_a_graph_of_other_constants_is_refused(graph, name, change):
    with pytest.raises(zoo.NotExactError):
        certify(changed(graph, name, change))


@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("kwargs", [{"block": "attention", "avg_down": True}, {"gated": True}])
def test_attention_in_a_graph_is_that_of_the_network(kwargs, T):
    model = build(time_steps=T, size=32, **kwargs)
    folded, x = zoo.deploy(model, exact=False), pixels(model, 8)
    with torch.inference_mode():
        expected = folded(x)
    for got in (run_graph(folded, x), run_graph(folded, x, batch=3)):
        close = (got - expected).abs().amax(1) < 1e-5  # but for an image with a flipped spike
        assert close.sum() >= 6


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("ms_resnet18_cifar", "exact"),
        ("ms_resnet104", "exact"),
        ("att_ms_resnet18", "agreement"),
        ("gac_ms_resnet18", "agreement"),
    ],
)
def test_a_network_of_each_family_is_exported_and_verified(name, rule, tmp_path):
    small = {"depths": (1, 1, 1), "widths": (8, 16, 16), "stem_width": 4, "time_steps": 2}
    cfg = {"input_size": (3, 32, 32)}
    model = zoo.create_model(name, num_classes=10, pretrained_cfg_overlay=cfg, **small)
    calibrated(model)
    (tmp_path / "source").mkdir()
    hub.save_pretrained(model, tmp_path / "source")
    options = Options(
        source=str(tmp_path / "source"),
        output=str(tmp_path / "out"),
        random_images=True,
        num_images=40,
    )
    report = json.loads((export(options) / "verification.json").read_text())
    assert report["rule"] == rule
    assert report["passed"]
    if rule == "agreement":
        assert "multiplies by learned numbers" in report["why_not_exact"]
