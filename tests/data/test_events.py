"""Event streams: tonic's arrays become frames, and frames train a network."""

from dataclasses import replace
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import torch
from tonic.datasets import CIFAR10DVS, DVSGesture

import zoo
from zoo.data import DataConfig, load_images
from zoo.data.events import _dataset, _share, frames
from zoo.hub import run_folder as runs
from zoo.training.augment import AugmentConfig
from zoo.training.engine import train
from zoo.training.prepare import build_model

SMALL = {"depths": [1, 1], "widths": [8, 16]}
EVENTS = {"name": "dvs_gesture", "size": 16, "frames": 4, "mean": (0, 0), "std": (1, 1)}


def stream(count: int, seed: int = 0) -> np.ndarray:
    """Events of a 128-pixel sensor over a second, in tonic's structured array."""
    draw = np.random.default_rng(seed)
    events = np.zeros(count, dtype=[("x", int), ("y", int), ("p", int), ("t", int)])
    events["x"], events["y"] = draw.integers(0, 128, (2, count))
    events["p"] = draw.integers(0, 2, count)
    events["t"] = np.sort(draw.integers(0, 1_000_000, count))
    return events


def test_frames_count_every_event_once_at_its_place():
    events = stream(1000)
    counted = frames(events, (128, 128, 2), 5, 32)
    assert counted.shape == (5, 2, 32, 32)
    assert counted.dtype == torch.uint8
    assert counted.sum() == 1000
    here = (events["x"] // 4 == 3) & (events["y"] // 4 == 7) & (events["p"] == 1)
    assert counted[:, 1, 7, 3].sum() == here.sum()


@pytest.mark.parametrize(("size", "each"), [(32, 64), (48, 28)])
def test_cells_have_equal_area_at_any_size(size, each):
    y, x, p, _ = (axis.ravel() for axis in np.indices((128, 128, 2, 4)))  # four events everywhere
    events = np.zeros(len(x), dtype=stream(0).dtype)
    events["x"], events["y"], events["p"] = x, y, p
    assert frames(events, (128, 128, 2), 1, size).unique().tolist() == [each]


def test_a_pixel_in_two_cells_counts_in_each_by_its_share():
    events = np.zeros(9, dtype=stream(0).dtype)
    events["x"], events["y"] = (
        2,
        3,
    )  # cells of 8 / 3 pixels: column 2 is in two of them, row 3 in one
    assert frames(events, (128, 128, 2), 1, 48)[0, 0, :3, :3].tolist() == [
        [0, 0, 0],
        [6, 3, 0],
        [0, 0, 0],
    ]


def test_a_hot_pixel_is_clipped_at_255():
    for count in (2000, 80_000):  # the second is more than 16 bits hold
        events = stream(count)
        events["x"] = events["y"] = 0
        assert frames(events, (128, 128, 2), 1, 16)[0, :, 0, 0].tolist() == [255, 255]


def test_every_tenth_stream_of_a_class_is_a_test_stream():
    targets = [0] * 30 + [1] * 20
    order = list(reversed(range(50)))
    test, other = _share(order, targets, "test"), _share(order, targets, "train")
    assert test == [40, 30, 20, 10, 0]
    assert sorted(test + other) == list(range(50))


@pytest.fixture(scope="module")
def gestures(tmp_path_factory) -> Path:
    """A small DVS Gesture as tonic unpacks it: noise of one polarity, or of both."""
    root = tmp_path_factory.mktemp("events")
    for split, kind in (("train", DVSGesture.train_filename), ("test", DVSGesture.test_filename)):
        (root / "DVSGesture").mkdir(exist_ok=True)
        (root / "DVSGesture" / kind).write_bytes(b"unpacked")
        folder = root / "DVSGesture" / f"ibmGesture{split.title()}"
        for user in range(50):
            seed = 2 * user + (1000 if split == "test" else 0)
            (folder / f"user{user:02d}_led").mkdir(parents=True)
            for label in range(2):
                events = stream(300, seed + label)
                polarity = events["p"] * label
                columns = (events["x"], events["y"], polarity, events["t"] // 1000)
                np.save(folder / f"user{user:02d}_led" / f"{label}.npy", np.stack(columns, 1))
        for label in range(2, 11):  # one stream each of the others
            np.save(folder / "user00_led" / f"{label}.npy", np.stack(columns, 1))
    return root


def test_streams_become_frames_in_memory(gestures):
    images = load_images(DataConfig(root=str(gestures), **EVENTS), "train")
    assert images.images.shape == (109, 4, 2, 16, 16)
    assert images.shape == (4, 2, 16, 16)
    assert len(images.classes) == 11
    tests = load_images(DataConfig(root=str(gestures), **EVENTS), "test")
    assert not torch.equal(tests.images, images.images)


def test_streams_are_sorted_by_name(gestures, monkeypatch):
    config = DataConfig(root=str(gestures), **EVENTS)
    expected = load_images(config, "train")

    def backwards(*args):
        found = _dataset(*args)
        found.data.reverse()
        found.targets.reverse()
        return found

    monkeypatch.setattr("zoo.data.events._dataset", backwards)
    assert torch.equal(load_images(config, "train").images, expected.images)


def test_a_run_learns_from_event_frames(recipe, gestures, tmp_path):
    config = replace(
        recipe,
        epochs=8,
        batch_size=25,
        model_args=SMALL,
        data=DataConfig(root=str(gestures), **EVENTS),
        augment=AugmentConfig(crop_padding=0, roll=2),
        output=str(tmp_path),
    )
    assert train(config)["accuracy"] > 75  # of the 92 that are of two classes
    model = zoo.create_model(f"local-dir:{runs.newest_checkpoint(tmp_path)}", pretrained=True)
    assert model.in_chans == 2
    assert model.eval()(torch.rand(4, 3, 2, 16, 16)).shape == (3, 11)


def test_a_network_has_a_time_step_for_each_frame(recipe, gestures):
    data = DataConfig(root=str(gestures), **EVENTS)
    images = load_images(data, "train")
    assert build_model(replace(recipe, data=data, model_args={}), images).time_steps == 4
    with pytest.raises(ValueError, match=r"time_steps: expected the 4 of data.frames, got 3"):
        build_model(replace(recipe, data=data, model_args={"time_steps": 3}), images)


def write_aedat4(path: Path, events: np.ndarray) -> None:
    """A file of AEDAT 4: a header that says what its one stream is, and one packet."""
    attributes = {"compression": "NONE", "typeIdentifier": "EVTS", "originalOutputName": "events"}
    told = "".join(f'<attr key="{k}" type="string">{v}</attr>' for k, v in attributes.items())
    size = "".join(f'<attr key="size{axis}" type="int">128</attr>' for axis in "XY")
    info = f'<node name="0" path="/0/">{told}<node name="info" path="/0/info/">{size}</node></node>'
    header = flatbuffers.Builder()
    text = header.CreateString(f'<dv><node name="outInfo" path="/">{info}</node></dv>')
    header.StartObject(3)
    header.PrependInt64Slot(1, -1, 0)  # there is no table of packets
    header.PrependUOffsetTRelativeSlot(2, text, 0)
    header.FinishSizePrefixed(header.EndObject(), b"IOHE")
    packet = flatbuffers.Builder()
    packet.StartVector(16, len(events), 8)
    for event in reversed(events):
        packet.Prep(8, 16)
        packet.Pad(3)
        packet.PrependBool(bool(event["p"]))
        packet.PrependInt16(int(event["y"]))
        packet.PrependInt16(int(event["x"]))
        packet.PrependInt64(int(event["t"]))
    vector = packet.EndVector()
    packet.StartObject(1)
    packet.PrependUOffsetTRelativeSlot(0, vector, 0)
    packet.FinishSizePrefixed(packet.EndObject(), b"EVTS")
    body = bytes(packet.Output())
    framed = np.array([0, len(body)], dtype="<i4").tobytes() + body
    path.write_bytes(b"#!AER-DAT4.0\r\n" + bytes(header.Output()) + framed)


def test_cifar10_dvs_is_read_from_its_aedat4_files(tmp_path):
    root = tmp_path / "CIFAR10DVS"
    root.mkdir()
    (root / CIFAR10DVS.filename).write_bytes(b"unpacked")
    events = stream(200)
    write_aedat4(tmp_path / "stream.aedat4", events)
    for name in CIFAR10DVS.classes:
        (root / name).mkdir()
        for i in range(100):
            (root / name / f"{i}.aedat4").hardlink_to(tmp_path / "stream.aedat4")
    config = DataConfig(**(EVENTS | {"name": "cifar10_dvs"}), root=str(tmp_path))
    images = load_images(config, "test")
    assert images.labels.bincount().tolist() == [10] * 10
    assert torch.equal(images.images[0], frames(events, (128, 128, 2), 4, 16))


@pytest.mark.parametrize("name", ["cifar10_dvs", "dvs_gesture"])
def test_missing_streams_end_in_a_clear_error(tmp_path, name):
    config = DataConfig(**(EVENTS | {"name": name}), root=str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"data\.root: .* is not in .*--data\.download fetches it"
    ):
        load_images(config, "train")
