"""Nothing that was tampered with loads: flipped bits, bombs, and a config that wants more."""

import json
import pickle
import random
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo import hub

FLIPPED = [hub.WEIGHTS, hub.CONFIG, hub.UINT8_GRAPH]


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def load_all(folder: Path) -> None:
    zoo.create_model(f"local-dir:{folder}", pretrained=True)
    zoo.load_onnx(f"local-dir:{folder}")


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "slim")


@pytest.fixture
def bare(folder) -> Path:
    """A folder without hashes, where only what is in the files can be looked at."""
    (folder / hub.REPORT).unlink()
    return folder


def edit(folder: Path, change) -> None:
    config = json.loads((folder / hub.CONFIG).read_text())
    change(config)
    (folder / hub.CONFIG).write_text(json.dumps(config))


def test_none_of_a_thousand_flipped_bits_loads(folder, monkeypatch):
    built = []
    monkeypatch.setattr("timm.create_model", lambda *args, **kwargs: built.append(args))
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *args, **kwargs: built.append(args))
    draw, silent = random.Random(0), []
    for number in range(1000):
        path = folder / FLIPPED[number % len(FLIPPED)]
        bit = draw.randrange(8 * path.stat().st_size)
        flip(path, bit)
        door = zoo.load_onnx if path.suffix == ".onnx" else zoo.create_model
        options = {} if door is zoo.load_onnx else {"pretrained": True}
        try:
            door(f"local-dir:{folder}", **options)
            silent.append((path.name, bit))
        except ValueError as error:
            if f"{path.name}: expected sha256" not in str(error):
                silent.append((path.name, bit, str(error)))
        flip(path, bit)
    assert silent == built == []


def test_a_folder_whose_bits_were_flipped_back_loads(folder):
    for name in FLIPPED:
        flip(folder / name, 12345)
        with pytest.raises(ValueError, match=f"{name}: expected sha256 .* as verification.json"):
            load_all(folder)
        flip(folder / name, 12345)
    load_all(folder)


@pytest.mark.parametrize(
    ("file", "door"),
    [(hub.WEIGHTS, partial(zoo.create_model, pretrained=True)), (hub.UINT8_GRAPH, zoo.load_onnx)],
)
def test_a_flipped_bit_in_what_is_found_by_its_name_is_refused(folder, monkeypatch, file, door):
    name = "short_bp_resnet20_slim.digits"
    found = folder.rename(folder.with_name(name))
    monkeypatch.setenv("SHORT_BP_ZOO_WEIGHTS", str(found.parent))
    door(name)
    flip(found / file, 8 * (found / file).stat().st_size - 1)
    with pytest.raises(
        ValueError, match=f"{found / file}: expected sha256 .* as verification.json"
    ):
        door(name)


def test_a_checkpoint_is_held_to_its_seal(run, tmp_path):
    from zoo.hub.run_folder import checkpoints

    folder = shutil.copytree(checkpoints(run)[-1], tmp_path / "checkpoint")
    flip(folder / hub.CONFIG, 100)
    with pytest.raises(ValueError, match=r"config\.json: expected sha256 .* as sha256\.json says"):
        zoo.create_model(f"local-dir:{folder}", pretrained=True)


@pytest.mark.parametrize(
    "report", ["", "{}", "[]", '{"sha256": {}}', '{"sha256": 5}', '{"sha256": {"config.json": 1}}']
)
def test_a_list_of_hashes_that_says_nothing_is_refused(folder, report):
    (folder / hub.REPORT).write_text(report)
    with pytest.raises(ValueError, match=r"expected .*sha256"):
        load_all(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 8 + b"{}",  # a header of 16 exabytes
        (2**40).to_bytes(8, "little") + b"{}",
        (99_000_000).to_bytes(8, "little") + b" " * 99_000_000,
        b"PK\x03\x04" + bytes(100),
        pickle.dumps({"a": 1}),
        b"",
    ],
    ids=["exabytes", "terabyte", "spaces", "zip", "pickle", "empty"],
)
def test_a_bomb_under_the_name_of_the_weights_is_refused_unread(bare, content):
    (bare / hub.WEIGHTS).write_bytes(content)
    said = r"model\.safetensors: expected a whole safetensors file"
    with pytest.raises(ValueError, match=rf"{said}.* \(a header of \d+ bytes"):
        load_all(bare)


def test_a_json_file_of_gigabytes_is_refused_unread(folder):
    for name in (hub.CONFIG, hub.REPORT):
        content = (folder / name).read_bytes()
        with (folder / name).open("r+b") as file:
            file.truncate(2**32)  # a hole: it takes no room on the disk
        with pytest.raises(ValueError, match=f"{name}: expected at most"):
            load_all(folder)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"widths": [10**9] * 3}, "numbers of model_args up to 65536, got 1000000000"),
        ({"num_classes": -(10**9)}, "numbers of model_args up to 65536"),
        ({"depths": [4000, 4000]}, "depths of model_args up to 4096, got 8000"),
        ({"depths": [3000, -2999, 1]}, "depths of model_args up to 4096, got 6000"),
        ({"device": "meta"}, "expected arguments of the network, got .'device'"),
        ({"dtype": "bfloat16"}, "expected arguments of the network, got .'dtype'"),
        ({"time_steps": 5000}, "time_steps of model_args up to 4096"),
        ({"widths": list(range(5000))}, "count of numbers of model_args up to 4096"),
        ({"pretrained_cfg_overlay": {"file": "/tmp/evil.bin"}}, "got .'pretrained_cfg_overlay'"),
        ({"pretrained_cfg": {"url": "http://evil"}}, "got .'pretrained_cfg'"),
        ({"features_only": True}, "got .'features_only'"),
        ({"nonsense": 1}, "expected arguments of its architecture, got .*nonsense"),
        ({"widths": [16, 32, 16000]}, "expected a network of up to 1073741824 parameters, got"),
    ],
)
def test_a_config_that_asks_for_too_much_is_refused_before_it_is_built(bare, args, message):
    edit(bare, lambda config: config["model_args"].update(args))
    with pytest.raises(ValueError, match=message):
        load_all(bare)


def test_a_config_of_endless_classes_is_refused_before_they_are_named(bare):
    edit(bare, lambda config: config.update(num_classes=10**30, label_names=[]))
    with pytest.raises(ValueError, match=r"model_uint8\.onnx: expected the graph of its config"):
        zoo.load_onnx(f"local-dir:{bare}")


def test_a_config_that_brings_its_own_loader_is_refused(bare):
    edit(bare, lambda config: config["pretrained_cfg"].update(custom_load=True))
    with pytest.raises(ValueError, match=r"got \['custom_load'\]"):
        load_all(bare)


def test_a_config_of_a_hundred_thousand_brackets_is_refused(bare):
    (bare / hub.CONFIG).write_text("[" * 100_000)
    with pytest.raises(ValueError, match="expected JSON with 'architecture'"):
        load_all(bare)


@pytest.mark.parametrize("name", ["__import__('os').system('x')", "../slim", "resnet18", 5])
def test_an_architecture_is_a_name_in_a_register_and_nothing_else(bare, name):
    edit(bare, lambda config: config.update(architecture=name))
    with pytest.raises(ValueError, match="expected an architecture of zoo, got"):
        load_all(bare)


def test_weights_with_a_tensor_too_many_are_refused(bare):
    weights = load_file(bare / hub.WEIGHTS)
    save_file(weights | {"extra": torch.zeros(1)}, bare / hub.WEIGHTS)
    with pytest.raises(ValueError, match=r"got others: \['extra'\]"):
        load_all(bare)


@pytest.mark.parametrize("other", ["model.onnx", "model_readable.onnx"])
def test_a_graph_of_another_kind_is_refused(bare, other):
    shutil.copy(bare / "onnx" / other, bare / hub.UINT8_GRAPH)
    with pytest.raises(ValueError, match=r"model_uint8\.onnx: expected the graph of its config"):
        zoo.load_onnx(f"local-dir:{bare}")
    (bare / hub.UINT8_GRAPH).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"model_uint8\.onnx: expected a whole ONNX graph"):
        zoo.load_onnx(f"local-dir:{bare}")
    (bare / hub.UINT8_GRAPH).unlink()
    with pytest.raises(FileNotFoundError, match="expected the graph of a published network"):
        zoo.load_onnx(f"local-dir:{bare}")
