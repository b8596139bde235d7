"""Every check fails when it should, and the command tells why."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from digits_images import IMAGES, PIXELS
from exact_networks import awaken, changed, pixels, settle
from PIL import Image
from safetensors.torch import load_file, save_file

import zoo
from export.card.browser import preprocessor
from export.card.card import write_card
from export.checks.accuracy import check_accuracy, count_sums_cut_off
from export.checks.bits import check_bits, check_off_grid_floats
from export.checks.certificate import check_certificate
from export.checks.check import Check, count_different, logits_of
from export.checks.firing import check_firing
from export.checks.images import Images, data_images, random_images
from export.checks.metadata import check_metadata
from export.checks.stripping import check_stripping
from export.folder import GRAPH, REPORT, changed_files, read_report
from export.verify import main, print_report, verify
from zoo.deployment.layers import MembraneConv
from zoo.hub import BUNDLED, CONFIG, UINT8_GRAPH, WEIGHTS
from zoo.hub.files import hashes
from zoo.hub.run_folder import checkpoints

ROOT = Path(__file__).parent.parent.parent
GRAPHS = (GRAPH, UINT8_GRAPH)  # of a network that resets to zero
SCHEMA = json.loads((ROOT / "docs/verification.schema.json").read_text())
RANDOM = Images(PIXELS, IMAGES, None, "random images")


def load(folder: Path):
    return zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()


def failed(folder: Path, images: Images = RANDOM) -> dict[str, dict]:
    """The figures of each failed check by its id, in a folder without hashes."""
    (folder / REPORT).unlink()
    report = verify(folder, load(folder), images)
    assert report["passed"] == all(check["passed"] for check in report["checks"])
    jsonschema.validate(report, SCHEMA)
    return {check["id"]: check["figures"] for check in report["checks"] if not check["passed"]}


def ends_with(*arguments) -> str:
    """The error with which the command ends; empty if it succeeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["verify.py", *map(str, arguments)])
        try:
            main()
        except SystemExit as stopped:
            return stopped.code
    return ""


def change_json(path: Path, change: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_constant(graph: Path, name: str, change: Callable[[np.ndarray], None]) -> None:
    onnx.save(changed(onnx.load(graph), name, change), graph)


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "slim")


def test_an_untouched_folder_passes_and_stays_as_it_is(folder):
    before = hashes(folder)
    assert ends_with(folder, "--num-images", 20) == ""
    assert hashes(folder) == before
    jsonschema.validate(json.loads((folder / REPORT).read_text()), SCHEMA)


@pytest.mark.parametrize("name", zoo.list_models(pretrained=True))
def test_released_reports_keep_to_the_schema(name):
    jsonschema.validate(json.loads((BUNDLED / name / REPORT).read_text()), SCHEMA)


def test_titles_are_free(folder, monkeypatch, capsys):
    for check in Check.__subclasses__():
        monkeypatch.setattr(check, "title", f"reworded: {check.id}")
    change_json(folder / REPORT, lambda report: [c.update(title="!") for c in report["checks"]])
    report = verify(folder, load(folder), RANDOM)
    assert report["passed"]
    assert all(check["title"].startswith("reworded: ") for check in report["checks"])
    print_report(report)
    assert "reworded: bits" in capsys.readouterr().out
    write_card(folder, read_report(folder))
    assert re.search(r"classes that changed \d+", (folder / "README.md").read_text())


def test_every_changed_missing_or_added_file_is_named(folder):
    for name in (WEIGHTS, *GRAPHS):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    (folder / "model.bin").write_bytes(b"pickle")
    (folder / "README.md").unlink()
    wrong = sorted([WEIGHTS, *GRAPHS, "model.bin", "README.md"])
    assert changed_files(folder) == wrong
    assert str(wrong) in ends_with(folder)


def test_hidden_files_do_not_belong_to_a_folder(folder):
    for name in (".gitattributes", ".git/HEAD", ".cache/huggingface/CACHEDIR.TAG"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("theirs")
    assert changed_files(folder) == []


@pytest.mark.parametrize(
    "name",
    [
        "short_bp_resnet20_slim.cifar10",
        pytest.param("short_bp_resnet18.cifar10", marks=pytest.mark.release),
    ],
)
def test_a_release_verifies_as_it_lies_in_the_package(name):
    assert ends_with(BUNDLED / name, "--random-images", "--num-images", 2) == ""


def test_unknown_folders_and_bad_options_end_in_one_line(folder, tmp_path):
    for options, message in (
        ([tmp_path / "nowhere"], "no such folder"),
        ([folder, "--num-images", "0"], "--num-images: expected at least 1"),
        ([folder, "--random-images", "--data-root", "x"], "expected only one of them"),
    ):
        assert message in ends_with(*options)


@pytest.mark.parametrize("graph", GRAPHS)
def test_one_bit_of_a_weight_in_a_graph_is_caught_before_the_graph_runs(folder, graph, monkeypatch):
    def nudge(weight):
        weight[0, 0, 1, 1] = np.nextafter(weight[0, 0, 1, 1], np.float32(9))

    change_constant(folder / graph, "stages.1.0.conv1.conv.weight", nudge)
    proof = check_certificate(folder, GRAPHS)
    assert not proof.passed
    assert proof.where.startswith(f"{graph}: ")
    for used in ("export.checks.bits.run_graph", "export.verify.check_certificate"):
        monkeypatch.setattr(used, lambda *_: pytest.fail("it was used"))
    name = f"{graph}: stages.1.0.conv1.conv.weight"
    assert failed(folder) == {"graphs": {"that_differ": [name]}}


def test_another_node_in_a_graph_is_caught(folder):
    graph = onnx.load(folder / GRAPH)
    (fires,) = (node for node in graph.graph.node if node.name == "stem.1.fires_1")
    fires.op_type = "Greater"
    onnx.save(graph, folder / GRAPH)
    assert failed(folder) == {"graphs": {"that_differ": [f"{GRAPH}: stem.1.fires_1"]}}


def test_other_weights_are_caught(folder):
    weights = load_file(folder / WEIGHTS)
    weights["stages.1.0.conv1.conv.weight"] *= 1.01
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert failed(folder).keys() == {"graphs"}


@pytest.mark.parametrize("change", [{"time_steps": 1}, {"spike_layer": {"reset": "subtract"}}])
def test_a_config_of_another_network_is_caught(folder, change):
    def swap(config):
        args = config["model_args"]
        neuron = args["spike_layer"] | change.get("spike_layer", {})
        args |= change | {"spike_layer": neuron}

    change_json(folder / CONFIG, swap)
    assert failed(folder).keys() >= {"graphs"}


def test_other_bits_of_a_graph_are_counted(folder):
    model = load(folder)
    deployed = zoo.deploy(model)
    exact = logits_of(deployed, IMAGES, "")
    assert check_bits(folder, deployed, RANDOM, exact).passed
    change_constant(folder / GRAPH, "head.fc.bias", lambda bias: bias.__iadd__(0.25))
    found = check_bits(folder, deployed, RANDOM, exact)
    assert not found.passed
    assert found.images_that_differ == found.images == 60
    assert found.by_setting[f"{GRAPH}, batch 1, 1 threads, all optimisations"] == 60
    assert found.by_setting["PyTorch, channels_last"] == 0


def test_a_constant_that_only_matters_beyond_pixels_is_caught(folder):
    model = load(folder)
    assert check_off_grid_floats(folder, zoo.deploy(model), RANDOM).passed
    change_constant(folder / GRAPH, "stem.0.most", lambda most: most.__iadd__(1))
    assert not check_off_grid_floats(folder, zoo.deploy(model), RANDOM).passed


def test_a_negative_zero_and_a_nan_are_other_logits():
    logits = torch.zeros(3, 10)
    others = logits.clone()
    others[1, 4], others[2, 3] = -0.0, torch.nan
    assert count_different(logits, others) == 2
    assert count_different(others, others) == 1


def test_heads_among_the_weights_are_caught(folder):
    weights = load_file(folder / WEIGHTS)
    weights["shortcut_heads.heads.0.bias"] = torch.zeros(10)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert failed(folder)["heads"]["heads"] == ["shortcut_heads.heads.0.bias"]


def test_a_strip_that_changes_features_or_logits_is_caught(run):
    whole = load(checkpoints(run)[-1])
    with torch.no_grad():  # the classifier ignores this channel
        whole.head.fc.weight[:, 0] = 0
    stripped = zoo.strip_heads(whole)
    assert check_stripping(whole, stripped, IMAGES).passed
    with torch.no_grad():
        stripped.stages[-1][-1].conv2.norm.bias[0] += 100
        assert torch.equal(whole(IMAGES), stripped(IMAGES))
    assert not check_stripping(whole, stripped, IMAGES).passed
    stripped = zoo.strip_heads(whole)
    with torch.no_grad():
        stripped.head.fc.bias[0] = torch.nextafter(stripped.head.fc.bias[0], torch.tensor(9.0))
    assert not check_stripping(whole, stripped, IMAGES).passed


def test_a_silent_layer_is_named(exported):
    model = load(exported)
    assert check_firing(model, IMAGES).passed
    with torch.no_grad():
        model.stages[0][2].conv1.norm.weight.zero_()
        model.stages[0][2].conv1.norm.bias.zero_()
    assert check_firing(model, IMAGES).silent_layers == ["stages.0.2.spike1"]


def test_rule_and_certificate_of_a_report_are_compared(folder):
    def overstate(report):
        report["rule"] = "agreement"
        (proof,) = (check for check in report["checks"] if check["id"] == "certificate")
        proof["figures"]["least_head_room_bits"] += 1

    change_json(folder / REPORT, overstate)
    found = check_metadata(folder, "exact", check_certificate(folder, GRAPHS), False)
    assert found.that_differ == [f"{REPORT}: rule", f"{REPORT}: certificate"]


@pytest.mark.parametrize("name", zoo.list_models(pretrained=True))
def test_another_preprocessing_is_caught(name, tmp_path):
    for file in (CONFIG, WEIGHTS, "preprocessor_config.json"):
        shutil.copy(BUNDLED / name / file, tmp_path)
    assert check_metadata(tmp_path, "exact", None, True).passed
    change_json(tmp_path / "preprocessor_config.json", lambda p: p.update(image_std=[1, 1, 1]))
    found = check_metadata(tmp_path, "exact", None, True)
    assert found.that_differ == ["preprocessor_config.json"]


def test_neurons_in_the_weights_that_are_not_those_of_the_config_are_caught(folder):
    weights = load_file(folder / WEIGHTS)
    weights["neurons"][-3] ^= 1
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert failed(folder)["metadata"] == {"that_differ": [f"{WEIGHTS}: neurons"]}


def test_swapped_labels_for_browsers_are_caught(folder):
    def swap(config):
        labels = config["id2label"]
        labels["0"], labels["1"] = labels["1"], labels["0"]

    change_json(folder / CONFIG, swap)
    assert failed(folder) == {"metadata": {"that_differ": ["config.json: id2label"]}}


@pytest.mark.parametrize(
    ("size", "has_one"), [((1, 8, 8), False), ((3, 8, 16), False), ((3, 8, 8), True)]
)
def test_only_square_colour_images_have_a_preprocessor(size, has_one, tmp_path):
    cfg = {"input_size": size, "mean": (0.0,) * size[0], "std": (1.0,) * size[0]}
    name = "short_bp_resnet20_slim"
    model = zoo.create_model(name, in_chans=size[0], pretrained_cfg_overlay=cfg)
    zoo.hub.save_pretrained(model, tmp_path)
    assert (preprocessor(tmp_path) is not None) == has_one


def test_a_preprocessor_resizes_like_timm(tmp_path):
    small = {"depths": (1, 1), "widths": (8, 8)}
    zoo.hub.save_pretrained(zoo.create_model("short_bp_resnet18_imagenet", **small), tmp_path)
    found = json.loads(preprocessor(tmp_path))
    assert (found["size"], found["resample"]) == ({"shortest_edge": 256}, Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("images", "allowed"), [(9, 1), (799, 1), (800, 2), (2000, 5)])
def test_accuracies_may_differ_by_a_quarter_of_a_point_or_one_image(images, allowed):
    labels = torch.zeros(images, dtype=torch.long)

    def with_right(count):
        return torch.nn.functional.one_hot((torch.arange(images) >= count).long(), 2).float()

    half = images // 2
    trained, near, far = (with_right(half + more) for more in (0, allowed, allowed + 1))
    assert check_accuracy(trained, near, labels).passed
    assert check_accuracy(near, trained, labels).passed
    assert not check_accuracy(trained, far, labels).passed


@pytest.mark.parametrize(
    ("images", "count", "passed"),
    [(7, 1, True), (7, 2, False), (20, 2, True), (20, 3, False)],
)
def test_a_tenth_of_the_classes_may_change(images, count, passed):
    logits = torch.eye(2)[torch.zeros(images, dtype=torch.long)]
    others = logits.clone()
    others[:count] = others[:count].flip(1)
    assert check_accuracy(logits, others, None).passed == passed


def test_sums_beyond_the_limit_of_the_grid_are_counted():
    cfg = {"input_size": (3, 16, 16)}
    sizes = dict(depths=(1, 1), widths=(8, 16), time_steps=2)
    model = zoo.create_model("ms_resnet18_cifar", **sizes, pretrained_cfg_overlay=cfg)
    settle(awaken(model))
    deployed = zoo.deploy(model)
    images = pixels(model, 20)
    for nearer, is_cut_off in ((1.0, False), (2.0**-12, True)):
        for conv in deployed.modules():
            if isinstance(conv, MembraneConv):
                conv.limit.mul_(nearer)
        with count_sums_cut_off(deployed) as counts:
            logits = logits_of(deployed, images, "")
        assert (sum(counts) > 0) == is_cut_off
        assert check_accuracy(logits, logits, None, sum(counts)).passed != is_cut_off


def test_test_images_are_drawn_from_all_classes(exported, tmp_path):
    labels = [f"{number}" for number in range(10)]
    for label in labels:
        (tmp_path / "test" / label).mkdir(parents=True)
        (tmp_path / "train" / label).mkdir(parents=True)
        for i in range(30):
            noise = np.full((8, 8), i, np.uint8)
            Image.fromarray(noise).save(tmp_path / "test" / label / f"{i}.png")
    data = {"name": "image_folder", "title": "Set [/x]"}
    config = {"training": {"data": data}, "label_names": labels, "num_classes": 10}
    images = data_images(load(exported), config, str(tmp_path), 100)
    assert {*images.labels[:50].tolist()} == {*range(10)}
    assert images.report() == {
        "count": 100,
        "source": "test images of Set [/x]",
        "random": False,
    }
    with pytest.raises(ValueError, match="expected images of the classes"):
        data_images(load(exported), config | {"label_names": ["a", "b"]}, str(tmp_path), 100)
    with pytest.raises(FileNotFoundError, match="--data-root says where the images are"):
        data_images(load(exported), config, str(tmp_path / "nowhere"), 100)
    with pytest.raises(ValueError, match="verify with --random-images"):
        data_images(load(exported), {}, "", 100)


def test_random_images_are_repeatable(exported):
    first, again = (random_images(load(exported), 10) for _ in range(2))
    assert torch.equal(first.pixels, again.pixels)
    assert first.report()["random"]


def test_weights_in_a_file_beside_the_graph_are_refused(folder):
    graph = onnx.load(folder / GRAPH)
    onnx.save(graph, folder / GRAPH, save_as_external_data=True, location=".hidden")
    assert failed(folder).keys() == {"graphs"}


def test_a_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        changed_files(tmp_path)
