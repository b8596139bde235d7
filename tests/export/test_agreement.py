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

import zoo
from export.checks.agreement import check_agreement, check_other_graphs
from export.checks.images import Images
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


def test_an_unchanged_graph_passes_and_other_classes_fail(inexact):
    model, graph = load(inexact), inexact / "onnx/model.onnx"
    with torch.inference_mode():
        labels = model(IMAGES).argmax(1)
        trained = model(IMAGES)
    assert all(check.passed for check in check_agreement(trained, graph, IMAGES, labels))
    with torch.no_grad():
        model.head.fc.weight.copy_(model.head.fc.weight.roll(1, 0))
        model.head.fc.bias.copy_(model.head.fc.bias.roll(1, 0))
        other = model(IMAGES)
    agreement, accuracy = check_agreement(other, graph, IMAGES, labels)
    assert agreement.classes_that_changed > agreement.allowed_changes
    assert not agreement.passed
    assert agreement.equal_percent == 0
    assert not accuracy.passed
    assert accuracy.onnxruntime_percent > 95
    assert accuracy.trained_percent < 5


def test_a_network_that_cannot_be_exact_says_why(inexact):
    report = json.loads((inexact / "verification.json").read_text())
    schema = Path(__file__).parent.parent.parent / "docs/verification.schema.json"
    jsonschema.validate(report, json.loads(schema.read_text()))
    assert report["rule"] == "agreement"
    ids = [check["id"] for check in report["checks"]]
    assert ids[-4:] == ["agreement", "accuracy", "other_graphs", "metadata"]
    assert report["why_not_exact"].startswith("stem.1: ")
    assert "Not exact: stem.1: " in (inexact / "README.md").read_text()


def test_logits_that_are_not_finite_fail(inexact, tmp_path):
    def spoil(bias):
        bias[0] = np.nan

    graph = onnx.load(inexact / "onnx/model.onnx")
    onnx.save(changed(graph, "head.fc.bias", spoil), tmp_path / "model.onnx")
    with torch.inference_mode():
        trained = load(inexact)(IMAGES)
    agreement, _ = check_agreement(trained, tmp_path / "model.onnx", IMAGES, None)
    assert not agreement.passed
    assert agreement.images_not_finite == agreement.images


def test_other_graphs_give_the_logits_of_the_first(inexact, tmp_path):
    folder = shutil.copytree(inexact, tmp_path / "out")
    graph = folder / "onnx/model_uint8.onnx"
    onnx.save(changed(onnx.load(graph), "stem.0.mean", lambda mean: mean.__iadd__(60)), graph)
    check = check_other_graphs(folder, Images(PIXELS, IMAGES, None, "60 random images"))
    assert not check.passed
    assert check_other_graphs(inexact, Images(PIXELS, IMAGES, None, "60 random images")).passed
