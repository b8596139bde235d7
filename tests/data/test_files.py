"""Images of any size in ImageNet's layout, read during training."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import to_pil_image

from zoo.data import DataConfig, load_images
from zoo.inference.image import middle
from zoo.training.augment import AugmentConfig
from zoo.training.config import Config
from zoo.training.engine import train
from zoo.training.feed import Feed
from zoo.training.prepare import load_data

RGB = {"mean": (124, 116, 104), "std": (58, 57, 57)}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes, dark and light, in images of several sizes."""
    root = tmp_path / "imagenet"
    draw = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("val", 4)):
        for name, low in (("n01", 0), ("n02", 128)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                size = (3, 40 + 4 * i, 60 - 4 * i)
                pixels = torch.randint(low, low + 128, size, dtype=torch.uint8, generator=draw)
                to_pil_image(pixels).save(root / split / name / f"{i}.jpg")
    return root


def config(root: Path, **kwargs) -> DataConfig:
    return DataConfig(name="imagenet", root=str(root), size=32, **RGB, **kwargs)


def test_each_epoch_sees_other_crops_than_are_measured(folder):
    images = load_images(config(folder), "train")
    feed = Feed(Config(batch_size=16, device="cpu"), images)
    seen = [images.take(range(16))[0]]
    for epoch in map(feed.epoch, (0, 1)):
        seen += [pixels for pixels, _ in next(epoch)]
    assert len({image.numpy().tobytes() for pixels in seen for image in pixels}) == 3 * 16


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_an_image_in_other_colours_becomes_rgb(folder, mode):
    Image.new(mode, (40, 40)).save(folder / "val" / "n01" / "other.jpg")
    images = load_images(config(folder), "test")
    assert images.take(range(len(images)))[0].shape == (9, 3, 32, 32)


def test_a_measured_image_is_fixed_and_a_crop_depends_on_its_seed(folder):
    images = load_images(config(folder), "train")
    assert (len(images), images.classes, images.shape) == (16, ("n01", "n02"), (3, 32, 32))
    pixels, labels = images.take([0, 15])
    assert labels.tolist() == [0, 1]
    assert torch.equal(images.take([0, 15])[0], pixels)

    def crop(seed: int) -> torch.Tensor:
        return images.take([0, 15], lambda index: torch.manual_seed(seed + index))[0]

    assert torch.equal(crop(1), crop(1))
    assert not torch.equal(crop(1), crop(2))


def test_a_run_learns_from_files_that_a_worker_reads(recipe, folder, tmp_path):
    recipe = replace(
        recipe,
        model_args=recipe.model_args | {"depths": [1, 1], "widths": [8, 16]},
        data=config(folder),
        augment=AugmentConfig(auto="randaugment", crop_padding=0),
        epochs=10,
        batch_size=8,
        workers=1,
        output=str(tmp_path / "run"),
    )
    assert train(recipe)["test_accuracy"] > 75


def test_no_file_is_both_held_out_and_trained_on(recipe, folder):
    data = load_data(replace(recipe, data=config(folder, holdout=5)))
    train, held_out = ({*images.numbers.tolist()} for images in (data.train, data.measured))
    assert (len(train), len(held_out), len(train | held_out)) == (11, 5, 16)


def test_a_broken_image_is_named(folder):
    (folder / "val" / "n02" / "1.jpg").write_bytes(b"no image")
    images = load_images(config(folder), "test")
    with pytest.raises(ValueError, match=r"data.root: .*n02/1.jpg"):
        images.take(range(len(images)))


def test_a_missing_image_is_named_by_a_worker_too(folder):
    images = load_images(config(folder), "train")
    (folder / "train" / "n01" / "0.jpg").unlink()
    feed = Feed(Config(batch_size=16, workers=1, device="cpu"), images)
    with pytest.raises(ValueError, match=r"^[^\n]*n01/0\.jpg[^\n]*$"):
        [[*chunks] for chunks in feed.epoch(0)]


def test_classes_are_sorted_by_number_as_in_timm(folder):
    for name in ("n1", "n10", "n9"):
        shutil.copytree(folder / "train" / "n01", folder / "train" / name)
    assert load_images(config(folder), "train").classes == ("n01", "n1", "n02", "n9", "n10")


def test_an_image_is_turned_by_its_exif_tag(folder):
    upright = np.zeros((40, 40, 3), np.uint8)
    upright[:20] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turn by 90 degrees clockwise
    turned = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "val" / "n01" / "0.jpg", exif=exif)
    images, _ = load_images(config(folder), "test").take([0])
    assert images[0, :, :15].min() > 200
    assert images[0, :, -15:].max() < 50


@pytest.mark.parametrize(
    ("shape", "size", "crop"),
    [((300, 400), 224, 0.875), ((401, 299), 160, 0.875), ((20, 50), 32, 1.0)],
)
def test_the_middle_of_an_image_is_the_same_as_in_timm(shape, size, crop):
    draw = np.random.default_rng(0)
    image = Image.fromarray(draw.integers(0, 256, (*shape, 3), dtype=np.uint8))
    resize, cut, *_ = create_transform(
        (3, size, size), crop_pct=crop, interpolation="bicubic"
    ).transforms
    ours = middle(image, size, size, crop, InterpolationMode.BICUBIC)
    assert np.array_equal(np.asarray(ours), np.asarray(cut(resize(image))))
