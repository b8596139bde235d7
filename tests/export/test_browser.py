"""The published folder in JavaScript: @huggingface/transformers and onnxruntime-web, in Node."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from exact_networks import awaken
from PIL import Image

import zoo
from export.to_onnx import Options, export
from zoo import hub

BROWSER = Path(__file__).parent / "browser"
INSTALL = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]


@pytest.fixture(scope="module")
def packages(request) -> Path:
    """Where the two packages are installed: 173 MB to download the first time, then cached."""
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("needs Node and npm")
    folder = request.config.cache.mkdir("browser")
    for name in ("package.json", "classify.mjs"):
        shutil.copy(BROWSER / name, folder)
    try:
        run = subprocess.run(INSTALL, cwd=folder, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip("npm took over five minutes to install @huggingface/transformers")
    if run.returncode:
        pytest.skip(f"npm cannot install @huggingface/transformers: {run.stderr.strip()[-200:]}")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("reset", "graph"), [("zero", "model_uint8.onnx"), ("subtract", "model_int8.onnx")]
)
def test_javascript_gives_the_bits_of_onnxruntime(packages, tmp_path, reset, graph):
    torch.manual_seed(0)
    neuron = {"decay": 1.0, "reset": reset}
    model = zoo.create_model("short_bp_resnet20_slim", time_steps=2, spike_layer=neuron)
    model = awaken(model)
    source, folder = tmp_path / "source", tmp_path / "published"
    source.mkdir()
    hub.save_pretrained(model, source, label_names=[f"class {i}" for i in range(10)])
    export(Options(source=str(source), output=str(folder), random_images=True, num_images=10))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")

    run = subprocess.run(
        ["node", "classify.mjs", folder, tmp_path / "image.png", graph],
        cwd=packages,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    session = zoo.load_onnx(f"local-dir:{folder}")
    feed = {"pixel_values": session.pixels(pixels)}
    (expected,) = session.session.run(None, feed)
    for library in ("transformers", "web"):
        logits = np.array(found[library], np.float32)
        assert logits.tobytes() == expected.tobytes(), library
    assert found["label"] == session.classify(pixels)[0][0]
