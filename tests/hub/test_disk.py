"""Files that are whole or not there."""

import errno
import json
import os
from pathlib import Path

import pytest

import zoo
from export.folder import REPORT, move_into_place
from zoo.hub import files as disk
from zoo.training.checkpoint import save_checkpoint


@pytest.fixture
def fsync(monkeypatch):
    """Answers as a shared folder does, which can see files onto the disk, or nothing at all."""
    reached = []

    def answer(descriptor):
        reached.append(descriptor)
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", answer)
    return reached


def test_a_folder_that_its_file_system_cannot_sync_is_let_be(fsync, tmp_path):
    disk.sync(tmp_path)
    assert len(fsync) == 1


def test_a_file_that_does_not_reach_the_disk_is_an_error(fsync, tmp_path):
    with pytest.raises(OSError, match=r"words.txt: expected room for it, got: .* Invalid argument"):
        disk.write(tmp_path / "words.txt", "words")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def done(monkeypatch):
    """What is seen onto the disk, a folder with the names in it, and what gets another name."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("nothing tells which file is meant")
    done = []

    def fsync(descriptor, own=os.fsync):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append(("sync", path, {*os.listdir(path)} if path.is_dir() else None))
        own(descriptor)

    def rename(path, target, own=Path.rename):
        done.append(("rename", path, target))
        return own(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    return done


def assert_synced_before_renamed(done, scratch: Path, place: Path) -> None:
    """Every file and the folder itself are synced before the first rename."""
    first = next(i for i, (act, *_) in enumerate(done) if act == "rename")
    files = {scratch / path.relative_to(place) for path in (place, *place.rglob("*"))}
    assert {path for _, path, _ in done[:first]} == files
    *_, renamed, (act, parent, _) = done
    assert renamed == ("rename", scratch, place)
    assert (act, parent) == ("sync", place.parent)


def test_a_checkpoint_is_on_the_disk_before_it_replaces_another(done, tmp_path):
    model = zoo.create_model("short_bp_resnet20_slim")
    for _ in range(2):
        done.clear()
        folder = save_checkpoint(tmp_path, model, {}, {"iteration": 3})
    assert_synced_before_renamed(done, folder.with_suffix(".partial"), folder)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_published_folder_is_on_the_disk_before_it_replaces_another(done, tmp_path):
    scratch, target = tmp_path / "scratch", tmp_path / "target"
    for folder in (scratch, target):
        (folder / "onnx").mkdir(parents=True)
        (folder / "onnx/model.onnx").write_text(folder.name)
        report = {"sha256": disk.hashes(folder)}
        (folder / REPORT).write_text(json.dumps(report))
    move_into_place("--output", scratch, target, overwrite=True)
    before = tmp_path / ".target.replaced"
    assert_synced_before_renamed(done, scratch, target)
    assert (target / "onnx/model.onnx").read_text() == "scratch"
    assert not before.exists()
