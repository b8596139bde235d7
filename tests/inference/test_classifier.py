"""load_onnx and classify: what an image goes through, and what comes out."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from digits_images import PIXELS
from onnx.external_data_helper import set_external_data
from PIL import ExifTags, Image

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


def test_a_picture_is_turned_as_its_camera_says(session, tmp_path):
    upright = Image.fromarray(PIXELS[3, 0].numpy())
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by 90 degrees clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    expected = session.classify(upright)
    assert session.classify(turned) != expected
    assert session.classify(tmp_path / "turned.png") == expected
    with Image.open(tmp_path / "turned.png") as image:
        assert session.classify(image) == expected


def test_a_list_of_images_gives_a_list_of_results(session, tmp_path):
    first, second = (PIXELS[i, 0].numpy() for i in (3, 4))
    Image.fromarray(second).save(tmp_path / "digit.png")
    expected = [session.classify(pixels, top=2) for pixels in (first, second)]
    for images in ([first, tmp_path / "digit.png"], (Image.fromarray(first), second)):
        assert session.classify(images, top=2) == expected
    assert session.classify([]) == []


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((8, 8)), r"float64 \[8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \[8, 8, 4\]"),
        (np.zeros(8, np.uint8), r"uint8 \[8\]"),
        (Image.new("F", (8, 8)), "got F"),
        (__file__, "JPEG, PNG, WEBP"),
    ],
)
def test_what_is_no_image_of_bytes_is_refused(session, image, found):
    with pytest.raises(ValueError, match=f"image: expected .*{found}"):
        session.classify(image)


def test_a_picture_that_was_cut_short_is_refused_by_its_path(session, tmp_path):
    path = tmp_path / "cut.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(
        ValueError, match=r"image: expected a whole JPEG, PNG, WEBP image, got .*cut\.png: "
    ):
        session.classify(path)
    with pytest.raises(FileNotFoundError):
        session.classify(tmp_path / "none.png")


@pytest.mark.parametrize("top", [-1, 2.5, "3"])
def test_no_whole_number_of_labels_is_refused(session, top):
    with pytest.raises(ValueError, match=f"top: expected a whole number >= 1, got {top!r}"):
        session.classify(Image.new("L", (8, 8)), top=top)


def test_other_sizes_go_through_what_images_are_measured_with(session, tmp_path):
    from dataclasses import replace

    from torchvision.transforms import v2

    from zoo.data import DataConfig, load_images

    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "val" / name).mkdir(parents=True)
        image = Image.fromarray(draw.integers(0, 256, (50, 71, 3), dtype=np.uint8))
        image.save(tmp_path / "val" / name / "1.png")
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
    with pytest.raises(ValueError, match="short_bp_resnet34: expected pretrained weights"):
        zoo.load_onnx("short_bp_resnet34")


def test_a_graph_with_weights_in_another_file_is_refused(exported, tmp_path, monkeypatch):
    folder = shutil.copytree(exported, tmp_path / "outside")
    (folder / "verification.json").unlink()
    path = folder / hub.UINT8_GRAPH
    graph = onnx.load(path)
    (moved,) = (t for t in graph.graph.initializer if t.name.endswith("fc.bias"))
    set_external_data(moved, "weights.bin")
    (tmp_path / "weights.bin").write_bytes(moved.raw_data)
    moved.ClearField("raw_data")
    path.write_bytes(graph.SerializeToString())
    monkeypatch.chdir(tmp_path)  # where onnxruntime would look for it
    with pytest.raises(ValueError, match="weights in other files, which have no hash"):
        zoo.load_onnx(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crop_pct", 0),
        ("crop_pct", 1.25),
        ("crop_mode", "squash"),
    ],
)
def test_a_config_that_no_image_can_go_through_is_refused(exported, tmp_path, key, value):
    folder = shutil.copytree(exported, tmp_path / "wrong")
    (folder / "verification.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json: expected"):
        zoo.load_onnx(f"local-dir:{folder}")


def test_a_name_that_is_none_is_answered_as_create_model_does():
    for name, said in [
        ("short_bp_resnet81", "unknown model 'short_bp_resnet81', closest names: "),
        ("some/folder", "some/folder: no such folder"),
    ]:
        for load in (zoo.load_onnx, zoo.create_model):
            with pytest.raises((ValueError, FileNotFoundError), match=said):
                load(name)
