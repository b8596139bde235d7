"""The rule for networks that cannot be exact, and what it catches."""

import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from digits_images import IMAGES, PIXELS
from exact_networks import changed
from torch import nn

import zoo
from export.checks.images import Images
from export.checks.spike_aware import TOLERANCE, Flips, check_other_graphs, check_spike_aware
from export.graph.writer import write_graph
from export.to_onnx import Options, export
from zoo.hub.run_folder import checkpoints


@pytest.fixture(scope="module")
def inexact(run, tmp_path_factory) -> Path:
    """The published folder of a network whose decay is no whole multiple of a power of two."""
    scratch = tmp_path_factory.mktemp("inexact")
    folder = shutil.copytree(checkpoints(run)[-1], scratch / "run")
    config = json.loads((folder / "config.json").read_text())
    config["model_args"]["spike_layer"]["decay"] = 0.3
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "sha256.json").unlink()  # of the network that it was
    return export(Options(source=str(folder), output=str(scratch / "out")))


def load(folder: Path):
    return zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()


def flips_of(model, graph: Path) -> Flips:
    return check_spike_aware(model, graph, IMAGES, None)[0]


def with_another(folder: Path, name: str, change, target: Path) -> Path:
    onnx.save(changed(onnx.load(folder / "onnx/model.onnx"), name, change), target)
    return target


def test_an_unchanged_graph_passes_and_other_classes_fail(inexact):
    model, graph = load(inexact), inexact / "onnx/model.onnx"
    with torch.inference_mode():
        labels = model(IMAGES).argmax(1)
    assert all(check.passed for check in check_spike_aware(model, graph, IMAGES, labels))
    with torch.no_grad():
        model.head.fc.weight.copy_(model.head.fc.weight.roll(1, 0))
        model.head.fc.bias.copy_(model.head.fc.bias.roll(1, 0))
    flips, accuracy = check_spike_aware(model, graph, IMAGES, labels)
    assert flips.classes_that_changed > flips.allowed_changes
    assert not flips.passed
    assert not accuracy.passed
    assert accuracy.onnxruntime_percent > 95
    assert accuracy.trained_percent < 5


def test_a_network_that_cannot_be_exact_says_why(inexact):
    report = json.loads((inexact / "verification.json").read_text())
    schema = Path(__file__).parent.parent.parent / "docs/verification.schema.json"
    jsonschema.validate(report, json.loads(schema.read_text()))
    assert report["rule"] == "spike-aware"
    ids = [check["id"] for check in report["checks"]]
    assert ids[-4:] == ["flips", "accuracy", "other_graphs", "metadata"]
    assert report["why_not_exact"].startswith("stem.1: ")
    assert "Not exact: stem.1: " in (inexact / "README.md").read_text()


def test_another_weight_flips_spikes_away_from_the_threshold(inexact, tmp_path):
    def grow(weight):
        weight[0] *= 1.05

    name = "stages.0.0.conv1.conv.weight"
    flips = flips_of(load(inexact), with_another(inexact, name, grow, tmp_path / "model.onnx"))
    assert not flips.passed
    assert flips.largest_distance_from_threshold > TOLERANCE


@pytest.mark.parametrize("unit", [2.0**-20, 2.0**10])
def test_distances_are_measured_in_thresholds(inexact, tmp_path, unit):
    neurons = {"v_threshold": unit}
    model = zoo.create_model(f"local-dir:{inexact}", pretrained=True, spike_layer=neurons).eval()
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight.mul_(unit), norm.bias.mul_(unit)
    plain = write_graph(zoo.deploy(model, exact=False))
    onnx.save(plain, tmp_path / "plain.onnx")
    assert flips_of(model, tmp_path / "plain.onnx").passed
    wrong = changed(plain, "stages.0.0.conv1.conv.weight", lambda weight: weight.__imul__(1.001))
    onnx.save(wrong, tmp_path / "wrong.onnx")
    assert not flips_of(model, tmp_path / "wrong.onnx").passed


def test_another_bias_of_the_classifier_is_no_flip(inexact, tmp_path):
    def shift(bias):
        bias += np.float32(3e-5)

    graph = with_another(inexact, "head.fc.bias", shift, tmp_path / "model.onnx")
    flips = flips_of(load(inexact), graph)
    assert not flips.passed
    assert flips.largest_distance_from_threshold <= TOLERANCE
    assert flips.largest_difference_without_flips > TOLERANCE


@pytest.mark.parametrize("name", ["head.fc.bias", "stages.0.0.conv1.conv.bias"])
def test_logits_and_potentials_that_are_not_finite_fail(inexact, tmp_path, name):
    def spoil(bias):
        bias[0] = np.nan

    graph = with_another(inexact, name, spoil, tmp_path / "model.onnx")
    flips = flips_of(load(inexact), graph)
    assert not flips.passed
    assert flips.images_not_finite == flips.images


def test_other_graphs_give_the_logits_of_the_first(inexact, tmp_path):
    folder = shutil.copytree(inexact, tmp_path / "out")
    graph = folder / "onnx/model_uint8.onnx"
    onnx.save(changed(onnx.load(graph), "stem.0.mean", lambda mean: mean.__iadd__(60)), graph)
    check = check_other_graphs(folder, Images(PIXELS, IMAGES, None, "60 random images"))
    assert not check.passed
    assert check_other_graphs(inexact, Images(PIXELS, IMAGES, None, "60 random images")).passed
