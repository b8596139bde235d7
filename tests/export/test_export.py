"""From a trained run to a published folder, with the real onnxruntime and real digits."""

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from digits_images import IMAGES, PIXELS
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import zoo
from export.checks.graphs import check_graphs
from export.deployed import deploy
from export.folder import REPORT, changed_files, move_into_place
from export.publish import Options as PublishOptions
from export.publish import PublishError, publish_to_folder
from export.strip import load_source
from export.to_onnx import ExportError, Options, export, main
from zoo.hub.run_folder import checkpoints

ROOT = Path(__file__).parent.parent.parent


def load(folder: Path):
    return zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()


def change_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def without_report(exported: Path, target: Path, change) -> Path:
    """A copy of the network with another config.json, to export from."""
    target.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(exported / name, target)
    change_json(target / "config.json", change)
    return target


def test_the_folder_holds_the_network_without_heads(run, exported):
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*.*")}
    assert names == {
        "README.md",
        "config.json",
        "model.safetensors",
        "onnx/model.onnx",
        "onnx/model_uint8.onnx",
        "training.png",
        "verification.json",
    }
    assert not [k for k in load_file(exported / "model.safetensors") if "shortcut_heads" in k]
    with safe_open(exported / "model.safetensors", framework="pt") as weights:
        assert weights.metadata() == {"format": "pt"}
    trained = load(checkpoints(run)[-1])
    with torch.inference_mode():
        assert torch.equal(load(exported)(IMAGES), trained(IMAGES))


@pytest.mark.parametrize("name", ["model.onnx", "model_uint8.onnx"])
def test_a_graph_takes_any_batch_and_holds_no_local_path(exported, name):
    path = exported / "onnx" / name
    graph = onnx.load(path)
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    assert opsets == {"": 20}
    assert [value.name for value in graph.graph.input] == ["pixel_values"]
    assert [value.name for value in graph.graph.output] == ["logits"]
    for place in (ROOT, Path.home(), Path(sys.prefix)):
        assert str(place).encode() not in path.read_bytes()
    session = onnxruntime.InferenceSession(path)
    deployed = zoo.deploy(load(exported))
    images = PIXELS if "uint8" in name else IMAGES
    for batch in (1, 3, 60):
        (logits,) = session.run(["logits"], {"pixel_values": images[:batch].numpy()})
        with torch.inference_mode():
            assert torch.equal(torch.from_numpy(logits), deployed(IMAGES[:batch]))


def test_a_graph_carries_its_labels_and_how_images_are_normalised(exported):
    config = json.loads((exported / "config.json").read_text())
    for name in ("model.onnx", "model_uint8.onnx"):
        found = onnxruntime.InferenceSession(exported / "onnx" / name).get_modelmeta()
        told = found.custom_metadata_map
        assert told.pop("title") == "short_bp_resnet20_slim.digits"
        assert {key: json.loads(value) for key, value in told.items()} == {
            "labels": config["label_names"],
            "mean": config["pretrained_cfg"]["mean"],
            "std": config["pretrained_cfg"]["std"],
            "time_steps": config["model_args"]["time_steps"],
        }


def test_other_labels_in_a_graph_are_found_and_an_older_graph_has_none(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    deployed = deploy(load(exported))
    assert check_graphs(folder, deployed).passed
    path = folder / "onnx/model.onnx"
    graph = onnx.load(path)
    (labels,) = (prop for prop in graph.metadata_props if prop.key == "labels")
    labels.value = labels.value.replace("9", "nine")
    onnx.save(graph, path)
    assert check_graphs(folder, deployed).that_differ == ["onnx/model.onnx"]
    del graph.metadata_props[:]
    onnx.save(graph, path)
    assert check_graphs(folder, deployed).passed


def test_the_report_has_every_check_and_the_hash_of_every_file(exported, run):
    report = json.loads((exported / REPORT).read_text())
    assert report["passed"] is True
    assert report["images"]["count"] == 360
    assert report["rule"] == "exact"
    figures = {check["id"]: check["figures"] for check in report["checks"]}
    assert list(figures) == [
        "stripping",
        "heads",
        "firing",
        "graphs",
        "certificate",
        "bits",
        "off_grid_floats",
        "accuracy",
        "metadata",
    ]
    for name, digest in report["sha256"].items():
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == digest
    assert "root" not in json.loads((exported / "config.json").read_text())["training"]["data"]
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert figures["accuracy"]["trained_percent"] == pytest.approx(last["test_accuracy"])


def test_a_source_is_a_run_a_checkpoint_or_a_name(run, exported, monkeypatch, tmp_path):
    name, checkpoint = "short_bp_resnet20_slim.digits", checkpoints(run)[-1]
    shutil.copytree(checkpoint, tmp_path / name)
    monkeypatch.setenv("SHORT_BP_ZOO_WEIGHTS", str(tmp_path))
    for source in (str(run), str(checkpoint), name, f"local-dir:{exported}"):
        loaded = load_source(source)
        assert torch.equal(loaded.model.head.fc.weight, load(checkpoint).head.fc.weight)
        assert loaded.config["training"]["epochs"] == 3


def test_failed_checks_are_named_and_nothing_is_left(run, tmp_path, monkeypatch):
    folder = shutil.copytree(checkpoints(run)[-1], tmp_path / "source" / "dead")
    weights = load_file(folder / "model.safetensors")
    weights["stages.0.2.conv1.norm.weight"].zero_()
    weights["stages.0.2.conv1.norm.bias"].zero_()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "sha256.json").unlink()

    def strip(model):
        stripped = zoo.strip_heads(model)
        with torch.no_grad():
            stripped.head.fc.bias[0] += 1
        return stripped

    monkeypatch.setattr("export.strip.strip_heads", strip)
    options = Options(source=str(folder), output=str(tmp_path / "out" / "slim"), num_images=20)
    with pytest.raises(ExportError) as failed:
        export(options)
    assert '{"images": 20, "images_that_differ": 20}' in str(failed.value)
    assert '"silent_layers": ["stages.0.2.spike1"]' in str(failed.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_published_folder_is_replaced_only_with_overwrite(exported, run, tmp_path):
    kept = shutil.copytree(exported, tmp_path / "kept")
    before = (kept / REPORT).read_bytes()
    options = Options(source=str(run), output=str(kept), num_images=20)
    with pytest.raises(FileExistsError):
        export(options)
    assert (kept / REPORT).read_bytes() == before
    export(replace(options, overwrite=True, license="mit"))
    assert (kept / REPORT).read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("name", ["mine.txt", "README.md"])
def test_a_folder_with_other_or_changed_files_is_not_replaced(exported, run, tmp_path, name):
    target = shutil.copytree(exported, tmp_path / "target")
    (target / name).write_text("mine")
    with pytest.raises(FileExistsError):
        export(Options(source=str(run), output=str(target), overwrite=True, num_images=20))
    assert (target / name).read_text() == "mine"


def test_a_run_is_never_replaced(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    with pytest.raises(FileExistsError):
        export(Options(source=str(copy), output=str(copy), overwrite=True))
    assert len(checkpoints(copy)) == 2


def test_a_folder_that_appears_during_the_export_is_not_replaced(exported, tmp_path):
    scratch, target = (shutil.copytree(exported, tmp_path / name) for name in ("scratch", "target"))
    (target / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        move_into_place("--output", scratch, target, overwrite=False)
    assert (target / "mine.txt").read_text() == "mine"


def test_images_of_other_classes_are_refused(run, tmp_path):
    copy = shutil.copytree(checkpoints(run)[-1], tmp_path / "copy")
    change_json(copy / "config.json", lambda config: config["label_names"].reverse())
    (copy / "sha256.json").unlink()
    with pytest.raises(ValueError, match="expected images of the classes"):
        export(Options(source=str(copy), output=str(tmp_path / "out")))


def test_random_images_verify_a_network_without_its_data(exported, tmp_path):
    def elsewhere(config):
        config["training"]["data"] |= {"name": "image_folder", "root": "nowhere"}

    source = without_report(exported, tmp_path / "source", elsewhere)
    options = Options(source=str(source), output=str(tmp_path / "out"), num_images=20)
    with pytest.raises(FileNotFoundError, match="--random-images"):
        export(options)
    report = json.loads((export(replace(options, random_images=True)) / REPORT).read_text())
    assert report["images"]["random"] is True
    assert "stripping" not in {check["id"] for check in report["checks"]}
    assert "onnxruntime_percent" not in json.dumps(report)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Not measured" in card
    assert "`python -m export.verify FOLDER --random-images --num-images 20` measures" in card


def test_only_networks_of_still_grey_or_colour_images_are_exported(exported, tmp_path):
    def of_events(config):
        config["training"]["data"]["name"] = "dvs_gesture"

    source = without_report(exported, tmp_path / "source", of_events)
    cfg = {"input_size": (4, 32, 32), "mean": (0.0,) * 4, "std": (1.0,) * 4}
    model = zoo.create_model("short_bp_resnet20_slim", in_chans=4, pretrained_cfg_overlay=cfg)
    zoo.hub.save_pretrained(model, tmp_path / "four")
    for folder in (source, tmp_path / "four"):
        options = Options(source=str(folder), output=str(tmp_path / "out"), random_images=True)
        with pytest.raises(ValueError, match="only networks of still images"):
            export(options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/folder", "no/such/folder: no such folder"),
        ("short_bp_resnet81", "unknown model 'short_bp_resnet81'"),
        ("short_bp_resnet152", "short_bp_resnet152: "),  # has no weights
    ],
)
def test_the_command_ends_in_one_line_on_a_bad_source(tmp_path, monkeypatch, source, message):
    monkeypatch.setattr(sys, "argv", ["to_onnx.py", source, "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code.startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []


def into_folder(folder: Path, target: Path) -> str:
    options = PublishOptions(folder=str(folder), to_folder=str(target), num_images=10)
    return publish_to_folder(options)


def test_a_published_folder_loads_with_equal_bits(exported, tmp_path):
    target = tmp_path / "hub" / "slim"
    into_folder(exported, target)
    assert changed_files(target) == []
    with torch.inference_mode():
        assert torch.equal(load(target)(IMAGES), load(exported)(IMAGES))


@pytest.mark.parametrize("name", ["model.safetensors", "onnx/model_uint8.onnx"])
def test_a_folder_that_changed_after_its_verification_is_not_published(exported, tmp_path, name):
    folder = shutil.copytree(exported, tmp_path / "changed")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises((PublishError, ValueError), match=name):
        into_folder(folder, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_a_folder_without_a_passed_verification_is_not_published(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "unverified")
    change_json(folder / REPORT, lambda report: report.update(passed=False))
    with pytest.raises((PublishError, ValueError)):
        into_folder(folder, tmp_path / "hub")
    (folder / REPORT).unlink()
    with pytest.raises((PublishError, ValueError, FileNotFoundError)):
        into_folder(folder, tmp_path / "hub")
