"""The contract of every registered network."""

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from exact_networks import awaken
from networks import assert_it_sees, awake, create, images
from PIL import Image
from safetensors.torch import save
from torchvision.models.feature_extraction import create_feature_extractor

import zoo
from zoo import hub
from zoo.layers.shortcut_heads import ShortcutHeads

# Parameters at the default number of classes, with where the number stands in public.
PARAMETERS = {
    "sew_resnet18": 11_689_512,  # each sew_resnet: torchvision's resnet of that depth
    "sew_resnet34": 21_797_672,
    "sew_resnet50": 25_557_032,
    "sew_resnet101": 44_549_160,
    "sew_resnet152": 60_192_808,
    "sew_resnet18_cifar": 11_173_962,  # as short_bp_resnet18
    "short_bp_resnet18": 11_173_962,  # 11.17 M: CIFAR ResNet-18, Joint-A-SNN's code
    "short_bp_resnet34": 21_282_122,
    "short_bp_resnet50": 23_520_842,
    "short_bp_resnet101": 42_512_970,
    "short_bp_resnet152": 58_156_618,
    "short_bp_resnet18_imagenet": 11_689_512,  # torchvision's resnet18
    "short_bp_resnet34_imagenet": 21_797_672,  # torchvision's resnet34
    "short_bp_resnet50_imagenet": 25_557_032,  # torchvision's resnet50
    "short_bp_resnet101_imagenet": 44_549_160,  # torchvision's resnet101
    "short_bp_resnet152_imagenet": 60_192_808,  # torchvision's resnet152
    "short_bp_resnet19": 12_569_226,  # 12.57 M: MPBN's resnet19_cifar
    "short_bp_resnet20": 11_247_946,  # 11.25 M: MPBN's resnet20_cifar_modified
    "short_bp_resnet20_slim": 272_474,  # 0.27 M: He et al. 2016, table 6, less 2_752 of shortcuts
    "short_bp_vgg16": 14_724_042,  # pytorch-cifar's VGG16, 14_728_266, less 4_224 biases
    "spikformer_4_384": 9_310_906,  # 9.32 M in the paper's table, less 13_824 biases before norms
    "ms_resnet18": 11_693_736,  # Ariande1/MS-ResNet's code
    "ms_resnet34": 21_801_896,  # the same
    "ms_resnet104": 77_284_264,  # its blocks behind the 7x7 stem of BICLab/Attention-SNN's code
    "ms_resnet18_cifar": 12_502_090,  # 12.5 M: Max-Former's table 5; bollossom/GAC's code
    "ms_resnet18_cifar_2222": 11_173_962,  # 11.2 M: Max-Former's table 5
    "att_ms_resnet18": 11_867_960,  # BICLab/Attention-SNN's code, CSA with c_ratio 8
    "att_ms_resnet34": 22_116_552,  # the same
    "gac_ms_resnet18": 11_824_824,  # 11.82 M: Gated Attention Coding, ImageNet table, T = 4
    "gac_ms_resnet34": 21_932_984,  # 21.93 M: the same
}


# Numerics run on networks that span families, blocks and stems.
SPANNING = [
    "short_bp_resnet20_slim",
    "short_bp_resnet50",
    "short_bp_resnet20",
    "short_bp_resnet18_imagenet",
    "short_bp_vgg16",
    "sew_resnet18",
    "spikformer_4_384",
    "ms_resnet18_cifar_2222",
    "att_ms_resnet18",
    "gac_ms_resnet18",
]


@pytest.fixture(params=SPANNING)
def name(request):
    return request.param


def test_every_network_has_its_published_number_of_parameters():
    counts = {}
    for name in zoo.list_models():
        with torch.device("meta"):
            model = zoo.create_model(name)
        counts[name] = sum(parameter.numel() for parameter in model.parameters())
    assert counts == PARAMETERS


def test_timm_leaves_the_classifier_and_no_shortcut_head_out_of_the_parameters():
    model = zoo.create_model("short_bp_resnet20_slim", shortcut_heads=True, num_classes=7)
    left = {id(p) for p in timm.models.model_parameters(model, exclude_head=True)}
    named = model.named_parameters()
    assert [name for name, p in named if id(p) not in left] == ["head.fc.weight", "head.fc.bias"]


def test_no_name_shadows_one_of_timm():
    code = "import timm; print(*timm.list_models(), *timm.list_modules())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    theirs = set(run.stdout.split())  # in a process that never imported zoo
    assert len(theirs) > 1000
    assert not theirs & {*zoo.list_models(), *zoo.models.__all__}


def test_forward_is_the_head_of_the_features(name):
    model = awake(name)
    x = images(model)
    assert_it_sees(model, x)
    with torch.no_grad():
        features = model.forward_features(x)
        assert torch.equal(model(x), model.forward_head(features))
        assert model(x).shape == (2, model.num_classes)
    assert features.shape[:2] == (2, model.num_features)
    counts = features * model.time_steps  # of spikes; a shortcut may add some to some
    assert torch.equal(counts, counts.round())
    assert counts.min() >= 0


def test_training_with_heads_gives_every_parameter_a_gradient(name):
    # Awake, for what starts at zero holds all behind it back.
    model = awaken(create(name, shortcut_heads=True)).train()
    logits, side_logits = model(images(model))
    heads = len(model.stages) - 1
    assert side_logits.shape == (heads, 2, model.num_classes)
    (logits.square().sum() + side_logits.square().sum()).backward()
    unreached = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@pytest.mark.parametrize("head_stages", [(), (0,), (1, 2)])
def test_heads_are_on_the_stages_asked_for(head_stages):
    model = create("short_bp_resnet20_slim", shortcut_heads=True, head_stages=head_stages).train()
    outputs = model(images(model))
    widths = [head.in_features for head in model.shortcut_heads.heads]
    assert widths == [(16, 32, 64)[i] for i in head_stages]
    assert isinstance(outputs, tuple) == bool(head_stages)


@pytest.mark.parametrize("head_stages", [(3,), (1, 0), 1])
def test_unknown_head_stages_are_rejected(head_stages):
    with pytest.raises(
        ValueError, match="head_stages: expected rising numbers of stages from 0 to 2"
    ):
        create("short_bp_resnet20_slim", head_stages=head_stages)


def test_a_head_is_pooling_a_linear_layer_and_a_mean_over_time():
    heads = ShortcutHeads((8, 16), num_classes=3)
    exits = [torch.rand(4, 2, 8, 6, 6), torch.rand(4, 2, 16, 3, 3)]
    side_logits = heads(exits)
    assert side_logits.shape == (2, 2, 3)
    for head, x, logits in zip(heads.heads, exits, side_logits, strict=True):
        each_step = torch.stack([head(x_t.mean((2, 3))) for x_t in x])
        torch.testing.assert_close(logits, each_step.mean(0))


def test_strip_leaves_logits_and_features_bit_equal(name):
    model = awake(name, shortcut_heads=True)
    x = images(model)
    assert_it_sees(model, x)
    stripped = zoo.strip_heads(torch.compile(model))  # of which it takes the network inside
    with torch.no_grad():
        assert torch.equal(stripped(x), model(x))
        assert torch.equal(stripped.forward_features(x), model.forward_features(x))
    left = {key for key in model.state_dict() if not key.startswith("shortcut_heads.")}
    assert stripped.state_dict().keys() == left
    assert model.shortcut_heads is not None
    assert not isinstance(stripped.train()(x), tuple)


def test_a_saved_network_loads_and_gives_one_image_the_same_bits(name, tmp_path):
    with torch.device("meta"):
        stages = len(zoo.create_model(name).stages)
    model = awake(name, depths=(2, *[1] * (stages - 1)))
    assert_it_sees(model, images(model))
    hub.save_pretrained(model, tmp_path)
    loaded = zoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(loaded(images(model, 1)), model(images(model, 1)))


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("short_bp_resnet18", "bottleneck"),
        ("sew_resnet18_cifar", "bottleneck"),
        ("ms_resnet18_cifar", "attention"),
    ],
)
def test_a_network_of_other_blocks_is_saved_with_their_name(name, block, tmp_path):
    model = awake(name, block=block, depths=(1, 1), widths=(8, 16))
    hub.save_pretrained(model, tmp_path)
    assert hub.read_config(tmp_path)["model_args"]["block"] == block
    loaded = zoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = images(model)
    assert_it_sees(model, x)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_a_still_image_equals_the_same_image_at_every_time_step(name):
    # In fp64 no sum that is added up in another order carries a potential over its threshold.
    model = awake(name).double()
    x = images(model).double()
    assert_it_sees(model, x)
    with torch.no_grad():
        torch.testing.assert_close(model(x.expand(2, *x.shape)), model(x))


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_network_takes_images_of_odd_sizes(name):
    with torch.device("meta"):
        model = create(name, shortcut_heads=True)
        logits, _ = model(torch.zeros(1, 3, 27, 225))
    assert logits.shape == (1, model.num_classes)


def test_features_only_gives_the_stages(name):
    model = create(name, features_only=True).eval()
    x = images(model)
    with torch.no_grad():
        features = model(x)
    assert [f.shape[1] for f in features] == model.feature_info.channels()
    assert [x.shape[-1] // f.shape[-1] for f in features] == model.feature_info.reduction()
    create(name, features_only=True, global_pool="")


@pytest.mark.parametrize("name", ["short_bp_resnet20_slim", "ms_resnet18"])
def test_features_are_the_means_over_time_of_what_stages_give_off(name):
    model = awake(name)
    x, outputs = images(model), []
    assert_it_sees(model, x)
    for stage in model.stages:
        stage.register_forward_hook(lambda *args: outputs.append(args[2]))
    with torch.no_grad():
        last, features = model.forward_intermediates(x)
        assert all(map(torch.equal, features, [output.mean(0) for output in outputs]))
        assert torch.equal(last, model.forward_features(x))
        behind = model.forward_intermediates(x, norm=True, intermediates_only=True)
    assert torch.equal(behind[-1], last)
    assert any(len(output.unique(dim=0)) > 1 for output in outputs), "steps that differ"


def test_the_logits_of_steps_have_those_of_the_image_as_their_mean(name):
    model = awake(name, shortcut_heads=True)
    x = images(model)
    assert_it_sees(model, x)
    with torch.no_grad():
        steps, logits = model.forward_steps(x), model(x)
    assert steps.shape == (2, 2, model.num_classes)
    torch.testing.assert_close(steps.mean(0), logits)


def test_the_logits_of_a_step_depend_on_no_later_one():
    model = awake("short_bp_resnet20_slim")
    frames = torch.randn(3, 2, 3, 16, 16)
    other = torch.cat([frames[:2], torch.randn(1, 2, 3, 16, 16)])
    with torch.no_grad():
        steps, others = model.forward_steps(frames), model.forward_steps(other)
    assert torch.equal(steps[:2], others[:2])
    assert not torch.equal(steps[2], others[2])


def test_pixels_in_place_of_floats_are_answered_by_the_call_to_type():
    model = awake("short_bp_resnet20_slim")
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with pytest.raises(
        TypeError, match=r"got torch\.uint8; of pixels call ([^;]*) after"
    ) as raised:
        model(pixels)
    call = re.search(r"zoo\.data\.normalise\(.*\)\)", str(raised.value)).group()
    assert model(eval(call, {"zoo": zoo, "x": pixels})).shape == (2, 10)

    image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    with pytest.raises(TypeError, match="got Image; of a PIL image call ") as raised:
        model(image)
    line = str(raised.value).partition(" image call ")[2]
    call, _, transform = line.partition(" with transform = ")
    known = {"timm": timm, "model": model, "image": image}
    assert model(eval(call, known | {"transform": eval(transform, known)})).shape == (1, 10)


@pytest.mark.parametrize("heads", [False, True])
def test_torchvision_extracts_features_with_time(name, heads):
    model = awake(name, shortcut_heads=heads)
    x, outputs = images(model), []
    extract = create_feature_extractor(model, {"stages.1": "middle"}, suppress_diff_warning=True)
    with torch.no_grad():
        found = extract.eval()(x)["middle"]
        model.stages[1].register_forward_hook(lambda *args: outputs.append(args[2]))
        model(x)
    assert found.any()
    assert torch.equal(found, outputs[0])


def test_pruning_leaves_the_features_it_keeps():
    x = torch.randn(2, 3, 16, 16)
    model = awake("short_bp_resnet20_slim", shortcut_heads=True)
    assert_it_sees(model, x)
    with torch.no_grad():
        expected = model.forward_intermediates(x, indices=[0, 1], intermediates_only=True)
        taken = model.prune_intermediate_layers([0, 1])
        features = model.forward_intermediates(x, indices=taken, intermediates_only=True)
        assert model(x).shape == (2, 32, 8, 8)
    assert all(torch.equal(*pair) for pair in zip(features, expected, strict=True))
    assert len(model.stages) == 2


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_gradient_checkpointing_runs_blocks_again_and_changes_nothing(memory):
    results, calls = [], []
    for checkpointing in (False, True):
        model = create("short_bp_resnet20_slim", shortcut_heads=True, memory=memory).train()
        model.set_grad_checkpointing(checkpointing)
        model.stages[1][0].register_forward_pre_hook(lambda *_: calls.append(1))
        statistics = [id(buffer) for buffer in model.buffers()]
        logits, side_logits = model(images(model))
        (logits.square().sum() + side_logits.square().sum()).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append([*gradients, *model.buffers()])
        assert [id(buffer) for buffer in model.buffers()] == statistics
    assert len(calls) == 1 + 2
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_norms_begin_with_the_gain_and_the_last_of_a_block_with_none():
    model = create("short_bp_resnet18", norm_gain=0.5, zero_init_last=True)
    gains = {
        name: norm.weight.unique().tolist()
        for name, norm in model.named_modules()
        if isinstance(norm, torch.nn.BatchNorm2d)
    }
    assert len(gains) == 20
    assert {name: [0.0 if "conv2" in name else 0.5] for name in gains} == gains


@pytest.mark.parametrize(("time_steps", "levels"), [(1, 4), (4, 1)])
def test_a_last_bias_keeps_a_block_the_identity_under_small_currents(time_steps, levels):
    spike_layer = dict(decay=1.0, reset="subtract", levels=levels)
    model_args = dict(zero_init_last=True, time_steps=time_steps, spike_layer=spike_layer)
    draw = torch.Generator().manual_seed(0)
    rates = torch.randint(0, levels + 1, (time_steps, 2, 64, 8, 8), generator=draw) / levels
    changed = {}
    for last_bias in (0.0, 0.125):
        torch.manual_seed(0)
        model = zoo.create_model("short_bp_resnet18", last_bias=last_bias, **model_args)
        block = model.stages[0][0].eval()
        assert torch.equal(block(rates), rates)
        torch.nn.init.normal_(block.conv2.norm.weight, std=0.01)
        changed[last_bias] = (block(rates) != rates).float().mean().item()
    assert changed[0.0] > 0.1
    assert changed[0.125] == 0


@pytest.mark.parametrize("widths", [(16, 32, 64), (512, 16, 16)])  # the loop, and a kernel
def test_gradients_come_image_by_image(widths):
    model = create("short_bp_resnet20_slim", depths=(1, 1, 1), widths=widths).eval()
    parameters, x = dict(model.named_parameters()), images(model, 3)

    def loss(parameters, image):
        return torch.func.functional_call(model, parameters, (image[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for name, gradients in found.items():
        for image, gradient in zip(x, gradients, strict=True):
            (alone,) = torch.autograd.grad(loss(parameters, image), parameters[name])
            torch.testing.assert_close(gradient, alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("feature_cls", ["hook", "fx"])
def test_other_feature_extractors_are_rejected(feature_cls):
    with pytest.raises(ValueError, match=f"feature_cls: expected 'getter', got '{feature_cls}'"):
        create("short_bp_resnet20_slim", features_only=True, feature_cls=feature_cls)


def test_one_value_per_channel_raises_and_leaves_no_statistics():
    model = zoo.create_model("short_bp_vgg16", time_steps=1, depths=(2, 1), widths=(8, 8)).train()
    with pytest.raises(ValueError, match="more than 1 value per channel when training"):
        model(torch.randn(1, 3, 2, 2))
    assert all(buffer.isfinite().all() for buffer in model.buffers())


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (pickle.dumps({}), "w.pth", r"expected a \.safetensors file, got '.*w\.pth'"),
        (bytes(100), "w.safetensors", "arguments that its weights fit, got .*header"),
        (
            save({"w": torch.zeros(2)}),
            "w.safetensors",
            "_slim: expected arguments that its weights fit, got .'checkpoint_path'.: Error",
        ),
    ],
)
def test_a_file_of_something_else_than_its_weights_is_refused(content, name, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        zoo.create_model("short_bp_resnet20_slim", checkpoint_path=tmp_path / name)


@pytest.mark.parametrize("by", ["a file", "a link"])
def test_weights_beside_their_config_bring_their_neurons(by, tmp_path):
    folder = hub.find_pretrained("short_bp_resnet20_slim.cifar10")
    place, x = folder / hub.WEIGHTS, torch.randn(2, 3, 32, 32)
    if by == "a link":
        place = tmp_path / "w.safetensors"
        place.symlink_to(folder / hub.WEIGHTS)
    model = zoo.create_model("short_bp_resnet20_slim", checkpoint_path=place).eval()
    with torch.inference_mode():
        expected = zoo.create_model("short_bp_resnet20_slim", pretrained=True).eval()(x)
        assert torch.equal(model(x), expected)
    with pytest.raises(FileNotFoundError, match="checkpoint_path: expected a file of weights, fou"):
        zoo.create_model("short_bp_resnet20_slim", checkpoint_path=folder / "none.safetensors")


def test_gradient_checkpointing_allows_several_backward_passes():
    model = create("short_bp_resnet20_slim").train()
    model.set_grad_checkpointing()
    loss = model(images(model)).square().sum()
    before = [buffer.clone() for buffer in model.buffers()]
    for _ in range(2):
        loss.backward(retain_graph=True)
    assert all(torch.equal(*pair) for pair in zip(before, model.buffers(), strict=True))


def test_a_custom_head_gets_the_features():
    model = awake("short_bp_resnet20_slim")
    model.head = torch.nn.Identity()
    x = images(model)
    with torch.inference_mode():
        assert torch.equal(model(x), model.forward_features(x))
        assert model(x).any()


def test_drop_rate_drops_the_features():
    model = create("short_bp_resnet20_slim", drop_rate=1.0).train()
    assert torch.equal(model(images(model)), model.head.fc.bias.expand(2, -1))


def test_a_network_without_classes_trains_without_heads():
    model = create("short_bp_resnet20_slim", shortcut_heads=True, num_classes=0).train()
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 64)


def test_time_steps_are_read_only():
    model = create("short_bp_resnet20_slim")
    with pytest.raises(AttributeError):
        model.time_steps = 6


def test_reset_classifier_renews_the_heads_too():
    model = create("short_bp_resnet20_slim", shortcut_heads=True).train()
    model.reset_classifier(7)
    logits, side_logits = model(images(model))
    assert logits.shape == (2, 7)
    assert side_logits.shape == (2, 2, 7)


def test_spike_layer_as_a_mapping_equals_the_layer_itself():
    x = torch.randn(2, 3, 32, 32)
    constants = {"decay": 0.25, "v_threshold": 0.5}

    def layer():
        return zoo.LIF(**constants)

    models = [awake("short_bp_resnet20_slim", spike_layer=s) for s in (layer, constants)]
    assert_it_sees(models[0], x)
    with torch.no_grad():
        assert torch.equal(models[0](x), models[1](x))


def test_numpys_whole_numbers_are_whole_numbers(tmp_path):
    size = dict(num_classes=np.int64(3), in_chans=np.int32(1), time_steps=np.int64(2))
    size |= dict(widths=[*np.array([8, 8, 8])], drop_rate=np.float64(0.5), avg_down=np.True_)
    hub.save_pretrained(zoo.create_model("short_bp_resnet20_slim", **size), tmp_path)
    model = zoo.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert (model.num_classes, model.in_chans, model.time_steps) == (3, 1, 2)


def test_numpys_arrays_inside_of_arguments_are_saved(tmp_path):
    model = zoo.create_model(
        "short_bp_resnet20_slim",
        widths=np.array([8, 8, 8]),
        spike_layer={"decay": np.float32(0.25)},
        pretrained_cfg_overlay={"input_size": tuple(np.array([3, 16, 16]))},
    )
    names = np.array(list("abcdefghij"))
    hub.save_pretrained(model, tmp_path, label_names=names)
    config = hub.read_config(tmp_path)
    assert config["label_names"] == [*names]
    assert config["pretrained_cfg"]["input_size"] == [3, 16, 16]
    assert zoo.create_model(f"local-dir:{tmp_path}", pretrained=True).num_features == 8


def test_an_unknown_model_names_the_closest():
    with pytest.raises(ValueError, match="unknown model 'short_bp_resnet81', closest names: "):
        zoo.create_model("short_bp_resnet81")


def test_pretrained_raises_where_no_weights_exist():
    with pytest.raises(ValueError, match="short_bp_resnet34: expected pretrained weights, found "):
        zoo.create_model("short_bp_resnet34", pretrained=True)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("short_bp_resnet18", {"block": "wide"}, r"block: expected one of \['basic', .*'wide'"),
        ("short_bp_resnet18", {"stem": "conv5x5"}, "stem: expected one of"),
        ("short_bp_resnet18", {"memory": "low"}, "memory: expected one of .*, got 'low'"),
        ("short_bp_resnet18", {"norm_gain": 0}, "norm_gain: expected a number > 0"),
        ("short_bp_resnet18", {"depths": 3}, "depths: expected a whole number >= 1 for each"),
        ("short_bp_resnet18", {"spike_layer": 0.5}, "spike_layer: expected LIF, .*, got 0.5"),
        ("short_bp_resnet18", {"spike_layer": zoo.LIF(0.5)}, "spike_layer: expected LIF, .*, got"),
        ("sew_resnet18", {"widths": (8, 0, 8, 8)}, "widths: expected a whole number >= 1 for each"),
        ("sew_resnet18", {"depths": (2, 1, 1)}, "depths and widths: expected as many of each"),
        ("sew_resnet18", {"zero_init_last": "false"}, "zero_init_last: expected True or False"),
        ("ms_resnet18", {"stem_width": 0}, "stem_width: expected a whole number >= 1, got 0"),
        ("ms_resnet18", {"in_chans": 0}, "in_chans: expected a whole number >= 1, got 0"),
        ("ms_resnet18", {"time_steps": 2.0}, "time_steps: expected a whole number >= 1, got 2.0"),
        ("ms_resnet18", {"num_classes": -1}, "num_classes: expected a whole number >= 0, got -1"),
        ("spikformer_4_384", {"depths": ()}, "depths: expected a whole number >= 1 for each"),
        ("spikformer_4_384", {"mlp_ratio": 0}, "mlp_ratio: expected a number > 0"),
    ],
)
def test_an_argument_out_of_range_is_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model(name, **arguments)


def test_an_unknown_argument_is_named():
    with pytest.raises(TypeError, match="not_an_argument"):
        create("short_bp_resnet18", not_an_argument=1)


def test_an_image_without_a_batch_is_named():
    with pytest.raises(ValueError, match=r"x: expected \[B, C, H, W\] or \[T, B, C, H, W\]"):
        create("short_bp_resnet20_slim")(torch.zeros(3, 32, 32))
