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
from export.checks.spike_aware import check_other_graphs, check_spike_aware
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


def failed(model, graph: Path) -> set[str]:
    checks = check_spike_aware(model, graph, IMAGES, None)
    return {check.name for check in checks if not check.passed}


def with_another(folder: Path, name: str, change, target: Path) -> Path:
    onnx.save(changed(onnx.load(folder / "onnx/model.onnx"), name, change), target)
    return target


def test_other_classes_and_another_accuracy_fail(inexact):
    model, graph = load(inexact), inexact / "onnx/model.onnx"
    with torch.inference_mode():
        labels = model(IMAGES).argmax(1)
    with torch.no_grad():
        model.head.fc.weight.copy_(model.head.fc.weight.roll(1, 0))
        model.head.fc.bias.copy_(model.head.fc.bias.roll(1, 0))
    checks = {c.name: c for c in check_spike_aware(model, graph, IMAGES, labels)}
    assert not checks["classes agree"].passed
    accuracy = checks["accuracy is the same"]
    assert not accuracy.passed
    assert accuracy.measured["onnxruntime_percent"] > 95
    assert accuracy.measured["trained_percent"] < 5
    assert accuracy.measured["allowed_points"] == 100 / accuracy.measured["images"]  # one image


def test_a_network_that_cannot_be_exact_says_why_in_its_report_and_card(inexact):
    report = json.loads((inexact / "verification.json").read_text())
    schema = Path(__file__).parent.parent.parent / "docs/verification.schema.json"
    jsonschema.validate(report, json.loads(schema.read_text()))
    assert report["rule"] == "spike-aware"
    assert [check["name"] for check in report["checks"]] == [
        "stripped network gives equal bits",
        "weights hold no shortcut heads",
        "every spiking layer fires",
        "graphs hold no local path",
        "graphs hold the weights",
        "potentials and logits are finite",
        "images without a flip agree",
        "every first flip is at the threshold",
        "classes agree",
        "accuracy is the same",
        "all graphs give the same logits",
        "rule, certificate and pre-processing are as said",
    ]
    assert report["why_not_exact"].startswith("stem.1: expected a grid of at least 0 fractional")
    assert "Not exact: stem.1: expected a grid" in (inexact / "README.md").read_text()


def test_another_weight_in_the_graph_is_caught(inexact, tmp_path):
    def grow(weight):
        weight[0] *= 1.05

    name = "stages.0.0.conv1.conv.weight"
    graph = with_another(inexact, name, grow, tmp_path / "model.onnx")
    assert "every first flip is at the threshold" in failed(load(inexact), graph)


@pytest.mark.parametrize("unit", [2.0**-20, 2.0**10])
def test_a_threshold_in_another_unit_is_held_to_the_same_rule(inexact, tmp_path, unit):
    neurons = {"v_threshold": unit}
    model = zoo.create_model(f"local-dir:{inexact}", pretrained=True, spike_layer=neurons).eval()
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight.mul_(unit), norm.bias.mul_(unit)
    plain = write_graph(zoo.deploy(model, exact=False))
    onnx.save(plain, tmp_path / "plain.onnx")
    assert failed(model, tmp_path / "plain.onnx") == set()
    wrong = changed(plain, "stages.0.0.conv1.conv.weight", lambda weight: weight.__imul__(1.001))
    onnx.save(wrong, tmp_path / "wrong.onnx")
    assert "every first flip is at the threshold" in failed(model, tmp_path / "wrong.onnx")


def test_another_bias_of_the_classifier_is_caught(inexact, tmp_path):
    def shift(bias):
        bias += np.float32(3e-5)

    graph = with_another(inexact, "head.fc.bias", shift, tmp_path / "model.onnx")
    assert failed(load(inexact), graph) == {"images without a flip agree"}


def test_a_graph_of_fewer_time_steps_is_caught(inexact, tmp_path):
    shorter = zoo.create_model(f"local-dir:{inexact}", pretrained=True, time_steps=1).eval()
    graph = write_graph(zoo.deploy(shorter, exact=False))
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    found = failed(load(inexact), tmp_path / "model.onnx")
    assert found == {"graph has every spiking layer and step"}


def test_logits_that_are_no_numbers_are_caught(inexact, tmp_path):
    graph = with_another(inexact, "head.fc.bias", lambda b: b.fill(np.nan), tmp_path / "model.onnx")
    assert "potentials and logits are finite" in failed(load(inexact), graph)


def test_potentials_that_are_no_numbers_are_caught(inexact, tmp_path):
    def spoil(bias):
        bias[0] = np.nan

    name = "stages.0.0.conv1.conv.bias"
    graph = with_another(inexact, name, spoil, tmp_path / "model.onnx")
    assert "potentials and logits are finite" in failed(load(inexact), graph)


@pytest.mark.parametrize(
    ("graph", "name"),
    [("onnx/model_uint8.onnx", "stem.0.mean"), ("onnx/model_readable.onnx", "head.fc.bias")],
)
def test_the_other_graphs_are_held_to_the_first(inexact, tmp_path, graph, name):
    folder = shutil.copytree(inexact, tmp_path / "out")
    other = changed(onnx.load(folder / graph), name, lambda array: array.__iadd__(60))
    onnx.save(other, folder / graph)
    check = check_other_graphs(folder, Images(PIXELS, IMAGES, None, "60 random images"))
    assert not check.passed
    assert check_other_graphs(inexact, Images(PIXELS, IMAGES, None, "60 random images")).passed
