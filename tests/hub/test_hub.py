"""Pretrained folders: what loads, by which name, and what is refused."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from functools import partial

import pytest
import timm
import torch
from hub_server import HubServer
from safetensors.torch import load_file, save_file

import zoo
from zoo import hub
from zoo.hub.run_folder import checkpoints
from zoo.models.short_bp_resnet import ShortBPResNet


@pytest.fixture
def folder(run, tmp_path):
    """A copy of a trained checkpoint without its hashes, to be harmed."""
    folder = shutil.copytree(checkpoints(run)[-1], tmp_path / "short_bp_resnet20_slim.digits")
    (folder / "sha256.json").unlink()
    return folder


def load(folder, **kwargs):
    return zoo.create_model(f"local-dir:{folder}", pretrained=True, **kwargs)


def logits(model) -> torch.Tensor:
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model.eval()(x)


def test_a_name_a_folder_and_a_repository_give_equal_bits(folder, tmp_path, monkeypatch):
    expected = logits(load(folder))
    monkeypatch.setenv("SHORT_BP_ZOO_WEIGHTS", str(folder.parent))
    for name in ("short_bp_resnet20_slim", "short_bp_resnet20_slim.digits"):
        assert torch.equal(logits(zoo.create_model(name, pretrained=True)), expected)
    assert "short_bp_resnet20_slim.digits" in zoo.list_models(pretrained=True)

    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    torch.save(expected, tmp_path / "expected.pt")
    code = """
import sys, timm, torch, zoo
expected = torch.load(sys.argv[1], weights_only=True)
x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
for create in (zoo.create_model, timm.create_model):
    for name in ("hf-hub:org/slim", f"hf-hub:org/slim@{sys.argv[2]}"):
        with torch.inference_mode():
            assert torch.equal(create(name, pretrained=True).eval()(x), expected)
"""
    with HubServer() as hub:
        hub.create_repo("org/slim", files)
        sha = hub.repos["org/slim"].branches["main"]
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "expected.pt"), sha],
            env=hub.env(tmp_path / "home"),
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        fetched = {request.path.rpartition("/")[2] for request in hub.requests}
    assert "trainer.pt" not in fetched


def test_weights_with_heads_load_without_and_the_reverse(folder):
    bare = load(folder, shortcut_heads=False)
    assert torch.equal(logits(bare), logits(load(folder)))

    hub.save_pretrained(bare, folder)
    regrown = load(folder, shortcut_heads=True)
    assert torch.equal(logits(regrown), logits(bare))
    assert regrown.train()(torch.randn(2, 1, 8, 8))[1].shape == (2, 2, 10)


def test_without_pretrained_a_folder_gives_the_network_and_random_weights(folder):
    (folder / "model.safetensors").unlink()
    model = zoo.create_model(f"local-dir:{folder}")
    assert model.time_steps == 2


@pytest.mark.parametrize("constant", ["time_steps", "decay"])
def test_weights_without_a_neuron_constant_are_refused(folder, constant):
    config = json.loads((folder / "config.json").read_text())
    for section in (config["model_args"], config["model_args"]["spike_layer"]):
        section.pop(constant, None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=f"lacks the neuron constants .*{constant}.*another network"
    ):
        load(folder)


def test_weights_that_lack_a_tensor_are_refused_for_any_number_of_classes(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["stages.1.0.conv1.conv.weight"]
    save_file(weights, folder / "model.safetensors")
    for kwargs in ({}, {"num_classes": 7}):
        with pytest.raises(ValueError, match=r"1 less \['stages\.1\.0\.conv1\.conv\.weight"):
            load(folder, **kwargs)


def test_weights_with_heads_are_tuned_to_other_classes(folder):
    model = load(folder, num_classes=7)
    logits, side_logits = model.train()(torch.randn(2, 1, 8, 8))
    assert logits.shape == (2, 7)
    assert side_logits.shape == (2, 2, 7)


def test_weights_of_another_width_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["model_args"]["widths"] = [8, 16, 32]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="expected the weights of its config"):
        load(folder)


def test_what_a_mapping_of_constants_leaves_out_is_as_it_was_trained(folder):
    config = json.loads((folder / "config.json").read_text())
    trained = config["model_args"]["spike_layer"] | {"v_threshold": 0.75, "decay": 0.25}
    changed(folder, model_args=config["model_args"] | {"spike_layer": trained})
    model = load(folder, spike_layer={"surrogate": "arctan"})
    assert hub.neuron_constants(model) == trained | {"surrogate": "arctan"}
    by_timm = timm.create_model(
        f"local-dir:{folder}", pretrained=True, spike_layer={"surrogate": "arctan"}
    )
    assert hub.neuron_constants(by_timm) == hub.neuron_constants(model)
    whole = load(folder, spike_layer=zoo.LIF)  # what is no mapping leaves nothing out
    assert hub.neuron_constants(whole) == zoo.LIF().constants()


@pytest.mark.parametrize("others", [{"num_classes": 7}, {"features_only": True}, {}])
def test_weights_of_a_deeper_network_are_refused_whatever_its_classifier(folder, others):
    blamed = (
        r"arguments that its weights fit, got .*'depths'.*: (Error|weights: expected the tensors)"
    )
    with pytest.raises(ValueError, match=blamed):
        load(folder, depths=(1, 1, 1), **others)


def test_heads_of_other_stages_keep_their_own_start(tmp_path):
    widths = {"widths": (16, 16, 16), "shortcut_heads": True}
    slim = zoo.create_model("short_bp_resnet20_slim", head_stages=(0, 1), **widths)
    hub.save_pretrained(slim, tmp_path)
    saved = slim.shortcut_heads.state_dict()
    same = load(tmp_path).shortcut_heads.state_dict()
    assert all(torch.equal(*pair) for pair in zip(same.values(), saved.values(), strict=True))
    moved = load(tmp_path, head_stages=(1, 2)).shortcut_heads.state_dict()
    assert not torch.equal(moved["heads.0.weight"], saved["heads.0.weight"])
    assert moved.keys() == saved.keys()


def test_a_compiled_network_is_saved_under_the_names_of_its_own(tmp_path):
    slim = zoo.create_model("short_bp_resnet20_slim").eval()
    hub.save_pretrained(torch.compile(slim), tmp_path)
    assert all(
        torch.equal(*pair)
        for pair in zip(
            load(tmp_path).state_dict().values(), slim.state_dict().values(), strict=True
        )
    )


def test_frozen_norms_are_saved_and_deployed_as_what_they_were(tmp_path):
    slim = zoo.create_model("short_bp_resnet20_slim", pretrained=True).eval()
    timm.utils.freeze(slim, ["stem", "stages.0"])
    hub.save_pretrained(slim, tmp_path)
    # Both kinds of norms round otherwise: a spike may flip, but none of these images has one.
    x = torch.randn(2, 3, 32, 32, generator=torch.manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(load(tmp_path).eval()(x), slim(x))
        assert torch.equal(zoo.deploy(load(tmp_path))(x), zoo.deploy(slim)(x))


def pruned() -> torch.nn.Module:
    model = zoo.create_model("short_bp_resnet20_slim")
    model.prune_intermediate_layers([1])
    return model


@pytest.mark.parametrize(
    ("make", "extra", "message"),
    [
        (pruned, {}, "differ from a network of its name and arguments"),
        (lambda: torch.nn.Linear(1, 1), {}, "expected a network of zoo.create_model, got a Linear"),
        (zoo.create_model, {"label_names": {0: "a"}}, "expected 10 label_names"),
        (zoo.create_model, {"label_names": ["a", "b"]}, "expected 10 label_names"),
    ],
)
def test_what_would_not_load_is_not_saved(folder, make, extra, message):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = make("short_bp_resnet20_slim") if make is zoo.create_model else make()
    with pytest.raises(ValueError, match=message):
        hub.save_pretrained(model, folder, **extra)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(ValueError, match=message):
        hub.save_pretrained(model, folder / "new", **extra)
    assert not (folder / "new").exists()


def test_a_folder_with_hashes_is_not_written_over(run):
    folder = checkpoints(run)[-1]
    with pytest.raises(ValueError, match=r"has a sha256\.json: it is a run"):
        hub.save_pretrained(load(folder), folder)
    load(folder)


def pruned_of_its_last_neuron():
    model = zoo.create_model("ms_resnet18_cifar_2222")
    model.prune_intermediate_layers([3], prune_norm=True, prune_head=False)
    return model


@pytest.mark.parametrize(
    ("made", "layer"),
    [(pruned_of_its_last_neuron, "last_spike")],
)
def test_a_network_that_another_would_be_loaded_for_is_refused(made, layer, tmp_path):
    with pytest.raises(ValueError, match=rf"\['{layer}'\] and 0 more differ from a network"):
        hub.save_pretrained(made(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_network_that_no_name_built_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a network of zoo\.create_model, got a ShortBP"):
        hub.save_pretrained(ShortBPResNet(), tmp_path)


def test_a_run_is_not_written_over(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"has a log\.jsonl: it is a run"):
        hub.save_pretrained(load(folder), folder)
    assert (folder / "config.json").read_bytes() == before


def test_weights_are_listed_by_their_tags_too(folder, monkeypatch):
    monkeypatch.setenv("SHORT_BP_ZOO_WEIGHTS", str(folder.parent))
    for wildcard in ("*.digits", "*slim*", "short_bp_resnet20_slim"):
        assert "short_bp_resnet20_slim.digits" in zoo.list_models(wildcard, pretrained=True)
    assert zoo.list_models("*.imagenet", pretrained=True) == []
    several = zoo.list_models(["*vgg*", "*slim*"], pretrained=True)
    assert "short_bp_resnet20_slim.digits" in several
    for excluded in ("*slim*", ["*vgg*", "*.digits"]):
        left = zoo.list_models("*", pretrained=True, exclude_filters=excluded)
        assert "short_bp_resnet20_slim.digits" not in left


def test_names_are_left_out_as_by_timm():
    every, left = zoo.list_models("short*"), zoo.list_models("short*", exclude_filters="*imagenet")
    assert left
    assert left == [name for name in every if not name.endswith("imagenet")] != every


def test_a_folder_of_another_zoo_is_not_listed(folder, monkeypatch):
    shutil.copytree(folder, folder.parent / "resnet50.a1_in1k")
    monkeypatch.setenv("SHORT_BP_ZOO_WEIGHTS", str(folder.parent))
    for filter in ("", "*"):
        assert "resnet50.a1_in1k" not in zoo.list_models(filter, pretrained=True)


def test_classes_keep_their_names_when_a_network_is_saved_again(tmp_path):
    name = "short_bp_resnet20_slim"
    hub.save_pretrained(zoo.create_model(name, pretrained=True), tmp_path)
    assert hub.read_config(tmp_path)["label_names"][3] == "cat"
    hub.save_pretrained(zoo.create_model(name, pretrained=True, num_classes=5), tmp_path)
    assert "label_names" not in hub.read_config(tmp_path)


def test_a_new_classifier_has_nothing_of_the_old_ones_classes():
    name = "short_bp_resnet20_slim"
    model = zoo.create_model(name, pretrained=True)
    assert model.pretrained_cfg["label_names"][3] == "cat"
    assert model.pretrained_cfg["tag"] == "cifar10"
    model.reset_classifier(10)
    other = zoo.create_model(name, pretrained=True, num_classes=5)
    for renewed in (model, other):
        assert not {"label_names", "tag"} & renewed.pretrained_cfg.keys()
    zoo.create_model(name, pretrained=True, features_only=True)


def test_weights_of_a_shallower_network_are_refused_whatever_the_classifier(folder):
    blamed = r"fit, got .*'depths'.*: weights: expected the tensors .* got \d+ less \['stages"
    for others in ({"num_classes": 7}, {"features_only": True}, {}):
        with pytest.raises(ValueError, match=blamed) as raised:
            load(folder, depths=(4, 3, 3), **others)
        assert len(str(raised.value)) < 1000


def test_names_given_to_new_classes_are_kept(tmp_path):
    named = {"tag": "flowers", "label_names": list("abcdefg")}
    model = zoo.create_model(
        "short_bp_resnet20_slim", pretrained=True, num_classes=7, pretrained_cfg_overlay=named
    )
    hub.save_pretrained(model, tmp_path)
    found = hub.read_config(tmp_path)
    assert found["label_names"] == named["label_names"]
    assert found["pretrained_cfg"]["tag"] == "flowers"


def test_a_network_trained_elsewhere_is_not_called_untrained(tmp_path):
    model = zoo.create_model("short_bp_resnet20_slim")
    for given, tag in (({}, ""), ({"pretrained_cfg": {"tag": "mine"}}, "mine")):
        hub.save_pretrained(model, tmp_path, **given)
        assert load(tmp_path).pretrained_cfg["tag"] == tag


def test_weights_for_colours_become_weights_for_grey(tmp_path):
    cfg = {"mean": [120 / 255], "std": [64 / 255]}
    grey = zoo.create_model(
        "short_bp_resnet20_slim", pretrained=True, in_chans=1, pretrained_cfg_overlay=cfg
    )
    hub.save_pretrained(grey, tmp_path)
    x = torch.randint(256, (2, 1, 32, 32), dtype=torch.uint8)
    assert tuple(load(tmp_path).pretrained_cfg["input_size"]) == (1, 32, 32)
    assert torch.equal(zoo.deploy(load(tmp_path))(x), zoo.deploy(grey)(x))


def test_weights_for_colours_become_weights_for_smaller_grey_images_and_back(tmp_path):
    cfg = {"mean": [120 / 255], "std": [64 / 255], "input_size": (1, 28, 28)}
    grey = zoo.create_model(
        "short_bp_resnet20_slim", pretrained=True, in_chans=1, pretrained_cfg_overlay=cfg
    )
    assert grey.pretrained_cfg["input_size"] == (1, 28, 28)
    hub.save_pretrained(grey, tmp_path)
    cfg = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": (3, 40, 40)}
    colours = load(tmp_path, in_chans=3, pretrained_cfg_overlay=cfg)
    assert tuple(colours.pretrained_cfg["input_size"]) == (3, 40, 40)


def test_notes_on_the_training_of_the_weights_before_are_not_kept(tmp_path):
    model = zoo.create_model("short_bp_resnet18", pretrained=True)
    assert model.pretrained_cfg["notes"]
    for notes in ([], ["Ten hours on a bicycle."]):
        hub.save_pretrained(model, tmp_path, notes, pretrained_cfg={"tag": "mine"})
        found = hub.read_config(tmp_path)["pretrained_cfg"]
        assert (found["notes"], found["tag"]) == (notes, "mine")


def test_weights_that_nobody_licensed_have_no_licence(tmp_path):
    hub.save_pretrained(zoo.create_model("short_bp_resnet20_slim"), tmp_path)
    assert "license" not in hub.read_config(tmp_path)["pretrained_cfg"]


def test_the_tag_of_no_weights_is_no_weights():
    assert zoo.create_model("short_bp_resnet20_slim.untrained").time_steps == 4
    with pytest.raises(ValueError, match=r"\.untrained: expected pretrained weights, found none"):
        zoo.create_model("short_bp_resnet20_slim.untrained", pretrained=True)


def test_neurons_that_constants_would_not_bring_back_are_not_saved(tmp_path):
    class Shifted(zoo.LIF):
        def forward(self, x):
            return super().forward(x + 0.1)

    model = zoo.create_model("short_bp_resnet20_slim", spike_layer=Shifted)
    with pytest.raises(ValueError, match=r"cannot save LIF subclasses .'Shifted'"):
        hub.save_pretrained(model, tmp_path)
    assert not any(tmp_path.iterdir())


def of_two_decays():
    model = zoo.create_model("short_bp_resnet20_slim")
    model.stages[1][0].spike1.decay = 0.25
    return model


def without_neurons():
    return zoo.create_model("short_bp_resnet20_slim", spike_layer=torch.nn.ReLU)


@pytest.mark.parametrize(
    ("made", "found"),
    [(of_two_decays, "19 LIF layers with 2 sets"), (without_neurons, "0 LIF layers with 0 sets")],
)
def test_neurons_that_do_not_share_their_constants_are_not_saved(made, found, tmp_path):
    with pytest.raises(ValueError, match=f"that share their constants, got {found} of constants"):
        hub.save_pretrained(made(), tmp_path)
    assert not any(tmp_path.iterdir())


def test_timms_scripts_load_no_weights_without_their_neurons():
    name = "short_bp_resnet20_slim"
    weights = hub.find_pretrained(f"{name}.cifar10") / hub.WEIGHTS
    overlay = {"file": str(weights), "num_classes": -1}  # of train.py --pretrained-path
    arguments = timm.models.resolve_model_input_args(name, pretrained_cfg_overlay=overlay)
    with pytest.raises(ValueError, match="pretrained_cfg: expected weights alone, got those of"):
        timm.create_model(pretrained=True, **arguments)


def test_a_part_of_the_neurons_constants_is_not_all_of_them(tmp_path):
    part, all_of_them = {"surrogate": "arctan"}, zoo.LIF(surrogate="arctan").constants()
    model = zoo.create_model("short_bp_resnet20_slim", pretrained=True, spike_layer=part)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)  # with what was named alone
    with pytest.raises(ValueError, match=r"got none of \['decay', .*zoo\.save_pretrained writes"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    for given in (all_of_them, partial(zoo.LIF, surrogate="arctan")):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True, spike_layer=given)


def test_a_network_saved_by_timm_alone_is_told_what_saves_it(tmp_path):
    model = zoo.create_model("short_bp_resnet20_slim")
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    with pytest.raises(ValueError, match=r"neuron constants.*zoo\.save_pretrained writes them"):
        zoo.create_model(f"local-dir:{tmp_path}", pretrained=True)
    hub.save_pretrained(model, tmp_path)
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(load(tmp_path).eval()(x), model.eval()(x))


def test_a_tag_is_never_dropped(folder, monkeypatch):
    monkeypatch.setenv("SHORT_BP_ZOO_WEIGHTS", str(folder.parent))
    assert zoo.create_model("short_bp_resnet20_slim.digits").time_steps == 2
    with pytest.raises(ValueError, match=r"short_bp_resnet20_slim\.nope: expected pretrained"):
        zoo.create_model("short_bp_resnet20_slim.nope")


def test_truncated_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(
        ValueError,
        match=r"model\.safetensors: expected the weights of its config.json, got others: .*",
    ):
        load(folder)


def test_weights_in_half_precision_load(folder):
    weights = {
        n: w.half() if w.is_floating_point() else w
        for n, w in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors")
    assert load(folder).head.fc.weight.dtype == torch.float32


def test_a_kill_in_a_save_leaves_no_weights_beside_the_constants_of_others(folder, monkeypatch):
    def killed_before_the_second(source, target):
        monkeypatch.setattr(os, "replace", killed)
        os.rename(source, target)

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed_before_the_second)
    with pytest.raises(KeyboardInterrupt):
        hub.save_pretrained(zoo.create_model("short_bp_resnet20_slim", time_steps=6), folder)
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file"):
        load(folder)


def test_a_pickle_beside_missing_weights_is_never_loaded(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(FileNotFoundError, match=r"only safetensors weights are loaded"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"architecture": "short_bp_resnet18"}', "null"])
def test_a_config_that_is_none_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json: expected JSON with 'architecture'"):
        load(folder)


def changed(folder, **values):
    """config.json with other values, of keys or of pretrained_cfg's; None drops one."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in values.items():
        place = config if key in config else config["pretrained_cfg"]
        if value is None:
            del place[key]
        else:
            place[key] = value
    path.write_text(json.dumps(config))


def test_arguments_that_weights_do_not_fit_are_blamed_and_not_the_weights(folder):
    with pytest.raises(
        ValueError, match=r"expected arguments that its weights fit, got \['width"
    ) as raised:
        zoo.create_model(f"local-dir:{folder}", pretrained=True, widths=(8, 8, 8))
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": []}, "expected arguments of its architecture"),
        ({"global_pool": "x"}, "expected arguments of its architecture"),
    ],
)
@pytest.mark.parametrize("pretrained", [False, True])
def test_arguments_that_make_no_network_are_refused(folder, arguments, message, pretrained):
    config = json.loads((folder / "config.json").read_text())
    changed(folder, model_args=config["model_args"] | arguments)
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        zoo.create_model(f"local-dir:{folder}", pretrained=pretrained)


def test_a_device_that_is_not_there_is_not_blamed_on_the_weights(folder):
    with pytest.raises(RuntimeError, match="device"):
        zoo.create_model(f"local-dir:{folder}", pretrained=True, device="gpu")


def test_a_variable_that_names_no_folder_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("SHORT_BP_ZOO_WEIGHTS", str(tmp_path / "typo"))
    with pytest.raises(FileNotFoundError, match="SHORT_BP_ZOO_WEIGHTS: no such folder"):
        zoo.list_models(pretrained=True)


def test_a_bare_name_means_rates_only_where_there_are_no_spikes(folder, monkeypatch, tmp_path):
    mine = tmp_path / "mine"
    monkeypatch.setenv("SHORT_BP_ZOO_WEIGHTS", str(mine))
    shutil.copytree(folder, mine / "short_bp_resnet20_slim.aaa_rates")
    assert hub.find_pretrained("short_bp_resnet20_slim").parent == hub.BUNDLED
    shutil.copytree(folder, mine / "short_bp_resnet20_slim.digits")
    assert hub.find_pretrained("short_bp_resnet20_slim").name == "short_bp_resnet20_slim.digits"
    monkeypatch.setattr(sys.modules["zoo.hub.locate"], "BUNDLED", tmp_path / "none")
    shutil.rmtree(mine / "short_bp_resnet20_slim.digits")
    assert hub.find_pretrained("short_bp_resnet20_slim").name == "short_bp_resnet20_slim.aaa_rates"


def test_a_folder_of_ones_own_stands_before_one_of_that_name_in_the_package(monkeypatch, tmp_path):
    mine = tmp_path / "short_bp_resnet20_slim.cifar10"
    shutil.copytree(hub.BUNDLED / mine.name, mine)
    monkeypatch.setenv("SHORT_BP_ZOO_WEIGHTS", str(tmp_path))
    for name in (mine.name, "short_bp_resnet20_slim"):
        assert hub.find_pretrained(name) == mine


def test_a_folder_with_weights_is_no_run_whatever_lies_beside_them(folder):
    (folder / "checkpoints").mkdir()
    assert load(folder).num_classes == 10


def test_of_several_tags_the_first_in_the_alphabet_is_taken(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("SHORT_BP_ZOO_WEIGHTS", str(tmp_path / "mine"))
    for tag in ("second", "first"):
        shutil.copytree(folder, tmp_path / "mine" / f"short_bp_resnet20_slim.{tag}")
    assert hub.find_pretrained("short_bp_resnet20_slim").name == "short_bp_resnet20_slim.first"


def test_an_empty_variable_is_none(monkeypatch, folder):
    released = zoo.list_models(pretrained=True)
    monkeypatch.setenv("SHORT_BP_ZOO_WEIGHTS", "")
    monkeypatch.chdir(folder.parent)
    assert zoo.list_models(pretrained=True) == released


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing: no such folder"):
        load(tmp_path / "nothing")
