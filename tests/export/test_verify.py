"""What verification catches: in the network, in the graphs, and in a folder after the fact."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from digits_images import IMAGES, PIXELS
from exact_networks import awaken, changed, pixels, settle
from PIL import Image
from safetensors.torch import load_file, save_file

import export.checks.equal_bits
import export.verify
import zoo
from export.card.browser import preprocessor
from export.checks.check import Setting, accuracies, logits_of, session
from export.checks.equal_bits import check_certificate, check_exact
from export.checks.images import Images, _normalised, data_images
from export.folder import GRAPH, GRAPHS, READABLE_GRAPH, REPORT, changed_files
from export.graph.writer import write_graphs
from export.verify import check_paths, check_stripping, print_report, verify
from zoo.deployment.layers import MembraneConv
from zoo.hub import BUNDLED
from zoo.hub.files import hashes
from zoo.hub.run_folder import checkpoints

ROOT = Path(__file__).parent.parent.parent
RUN = export.checks.equal_bits.run_graph
SCHEMA = json.loads((ROOT / "docs/verification.schema.json").read_text())


def load(folder: Path):
    return zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()


def failed(folder: Path) -> dict[str, dict]:
    """What each failed check measured, by its name, in a folder without hashes."""
    (folder / REPORT).unlink(missing_ok=True)
    report = verify(folder, load(folder), Images(PIXELS, IMAGES, None, "60 random images"))
    assert report["passed"] == all(check["passed"] for check in report["checks"])
    jsonschema.validate(report, SCHEMA)
    return {check["name"]: check["measured"] for check in report["checks"] if not check["passed"]}


def failed_when_run(folder: Path) -> dict[str, dict]:
    """As they run, graphs that verify does not run, as they are not what the weights give."""
    (folder / REPORT).unlink()
    model, images = load(folder), Images(PIXELS, IMAGES, None, "60 random images")
    checks = check_exact(folder, model, zoo.deploy(model), images, None)
    return {check.name: check.measured for check in checks if not check.passed}


def command(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / "export/verify.py", folder, *options],
        capture_output=True,
        text=True,
    )


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "slim")


def change_constant(graph: Path, name: str, change) -> None:
    onnx.save(changed(onnx.load(graph), name, change), graph)


def test_an_untouched_folder_passes_and_its_report_keeps_to_the_schema(folder, tmp_path):
    before = hashes(folder, REPORT)
    run = command(folder, "--report", str(tmp_path / "again.json"))
    assert run.returncode == 0, run.stderr
    assert hashes(folder, REPORT) == before
    for report in (folder / "verification.json", tmp_path / "again.json"):
        jsonschema.validate(json.loads(report.read_text()), SCHEMA)
    assert failed(folder) == {}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", *GRAPHS, "README.md"])
def test_a_file_that_changed_by_one_bit_is_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert changed_files(folder) == [name]


def test_a_file_too_many_or_too_few_is_named(folder):
    (folder / "model.bin").write_bytes(b"pickle")
    (folder / "README.md").unlink()
    run = command(folder)
    assert run.returncode == 1
    assert "expected the files it names, got others: ['README.md', 'model.bin']" in run.stderr


def test_what_git_the_hub_and_file_managers_leave_there_is_not_of_a_folder(folder):
    for name in (
        ".gitattributes",
        ".git/HEAD",
        ".cache/huggingface/CACHEDIR.TAG",
        "onnx/.DS_Store",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("theirs")
    assert changed_files(folder) == []
    assert failed(folder) == {}


def test_a_release_that_leaves_graphs_out_says_how_to_get_them():
    run = command(BUNDLED / "short_bp_resnet18.cifar10")
    assert run.returncode == 1
    command_for_it = "to_onnx.py short_bp_resnet18.cifar10 --output FOLDER --random-images makes"
    assert command_for_it in run.stderr


def test_a_graph_that_tells_of_the_machine_is_caught(folder):
    graph = onnx.load(folder / READABLE_GRAPH)
    graph.doc_string = f"{Path.home()}/export.py"
    onnx.save(graph, folder / READABLE_GRAPH)
    assert failed(folder)["graphs hold no local path"] == {"paths": [str(Path.home())]}


def test_a_path_that_comes_up_in_the_numbers_of_a_graph_is_none(folder, monkeypatch):
    def spell(bias):
        bias.view(np.uint8)[:8] = [*b"/opt/app"]

    change_constant(folder / GRAPH, "head.fc.bias", spell)
    assert b"/opt/app" in (folder / GRAPH).read_bytes()
    monkeypatch.setattr(sys, "prefix", "/opt/app")
    assert check_paths(folder).passed


@pytest.mark.parametrize("graph", GRAPHS)
def test_one_bit_of_a_weight_in_a_graph_is_caught(folder, graph):
    def nudge(weight):
        weight[0, 0, 1, 1] = np.nextafter(weight[0, 0, 1, 1], np.float32(9))

    change_constant(folder / graph, "stages.1.0.conv1.conv.weight", nudge)
    changed = f"{graph}: stages.1.0.conv1.conv.weight"
    assert failed(folder) == {"graphs hold the weights": {"that_differ": [changed]}}
    proof = check_certificate(folder)
    assert not proof.passed
    assert proof.measured["where"].startswith(f"{graph}: stages.1.0.conv1.conv: ")


def test_another_weight_on_the_grid_gives_other_bits(folder):
    def shift(bias):
        bias += np.float32(0.25)

    change_constant(folder / GRAPH, "stages.0.0.conv1.conv.bias", shift)
    found = failed_when_run(folder)
    assert found.keys() == {
        "equal bits in every setting",
        "floats that are no pixels give equal bits",
    }
    different = found["equal bits in every setting"]["by_setting"]
    assert "graphs hold the weights" in failed(folder)
    assert different["onnx/model.onnx, batch 1, 1 threads, no optimisations"] > 0
    assert different["onnx/model_uint8.onnx, batch 64, 2 threads, all optimisations"] == 0


def test_a_constant_that_no_pixel_reaches_is_caught(folder):
    def raise_it(most):
        most += 1

    change_constant(folder / GRAPH, "stem.0.most", raise_it)
    assert failed_when_run(folder).keys() == {"floats that are no pixels give equal bits"}
    assert failed(folder) == {"graphs hold the weights": {"that_differ": [f"{GRAPH}: stem.0.most"]}}


def test_another_node_in_a_neuron_is_caught(folder):
    graph = onnx.load(folder / READABLE_GRAPH)
    (lif,) = (function for function in graph.functions if function.name == "LIF")
    (fires,) = (node for node in lif.node if node.name == "spikes.fires_1")
    fires.op_type = "Greater"
    onnx.save(graph, folder / READABLE_GRAPH)
    assert failed(folder)["graphs hold the weights"]["that_differ"] == [f"{READABLE_GRAPH}: LIF"]


def test_weights_of_another_network_are_caught(folder):
    weights = load_file(folder / "model.safetensors")
    weights["stages.1.0.conv1.conv.weight"] *= 1.01
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "equal bits in every setting" in failed_when_run(folder)
    assert "graphs hold the weights" in failed(folder)


@pytest.mark.parametrize(
    "change",
    [{"time_steps": 1}, {"spike_layer": {"decay": 0.25}}, {"spike_layer": {"reset": "subtract"}}],
)
def test_a_swapped_config_is_caught(folder, change):
    config = json.loads((folder / "config.json").read_text())
    args = config["model_args"]
    args["spike_layer"] |= change.pop("spike_layer", {})
    args |= change
    (folder / "config.json").write_text(json.dumps(config))
    assert "equal bits in every setting" in failed_when_run(folder)
    assert "graphs hold the weights" in failed(folder)


@pytest.mark.parametrize("change", ["rule", "certificate", "another certificate"])
def test_a_report_that_says_more_than_was_found_is_caught(folder, change):
    report = json.loads((folder / REPORT).read_text())
    (proof,) = (c for c in report["checks"] if c["name"] == export.checks.equal_bits.CERTIFICATE)
    if change == "rule":
        report["rule"] = "spike-aware"
    elif change == "certificate":
        proof["measured"]["least_head_room_bits"] += 1
    else:
        report["checks"].append(proof | {"measured": {}})
    (folder / REPORT).write_text(json.dumps(report))
    run = command(folder, "--num-images", "10", "--random-images")
    assert run.returncode == 1
    named = "rule" if change == "rule" else export.checks.equal_bits.CERTIFICATE
    assert f'pre-processing are as said: {{"that_differ": ["{named}"]}}' in run.stderr


@pytest.mark.parametrize("name", zoo.list_models(pretrained=True))
def test_a_pre_processing_of_other_images_is_caught(name, tmp_path):
    for file in ("config.json", "preprocessor_config.json"):
        shutil.copy(BUNDLED / name / file, tmp_path)
    assert export.verify.check_said(tmp_path, "exact", []).passed
    described = json.loads((tmp_path / "preprocessor_config.json").read_text())
    described["image_std"] = [1, 1, 1]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(described))
    found = export.verify.check_said(tmp_path, "exact", [])
    assert found.measured == {"that_differ": ["preprocessor_config.json"]}


def test_labels_that_a_browser_would_show_for_others_are_caught(folder):
    config = json.loads((folder / "config.json").read_text())
    labels = config["id2label"]
    labels["0"], labels["1"] = labels["1"], labels["0"]
    (folder / "config.json").write_text(json.dumps(config))
    found = failed(folder)
    assert found == {
        "rule, certificate and pre-processing are as said": {
            "that_differ": ["config.json: id2label"]
        }
    }
    del config["label_names"], config["pretrained_cfg"]["label_names"]
    (folder / "config.json").write_text(json.dumps(config))
    said = export.verify.check_said(folder, "exact", [])
    assert said.measured == {"that_differ": ["config.json: id2label"]}


def test_other_logits_than_the_network_has_are_caught(folder):
    model = onnx.load(folder / GRAPH)
    twice = onnx.helper.make_node("Concat", ["once", "once"], ["logits"], axis=1)
    (last,) = (node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "once"
    model.graph.node.append(twice)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value *= 2
    onnx.save(model, folder / GRAPH)
    assert "equal bits in every setting" in failed_when_run(folder)
    assert "graphs hold the weights" in failed(folder)


@pytest.mark.parametrize(("size", "described"), [((1, 8, 8), 0), ((3, 8, 16), 0), ((3, 8, 8), 1)])
def test_what_javascript_would_see_is_described_of_square_colours_alone(size, described, tmp_path):
    cfg = {"input_size": size, "mean": (0.0,) * size[0], "std": (1.0,) * size[0]}
    name = "short_bp_resnet20_slim"
    model = zoo.create_model(name, in_chans=size[0], pretrained_cfg_overlay=cfg)
    zoo.hub.save_pretrained(model, tmp_path)
    assert (preprocessor(tmp_path) is not None) == described


def test_a_zero_of_the_other_sign_is_another_logit():
    logits = torch.zeros(3, 10)
    others = logits.clone()
    others[1, 4] = -0.0
    assert export.checks.equal_bits.that_differ(logits, others) == 1


def test_logits_that_are_no_numbers_are_caught(folder):
    change_constant(folder / GRAPH, "head.fc.bias", lambda bias: bias.fill(np.nan))
    assert "equal bits in every setting" in failed_when_run(folder)
    assert "graphs hold the weights" in failed(folder)
    assert "head.fc.bias: expected finite numbers" in check_certificate(folder).measured["where"]


def test_heads_among_the_weights_are_caught(folder):
    weights = load_file(folder / "model.safetensors")
    weights["shortcut_heads.heads.0.bias"] = torch.zeros(10)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert failed(folder)["weights hold no shortcut heads"]["heads"] == [
        "shortcut_heads.heads.0.bias"
    ]


def test_a_strip_that_changes_a_weight_is_caught(run):
    whole = load(checkpoints(run)[-1])
    stripped = zoo.strip_heads(whole)
    assert check_stripping(whole, stripped, IMAGES).passed
    with torch.no_grad():
        stripped.head.fc.bias[0] = torch.nextafter(stripped.head.fc.bias[0], torch.tensor(9.0))
    assert not check_stripping(whole, stripped, IMAGES).passed


def test_a_strip_that_changes_features_alone_is_caught(run):
    whole = load(checkpoints(run)[-1])
    with torch.no_grad():  # the classifier does not look at this channel
        whole.head.fc.weight[:, 0] = 0
    stripped = zoo.strip_heads(whole)
    with torch.no_grad():
        stripped.stages[-1][-1].conv2.norm.bias[0] += 100
        assert torch.equal(whole(IMAGES), stripped(IMAGES))
    assert not check_stripping(whole, stripped, IMAGES).passed


def test_a_verification_that_was_cut_goes_on(folder, tmp_path, cut_at_the_sixth):
    (folder / REPORT).unlink()
    model, ledger, runs = load(folder), tmp_path / "ledger", cut_at_the_sixth
    images = Images(PIXELS, IMAGES, None, "60 random images")
    with pytest.raises(KeyboardInterrupt):
        verify(folder, model, images, ledger)
    report = verify(folder, model, images, ledger)
    assert report["passed"]
    assert len(runs) == 16 + 2  # the one that was cut, twice, and floats that are no pixels
    verify(folder, model, Images(PIXELS[1:], IMAGES[1:], None, "59 random images"), ledger)
    assert len(runs) == 16 + 2 + 17
    for other in ("torn", "[]", "3"):
        ledger.write_text(other)
        assert verify(folder, model, images, ledger)["passed"]


def test_a_command_that_was_cut_goes_on_and_leaves_no_ledger(folder, tmp_path, cut_at_the_sixth):
    asked = export.verify.Options(
        folder=str(folder), num_images=10, report=str(tmp_path / "again.json")
    )
    with pytest.raises(KeyboardInterrupt):
        export.verify._checked(asked)
    assert {path.name for path in tmp_path.iterdir()} == {"slim", "again.json.ledger"}
    export.verify._checked(asked)
    assert len(cut_at_the_sixth) == 16 + 2
    assert {path.name for path in tmp_path.iterdir()} == {"slim", "again.json"}


def compared(folder: Path, model, images: Images, ledger: Path) -> dict:
    checks = check_exact(folder, model, zoo.deploy(model), images, ledger)
    return next(c.measured for c in checks if c.name == "equal bits in every setting")


def test_what_was_compared_with_another_network_is_compared_anew(folder, tmp_path):
    (folder / REPORT).unlink()
    images = Images(PIXELS[:20], IMAGES[:20], None, "20 random images")
    assert verify(folder, load(folder), images, tmp_path / "ledger")["passed"]
    other = load(folder)
    with torch.no_grad():
        other.head.fc.bias += 1
    assert compared(folder, other, images, tmp_path / "ledger")["images_that_differ"] == 20


def test_what_was_compared_with_another_graph_is_compared_anew(folder, tmp_path):
    (folder / REPORT).unlink()
    images = Images(PIXELS[:20], IMAGES[:20], None, "20 random images")
    assert verify(folder, load(folder), images, tmp_path / "ledger")["passed"]
    change_constant(folder / GRAPH, "head.fc.bias", lambda bias: bias.__iadd__(1))
    assert compared(folder, load(folder), images, tmp_path / "ledger")["images_that_differ"] == 20


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("export.checks.equal_bits.versions", lambda: {"onnxruntime": "another"}),
        ("torch.backends.cpu.get_cpu_capability", lambda: "another"),
        ("torch.get_num_threads", lambda: 3),
        ("zoo.__file__", "/nowhere/__init__.py"),
        ("export.checks.equal_bits.__file__", "/nowhere/equal_bits.py"),
    ],
)
def test_what_was_compared_by_other_code_or_on_another_machine_is_compared_anew(
    folder, tmp_path, monkeypatch, what, other
):
    model, images, runs = load(folder), Images(PIXELS[:2], IMAGES[:2], None, "2 random images"), []

    def run(graph, images, setting):
        runs.append(setting)
        return torch.zeros(2, 10)

    monkeypatch.setattr(export.checks.equal_bits, "run_graph", run)
    for _ in range(2):
        compared(folder, model, images, tmp_path / "ledger")
    assert len(runs) == 16
    monkeypatch.setattr(what, other)
    compared(folder, model, images, tmp_path / "ledger")
    assert len(runs) == 16 + 16


def test_a_setting_is_what_it_is_called(folder):
    plain = session(folder / GRAPH, threads=1, optimised=False).get_session_options()
    assert plain.intra_op_num_threads == 1
    assert plain.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    usual = session(folder / GRAPH, threads=2).get_session_options()
    assert usual.intra_op_num_threads == 2
    assert usual.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL

    class Layout(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([[x.is_contiguous(memory_format=torch.channels_last)]] * len(x))

    images = torch.rand(20, 3, 4, 4)
    assert logits_of(Layout(), images, "", torch.channels_last).all()
    assert not logits_of(Layout(), images, "").any()


def test_a_grid_that_gives_other_classes_fails(folder):
    model = load(folder)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head.fc.weight.copy_(other.head.fc.weight.roll(1, 0))
        other.head.fc.bias.copy_(other.head.fc.bias.roll(1, 0))
    images = Images(PIXELS[:20], IMAGES[:20], None, "20 images")
    for network, passed in ((model, True), (other, False)):
        assert keeps_the_accuracy(folder, network, zoo.deploy(model), images) == passed


@pytest.mark.parametrize(
    ("images", "count", "passed"),
    [(7, 1, True), (7, 2, False), (20, 2, True), (20, 3, False)],
)
def test_a_tenth_of_the_images_or_one_may_have_another_class(
    folder, monkeypatch, images, count, passed
):
    model = load(folder)
    deployed = zoo.deploy(model)

    def some_changed(network, images, doing, *setting):
        logits = logits_of(deployed, images, doing, *setting)
        if network is model:
            logits[:count] = -logits[:count]
        return logits

    monkeypatch.setattr(export.checks.equal_bits, "logits_of", some_changed)
    shown = Images(PIXELS[:images], IMAGES[:images], None, f"{images} images")
    assert keeps_the_accuracy(folder, model, deployed, shown) == passed


def test_a_graph_is_run_in_the_setting_that_is_named(folder, monkeypatch):
    seen, own = set(), onnxruntime.InferenceSession.run

    def run(running, names, feed):
        how = running.get_session_options()
        how = how.intra_op_num_threads, how.graph_optimization_level
        seen.add((len(feed["pixel_values"]), *how))
        return own(running, names, feed)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", run)
    RUN(folder / GRAPH, IMAGES[:15], Setting(7, 1, False))
    plain = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert seen == {(7, 1, plain), (1, 1, plain)}


@pytest.mark.parametrize(("images", "allowed"), [(9, 1), (360, 1), (799, 1), (800, 2), (2000, 5)])
def test_accuracies_may_differ_by_a_quarter_of_a_point_or_an_image(images, allowed):
    labels = torch.zeros(images, dtype=torch.long)
    wrong = torch.tensor([0.0, 1.0])

    def with_right(count):
        return torch.cat([wrong.flip(0).expand(count, 2), wrong.expand(images - count, 2)])

    for right in range(images - allowed):
        trained, near, far = (with_right(right + more) for more in (0, allowed, allowed + 1))
        for one, other in ((trained, near), (near, trained)):
            assert accuracies(labels, {"trained": one, "onnxruntime": other})[0]
        assert not accuracies(labels, {"trained": trained, "onnxruntime": far})[0]


def test_javascript_shrinks_a_larger_image_as_it_was_measured(tmp_path):
    small = {"depths": (1, 1), "widths": (8, 8)}
    zoo.hub.save_pretrained(zoo.create_model("short_bp_resnet18_imagenet", **small), tmp_path)
    found = json.loads(preprocessor(tmp_path))
    assert (found["size"], found["resample"]) == ({"shortest_edge": 256}, Image.Resampling.BICUBIC)


def test_a_title_is_shown_as_it_is(folder, capsys):
    images = Images(PIXELS[:5], IMAGES[:5], None, "5 test images of set [/x] [v2]")
    print_report(verify(folder, load(folder), images))
    assert "5 test images of set [/x] [v2]" in capsys.readouterr().out


def test_a_grid_that_loses_accuracy_fails_however_few_classes_change(folder, monkeypatch):
    monkeypatch.setattr(export.checks.equal_bits, "CHANGED", 100.0)
    model = load(folder)
    deployed = zoo.deploy(model)
    theirs = logits_of(deployed, IMAGES[:20], "").argmax(1)
    with torch.no_grad():
        model.head.fc.bias.copy_(model.head.fc.bias.roll(1, 0))
        model.head.fc.weight.copy_(model.head.fc.weight.roll(1, 0))
    ours = logits_of(model, IMAGES[:20], "").argmax(1)
    assert (ours != theirs).sum() > 1
    for labels in (ours, theirs):
        images = Images(PIXELS[:20], IMAGES[:20], labels, "20 images")
        assert not keeps_the_accuracy(folder, model, deployed, images)
    neither = torch.full_like(ours, 10)
    images = Images(PIXELS[:20], IMAGES[:20], neither, "20 images")
    assert keeps_the_accuracy(folder, model, deployed, images)


@pytest.mark.parametrize("nearer", [0, 12])  # by how many powers of two a limit is
def test_a_sum_that_the_grid_cuts_off_fails(tmp_path, monkeypatch, nearer):
    monkeypatch.setattr(export.checks.equal_bits, "CHANGED", 100.0)
    cfg = {"input_size": (3, 16, 16)}
    sizes = dict(depths=(1, 1), widths=(8, 16), time_steps=2)
    model = zoo.create_model("ms_resnet18_cifar", **sizes, pretrained_cfg_overlay=cfg)
    settle(awaken(model))
    deployed = zoo.deploy(model)
    for conv in deployed.modules():
        if isinstance(conv, MembraneConv):
            conv.limit.mul_(2.0**-nearer)
    for path, graph in write_graphs(deployed).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        onnx.save(graph, tmp_path / path)
    shown = pixels(model, 20)
    images = Images(shown, _normalised(model, shown), None, "20 random images")
    checks = {c.name: c for c in check_exact(tmp_path, model, deployed, images, None)}
    assert checks["equal bits in every setting"].passed
    kept = checks["the grid keeps the accuracy"]
    assert kept.passed == (nearer == 0)
    assert (kept.measured["sums_cut_off"] > 0) == (nearer > 0)


def keeps_the_accuracy(folder, network, deployed, images) -> bool:
    checks = {check.name: check for check in check_exact(folder, network, deployed, images, None)}
    return checks["the grid keeps the accuracy"].passed


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("slim/again.json", "--report: expected a file outside of"),
        ("nowhere/again.json", "--report: expected a file in a folder, found no"),
        ("other/verification.json", "--report: expected a file of its own, got"),
        ("/proc/again.json", "--report: expected a folder that can be written to, got /proc"),
    ],
)
def test_a_report_that_could_not_be_written_is_refused_at_once(folder, tmp_path, place, said):
    other = shutil.copytree(folder, tmp_path / "other")
    run = command(folder, "--report", str(tmp_path / place))
    assert run.returncode == 1
    assert said in run.stderr
    assert changed_files(folder) == changed_files(other) == []


def test_a_folder_is_verified_by_the_name_that_loads_it_too(folder):
    run = command(f"local-dir:{folder}", "--num-images", "10", "--random-images")
    assert run.returncode == 0, run.stderr


def test_weights_moved_into_a_file_beside_the_graph_are_refused(folder):
    graph = onnx.load(folder / GRAPH)
    onnx.save(graph, folder / GRAPH, save_as_external_data=True, location=".hidden")
    report = json.loads((folder / REPORT).read_text())
    report["sha256"] |= hashes(folder, REPORT)
    report["sha256"].pop(".hidden", None)
    (folder / REPORT).write_text(json.dumps(report))
    run = command(folder, "--num-images", "10", "--random-images")
    assert run.returncode == 1
    assert "graphs hold the weights: " in run.stderr


def test_the_first_images_are_of_all_classes(exported, tmp_path):
    labels = [f"{number}" for number in range(10)]
    for label in labels:
        (tmp_path / "test" / label).mkdir(parents=True)
        (tmp_path / "train" / label).mkdir(parents=True)
        for i in range(30):
            noise = np.full((8, 8), i, np.uint8)
            Image.fromarray(noise).save(tmp_path / "test" / label / f"{i}.png")
    config = {"training": {"data": {"name": "image_folder"}}, "label_names": labels}
    config["num_classes"] = 10
    images = data_images(load(exported), config, str(tmp_path), 100)
    assert {*images.labels[:50].tolist()} == {*range(10)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"name": "my_set"},
            "expected one of the sets that are read here, got 'my_set'; verify on",
        ),
        ({"name": "digits", "std": 128}, r"expected the data of a training, got .*'std': 128"),
        (
            {"name": "digits", "holdout": "x"},
            "expected the data of a training, got .*'holdout': 'x'",
        ),
    ],
)
def test_images_of_a_set_that_nobody_here_reads_are_refused(exported, data, message):
    config = {"training": {"data": data}, "num_classes": 10}
    with pytest.raises(ValueError, match=message):
        data_images(load(exported), config, "", 10)


def test_a_graph_of_somebody_elses_is_never_run(folder, monkeypatch):
    for used in ("run_graph", "certify"):
        monkeypatch.setattr(export.checks.equal_bits, used, lambda *_: pytest.fail("it was used"))
    change_constant(folder / READABLE_GRAPH, "head.fc.bias", lambda bias: bias.__iadd__(1))
    assert "graphs hold the weights" in failed(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling_mine.py", "onnx/other.onnx"])
def test_a_report_of_files_that_no_published_folder_has_is_refused(folder, name):
    (folder / name).write_bytes(b"")
    report = json.loads((folder / REPORT).read_text())
    report["sha256"] = hashes(folder, REPORT)
    (folder / REPORT).write_text(json.dumps(report))
    run = command(folder)
    assert run.returncode == 1
    assert f"expected the files of a published folder, got ['{name}']" in run.stderr


def test_a_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a verification report, found none"):
        changed_files(tmp_path)
