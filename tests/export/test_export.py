"""From a trained run to a published folder, with the real onnxruntime and real digits."""

import errno
import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from digits_images import IMAGES, PIXELS
from hub_server import HubServer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import zoo
from export.checks.check import STRIPPING
from export.folder import REPORT, changed_files, check_target, move_into_place, scratch_beside
from export.publish import Options as PublishOptions
from export.publish import PublishError, publish_to_folder
from export.strip import load_source
from export.to_onnx import ExportError, Options, export
from export.verify import check_liveness
from zoo.hub.run_folder import checkpoints

ROOT = Path(__file__).parent.parent.parent


def load(folder: Path):
    return zoo.create_model(f"local-dir:{folder}", pretrained=True).eval()


def test_the_folder_holds_the_network_without_heads(run, exported):
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*.*")}
    assert names == {
        "README.md",
        "config.json",
        "model.safetensors",
        "onnx/model.onnx",
        "onnx/model_readable.onnx",
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


@pytest.mark.parametrize("name", ["model.onnx", "model_uint8.onnx", "model_readable.onnx"])
def test_a_graph_takes_any_batch_and_tells_nothing_of_this_machine(exported, name):
    path = exported / "onnx" / name
    graph = onnx.load(path)
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    assert opsets == ({"": 20, "zoo": 1} if "readable" in name else {"": 20})
    assert [value.name for value in graph.graph.input] == ["pixel_values"]
    assert [value.name for value in graph.graph.output] == ["logits"]
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)
    assert not {node.op_type for node in graph.graph.node} & {"Shape", "Expand", "Where", "Slice"}
    for place in (ROOT, Path.home(), Path(sys.prefix)):
        assert str(place).encode() not in path.read_bytes()
    session = onnxruntime.InferenceSession(path)
    deployed = zoo.deploy(load(exported))
    images = PIXELS if "uint8" in name else IMAGES
    for batch in (1, 3, 60):
        (logits,) = session.run(["logits"], {"pixel_values": images[:batch].numpy()})
        with torch.inference_mode():
            assert torch.equal(torch.from_numpy(logits), deployed(IMAGES[:batch]))


def test_the_readable_graph_shows_a_neuron_as_one_node(exported):
    graph = onnx.load(exported / "onnx/model_readable.onnx")
    spiking = [name for name, m in load(exported).named_modules() if isinstance(m, zoo.LIF)]
    ours = [node.output[0] for node in graph.graph.node if node.domain == "zoo"]
    assert ours == spiking
    assert len(graph.graph.node) < 100 < len(onnx.load(exported / "onnx/model.onnx").graph.node)


def test_the_report_names_every_file_by_its_hash(exported):
    report = json.loads((exported / "verification.json").read_text())
    assert report["passed"] is True
    assert report["images"] == "360 test images of digits"
    assert report["rule"] == "exact"
    assert [check["name"] for check in report["checks"]] == [
        "stripped network gives equal bits",
        "weights hold no shortcut heads",
        "every spiking layer fires",
        "graphs hold no local path",
        "graphs hold the weights",
        "no sum depends on its order",
        "equal bits in every setting",
        "floats that are no pixels give equal bits",
        "the grid keeps the accuracy",
        "rule, certificate and pre-processing are as said",
    ]
    for name, digest in report["sha256"].items():
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == digest
    assert "root" not in json.loads((exported / "config.json").read_text())["training"]["data"]


def test_the_card_says_what_was_measured(exported, run):
    card = (exported / "README.md").read_text()
    report = json.loads((exported / "verification.json").read_text())
    (accuracy,) = [
        c["measured"] for c in report["checks"] if c["name"] == "the grid keeps the accuracy"
    ]
    assert f"{accuracy['onnxruntime_percent']:.2f} % in onnxruntime" in card
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert accuracy["trained_percent"] == pytest.approx(last["test_accuracy"])


def test_the_source_may_be_a_run_a_checkpoint_or_a_name(run, monkeypatch, tmp_path):
    by_run, by_checkpoint = load_source(str(run)), load_source(str(checkpoints(run)[-1]))
    assert by_run.folder == by_checkpoint.folder
    name = "short_bp_resnet20_slim.digits"
    shutil.copytree(by_run.folder, tmp_path / name)
    monkeypatch.setenv("SHORT_BP_ZOO_WEIGHTS", str(tmp_path))
    assert load_source(name).folder == tmp_path / name


@pytest.fixture
def dead(run, tmp_path) -> Path:
    """A trained network whose sixth spiking layer can no longer fire."""
    folder = shutil.copytree(checkpoints(run)[-1], tmp_path / "dead")
    weights = load_file(folder / "model.safetensors")
    weights["stages.0.2.conv1.norm.weight"].zero_()
    weights["stages.0.2.conv1.norm.bias"].zero_()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "sha256.json").unlink()
    return folder


def test_what_came_without_heads_keeps_the_check_of_when_it_had_them(exported, tmp_path):
    source = shutil.copytree(exported, tmp_path / "source")
    report = json.loads((source / REPORT).read_text())
    assert report["checks"][0]["name"] == STRIPPING
    report["checks"][0]["measured"]["images"] = 777
    (source / REPORT).write_text(json.dumps(report))
    again = export(Options(source=str(source), output=str(tmp_path / "again"), num_images=20))
    checks = json.loads((again / REPORT).read_text())["checks"]
    assert [check["measured"]["images"] for check in checks if check["name"] == STRIPPING] == [777]


def test_a_dead_layer_is_refused_by_name_and_nothing_is_left(dead, tmp_path):
    assert not check_liveness(load(dead), IMAGES).passed
    with pytest.raises(ExportError, match=r"every spiking layer fires: .*stages\.0\.2\.spike1"):
        export(Options(source=str(dead), output=str(tmp_path / "out" / "slim")))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_strip_that_changed_a_bit_is_not_exported(run, tmp_path, monkeypatch):
    def strip(model):
        stripped = zoo.strip_heads(model)
        with torch.no_grad():
            bias = stripped.head.fc.bias
            bias[0] = torch.nextafter(bias[0], torch.tensor(9.0))
        return stripped

    monkeypatch.setattr("export.strip.strip_heads", strip)
    with pytest.raises(ExportError, match=f'^{STRIPPING}: {{"images": 20, "images_that_differ": '):
        export(Options(source=str(run), output=str(tmp_path / "out"), num_images=20))
    assert [*tmp_path.iterdir()] == []


def test_an_export_that_was_cut_goes_on_and_leaves_no_ledger(run, tmp_path, cut_at_the_sixth):
    options = Options(source=str(run), output=str(tmp_path / "slim"), num_images=10)
    with pytest.raises(KeyboardInterrupt):
        export(options)
    assert [path.name for path in tmp_path.iterdir()] == [".slim.ledger"]
    export(options)
    # The one that was cut, once more, and floats that are no pixels.
    assert len(cut_at_the_sixth) == 16 + 2
    assert [path.name for path in tmp_path.iterdir()] == ["slim"]


def test_a_published_folder_is_replaced_only_when_told(exported, run, tmp_path):
    kept = shutil.copytree(exported, tmp_path / "kept")
    before = (kept / REPORT).read_bytes()
    with pytest.raises(FileExistsError, match=r"expected a new folder, got .*kept; pass --overw"):
        export(Options(source=str(run), output=str(kept)))
    assert (kept / REPORT).read_bytes() == before
    export(Options(source=str(run), output=str(kept), overwrite=True, license="mit"))
    assert (kept / REPORT).read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("name", ["mine.txt", "onnx/mine.onnx", ".git/HEAD"])
def test_what_is_not_of_a_published_folder_is_not_replaced_with_it(exported, tmp_path, name):
    target = shutil.copytree(exported, tmp_path / "target")
    (target / name).parent.mkdir(exist_ok=True)
    (target / name).write_text("mine")
    with pytest.raises(FileExistsError, match=r"expected a published folder alone, got one with "):
        check_target("--output", target, overwrite=True)
    assert (target / name).read_text() == "mine"


def test_a_published_folder_that_was_changed_since_is_not_replaced(exported, tmp_path):
    target = shutil.copytree(exported, tmp_path / "target")
    check_target("--output", target, overwrite=True)
    (target / "README.md").write_text("mine")
    with pytest.raises(
        FileExistsError, match=r"as it was verified, got one whose \['README\.md'\]"
    ):
        check_target("--output", target, overwrite=True)


def test_the_root_of_all_folders_is_no_output(run):
    with pytest.raises(ValueError, match="--output: expected a folder to make, got /"):
        export(Options(source=str(run), output="/"))


def test_a_folder_that_came_in_the_meantime_is_not_replaced(exported, tmp_path):
    scratch, target = (shutil.copytree(exported, tmp_path / name) for name in ("scratch", "target"))
    (target / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="--output: expected a new folder"):
        move_into_place("--output", scratch, target, overwrite=False)
    assert (target / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("cut", [SystemExit, None])
def test_a_replacement_that_is_cut_short_leaves_the_folder_before(exported, tmp_path, cut):
    code = """
import os, signal, sys
from pathlib import Path
from export.folder import move_into_place
renames = []
def rename(path, target, own=Path.rename):
    renames.append(path)
    if len(renames) == 2:
        {act}
    return own(path, target)
Path.rename = rename
move_into_place("--output", *map(Path, sys.argv[1:]), overwrite=True)
""".format(act="raise SystemExit" if cut else "os.kill(os.getpid(), signal.SIGKILL)")
    scratch, target = (shutil.copytree(exported, tmp_path / name) for name in ("scratch", "target"))
    subprocess.run([sys.executable, "-c", code, scratch, target], cwd=ROOT, check=False)
    stands = target if cut else tmp_path / "target.replaced"
    assert changed_files(stands) == []
    assert {path.name for path in tmp_path.iterdir()} == {"scratch", stands.name}
    if not cut:
        with pytest.raises(FileExistsError, match=r"if .*target is missing move it there"):
            move_into_place("--output", scratch, target, overwrite=True)
        with pytest.raises(FileExistsError, match=r"expected no .*target.replaced"):
            check_target("--output", target, overwrite=True)  # before any work is done


@pytest.mark.parametrize("command", ["to_onnx", "publish"])
def test_a_full_disk_is_said_and_leaves_nothing(command, run, exported, tmp_path):
    code = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from export.{command} import main
resource.setrlimit(resource.RLIMIT_FSIZE, (9999, resource.RLIM_INFINITY))
main()
"""
    source, option = {"to_onnx": (run, "--output"), "publish": (exported, "--to-folder")}[command]
    line = [sys.executable, "-c", code, source, option, tmp_path / "out" / "slim"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert f"error: {option}: expected room for it in {tmp_path / 'out'}, got" in done.stderr
    assert [*(tmp_path / "out").iterdir()] == []


def test_a_file_that_a_full_disk_cuts_leaves_the_one_before_and_nothing_beside_it(tmp_path):
    code = """
import resource, signal, sys
from pathlib import Path
from zoo.hub import files as disk
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9999, resource.RLIM_INFINITY))
try:
    disk.write(Path(sys.argv[1]), 10000 * "x")
except OSError as error:
    print(error.errno, error)
"""
    path = tmp_path / "ledger"
    path.write_text("before")
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True)
    assert done.stdout.decode().startswith(f"{errno.EFBIG} ")
    assert f"{path}: expected room for it, got" in done.stdout.decode()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"ledger": "before"}


def test_a_folder_of_another_kind_is_never_replaced(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    with pytest.raises(FileExistsError, match="no published folder and stays as it is"):
        export(Options(source=str(copy), output=str(copy), overwrite=True))
    assert len(checkpoints(copy)) == 2


def test_an_output_of_dots_stays_where_it_points(run, tmp_path):
    (tmp_path / "sub").mkdir()
    with pytest.raises(FileExistsError, match="no published folder"):
        export(Options(source=str(run), output=str(tmp_path / "sub" / ".."), overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["sub"]


def test_images_of_other_classes_are_refused(run, tmp_path):
    copy = shutil.copytree(checkpoints(run)[-1], tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["label_names"][3] = "three"
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "sha256.json").unlink()
    with pytest.raises(ValueError, match=r"config.json: expected images of .*'three'"):
        export(Options(source=str(copy), output=str(tmp_path / "out")))


def test_random_pixels_verify_a_network_whose_data_are_not_at_hand(run, tmp_path):
    options = Options(
        source=str(run), output=str(tmp_path / "out"), random_images=True, num_images=20
    )
    report = json.loads((export(options) / "verification.json").read_text())
    assert report["images"].startswith("20 random images, seed 0, ")
    assert "onnxruntime_percent" not in json.dumps(report)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Not measured" in card
    assert "`python -m export.verify FOLDER --random-images --num-images 20` measures" in card
    with pytest.raises(ValueError, match="--random-images: expected no --data-root beside it"):
        export(replace(options, output=str(tmp_path / "other"), data_root="data"))
    digits = replace(options, output=str(tmp_path / "other"), data_root="data", random_images=False)
    with pytest.raises(ValueError, match="--data-root: expected none for digits, which come with"):
        export(digits)


def that_failed(report):
    report["checks"][0]["passed"] = False


def without_a_measurement(report):
    del report["checks"][0]["measured"]


def of_other_json(report):
    report["checks"] = ["stripped"]


@pytest.mark.parametrize("change", [None, that_failed, without_a_measurement, of_other_json])
def test_without_a_report_of_their_removal_nothing_is_said_of_heads(exported, tmp_path, change):
    source = shutil.copytree(exported, tmp_path / "source")
    report = json.loads((source / REPORT).read_text())
    (source / REPORT).unlink()
    if change:
        change(report)
        (source / REPORT).write_text(json.dumps(report))
    again = export(Options(source=str(source), output=str(tmp_path / "again"), num_images=20))
    checks = json.loads((again / REPORT).read_text())["checks"]
    assert STRIPPING not in {check["name"] for check in checks}
    assert "when they were stripped" not in (again / "README.md").read_text()


def test_any_name_of_weights_is_a_source(exported):
    assert load_source(f"local-dir:{exported}").folder == exported
    with pytest.raises(FileNotFoundError, match="nowhere: expected a folder with"):
        load_source("local-dir:nowhere")


def test_images_that_are_not_there_are_told_this_commands_options(exported, tmp_path):
    source = shutil.copytree(exported, tmp_path / "source")
    (source / REPORT).unlink()
    config = json.loads((source / "config.json").read_text())
    config["training"]["data"] |= {"name": "image_folder", "root": "nowhere"}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match="--data-root says where the images are, --random"):
        export(Options(source=str(source), output=str(tmp_path / "out")))


def test_what_no_browser_can_do_to_an_image_is_said_of_the_source(exported, tmp_path):
    source = shutil.copytree(exported, tmp_path / "source")
    (source / REPORT).unlink()
    config = json.loads((source / "config.json").read_text())
    config["pretrained_cfg"]["crop_mode"] = "squash"
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=re.escape(f"{source}/config.json: expected 1 or 3")):
        export(Options(source=str(source), output=str(tmp_path / "out")))


def test_a_network_of_event_streams_is_refused(exported, tmp_path):
    source = shutil.copytree(exported, tmp_path / "source")
    (source / REPORT).unlink()
    config = json.loads((source / "config.json").read_text())
    config["training"]["data"]["name"] = "dvs_gesture"
    (source / "config.json").write_text(json.dumps(config))
    options = Options(source=str(source), output=str(tmp_path / "out"), random_images=True)
    with pytest.raises(ValueError, match="expected a network of still images, got one of dvs_ges"):
        export(options)


def test_images_that_no_picture_has_are_refused_before_anything_is_checked(tmp_path):
    cfg = {"input_size": (4, 32, 32), "mean": (0.0,) * 4, "std": (1.0,) * 4}
    model = zoo.create_model("short_bp_resnet20_slim", in_chans=4, pretrained_cfg_overlay=cfg)
    zoo.hub.save_pretrained(model, tmp_path / "network")
    source, out = str(tmp_path / "network"), str(tmp_path / "out")
    options = Options(source=source, output=out, random_images=True)
    with pytest.raises(ValueError, match="expected a network of 1 or 3 channels, got 4"):
        export(options)


def test_a_folder_is_built_by_one_process_at_a_time(run, tmp_path):
    left = tmp_path / ".out.partial" / "of a kill"
    left.mkdir(parents=True)
    with scratch_beside("--output", tmp_path / "out") as scratch:
        assert list(scratch.iterdir()) == []
        with pytest.raises(FileExistsError, match="--output: expected a folder that nobody writes"):
            export(Options(source=str(run), output=str(tmp_path / "out"), num_images=20))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_nobody_can_write_to_is_not_taken_for_anothers(tmp_path):
    (tmp_path / "file").write_text("mine")
    sealed = [Path("/proc")] if Path("/proc/self").exists() else []
    for parent in (tmp_path / "file", *sealed):
        message = rf"--output: expected a place that can be written to, got {parent} \("
        with pytest.raises(OSError, match=message), scratch_beside("--output", parent / "out"):
            pass


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/folder", "no/such/folder: expected a run folder"),
        ("short_bp_resnet81", "unknown model 'short_bp_resnet81', closest names: "),
        ("short_bp_resnet152", "short_bp_resnet152: expected pretrained weights, found none"),
    ],
)
def test_the_command_ends_in_one_line_on_a_bad_source(tmp_path, source, message):
    command = [sys.executable, ROOT / "export/to_onnx.py", source, "--output", tmp_path / "out"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr.startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def into_folder(folder: Path, target: Path) -> str:
    options = PublishOptions(folder=str(folder), to_folder=str(target), num_images=10)
    return publish_to_folder(options)


def test_a_published_folder_loads_with_equal_bits(exported, tmp_path):
    target = tmp_path / "hub" / "slim"
    assert into_folder(exported, target) == f"published {target}"
    with torch.inference_mode():
        assert torch.equal(load(target)(IMAGES), load(exported)(IMAGES))
    assert "already" in into_folder(exported, target)
    (target / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        into_folder(exported, target)
    assert (target / "README.md").read_text() == "mine"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "onnx/model_uint8.onnx"])
def test_a_folder_that_changed_after_its_verification_is_not_published(exported, tmp_path, name):
    folder = shutil.copytree(exported, tmp_path / "changed")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(PublishError, match=f"expected the files that were verified.*{name}"):
        into_folder(folder, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_a_folder_without_a_passed_verification_is_not_published(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "unverified")
    report = json.loads((folder / "verification.json").read_text()) | {"passed": False}
    (folder / "verification.json").write_text(json.dumps(report))
    with pytest.raises(PublishError, match="expected a passed verification, got False"):
        into_folder(folder, tmp_path / "hub")
    (folder / "verification.json").write_text('{"passed": true}')
    with pytest.raises(PublishError, match="expected the files that were verified"):
        into_folder(folder, tmp_path / "hub")
    (folder / "verification.json").unlink()
    with pytest.raises(PublishError, match="expected a verification report, found none"):
        into_folder(folder, tmp_path / "hub")


def test_publishing_to_the_hub_is_one_commit_that_loads_with_equal_bits(exported, tmp_path):
    code = """
import sys, timm, torch, zoo
x = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    local = zoo.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()(x)
    for create in (zoo.create_model, timm.create_model):
        for name in ("hf-hub:owner/slim", "hf-hub:owner/slim@v1"):
            assert torch.equal(create(name, pretrained=True).eval()(x), local)
"""
    command = [sys.executable, ROOT / "export/publish.py", exported, "--to", "owner/slim"]
    with HubServer() as hub:
        env = hub.env(tmp_path)

        def run(*options: str, **overrides: str) -> subprocess.CompletedProcess:
            line = [*command, *options]
            return subprocess.run(line, env=env | overrides, capture_output=True, text=True)

        rehearsed = run()
        assert "would send to the new repository owner/slim (public unless " in rehearsed.stdout
        assert re.search(r"add +model.safetensors +[\d,]+ bytes  [0-9a-f]{64}", rehearsed.stdout)
        assert "nothing was sent; pass --confirm" in rehearsed.stdout
        asked = {r.path for r in hub.requests if r.method != "GET"}
        assert asked == {"/api/validate-yaml"}  # whether the card would do
        assert hub.repos == {}

        first = run("--confirm")
        assert first.stdout.startswith("published owner/slim as v1 at "), first.stderr
        again = run("--confirm")
        assert "holds this very network already, as v1" in again.stdout, again.stderr
        commits = [r for r in hub.requests if r.method == "POST" and "/commit/" in r.path]
        assert len(commits) == 1
        (created,) = [r for r in hub.requests if r.path == "/api/repos/create"]
        assert not {"visibility", "private"} & json.loads(created.body).keys()
        assert not any(r.had_auth for r in hub.requests if r.host == "localhost")
        assert commits[0].json_lines()[0]["value"]["parentCommit"]
        assert hub.token not in first.stdout + first.stderr
        subprocess.run([sys.executable, "-c", code, str(exported)], env=env, check=True)

        refused = run("--confirm", HF_TOKEN="hf_nobody")
        assert refused.returncode == 1
        assert "error: owner/slim: the Hub refuses this token (401" in refused.stderr
        typed = run("--token=hf_secret")
        assert typed.stderr.startswith("error: --token: expected it in HF_TOKEN")
        for process in (refused, typed):
            assert "hf_" not in process.stdout + process.stderr.replace("HF_TOKEN", "")
