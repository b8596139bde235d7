"""load_onnx and classify: what an image goes through, and what comes out."""

import numpy as np
import pytest
import torch
from digits_images import PIXELS
from PIL import Image

import zoo
from zoo import hub
from zoo.data import normalise


@pytest.fixture(scope="module")
def session(exported):
    return zoo.load_onnx(f"local-dir:{exported}")


def test_probabilities_are_those_of_the_deployed_network(session, exported):
    model = zoo.create_model(f"local-dir:{exported}", pretrained=True).eval()
    with torch.inference_mode():
        expected = zoo.deploy(model)(normalise(PIXELS[:1], (78,), (96,))).double().softmax(1)[0]
    found = session.classify(PIXELS[0, 0].numpy(), top=10)
    assert [label for label, _ in found] == [
        str(i) for i in expected.argsort(descending=True).tolist()
    ]
    values = [probability for _, probability in found]
    assert values == pytest.approx(expected.sort(descending=True).values.tolist(), rel=1e-12)
    assert sum(values) == pytest.approx(1)
    assert session.classify(PIXELS[0, 0].numpy()) == found[:5]


def test_an_image_a_path_and_pixels_are_the_same(session, tmp_path):
    pixels = PIXELS[3, 0].numpy()
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    expected = session.classify(pixels)
    for image in (
        pixels[:, :, None],
        np.repeat(pixels[:, :, None], 3, 2),
        Image.fromarray(pixels),
        tmp_path / "digit.png",
        str(tmp_path / "digit.png"),
    ):
        assert session.classify(image) == expected


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((8, 8)), r"float64 \[8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \[8, 8, 4\]"),
        (np.zeros(8, np.uint8), r"uint8 \[8\]"),
        (Image.new("F", (8, 8)), "got F"),
        (7, "got int"),
    ],
)
def test_what_is_no_image_of_bytes_is_refused(session, image, found):
    with pytest.raises(ValueError, match=f"image: expected .*{found}"):
        session.classify(image)


def test_other_sizes_go_through_what_images_are_measured_with(session, tmp_path):
    from dataclasses import replace

    from torchvision.transforms import v2

    from zoo.data import DataConfig, load_images

    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        image = Image.fromarray(draw.integers(0, 256, (50, 71, 3), dtype=np.uint8))
        image.save(tmp_path / split / "cat" / "1.png")
    found = load_images(DataConfig(name="imagenet", root=str(tmp_path), size=28), "test")
    expected, _ = found.take([0])
    bicubic = v2.InterpolationMode.BICUBIC
    as_imagenet = replace(session, size=(3, 28, 28), crop=0.875, interpolation=bicubic)
    assert np.array_equal(as_imagenet.pixels(tmp_path / "val/cat/1.png"), expected.numpy())


def test_a_session_by_bare_name(exported, monkeypatch, tmp_path):
    import shutil

    shutil.copytree(exported, tmp_path / "short_bp_resnet20_slim.digits")
    monkeypatch.setenv(hub.WEIGHTS_FOLDER_VARIABLE, str(tmp_path))
    assert zoo.load_onnx("short_bp_resnet20_slim").classify(PIXELS[0, 0].numpy(), top=1)
    with pytest.raises(ValueError, match="short_bp_resnet18: expected pretrained weights"):
        zoo.load_onnx("short_bp_resnet18")
