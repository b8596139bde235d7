"""Small image sets: scikit-learn's, torchvision's, and folders of images."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from zoo.data import DataConfig, load_images, measured_images, normalise, pixel_values, small

DIGITS = DataConfig(name="digits", mean=(78,), std=(96,))


@pytest.fixture
def folder(tmp_path):
    """Three classes of two images each for training, one for the test."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 2), ("test", 1)):
        for name in ("cat", "ant", "dog"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(count):
                image = torch.randint(256, (3, 8, 8), generator=generator, dtype=torch.uint8)
                to_pil_image(image).save(tmp_path / "set" / split / name / f"{i}.png")
    return tmp_path / "set"


def config(root, **kwargs) -> DataConfig:
    return DataConfig(name="image_folder", root=str(root), **kwargs)


def test_images_of_a_folder_are_in_the_order_of_their_classes_and_files(folder):
    names = [f"{name}/{i}.png" for name in ("ant", "cat", "dog") for i in range(2)]
    found = load_images(config(folder), "train")
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for image, name in zip(found.images, names, strict=True):
        assert torch.equal(image, pil_to_tensor(Image.open(folder / "train" / name)))


def test_jpeg_png_and_webp_are_read_and_hidden_folders_are_not(folder):
    for suffix in ("jpg", "jpeg", "png", "webp"):
        Image.new("RGB", (8, 8)).save(folder / "train" / "cat" / f"other.{suffix}")
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    found = load_images(config(folder), "train")
    assert len(found) == 6 + 4
    assert found.classes == ("ant", "cat", "dog")


def test_an_option_without_effect_is_refused():
    with pytest.raises(ValueError, match=r"data\.size: has no effect on cifar10"):
        DataConfig(name="cifar10", size=64)


def test_digits_are_split_once_and_for_all():
    train, test = load_images(DIGITS, "train"), load_images(DIGITS, "test")
    assert train.images.shape == (1437, 1, 8, 8)
    assert train.images.dtype == torch.uint8
    assert test.labels[:10].tolist() == [6, 5, 5, 7, 9, 9, 8, 4, 6, 8]
    assert train.labels[:10].tolist() == [7, 1, 9, 8, 5, 0, 4, 5, 6, 5]
    both = torch.cat([train.images, test.images]).flatten(1)
    every = torch.from_numpy(load_digits().data).mul(255 / 16).round().to(torch.uint8)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, every.tolist()))


def test_measured_images_are_the_test_images_or_held_out_ones():
    test, name = measured_images(DIGITS)
    assert (len(test), name) == (360, "test")
    held_out, name = measured_images(DataConfig(name="digits", mean=(78,), std=(96,), holdout=5))
    every = load_images(DIGITS, "train").images
    assert name == "holdout"
    assert torch.equal(held_out.images, every[[515, 532, 1290, 1059, 1198]])


def test_torchvision_images_have_their_channels_in_front(monkeypatch):
    class TwoColours:
        """CIFAR as torchvision has it, [N, H, W, C]: 5 images to train on, 3 to test on."""

        def __init__(self, root, train, download):
            images = np.full((5 if train else 3, 32, 32, 3), 1 if train else 2, np.uint8)
            images[0, 4, 5, 1] = 9
            self.data, self.targets, self.classes = images, [0] * len(images), ["a"]

    monkeypatch.setitem(small.TORCHVISION, "cifar10", TwoColours)
    for split, count, colour in (("train", 5, 1), ("test", 3, 2)):
        images = load_images(DataConfig(name="cifar10"), split).images
        assert images.shape == (count, 3, 32, 32)
        assert images[0, 1, 4, 5] == 9
        assert images[-1].unique().tolist() == [colour]


def test_a_normalised_pixel_is_still_a_pixel():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    values = normalise(pixels, (125,), (63,))
    assert torch.equal((values * 63).round() + 125, pixels.float())


def test_preprocessing_has_the_fractions_of_the_pixel_values():
    data = DataConfig(name="imagenet", mean=(124, 116, 104), std=(58, 57, 57))
    assert pixel_values(data.preprocessing["mean"]) == data.mean
    assert data.preprocessing["std"] == (58 / 255, 57 / 255, 57 / 255)
    assert (data.preprocessing["crop_pct"], data.preprocessing["interpolation"]) == (
        0.875,
        "bicubic",
    )
    assert DataConfig().preprocessing["crop_pct"] == 1.0


@pytest.mark.parametrize("name", ["image_folder", "imagenet", "cifar10"])
def test_missing_images_end_in_a_clear_error(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"data\.root: .* (has no folders|is not in)"):
        load_images(DataConfig(name=name, root=str(tmp_path)), "train")


def test_a_class_without_images_is_refused(folder):
    (folder / "train" / "eel").mkdir()
    with pytest.raises(FileNotFoundError, match="classes eel"):
        load_images(config(folder), "train")


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "train" / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"train/cat/1\.png"):
        load_images(config(folder), "train")


def test_images_of_two_sizes_are_refused(folder):
    to_pil_image(torch.zeros(3, 9, 9, dtype=torch.uint8)).save(folder / "train" / "ant" / "odd.png")
    with pytest.raises(ValueError, match=r"one size, got \[3, 9, 9\] in .*train/ant/odd\.png"):
        load_images(config(folder), "train")


def test_means_for_other_channels_are_refused(folder):
    with pytest.raises(ValueError, match=r"data\.mean and data\.std: expected 3 values each"):
        load_images(config(folder, mean=(78,), std=(96,)), "train")


@pytest.mark.parametrize(
    ("title", "tag"),
    [("CIFAR-10 (JPEG)", "cifar10"), ("", "image_folder"), ("My Set, 2nd (a) try", "myset2ndtry")],
)
def test_a_tag_is_the_title_before_brackets(title, tag):
    assert DataConfig(name="image_folder", title=title).tag == tag
