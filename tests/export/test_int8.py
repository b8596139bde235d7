"""The int8 graphs of a published folder, by the export of a small network of levels."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import onnxruntime
import pytest
import torch
from digits_images import PIXELS
from exact_networks import awaken, settle

import zoo
from export.checks.accuracy import check_int8_accuracy
from export.checks.check import figures_by_id
from export.to_onnx import Options, export
from export.verify import Options as VerifyOptions
from export.verify import verify_folder
from zoo.hub import INT8_GRAPH, REPORT

SCHEMA = Path(__file__).parent.parent.parent / "docs/verification.schema.json"
LEVELS = {"decay": 1.0, "v_threshold": 1.0, "reset": "subtract", "levels": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    scratch = tmp_path_factory.mktemp("int8")
    torch.manual_seed(0)
    model = zoo.create_model(
        "short_bp_resnet20_slim", in_chans=1, num_classes=10, time_steps=1, spike_layer=LEVELS
    )
    model.pretrained_cfg |= {"input_size": (1, 8, 8), "mean": (128 / 255,), "std": (64 / 255,)}
    zoo.save_pretrained(settle(awaken(model)), scratch / "source")
    options = Options(
        source=str(scratch / "source"),
        output=str(scratch / "out"),
        random_images=True,
        num_images=100,
    )
    return export(options)


@pytest.fixture(scope="module")
def model(folder):
    return zoo.create_model(str(folder), pretrained=True).eval()


def test_the_folder_has_both_int8_graphs_and_the_one_in_fp32(folder):
    graphs = sorted(path.name for path in (folder / "onnx").iterdir())
    assert graphs == ["model.onnx", "model_int8.onnx", "model_quantized.onnx"]
    config = json.loads((folder / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": "q8"}


def test_load_onnx_runs_the_int8_graph(folder, model):
    session = zoo.load_onnx(str(folder)).session
    x = PIXELS[:5]
    (logits,) = session.run(None, {"pixel_values": x.numpy()})
    assert torch.equal(torch.from_numpy(logits), zoo.deploy(model, bits=8)(x))


def test_the_graph_for_floats_gives_the_bits_of_the_one_for_pixels(folder, model):
    values = (PIXELS[:5].numpy().astype(np.float32) - 128) / 64
    session = onnxruntime.InferenceSession(folder / "onnx/model_quantized.onnx")
    (logits,) = session.run(None, {"pixel_values": values})
    assert torch.equal(torch.from_numpy(logits), zoo.deploy(model, bits=8)(PIXELS[:5]))


def test_the_report_has_the_int8_checks_and_the_card_tells_of_them(folder):
    report = json.loads((folder / REPORT).read_text())
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    figures = figures_by_id(report)
    assert figures["int8_bits"]["images_that_differ"] == 0
    assert figures["int8_bits"]["settings"] == 9
    assert figures["certificate"]["int8_layers"]
    card = (folder / "README.md").read_text()
    assert "onnx/model_int8.onnx" in card
    assert "0 of 100 images" in card


def test_a_folder_with_int8_graphs_verifies_again(folder):
    report = verify_folder(VerifyOptions(folder=str(folder), num_images=20))
    assert report["passed"]
    assert INT8_GRAPH in json.loads((folder / REPORT).read_text())["sha256"]


@pytest.mark.parametrize(("wrong", "passed"), [(0, True), (5, True), (60, False)])
def test_int8_may_lose_no_more_than_chance_explains(wrong, passed):
    labels = torch.zeros(1000, dtype=torch.long)
    trained = torch.eye(2)[torch.zeros(1000, dtype=torch.long)]
    int8 = trained.clone()
    int8[:wrong] = torch.tensor([0.0, 1.0])
    assert check_int8_accuracy(trained, int8, labels).passed == passed
    assert check_int8_accuracy(int8, trained, labels).passed  # better is no fault
    assert check_int8_accuracy(trained, int8, None).passed  # nothing to count
