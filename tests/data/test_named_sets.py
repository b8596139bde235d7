"""Sets by timm's names: folders, shards of WebDataset, tables of datasets, torchvision's."""

import io
import signal
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from image_sets import CLASSES, encoded, write_folder, write_shards
from PIL import Image

from zoo import hub
from zoo.data import DataConfig, load_images
from zoo.hub import run_folder as runs
from zoo.training.augment import AugmentConfig
from zoo.training.engine import train
from zoo.training.learner import Learner

RGB = {"mean": (124, 116, 104), "std": (58, 57, 57), "size": 32}
SPLITS = {"train": ("train", 16), "validation": ("val", 8)}


def table_of(split: str):
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as Column

    labels, images = zip(*encoded(*SPLITS[split]), strict=True)
    rows = {"image": [{"bytes": image, "path": None} for image in images], "label": [*labels]}
    features = Features({"image": Column(), "label": ClassLabel(names=list(CLASSES))})
    return Dataset.from_dict(rows, features=features)


def write_tables(root: Path, parquet: bool = False) -> Path:
    from datasets import DatasetDict

    tables = DatasetDict({split: table_of(split) for split in SPLITS})
    if not parquet:
        tables.save_to_disk(root)
        return root
    root.mkdir()
    for split, table in tables.items():
        table.to_parquet(root / f"{split}-00000-of-00001.parquet")
    return root


KINDS = {
    "folder": write_folder,
    "wds": write_shards,
    "hfds": write_tables,
    "parquet": partial(write_tables, parquet=True),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(params=KINDS)
def data(request, tmp_path) -> DataConfig:
    KINDS[request.param](tmp_path / "set")
    kind = "hfds" if request.param == "parquet" else request.param
    return DataConfig(name=f"{kind}/set", root=str(tmp_path), **RGB)


def test_every_kind_has_the_same_images_with_their_labels(data):
    for split, (name, count) in (("train", SPLITS["train"]), ("test", SPLITS["validation"])):
        images = load_images(data, split)
        assert images.classes == CLASSES
        assert len(images) == count
        pixels, labels = images.take(range(count))
        assert pixels.shape == (count, 3, 32, 32)
        assert [int(image.float().mean() > 127) for image in pixels] == labels.tolist()
        assert labels.bincount().tolist() == [count // 2] * 2
        own = {file for _, file in encoded(name, count)}
        read = [images.open(int(number))[0].read() for number in images.numbers]
        assert set(read) == own
        some = images.subset(torch.tensor([5, 2]))
        assert torch.equal(some.take([0, 1])[0], pixels[[5, 2]])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_is_stopped_resumes_with_the_same_bits(
    recipe, data, tmp_path, workers, monkeypatch
):
    recipe = replace(
        recipe,
        model_args=recipe.model_args | {"depths": [1, 1], "widths": [8, 16]},
        data=replace(data, holdout=4),
        augment=AugmentConfig(crop_padding=0),
        epochs=2,
        batch_size=6,
        workers=workers,
    )
    train(replace(recipe, output=str(tmp_path / "whole")))
    whole = runs.newest_checkpoint(tmp_path / "whole")
    step = Learner.step

    def stopped(self, chunks, iteration, total):
        sums = step(self, chunks, iteration, total)
        if iteration == 2:
            signal.raise_signal(signal.SIGTERM)
        return sums

    broken = replace(recipe, output=str(tmp_path / "broken"))
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", stopped)
        train(broken)
    assert [path.name[-1] for path in runs.checkpoints(tmp_path / "broken")] == ["2", "3"]
    train(broken)
    resumed = runs.newest_checkpoint(tmp_path / "broken")
    assert (resumed / hub.WEIGHTS).read_bytes() == (whole / hub.WEIGHTS).read_bytes()
    config = hub.read_config(whole)
    assert config["label_names"] == [*CLASSES]
    assert config["training"]["data"]["name"] == data.name
    assert config["pretrained_cfg"]["tag"] == "set"
    assert config["pretrained_cfg"]["crop_pct"] == 0.875


def test_a_set_may_be_the_root_itself(data):
    named = load_images(data, "train")
    alone = replace(data, name=data.kind, root=str(data.place))
    assert torch.equal(load_images(alone, "train").take([3])[0], named.take([3])[0])


def test_names_of_torch_are_those_of_torchvision():
    assert DataConfig(name="torch/cifar10") == DataConfig(name="cifar10")
    assert DataConfig(name="torch/mnist", mean=(33,), std=(78,)).usual == ((1, 28, 28), 10)


@pytest.mark.parametrize("name", ["hfids/set", "tfds/set", "cifar", "wdss/set", "torch/nothing"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"data\.name: expected one of digits, .*hfds/NAME, got "):
        DataConfig(name=name)


def test_a_tag_is_the_last_part_of_a_name():
    assert DataConfig(name="hfds/uoft-cs/cifar10").tag == "cifar10"
    assert DataConfig(name="wds/imagenet", title="ImageNet (224)").tag == "imagenet"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("folder", r"train has no folders of images"),
        ("wds", r"has no shards of train or training"),
        ("hfds", r"has the splits \['validation'\], none of \['train', 'training'\]"),
    ],
)
def test_a_split_that_is_missing_is_named(tmp_path, kind, message):
    if kind == "hfds":
        from datasets import DatasetDict

        DatasetDict({"validation": table_of("validation")}).save_to_disk(tmp_path / "set")
    else:
        (tmp_path / "set").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        load_images(DataConfig(name=f"{kind}/set", root=str(tmp_path), **RGB), "train")


def add(archive: Path, **files: bytes) -> None:
    """Append files, named KEY__SUFFIX, to a tar archive."""
    with tarfile.open(archive, "a") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a__jpg": jpeg()},
            r"a number in KEY\.cls for each image, got .*set-train-0001\.tar: .*a",
        ),
        ({"a__jpg": jpeg(), "a__cls": b"cat"}, r"got .*set-train-0001\.tar: .*cat"),
        ({"a__jpg": jpeg(), "a__cls": b"2"}, r"expected labels from 0 to 1 in .*, got 0 to 2"),
    ],
)
def test_a_shard_without_whole_labels_is_refused(tmp_path, files, message):
    root = write_shards(tmp_path / "set")
    add(root / "set-train-0001.tar", **files)
    with pytest.raises(ValueError, match=message):
        load_images(DataConfig(name="wds", root=str(root), **RGB), "train")


def test_other_files_in_a_shard_are_passed_by(tmp_path):
    root = write_shards(tmp_path / "set")
    add(root / "set-train-0001.tar", a__jpg=jpeg(), a__cls=b"1", a__json=b"{}", notes=b"")
    images = load_images(DataConfig(name="wds", root=str(root), **RGB), "train")
    assert len(images) == 17
    assert images.take([16])[1].tolist() == [1]


def test_a_shard_that_is_no_tar_and_an_image_that_is_none_are_named(tmp_path):
    root = write_shards(tmp_path / "set")
    add(root / "set-val-0000.tar", a__jpg=b"no image", a__cls=b"1")
    data = DataConfig(name="wds", root=str(root), **RGB)
    with pytest.raises(ValueError, match=r"byte \d+ of .*set-val-0000\.tar"):
        load_images(data, "test").take([8])
    (root / "set-train-0000.tar").write_bytes(b"no tar")
    with pytest.raises(ValueError, match=r"set-train-0000\.tar"):
        load_images(data, "train")


def test_without_names_the_classes_are_their_numbers(tmp_path):
    root = write_shards(tmp_path / "set")
    (root / "classes.txt").unlink()
    images = load_images(DataConfig(name="wds", root=str(root), **RGB), "train")
    assert images.classes == ("0", "1")


def test_a_table_without_images_or_labels_is_refused(tmp_path):
    from datasets import DatasetDict

    DatasetDict({"train": table_of("train").remove_columns("label")}).save_to_disk(tmp_path / "set")
    data = DataConfig(name="hfds/set", root=str(tmp_path), **RGB)
    with pytest.raises(ValueError, match="expected a column of images and one of labels"):
        load_images(data, "train")
