"""The deployed network: folded, on a grid, the same bits in every way to run it."""

import copy
import math
import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from exact_networks import awaken, pixels, run_graph, settle, that_differ, ways_to_run
from onnx import helper, numpy_helper
from timm.data import resolve_data_config
from torch import nn
from torch.nn.utils import prune

import zoo
from export.checks.check import session
from export.checks.images import random_images
from export.graph.proof import certify
from zoo.data import normalise
from zoo.deployment.fold import why_not_exact
from zoo.deployment.grid import whole_pixels
from zoo.deployment.layers import FoldedLIF, PixelConv, inexact_mode
from zoo.deployment.writer import write_graph
from zoo.layers.conv import ConvNorm
from zoo.models.short_bp_resnet import ShortBPResNet


def create(name="short_bp_resnet20_slim", size=16, **kwargs):
    with torch.device("meta"):
        stages = len(zoo.create_model(name).stages)
    torch.manual_seed(0)
    kwargs = {"depths": (2,) + (1,) * (stages - 1), "time_steps": 3} | kwargs
    cfg = {"input_size": (3, size, size)}
    return awaken(zoo.create_model(name, pretrained_cfg_overlay=cfg, **kwargs))


def values(model, x):
    cfg = model.pretrained_cfg
    return normalise(x, *(whole_pixels(key, cfg[key]) for key in ("mean", "std")))


class Loud(zoo.LIF):
    """Not what its parent is."""

    def forward(self, x):
        return super().forward(3 * x)


def prune_a_layer(conv: nn.Conv2d) -> None:
    prune.l1_unstructured(conv, "weight", 0.5)


def halve_a_layer(conv: nn.Conv2d) -> None:
    conv.register_forward_hook(lambda *args: args[-1] / 2)


FAMILIES = {  # each family, block and stem
    "short_bp_resnet20": {},
    "short_bp_resnet50": {"widths": (16, 32, 64, 64)},
    "short_bp_resnet18_imagenet": {"widths": (16, 32, 64, 64), "size": 64},
    "short_bp_vgg16": {"widths": (16, 32, 64, 64, 64)},
    "sew_resnet18_cifar": {"widths": (16, 32, 64, 64)},
    "sew_resnet50": {"widths": (16, 32, 64, 64), "size": 64},
    "ms_resnet18_cifar": {},
    "ms_resnet104": {"widths": (16, 32, 64, 64), "size": 64},
    "spikformer_4_384": {"embed_dim": 48, "num_heads": 2},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_equal_bits_in_every_way_to_run_it(name):
    model = settle(create(name, **FAMILIES[name], shortcut_heads=True))
    deployed, x = zoo.deploy(model), pixels(model, 4)
    ways = ways_to_run(deployed, values(model, x))
    ways["uint8"], ways["uint8, onnxruntime"] = deployed(x), run_graph(deployed, x)
    assert that_differ(ways) == []
    assert len(ways["contiguous"].unique()) > 10
    certify(write_graph(deployed))


STEMS = {
    "short_bp_resnet18_imagenet": {"depths": (1, 1, 1, 1), "widths": (16, 16, 16, 16)},
    "short_bp_resnet20": {"depths": (1, 1, 1), "widths": (16, 16, 32)},
    "short_bp_resnet20_slim": {"depths": (1, 1, 1)},
    "sew_resnet18": {"depths": (1, 1, 1, 1), "widths": (16, 16, 16, 16)},
}


def currents(deployed, x, layer):
    """What a spiking layer of the first block is given."""
    found, layer = [], deployed.get_submodule(f"stages.0.0.{layer}")
    handle = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.inference_mode():
        deployed(x)
    handle.remove()
    return found[0]


@pytest.mark.parametrize(("name", "layer"), [*zip(STEMS, ["spike1", "spike2"] * 2, strict=True)])
def test_currents_on_the_grid_are_those_of_the_network(name, layer):
    model = settle(create(name, size=64, **STEMS[name]))
    networks, x = (zoo.deploy(model), zoo.deploy(model, exact=False)), pixels(model, 2)
    on_grid, folded = (currents(network, x, layer) for network in networks)
    assert folded.std() > 0.01
    assert (on_grid - folded).abs().median() < 0.01 * folded.std()


@pytest.mark.parametrize("exact", [True, False])
def test_averages_that_the_border_cuts_off_are_not_supported(exact):
    model = create("short_bp_resnet20", size=28, depths=(1, 1, 1), widths=(8, 8, 8))
    with pytest.raises(zoo.NotExactError, match=r"avg_down from \(7, 7\) pixels; take even sides"):
        zoo.deploy(model, exact=exact)


@pytest.mark.parametrize("name", ["att_ms_resnet18", "gac_ms_resnet18"])
def test_learned_attention_is_folded_and_says_why_it_is_not_exact(name):
    model = create(name, size=64)
    with pytest.raises(zoo.NotExactError, match=r"(attention|gate): multiplies by learned numbers"):
        zoo.deploy(model)
    folded, x = zoo.deploy(model, exact=False), pixels(model, 4)
    with torch.inference_mode():
        expected = model(values(model, x))
        ways = folded(x), run_graph(folded, x), run_graph(folded, values(model, x))
    for logits in ways:
        assert ((logits - expected).abs().amax(1) < 1e-5).sum() >= 3  # a spike may flip


@pytest.mark.parametrize(("reset", "time_steps"), [("zero", 1), ("subtract", 4)])
def test_both_resets_and_a_single_step_are_exact(reset, time_steps):
    neurons = {"reset": reset, "decay": 0.25, "v_threshold": 0.5}
    model = create(time_steps=time_steps, spike_layer=neurons)
    deployed, x = zoo.deploy(model), values(model, pixels(model, 4))
    ways = ways_to_run(deployed, x)
    assert that_differ(ways) == []
    certify(write_graph(deployed))


@pytest.mark.parametrize("time_steps", [1, 3])
def test_rates_are_exact_and_those_of_the_network(time_steps):
    neurons = {"decay": 1.0, "reset": "subtract", "v_threshold": 0.5, "levels": 4}
    model = create(time_steps=time_steps, spike_layer=neurons)
    deployed, x = zoo.deploy(model), values(model, pixels(model, 4))
    ways = ways_to_run(deployed, x)
    assert that_differ(ways) == []
    certify(write_graph(deployed))
    with torch.inference_mode():
        expected, folded = model(x), zoo.deploy(model, exact=False)(x)
    assert ((folded - expected).abs().amax(1) < 1e-5).sum() >= 3  # a level may change


def test_deploying_leaves_the_network_as_it_was():
    model = create(shortcut_heads=True).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    deployed = zoo.deploy(model)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not [name for name, _ in deployed.named_modules() if "shortcut_heads" in name]


@torch.inference_mode()
def test_a_compiled_network_deploys_as_it_is():
    model = create()
    x, compiled = values(model, pixels(model, 4)), torch.compile(model, backend="eager")
    assert torch.equal(zoo.deploy(compiled)(x), zoo.deploy(model)(x))
    assert why_not_exact(compiled) is None


@pytest.mark.slow
def test_a_deployed_network_compiles_as_one_graph_of_the_same_bits():
    model = create(depths=(1, 1), widths=(8, 8), time_steps=2)
    deployed, x = zoo.deploy(model), pixels(model, 4)
    assert torch.equal(torch.compile(deployed, fullgraph=True)(x), deployed(x))


def test_a_compiled_deployed_network_still_refuses_what_is_inexact():
    deployed, x = zoo.deploy(create()), torch.zeros(1, 3, 16, 16)
    compiled = torch.compile(deployed, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), deployed(x))
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(Exception, match="expected exact convolutions, got autocast"),
    ):
        compiled(x)


@torch.inference_mode()
def test_the_grid_moves_a_potential_by_little():
    model = create()
    deployed, x = zoo.deploy(model), values(model, pixels(model, 4))
    folded = zoo.deploy(model, exact=False)
    for network, allowed in ((deployed, 2.0**-16), (folded, 1e-5)):
        raw, ours = model.stem[0](x), network.stem.get_submodule("0")(x)
        assert torch.allclose(raw[0], ours, atol=allowed, rtol=0)


def test_folding_alone_keeps_the_logits_of_images_without_a_flip():
    model = create()
    folded, x = zoo.deploy(model, exact=False), values(model, pixels(model, 16))
    with torch.inference_mode():
        close = (model(x) - folded(x)).abs().amax(1) < 1e-5
    assert close.sum() >= 8


@pytest.mark.parametrize(("levels", "time_steps"), [(1, 3), (4, 1)])
def test_a_runtime_that_counts_by_a_rounded_average_gives_the_same_bits(levels, time_steps):
    """As some make an average times 49 of a sum over 7 x 7 pixels."""
    neurons = {"decay": 1.0, "reset": "subtract", "levels": levels}
    model = awaken(create(size=28, time_steps=time_steps, spike_layer=neurons))
    deployed, x = zoo.deploy(model), pixels(model, 100)
    graph = write_graph(deployed, "uint8")
    certify(graph)
    expected = deployed(x)
    (at,) = [i for i, node in enumerate(graph.graph.node) if node.op_type == "ReduceSum"]
    total = graph.graph.node[at]
    graph.graph.node.insert(at, helper.make_node("Mul", ["average", "pixels"], ["sum"]))
    shape = {"kernel_shape": [7, 7]}
    graph.graph.node.insert(
        at, helper.make_node("AveragePool", [total.input[0]], ["average"], **shape)
    )
    total.input[0] = "sum"
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(49), "pixels"))
    running = session(graph.SerializeToString())
    (logits,) = running.run(["logits"], {"pixel_values": x.numpy()})
    assert torch.equal(torch.from_numpy(logits), expected)


def test_a_float_is_taken_for_its_nearest_pixel():
    model = create()
    deployed, x = zoo.deploy(model), values(model, pixels(model, 4))
    noise = (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 0.5) * 0.9
    nudged = x + noise / torch.tensor([63.0, 62.0, 67.0]).view(1, 3, 1, 1)
    assert torch.equal(deployed(nudged), deployed(x))
    assert torch.equal(run_graph(deployed, nudged), deployed(x))
    far = torch.full((1, 3, 16, 16), 1e6)
    assert torch.equal(deployed(far), deployed(torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"spike_layer": {"decay": 0.75}}, "stem.1: expected a decay that is a power of two"),
        (
            {"in_chans": 1},
            "stem.0: expected as many channels as pretrained_cfg's mean and input_size have, got 1",
        ),
        (
            {"spike_layer": {"decay": 1.0, "reset": "subtract", "levels": 3}},
            "stem.1: expected levels and v_threshold that are powers of two, got 3 and 1.0",
        ),
        ({"spike_layer": Loud}, "zoo.deploy does not support Loud (layer stem.1)"),
        ({"global_pool": "max"}, "zoo.deploy does not support max pooling before"),
    ],
)
def test_networks_that_cannot_be_exact_name_the_layer_and_the_reason(kwargs, message):
    with pytest.raises(zoo.NotExactError, match=re.escape(message)):
        zoo.deploy(create(**kwargs))


def test_rates_pooled_by_ninths_are_refused():
    neurons = {"decay": 1.0, "reset": "subtract", "levels": 4}
    model = create("short_bp_resnet18_imagenet", size=64, spike_layer=neurons)
    with pytest.raises(zoo.NotExactError, match="does not support averages of 9 rates"):
        zoo.deploy(model)


class Standardised(ConvNorm):
    def forward(self, x):
        return super().forward(x - x.mean())


@pytest.mark.parametrize("exact", [True, False])
def test_changed_layers_are_not_supported(exact):
    model = create()
    model.stages[0][0].conv1.__class__ = Standardised
    with pytest.raises(zoo.NotExactError, match="does not support Standardised"):
        zoo.deploy(model, exact=exact)


@pytest.mark.parametrize("exact", [True, False])
def test_a_module_that_is_used_twice_is_not_supported(exact):
    model = create(depths=(2, 1, 1))
    model.set_submodule("stages.0.1", model.get_submodule("stages.0.0"))
    with pytest.raises(zoo.NotExactError, match="a module that is used twice"):
        zoo.deploy(model, exact=exact)
    if exact:
        assert "used twice" in why_not_exact(model)


@pytest.mark.parametrize(("hook", "exact"), [(prune_a_layer, True), (halve_a_layer, False)])
def test_forward_hooks_are_refused(hook, exact):
    model = create()
    hook(model.stages[1][0].conv1.conv)
    with pytest.raises(
        ValueError, match=r"without forward hooks .*got \['stages\.1\.0\.conv1\.conv'\]"
    ):
        zoo.deploy(model, exact)


def test_norms_over_processes_are_folded_as_any_other():
    model = create()
    x = pixels(model, 4)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert torch.equal(zoo.deploy(synchronised)(x), zoo.deploy(model)(x))


def test_a_deployed_network_says_what_its_images_are():
    model = create(size=24)
    deployed = zoo.deploy(model)
    assert deployed.num_classes == 10
    assert resolve_data_config({}, model=deployed) == resolve_data_config({}, model=model)


def test_a_network_that_no_name_built_is_refused():
    with pytest.raises(ValueError, match=r"expected a network of zoo\.create_model, got a ShortBP"):
        zoo.deploy(ShortBPResNet(num_classes=10))


def test_a_grid_that_keeps_little_of_the_classifier_is_refused():
    model = create(num_classes=1)
    model.head.fc.bias.data.fill_(1e4)
    with pytest.raises(zoo.NotExactError, match=r"head: expected a grid that keeps the weights"):
        zoo.deploy(model)


def test_more_time_steps_than_fp32_has_exponents_for_are_refused():
    assert why_not_exact(create(time_steps=79)) is None
    message = "stem.1: expected at most 126 bits behind the point, got 127"
    too_many = create(time_steps=80)
    assert why_not_exact(too_many).startswith(message)
    with pytest.raises(zoo.NotExactError, match=message):
        zoo.deploy(too_many)


def test_a_mean_that_is_no_whole_pixel_is_refused():
    model = create()
    model.pretrained_cfg["mean"] = (0.485, 0.456, 0.406)
    with pytest.raises(zoo.NotExactError, match=r"pretrained_cfg.mean: expected whole numbers"):
        zoo.deploy(model)


@pytest.mark.parametrize(
    ("key", "values"),
    [("mean", (125, 123, 114)), ("mean", (0.5, -0.1, 0.5)), ("std", (63, 62, math.nan))],
)
def test_a_mean_or_std_in_pixel_values_is_refused(key, values):
    model = create()
    model.pretrained_cfg[key] = values
    message = rf"pretrained_cfg\.{key}: expected 0 <=? {key} <= 1, got"
    for exact in (True, False):
        with pytest.raises(zoo.NotExactError, match=message):
            zoo.deploy(model, exact)


def test_what_torch_makes_tensors_of_by_default_changes_nothing():
    model = create()
    x, expected = pixels(model, 4), zoo.deploy(model)
    try:
        torch.set_default_device("meta")
        torch.set_default_dtype(torch.float64)
        deployed = zoo.deploy(model)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(deployed(x), expected(x))


def test_weights_that_are_no_numbers_are_refused():
    model = create()
    model.stages[1][0].conv1.conv.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"expected finite weights, .*1.0.conv1.conv.weight"):
        zoo.deploy(model)


@pytest.mark.parametrize(
    "x", [torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 16, 16, dtype=torch.float64)]
)
def test_another_size_or_type_of_image_is_refused(x):
    with pytest.raises(ValueError, match=re.escape("x: expected ['B', 3, 16, 16] of uint8 or fl")):
        zoo.deploy(create())(x)


@contextmanager
def precision(backend, kept):
    before = backend.fp32_precision
    backend.fp32_precision = kept
    try:
        yield
    finally:
        backend.fp32_precision = before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_bits_of_the_cpu(monkeypatch):
    model = create(widths=(64, 128, 256))
    deployed, x = zoo.deploy(model), values(model, pixels(model, 4))
    expected = deployed(x)
    deployed.cuda()
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    with precision(torch.backends.cuda.matmul, "ieee"):
        assert torch.equal(deployed(x.cuda()).cpu(), expected)


def test_cudnn_is_refused_whose_algorithms_nobody_knows(monkeypatch):
    assert "set torch.backends.cudnn.enabled = False" in inexact_mode("cuda")
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    with precision(torch.backends.cuda.matmul, "tf32"):
        assert "set torch.backends.cuda.matmul.fp32_precision" in inexact_mode("cuda")
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with precision(matmul, "ieee"), precision(cudnn, "tf32"):
        assert "set torch.backends.cudnn.fp32_precision" in inexact_mode("cuda")
    with precision(torch.backends.cuda.matmul, "ieee"):
        assert inexact_mode("cuda") is None


def test_autocast_and_winograd_are_refused():
    deployed, x = zoo.deploy(create()), torch.zeros(1, 3, 16, 16)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match="expected exact convolutions, got autocast"),
    ):
        deployed(x)
    with (
        torch.backends.mkldnn.flags(enabled=False),
        pytest.raises(ValueError, match="got NNPACK's Winograd"),
    ):
        deployed(x)


def test_without_onednn_and_nnpack_the_bits_are_the_same(monkeypatch):
    model = awaken(create())
    deployed, x = zoo.deploy(model), values(model, pixels(model, 40))
    expected = deployed(x)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # as on macOS
    with torch.backends.mkldnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
        assert torch.equal(deployed(x), expected)
    with pytest.raises(ValueError, match=r"call torch.backends.nnpack.set_flags\(False\)"):
        deployed(x)


def test_one_channel_comes_as_torch_on_arm_takes_no_winograd_for():
    cfg = {"input_size": (1, 16, 16), "mean": (78 / 255,), "std": (96 / 255,)}
    model = zoo.create_model("short_bp_resnet20_slim", in_chans=1, pretrained_cfg_overlay=cfg)
    deployed = zoo.deploy(awaken(model))
    convs = [m for m in deployed.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 1]
    seen = []
    for conv in convs:
        conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous()))
    deployed(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))
    assert seen == [False, False]


@pytest.mark.parametrize(("which", "kept"), [("conv", "bf16"), ("matmul", "tf32")])
def test_fewer_bits_of_fp32_are_refused(which, kept):
    deployed, x = zoo.deploy(create()), torch.zeros(1, 3, 16, 16)
    backend = getattr(torch.backends.mkldnn, which)
    told = f'got {kept.upper()}; set torch.backends.mkldnn.{which}.fp32_precision = "ieee"'
    with precision(backend, kept), pytest.raises(ValueError, match=told):
        deployed(x)
    with precision(backend, "ieee"):
        deployed(x)


@pytest.mark.parametrize("classes", [3, 2000])
def test_a_head_of_many_terms_keeps_to_its_bits(classes):
    model = create(time_steps=8, size=64, num_classes=classes)
    draw = torch.Generator().manual_seed(10)
    rows = torch.exp2(torch.rand(classes, 1, generator=draw))
    model.head.fc.weight.data.normal_(generator=draw).mul_(rows)
    certify(write_graph(zoo.deploy(model)))


def test_neurons_may_differ_and_numbers_may_be_close():
    model = create()
    model.stages[1][0].spike1.decay = 0.25
    model.stages[1][0].spike2.v_threshold = 0.5 + 2.0**-22
    model.stages[2][0].spike2.v_threshold = 1 + 2.0**-20
    deployed, x = zoo.deploy(model), pixels(model, 8)
    expected = deployed(x)
    assert torch.equal(run_graph(deployed, x), expected)
    assert torch.equal(run_graph(deployed, values(model, x)), expected)


def test_random_images_are_repeatable():
    model = create()
    images, again = random_images(model, 40), random_images(model, 40)
    assert torch.equal(images.pixels, again.pixels)
    assert images.pixels.shape == (40, 3, 16, 16)
    assert images.source == "random images, seed 0"
    assert torch.equal(images.values, values(model, images.pixels))


def test_layers_keep_their_names():
    deployed = zoo.deploy(create())
    kinds = {name: type(module) for name, module in deployed.named_modules()}
    assert kinds["stem.0"] is PixelConv
    assert kinds["stages.0.0.spike1"] is FoldedLIF
