"""Images in files of any size, through timm's readers."""

import dataclasses
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import to_pil_image

import zoo
from export.checks.images import data_images
from zoo.data import DataConfig, load_images
from zoo.inference.image import middle
from zoo.training.augment import AugmentConfig
from zoo.training.config import Config
from zoo.training.engine import train
from zoo.training.feed import Feed
from zoo.training.prepare import load_data

RGB = {"mean": (124, 116, 104), "std": (58, 57, 57)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two classes, dark and light, in images of several sizes."""
    root = tmp_path_factory.mktemp("imagenet")
    draw = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("val", 4)):
        for name, low in (("n01", 0), ("n02", 128)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                size = (3, 40 + 4 * i, 60 - 4 * i)
                pixels = torch.randint(low, low + 128, size, dtype=torch.uint8, generator=draw)
                to_pil_image(pixels).save(root / split / name / f"{i}.jpg")
    return root


def config(root: Path) -> DataConfig:
    return DataConfig(name="imagenet", root=str(root), size=32, **RGB)


def test_a_run_sees_other_crops_in_each_epoch_than_are_measured(folder):
    images = load_images(config(folder), "train")
    feed = Feed(Config(batch_size=16, device="cpu"), images)
    seen = [images.take(range(16))[0]]
    for epoch in map(feed.epoch, (0, 1)):
        seen += [pixels for pixels, _ in next(epoch)]
    assert len({image.numpy().tobytes() for pixels in seen for image in pixels}) == 3 * 16


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_an_image_of_other_colours_is_seen_in_three(folder, tmp_path, mode):
    copy = shutil.copytree(folder, tmp_path / "copy")
    Image.new(mode, (40, 40)).save(copy / "val" / "n01" / "other.jpg")
    images = load_images(config(copy), "test")
    assert images.take(range(len(images)))[0].shape == (9, 3, 32, 32)


def test_a_measured_image_is_always_the_same_and_a_trained_one_follows_its_seed(folder):
    images = load_images(config(folder), "train")
    assert (len(images), images.classes, images.shape) == (16, ("n01", "n02"), (3, 32, 32))
    pixels, labels = images.take([0, 15])
    assert labels.tolist() == [0, 1]
    assert torch.equal(images.take([0, 15])[0], pixels)

    def crop(seed: int) -> torch.Tensor:
        return images.take([0, 15], lambda index: torch.manual_seed(seed + index))[0]

    assert torch.equal(crop(1), crop(1))
    assert not torch.equal(crop(1), crop(2))


def test_tar_archives_hold_the_same_images(folder, tmp_path):
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as archive:
            for name in ("n01", "n02"):
                archive.add(folder / split / name, name)
    for split in ("train", "test"):
        from_files = load_images(config(folder), split)
        from_tar = load_images(config(tmp_path), split)
        everything = list(range(len(from_files)))
        left, right = from_files.take(everything), from_tar.take(everything)
        assert from_tar.classes == from_files.classes
        assert all(torch.equal(*pair) for pair in zip(left, right, strict=True))


def test_a_run_learns_from_files(recipe, folder, tmp_path):
    recipe = replace(
        recipe,
        data=config(folder),
        augment=AugmentConfig(auto="randaugment", crop_padding=0),
        epochs=15,
        batch_size=8,
        workers=1,
        output=str(tmp_path),
    )
    assert train(recipe)["test_accuracy"] > 75


def test_a_broken_image_is_named_and_not_passed_over(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "val" / "n02" / "1.jpg").write_bytes(b"no image")
    images = load_images(config(copy), "test")
    with pytest.raises(ValueError, match=r"data.root: expected an image, got .*n02/1.jpg"):
        images.take(range(len(images)))


def test_a_png_that_is_damaged_inside_is_named(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "val" / "n02" / "damaged.png"
    to_pil_image(torch.zeros(3, 64, 64, dtype=torch.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"IDAT", b"\0\0\0\0"))
    images = load_images(config(copy), "test")
    with pytest.raises(ValueError, match=r"image, got .*damaged.png, .* or a damaged one"):
        images.take(range(len(images)))


def damaged(archive: Path, damage: str) -> None:
    """Flip a bit in a header inside, or cut there."""
    with tarfile.open(archive) as files:
        at = files.getmembers()[-3].offset
    content = bytearray(archive.read_bytes())
    content[at] ^= 1
    archive.write_bytes(content if damage == "a bit" else content[:at])


@pytest.mark.parametrize("damage", ["a bit", "a cut"])
@pytest.mark.parametrize("inside", [False, True])
def test_an_archive_that_is_damaged_at_a_header_is_refused(folder, tmp_path, damage, inside):
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for name in ("n01", "n02"):
            archive.add(folder / "train" / name, name)
    damaged(tmp_path / "train.tar", damage)
    if inside:
        (tmp_path / "train.tar").rename(tmp_path / "n01.tar")
        with tarfile.open(tmp_path / "train.tar", "w") as archive:
            archive.add(tmp_path / "n01.tar", "n01.tar")
    with pytest.raises(FileNotFoundError, match=r"data.root: expected .* cut or damaged"):
        load_images(config(tmp_path), "train")


def test_images_below_their_class_are_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    for name in ("n01", "n02"):
        (copy / "val" / name).rename(copy / "val" / "images")
        (copy / "val" / name).mkdir()
        (copy / "val" / "images").rename(copy / "val" / name / "images")
    message = r"data.root: expected CLASS/IMAGE .* got n01/images/\S+ and n02/images"
    with pytest.raises(ValueError, match=message):
        load_images(config(copy), "test")


def test_images_of_more_than_8_bits_a_channel_are_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    grey = np.full((64, 64), 40_000, dtype=np.uint16)
    Image.fromarray(grey).save(copy / "val" / "n02" / "grey.png")
    images = load_images(config(copy), "test")
    with pytest.raises(ValueError, match=r"expected 8 bits a channel, got I(;16)? in .*grey.png"):
        images.take(range(len(images)))


def test_archives_that_hold_no_images_say_what_is_expected(tmp_path):
    for content in (b"half of a download", b"\0" * 10240):  # no tar at all, and an empty one
        (tmp_path / "train.tar").write_bytes(content)
        with pytest.raises(FileNotFoundError, match=r"data.root: expected .* train.tar and val"):
            load_images(config(tmp_path), "train")


@pytest.mark.parametrize("packed", [False, True])
def test_images_in_files_are_held_out_and_limited(folder, tmp_path, packed):
    root = shutil.copytree(folder, tmp_path / "set")
    for name in ("10.jpg", "01.jpg"):  # where timm's order is another than ours
        shutil.copy(folder / "train" / "n01" / "2.jpg", root / "train" / "n01" / name)
    if packed:
        for split in ("train", "val"):
            with tarfile.open(tmp_path / f"{split}.tar", "w") as archive:
                for path in sorted((root / split).rglob("*.jpg")):
                    archive.add(path, arcname=path.relative_to(root / split))
    recipe = replace(config(tmp_path if packed else root), holdout=6, limit=8)
    data, every = load_data(Config(data=recipe)), load_images(recipe, "train")
    train, held_out = (
        [*map(images.reader.filename, images.indices)] for images in (data.train, data.measured)
    )
    assert (len(train), len(held_out)) == (8, 6)
    assert len({*train, *held_out}) == 14
    chosen = torch.arange(len(every) - 1, -1, -2)
    some, same = every.subset(chosen).take(range(len(chosen))), every.take(chosen.tolist())
    assert all(map(torch.equal, some, same))


def test_a_network_is_verified_on_them(folder):
    model = zoo.create_model("short_bp_resnet20_slim")
    data = dataclasses.asdict(config(folder))
    training = {"training": {"data": data}, "label_names": ["n01", "n02"], "num_classes": 2}
    images = data_images(model, training, "", 3)
    assert images.pixels.shape == (3, 3, 32, 32)
    assert images.source == "test images of a folder in ImageNet's layout"


def test_missing_files_are_told_what_to_fetch(tmp_path):
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"data.root: expected .* with train/CLASS"):
            load_images(config(root), "train")


def test_one_order_however_the_images_are_packed(folder, tmp_path):
    """Of a tar with a tar of each class, as ImageNet comes, and of names that sort in two ways."""
    root = tmp_path / "set"
    shutil.copytree(folder, root)
    for i, name in enumerate(("10.jpg", "B.jpg", "a.jpg", "01.jpg")):
        shutil.copy(root / "train" / "n02" / f"{i}.jpg", root / "train" / "n01" / name)
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as archive:
            for name in ("n01", "n02"):
                inner = tmp_path / f"{name}.tar"
                with tarfile.open(inner, "w") as files:
                    for path in sorted((root / split / name).iterdir(), reverse=True):
                        files.add(path, arcname=path.name)
                archive.add(inner, arcname=f"{name}.tar")
    unpacked, packed = (load_images(config(at), "train") for at in (root, tmp_path))
    every = list(range(len(unpacked)))
    for ours, theirs in zip(unpacked.take(every), packed.take(every), strict=True):
        assert torch.equal(ours, theirs)
    names = [unpacked.reader.filename(int(i)) for i in unpacked.indices[:6]]
    assert names == [f"n01/{i}.jpg" for i in ("0", "01", "1", "10", "2", "3")]


def test_an_image_beside_the_classes_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    shutil.copy(folder / "train" / "n01" / "0.jpg", tmp_path / "set" / "train" / "stray.jpg")
    with pytest.raises(ValueError, match=r"expected CLASS/IMAGE in .*train', got stray\.jpg"):
        load_images(config(tmp_path / "set"), "train")


@pytest.mark.parametrize("packed", [False, True])
def test_an_image_of_a_kind_that_is_not_read_is_refused(folder, tmp_path, packed):
    shutil.copytree(folder, tmp_path / "set")
    (tmp_path / "set" / "train" / "n01" / "one.webp").write_bytes(b"RIFF")
    if packed:
        with tarfile.open(tmp_path / "set" / "train.tar", "w") as archive:
            archive.add(tmp_path / "set" / "train", arcname="train")
        shutil.rmtree(tmp_path / "set" / "train")
    with pytest.raises(ValueError, match=r"images in \.jpeg, \.jpg, \.png, got .*n01/one\.webp"):
        load_images(config(tmp_path / "set"), "train")


@pytest.mark.parametrize("packed", [False, True])
def test_classes_that_differ_in_case_alone_have_one_order(tmp_path, packed):
    # timm's own order of them is another in each process.
    names = tuple("AaBbCcDdEeFfGgHhIiJj")
    for brightness, name in enumerate(names):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        image = torch.full((3, 32, 32), brightness, dtype=torch.uint8)
        to_pil_image(image).save(tmp_path / "set" / "train" / name / "0.png")
    root = tmp_path / "set"
    if packed:
        root = tmp_path
        with tarfile.open(root / "train.tar", "w") as archive:
            archive.add(tmp_path / "set" / "train", ".")
    images = load_images(config(root), "train")
    assert images.classes == names
    pixels, labels = images.subset(torch.arange(19, -1, -1)).take(range(20))
    assert labels.tolist() == pixels[:, 0, 0, 0].tolist() == [*range(19, -1, -1)]


def test_a_folder_beside_an_archive_of_it_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        archive.add(folder / "val", ".")
    load_images(config(tmp_path), "train")
    with pytest.raises(ValueError, match=r"data\.root: expected val/ or val\.tar, got both in"):
        load_images(config(tmp_path), "test")


@pytest.mark.parametrize("inside", ["", ".hidden"])
@pytest.mark.parametrize("packed", ["no", "tar", "files of a tar", "tars", "tars in a folder"])
def test_a_class_that_would_be_left_out_is_refused(folder, tmp_path, packed, inside):
    train = shutil.copytree(folder, tmp_path / "set") / "train"
    (train / "n03" / inside).mkdir(parents=True)
    (train / "n03" / inside / "noted.txt").write_text("no image")
    root = train.parent if packed == "no" else tmp_path
    if packed == "tar":
        with tarfile.open(root / "train.tar", "w") as archive:
            archive.add(train, ".")
    elif packed == "files of a tar":
        with tarfile.open(root / "train.tar", "w") as archive:
            for path in (path for path in train.rglob("*") if path.is_file()):
                archive.add(path, path.relative_to(train))
    elif packed.startswith("tars"):
        above = Path("train" if "folder" in packed else "")
        with tarfile.open(root / "train.tar", "w") as archive:
            archive.add(train, above, recursive=False)
            for place in sorted(train.iterdir()):
                with tarfile.open(tmp_path / f"{place.name}.tar", "w") as of_class:
                    for path in place.iterdir():
                        of_class.add(path, path.name)
                archive.add(tmp_path / f"{place.name}.tar", above / f"{place.name}.tar")
    with pytest.raises(ValueError, match=r"images in each class of .*train', found none in n03"):
        load_images(config(root), "train")


def test_what_a_dot_hides_is_no_class(folder, tmp_path):
    train = shutil.copytree(folder, tmp_path / "set") / "train"
    for hidden in (train / ".git" / "objects", train / "n02" / ".cache" / "x"):
        hidden.mkdir(parents=True)
        (hidden / "noted.txt").write_text("no image")
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        archive.add(train, "train")
    for root in (train.parent, tmp_path):
        assert load_images(config(root), "train").classes == ("n01", "n02")


def test_a_single_class_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / "train" / "n02")
    with pytest.raises(ValueError, match=r"two classes or more in .*train', got 'n01' alone"):
        load_images(config(tmp_path / "set"), "train")


def test_a_picture_is_turned_as_its_camera_says(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    upright = np.zeros((40, 40, 3), np.uint8)
    upright[:20] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by 90 degrees clockwise
    turned = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "set" / "val" / "n01" / "0.jpg", exif=exif)
    images, _ = load_images(config(tmp_path / "set"), "test").take([0])
    assert images[0, :, :15].min() > 200
    assert images[0, :, -15:].max() < 50


def test_a_link_in_an_archive_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    link = tmp_path / "set" / "train" / "n01" / "link.jpg"
    link.hardlink_to(tmp_path / "set" / "train" / "n01" / "0.jpg")
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        archive.add(tmp_path / "set" / "train", arcname="train")
    with pytest.raises(ValueError, match=r"expected images themselves, got a link, train/n01/"):
        load_images(config(tmp_path), "train")


def test_an_image_that_an_archive_holds_twice_is_refused(folder, tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        archive.add(folder / "train", arcname="train")
        archive.add(folder / "train" / "n01" / "0.jpg", arcname="train/n01/0.jpg")
    with pytest.raises(ValueError, match=r"expected each image once, got .*n01/0\.jpg twice in "):
        load_images(config(tmp_path), "train")


def test_a_class_that_links_to_nothing_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    (tmp_path / "set" / "train" / "n03").symlink_to(tmp_path / "not_mounted")
    with pytest.raises(ValueError, match=r"expected what .*train/n03 links to, found nothing"):
        load_images(config(tmp_path / "set"), "train")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_gone_is_named(folder, tmp_path, workers):
    shutil.copytree(folder, tmp_path / "set")
    images = load_images(config(tmp_path / "set"), "train")
    (tmp_path / "set" / "train" / "n01" / "0.jpg").unlink()
    feed = Feed(Config(batch_size=16, workers=workers, device="cpu"), images)
    with pytest.raises(ValueError, match=r"^data\.root: expected to read .*n01/0\.jpg, got: .*$"):
        [[*chunks] for chunks in feed.epoch(0)]


@pytest.mark.parametrize(("size", "crop"), [(224, 0.875), (160, 0.875), (32, 0.875), (32, 1.0)])
@pytest.mark.parametrize("shape", [(300, 400), (401, 299), (32, 32), (20, 50)])
def test_the_middle_of_an_image_is_timms(shape, size, crop):
    draw = np.random.default_rng(0)
    image = Image.fromarray(draw.integers(0, 256, (*shape, 3), dtype=np.uint8))
    transform = create_transform((3, size, size), crop_pct=crop, interpolation="bicubic")
    resize, cut, *_ = transform.transforms
    expected = cut(resize(image))
    ours = middle(image, size, size, crop, InterpolationMode.BICUBIC)
    assert np.array_equal(np.asarray(ours), np.asarray(expected))


def test_the_middle_of_an_image_is_timms_where_it_is_no_square():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    transform = create_transform((3, 40, 64), crop_pct=0.875, interpolation="bilinear")
    resize, cut, *_ = transform.transforms
    ours = middle(image, 40, 64, 0.875, InterpolationMode.BILINEAR)
    assert np.array_equal(np.asarray(ours), np.asarray(cut(resize(image))))
