"""Image sets: folders, archives, and what is said of those that are not there."""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import FashionMNIST
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from zoo.data import DataConfig, load_images, normalise, small


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


@pytest.mark.parametrize("suffix", ["tar", "tar.xz", "tar.gz"])
@pytest.mark.parametrize("prefix", ["", "./", "some/where/"])
def test_an_archive_equals_the_folder_that_was_packed(folder, tmp_path, suffix, prefix):
    archive = tmp_path / f"set.{suffix}"
    with tarfile.open(archive, f"w:{suffix.split('.')[-1]}".replace("w:tar", "w")) as files:
        for path in sorted(folder.rglob("*.png"), reverse=True):  # as tar finds them: in no order
            files.add(path, arcname=f"{prefix}{path.relative_to(folder)}")
    for split in ("train", "test"):
        packed, plain = load_images(config(archive), split), load_images(config(folder), split)
        assert packed.classes == plain.classes == ("ant", "cat", "dog")
        assert torch.equal(packed.images, plain.images)
        assert torch.equal(packed.labels, plain.labels)


def test_images_of_a_folder_are_in_the_order_of_their_classes_and_files(folder):
    """What is held out of a set follows from it."""
    names = [f"{name}/{i}.png" for name in ("ant", "cat", "dog") for i in range(2)]
    found = load_images(config(folder), "train")
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for image, name in zip(found.images, names, strict=True):
        assert torch.equal(image, pil_to_tensor(Image.open(folder / "train" / name)))


@pytest.mark.parametrize("packed", [False, True])
def test_a_picture_beside_the_splits_is_left_alone(folder, tmp_path, packed):
    (folder / "preview.gif").write_bytes(b"GIF89a")
    archive = tmp_path / "set.tar"
    with tarfile.open(archive, "w") as files:
        files.add(folder, arcname="set")
    assert len(load_images(config(archive if packed else folder), "train")) == 6


@pytest.mark.parametrize("packed", [False, True])
def test_an_image_of_a_kind_that_is_not_read_is_refused(folder, tmp_path, packed):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "train" / "cat" / "one.BMP", "BMP")
    archive = tmp_path / "set.tar"
    with tarfile.open(archive, "w") as files:
        files.add(folder, arcname="set")
    with pytest.raises(ValueError, match=r"images in .*, got .*train/cat/one\.BMP"):
        load_images(config(archive if packed else folder), "train")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"name": "cifar10", "size": 64}, "data.size: expected none for cifar10, got 64"),
        ({"name": "imagenet", "frames": 4}, "data.frames: expected none for imagenet, got 4"),
        ({"name": "image_folder", "download": True}, "data.download: expected none for image_fol"),
    ],
)
def test_what_would_change_nothing_is_not_taken(asked, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**asked)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("my_set", "test", "data.name: expected one of .'digits', .*, got 'my_set'"),
        ("digits", "val", "split: expected one of .'train', 'test'., got 'val'"),
    ],
)
def test_a_set_or_a_split_that_there_is_none_of_is_refused(name, split, message):
    with pytest.raises(ValueError, match=message):
        load_images(DataConfig(name=name), split)


def test_digits_are_split_once_and_for_all():
    digits = DataConfig(name="digits", mean=(78,), std=(96,))
    train, test = load_images(digits, "train"), load_images(digits, "test")
    assert train.images.shape == (1437, 1, 8, 8)
    assert len(test) == 360
    assert train.images.dtype == torch.uint8
    assert train.images.max() == 255
    assert test.labels[:10].tolist() == [6, 5, 5, 7, 9, 9, 8, 4, 6, 8]
    assert train.labels[:10].tolist() == [7, 1, 9, 8, 5, 0, 4, 5, 6, 5]


def test_no_digit_is_in_both_splits():
    found = load_digits()
    config = DataConfig(name="digits", mean=(78,), std=(96,))
    train, test = load_images(config, "train"), load_images(config, "test")
    ours = torch.cat([train.images, test.images]).flatten(1)
    every = torch.from_numpy(found.data).mul(255 / 16).round().to(torch.uint8)
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, every.tolist()))


def test_a_set_of_torchvision_has_its_own_splits_and_channels_in_front(monkeypatch):
    class TwoColours:
        """As torchvision has CIFAR: [N, H, W, C], here 5 images to train on and 3 to test."""

        def __init__(self, root, train, download):
            images = np.full((5 if train else 3, 32, 32, 3), 1 if train else 2, np.uint8)
            images[0, 4, 5, 1] = 9
            self.data, self.targets, self.classes = images, [0] * len(images), ["a"]

    monkeypatch.setitem(small.TORCHVISION, "cifar10", (TwoColours, ""))
    for split, count, colour in (("train", 5, 1), ("test", 3, 2)):
        images = load_images(DataConfig(name="cifar10"), split).images
        assert images.shape == (count, 3, 32, 32)
        assert images[0, 1, 4, 5] == 9
        assert images[-1].unique().tolist() == [colour]


def test_grey_images_of_torchvision_have_one_channel(tmp_path):
    def idx(values: np.ndarray) -> bytes:
        """The original files' format: type and axes, sizes, bytes."""
        sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
        return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()

    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 5), ("t10k", 3)):
        pixels = np.arange(count * 28 * 28, dtype=np.uint8).reshape(count, 28, 28)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(idx(pixels))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8)))
    found = load_images(
        DataConfig(name="fashion_mnist", root=str(tmp_path), mean=(73,), std=(90,)), "test"
    )
    assert torch.equal(found.images[:, 0], torch.from_numpy(pixels))
    assert found.labels.tolist() == [0, 1, 2]


def test_every_kind_of_image_that_is_read_is_read(folder):
    for suffix in ("jpg", "jpeg", "png", "webp"):
        Image.new("RGB", (8, 8)).save(folder / "train" / "cat" / f"other.{suffix}")
    assert len(load_images(config(folder), "train")) == 6 + 4


def test_a_normalised_pixel_is_still_a_pixel():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    values = normalise(pixels, (125,), (63,))
    assert torch.equal((values * 63).round() + 125, pixels.float())


def test_missing_images_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder or a tar archive"):
        load_images(config(tmp_path / "nothing"), "train")
    with pytest.raises(FileNotFoundError, match=r"set data\.download: true"):
        load_images(DataConfig(name="cifar10", root=str(tmp_path)), "train")


def test_a_folder_without_the_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected train/CLASS/IMAGE in .* found no image"):
        load_images(config(tmp_path), "train")


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "train" / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"expected an image, got train/cat/1\.png, which is none"):
        load_images(config(folder), "train")


def test_an_empty_file_is_named(folder):
    (folder / "train" / "cat" / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected an image, got train/cat/empty\.png"):
        load_images(config(folder), "train")


def test_what_macos_keeps_beside_an_image_is_named(folder):
    (folder / "train" / "cat" / "._1.png").write_bytes(b"\0\5\x16\7")
    with pytest.raises(ValueError, match=r"expected images, got .*\._1\.png, which macOS made"):
        load_images(config(folder), "train")


def test_an_image_of_16_bits_is_named(folder):
    pixels = np.full((8, 8), 65_000, np.uint16)
    Image.fromarray(pixels).save(folder / "train" / "cat" / "deep.png")
    with pytest.raises(ValueError, match=r"8 bits a channel, got I(;16)? in train/cat/deep"):
        load_images(config(folder), "train")


def test_a_set_that_cannot_be_fetched_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    grey = {"mean": (73,), "std": (90,)}
    fashion = DataConfig(name="fashion_mnist", root=str(tmp_path), download=True, **grey)
    with pytest.raises(FileNotFoundError, match=r"expected to fetch fashion_mnist .* refused"):
        load_images(fashion, "train")


def test_images_of_two_sizes_are_refused(folder):
    to_pil_image(torch.zeros(3, 9, 9, dtype=torch.uint8)).save(folder / "train" / "ant" / "odd.png")
    with pytest.raises(
        ValueError, match=r"one size .*got \[3, 9, 9\] in train/ant/odd\.png|8\] in"
    ):
        load_images(config(folder), "train")


def test_a_truncated_archive_is_refused(folder, tmp_path):
    archive = tmp_path / "set.tar.xz"
    with tarfile.open(archive, "w:xz") as files:
        files.add(folder, arcname=".")
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(ValueError, match="expected a tar archive, got"):
        load_images(config(archive), "train")


@pytest.mark.parametrize("damage", ["a bit", "a cut"])
def test_an_archive_that_is_damaged_at_a_header_is_refused(folder, tmp_path, damage):
    archive = tmp_path / "set.tar"
    with tarfile.open(archive, "w") as files:
        files.add(folder, arcname=".")
        at = files.getmembers()[-3].offset
    content = bytearray(archive.read_bytes())
    content[at] ^= 1
    archive.write_bytes(content if damage == "a bit" else content[:at])
    with pytest.raises(ValueError, match=r"expected a tar archive, got .* cut or damaged"):
        load_images(config(archive), "train")


@pytest.mark.parametrize("kind", ["hard", "symbolic"])
def test_a_link_in_an_archive_is_refused(folder, tmp_path, kind):
    image = folder / "train" / "ant" / "0.png"
    link = folder / "train" / "ant" / "link.png"
    link.hardlink_to(image) if kind == "hard" else link.symlink_to(image)
    with tarfile.open(tmp_path / "set.tar", "w") as files:
        files.add(folder, arcname=".")
    with pytest.raises(ValueError, match=r"expected images themselves, got a link, .*\.png"):
        load_images(config(tmp_path / "set.tar"), "train")


@pytest.mark.parametrize("packed", [False, True])
def test_a_class_that_is_a_link_is_one_like_any_other_or_refused(folder, tmp_path, packed):
    (folder / "train" / "eel").symlink_to(folder / "train" / "cat")
    if not packed:
        assert load_images(config(folder), "train").classes == ("ant", "cat", "dog", "eel")
        return
    with tarfile.open(tmp_path / "set.tar", "w") as files:
        files.add(folder, arcname=".")
    with pytest.raises(ValueError, match=r"expected images themselves, got a link, .*train/eel"):
        load_images(config(tmp_path / "set.tar"), "train")


def test_a_class_that_links_to_nothing_is_refused(folder, tmp_path):
    (folder / "train" / "eel").symlink_to(tmp_path / "not_mounted")
    with pytest.raises(ValueError, match=r"expected what .*train/eel links to, found nothing"):
        load_images(config(folder), "train")


def test_means_for_other_channels_are_refused(folder):
    with pytest.raises(ValueError, match=r"data\.mean and data\.std: expected 3 values each"):
        load_images(config(folder, mean=(78,), std=(96,)), "train")


def test_an_image_below_its_class_is_refused(folder, tmp_path):
    (folder / "train" / "cat" / "kittens").mkdir()
    image = folder / "train" / "cat" / "0.png"
    image.rename(folder / "train" / "cat" / "kittens" / "0.png")
    with tarfile.open(tmp_path / "set.tar", "w") as files:
        files.add(folder, arcname=".")
    for root in (folder, tmp_path / "set.tar"):
        with pytest.raises(ValueError, match=r"expected train/CLASS/IMAGE, got .*kittens.0\.png"):
            load_images(config(root), "train")


def test_an_image_that_an_archive_holds_twice_is_refused(folder, tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as files:
        files.add(folder, arcname=".")
        files.add(folder / "train" / "cat" / "0.png", arcname="./train/cat/0.png")
    with pytest.raises(ValueError, match=r"expected each image once, got train/cat/0\.png twice"):
        load_images(config(tmp_path / "set.tar"), "train")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("file", ["", "one.jfif", "noted.txt", "deep/er/one.png"])
def test_a_class_that_would_be_left_out_is_refused(folder, tmp_path, packed, file):
    place = folder / "train" / "eel" / file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.mkdir() if not file else shutil.copy(folder / "train" / "ant" / "0.png", place)
    archive = tmp_path / "set.tar"
    with tarfile.open(archive, "w") as files:
        for path in folder.rglob("*") if file else [folder]:  # an archive need not name folders
            if not (file and path.is_dir()):
                files.add(path, arcname=Path("set") / path.relative_to(folder))
    with pytest.raises(ValueError, match=r"data\.root: expected .*(none in eel|train/eel/.*one)"):
        load_images(config(archive if packed else folder), "train")
    assert len(load_images(config(archive if packed else folder), "test")) == 3


@pytest.mark.parametrize("packed", [False, True])
def test_what_jupyter_keeps_of_images_is_no_class(folder, tmp_path, packed):
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    assert load_images(config(folder), "train").classes == ("ant", "cat", "dog")
    image = folder / "train" / "cat" / "0.png"
    shutil.copy(image, folder / "train" / ".ipynb_checkpoints" / "0-checkpoint.png")
    archive = tmp_path / "set.tar"
    with tarfile.open(archive, "w") as files:
        files.add(folder, arcname=".")
    with pytest.raises(
        ValueError, match=r"no images in hidden folders of .*\.ipynb_checkpoints; r"
    ):
        load_images(config(archive if packed else folder), "train")


def test_one_class_is_nothing_to_learn(folder):
    for name in ("ant", "dog"):
        shutil.rmtree(folder / "train" / name)
    with pytest.raises(ValueError, match=r"of two classes or more in .*, got 'cat' alone"):
        load_images(config(folder), "train")
