"""The released weights: each loads by its name and is what its report says."""

import json
import os

import pytest
import torch

import zoo
from export.folder import changed_files
from export.images import data_images
from zoo import hub

RELEASES = zoo.list_models(pretrained=True)
DATA = os.environ.get("SHORT_BP_ZOO_CIFAR10")  # a folder or tar with test/CLASS/IMAGE
COUNT = 1000


@pytest.fixture(params=RELEASES)
def name(request):
    return request.param


def test_some_weights_are_released():
    assert RELEASES


def test_a_release_is_the_folder_that_was_verified(name):
    folder = hub.find_pretrained(name)
    assert changed_files(folder) == []
    assert json.loads((folder / "verification.json").read_text())["passed"]


def test_a_release_gives_the_same_bits_in_pytorch_and_onnxruntime(name):
    model = zoo.create_model(name, pretrained=True).eval()
    shape = (8, *model.pretrained_cfg["input_size"])
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.manual_seed(0))
    session = zoo.load_onnx(name).session
    logits = torch.from_numpy(session.run(["logits"], {"pixel_values": pixels.numpy()})[0])
    assert torch.equal(zoo.deploy(model)(pixels), logits)
    assert len(logits.unique()) == logits.numel()


def test_a_bare_architecture_loads_its_release(name):
    architecture = name.partition(".")[0]
    bare, tagged = (zoo.create_model(n, pretrained=True) for n in (architecture, name))
    assert all(map(torch.equal, bare.state_dict().values(), tagged.state_dict().values()))


@pytest.mark.skipif(not DATA, reason="SHORT_BP_ZOO_CIFAR10 names no images")
def test_a_release_repeats_its_accuracy(name):
    folder = hub.find_pretrained(name)
    model = zoo.create_model(name, pretrained=True).eval()
    images = data_images(model, hub.read_config(folder), DATA, COUNT)
    with torch.inference_mode():
        correct = (zoo.deploy(model)(images.pixels).argmax(1) == images.labels).float().mean()
    report = json.loads((folder / "verification.json").read_text())
    checks = {check["name"]: check["measured"] for check in report["checks"]}
    published = checks["the grid keeps the accuracy"]["exact_percent"]
    # Of 1,000 images drawn from 10,000, three deviations of the mean at 80 % are 3.6 points.
    assert abs(100 * float(correct) - published) < 3.6
