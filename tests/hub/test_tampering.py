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


def test_no_flipped_bit_loads(folder, monkeypatch):
    built = []
    monkeypatch.setattr("timm.create_model", lambda *args, **kwargs: built.append(args))
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *args, **kwargs: built.append(args))
    draw, silent = random.Random(0), []
    for number in range(100):
        path = folder / FLIPPED[number % len(FLIPPED)]
        bit = draw.randrange(8 * path.stat().st_size)
        flip(path, bit)
        door = zoo.load_onnx if path.suffix == ".onnx" else zoo.create_model
        options = {} if door is zoo.load_onnx else {"pretrained": True}
        try:
            door(f"local-dir:{folder}", **options)
            silent.append((path.name, bit))
        except ValueError as error:
            if f"{path.name}: its sha256" not in str(error):
                silent.append((path.name, bit, str(error)))
        flip(path, bit)
    assert silent == built == []


def test_a_folder_whose_bits_were_flipped_back_loads(folder):
    for name in FLIPPED:
        flip(folder / name, 12345)
        with pytest.raises(ValueError, match=f"{name}: its sha256 .* verification.json"):
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
    with pytest.raises(ValueError, match=f"{found / file}: its sha256 .* verification.json"):
        door(name)


def test_a_checkpoint_is_held_to_its_seal(run, tmp_path):
    from zoo.hub.run_folder import checkpoints

    folder = shutil.copytree(checkpoints(run)[-1], tmp_path / "checkpoint")
    flip(folder / hub.CONFIG, 100)
    with pytest.raises(ValueError, match=r"config\.json: its sha256 .* sha256\.json"):
        zoo.create_model(f"local-dir:{folder}", pretrained=True)


@pytest.mark.parametrize(
    "report", ["", "{}", "[]", '{"sha256": {}}', '{"sha256": 5}', '{"sha256": {"config.json": 1}}']
)
def test_a_list_of_hashes_that_says_nothing_is_refused(folder, report):
    (folder / hub.REPORT).write_text(report)
    with pytest.raises(ValueError, match="its sha256"):
        load_all(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 8 + b"{}",  # a header of 16 exabytes
        b"PK\x03\x04" + bytes(100),
        pickle.dumps({"a": 1}),
    ],
    ids=["exabytes", "zip", "pickle"],
)
def test_a_file_that_is_no_safetensors_is_not_loaded(bare, content):
    (bare / hub.WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: expected the weights of its config"):
        load_all(bare)


@pytest.mark.parametrize(
    "args",
    [
        {"pretrained_cfg_overlay": {"file": "/tmp/evil.bin"}},
        {"pretrained_cfg": {"url": "http://evil"}},
        {"features_only": True},
        {"nonsense": 1},
    ],
)
def test_arguments_that_are_not_the_networks_are_refused(bare, args):
    edit(bare, lambda config: config["model_args"].update(args))
    with pytest.raises(ValueError, match=r"config\.json: expected arguments of its architecture"):
        load_all(bare)


@pytest.mark.parametrize("name", ["__import__('os').system('x')", "resnet18"])
def test_an_architecture_is_a_name_in_a_register_and_nothing_else(bare, name):
    edit(bare, lambda config: config.update(architecture=name))
    with pytest.raises(ValueError, match="expected an architecture of zoo, got"):
        load_all(bare)


def test_weights_with_a_tensor_too_many_are_refused(bare):
    weights = load_file(bare / hub.WEIGHTS)
    save_file(weights | {"extra": torch.zeros(1)}, bare / hub.WEIGHTS)
    with pytest.raises(ValueError, match=r"1 more \['extra'\]"):
        load_all(bare)


def test_a_graph_of_another_kind_is_refused(bare):
    shutil.copy(bare / "onnx/model.onnx", bare / hub.UINT8_GRAPH)
    with pytest.raises(ValueError, match=r"model_uint8\.onnx: expected the graph of its config"):
        zoo.load_onnx(f"local-dir:{bare}")
    (bare / hub.UINT8_GRAPH).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"model_uint8\.onnx: cannot be loaded"):
        zoo.load_onnx(f"local-dir:{bare}")
    (bare / hub.UINT8_GRAPH).unlink()
    with pytest.raises(FileNotFoundError, match="model_uint8"):
        zoo.load_onnx(f"local-dir:{bare}")
