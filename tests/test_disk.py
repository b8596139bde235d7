"""Files that are whole or not there."""

import errno
import os

import pytest

from zoo import disk


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
