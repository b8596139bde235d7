"""The released weights: each loads by its name and is what its report says."""

import hashlib
import json
import os
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path

import onnx
import pytest
import torch
import tyro

import zoo
from export.checks.certificate import check_certificate
from export.checks.check import session
from export.checks.metadata import check_metadata
from export.deployed import deploy
from export.folder import read_report
from zoo import hub
from zoo.data import DataConfig, load_images
from zoo.deployment.metadata import add_metadata
from zoo.deployment.writer import write_graph
from zoo.hub import files as disk
from zoo.hub.run_folder import all_runs
from zoo.training.config import Config, filled_up, flat, load_config
from zoo.training.run_folder import FOUND, FREE

RELEASES = zoo.list_models(pretrained=True)
DATA = os.environ.get("SHORT_BP_ZOO_CIFAR10")  # a folder or tar with test/CLASS/IMAGE
COUNTED = json.loads((Path(__file__).parent / "released.json").read_text())
ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"


@pytest.fixture(params=RELEASES)
def name(request):
    return request.param


def graphs_of(name: str) -> dict[str, onnx.ModelProto]:
    deployed = deploy(zoo.create_model(name, pretrained=True).eval())
    graphs = deployed.graphs()
    for path, graph in graphs.items():
        add_metadata(graph, deployed.of(path))
    return graphs


@pytest.fixture(scope="module")
def subset():
    """The 1,000 test images whose indices are committed."""
    images = load_images(DataConfig(name="image_folder", root=DATA), "test")
    return images.subset(torch.tensor(COUNTED["indices"]))


def test_some_weights_are_released():
    assert RELEASES


def test_a_release_passed_its_verification(name):
    assert read_report(hub.find_pretrained(name))["passed"] is True


def test_a_release_makes_its_graphs_anew_to_the_last_bit(name):
    graphs = graphs_of(name)
    verified = read_report(hub.find_pretrained(name))["sha256"]
    assert graphs.keys() == {path for path in verified if path.endswith(".onnx")}
    for path, graph in graphs.items():
        content = graph.SerializeToString(deterministic=True)
        assert hashlib.sha256(content).hexdigest() == verified[path]


def test_a_release_matches_its_report_and_preprocessor(name, tmp_path):
    for file in (hub.CONFIG, hub.REPORT, hub.WEIGHTS, "preprocessor_config.json"):
        shutil.copy(hub.find_pretrained(name) / file, tmp_path)
    graphs = graphs_of(name)
    for path, graph in graphs.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(graph.SerializeToString())
    certificate = check_certificate(tmp_path, graphs)
    assert check_metadata(tmp_path, "exact", certificate, is_int8=True).passed


def test_a_release_takes_a_float_that_is_no_pixel_for_the_nearest_one(name):
    model = zoo.create_model(name, pretrained=True).eval()
    shape = (4, *model.pretrained_cfg["input_size"])
    values = 4 * torch.randn(shape, generator=torch.manual_seed(0))
    deployed = zoo.deploy(model)
    running = session(write_graph(deployed).SerializeToString())
    (logits,) = running.run(["logits"], {"pixel_values": values.numpy()})
    assert torch.equal(deployed(values), torch.from_numpy(logits))


def test_a_release_is_called_by_its_name_on_its_card(name):
    config = hub.read_config(hub.find_pretrained(name))
    assert f"{config['architecture']}.{config['pretrained_cfg']['tag']}" == name


def test_a_release_gives_the_same_bits_in_pytorch_and_onnxruntime(name):
    model = zoo.create_model(name, pretrained=True).eval()
    shape = (8, *model.pretrained_cfg["input_size"])
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.manual_seed(0))
    session = zoo.load_onnx(name).session
    logits = torch.from_numpy(session.run(["logits"], {"pixel_values": pixels.numpy()})[0])
    assert torch.equal(zoo.deploy(model, bits=8)(pixels), logits)
    assert len(logits.unique()) == logits.numel()


def commands() -> list[list[str]]:
    """What docs/training.md says to be trained for the releases, in its order."""
    page = (ROOT / "docs" / "training.md").read_text()
    block = page.partition("## How the releases came about")[2].split("```")[1]
    function, *lines = block.replace("\\\n", " ").split("\n")[1:]
    every = '"$@" --data.root DATA --compile'
    assert function == f"train() {{ python -m zoo.training {every}; }}"
    return [[*shlex.split(line)[1:], "--compile"] for line in lines if line]


def what_bits_depend_on(recipe: dict) -> dict:
    """Of a recipe; where it begins, but for its place, is in the run before it."""
    apart = (*FREE, *FOUND, "start_from")
    return {k: v for k, v in flat(filled_up(recipe)).items() if not k.startswith(apart)}


def test_the_commands_of_the_documentation_are_those_that_a_release_was_trained_with(name):
    config = hub.read_config(hub.find_pretrained(name))
    said, runs = [], {""}
    for recipe, _, stage, *options in commands():
        recipe = load_config(ROOT / recipe, stage)
        if recipe.model == config["architecture"]:
            said.append(tyro.cli(Config, default=recipe, args=options))
            assert said[-1].start_from in runs, "it begins with a run that came before"
            runs = {said[-1].output}
    recipes = [json.loads(json.dumps(asdict(recipe))) for recipe in said]
    trained = all_runs(config["training"])
    assert list(map(what_bits_depend_on, recipes)) == list(map(what_bits_depend_on, trained))


def test_a_bare_architecture_loads_its_release(name):
    architecture = name.partition(".")[0]
    bare, tagged = (zoo.create_model(n, pretrained=True) for n in (architecture, name))
    assert all(
        torch.equal(*pair)
        for pair in zip(bare.state_dict().values(), tagged.state_dict().values(), strict=True)
    )


def test_every_release_for_the_images_of_the_subset_was_counted():
    of_these = [name for name in RELEASES if name.endswith(".cifar10")]
    assert sorted(COUNTED["correct"]) == of_these
    assert sorted(set(COUNTED["indices"])) == COUNTED["indices"]
    assert len(COUNTED["indices"]) == 1000
    rows = json.loads((RESULTS / "accuracy.json").read_text())["rows"]
    assert {row["network"]: row["right of 1000"] for row in rows} == COUNTED["correct"]


@pytest.mark.parametrize("table", ["accuracy", "energy", "grid"])
def test_a_table_of_the_releases_is_of_their_weights(table):
    content = json.loads((RESULTS / f"{table}.json").read_text())
    measured = content["sha256 of the weights"]
    assert measured.keys() == {row["network"] for row in content["rows"]}
    for name, digest in measured.items():
        assert disk.file_sha256(hub.find_pretrained(name) / hub.WEIGHTS) == digest


@pytest.mark.skipif(not DATA, reason="SHORT_BP_ZOO_CIFAR10 names no images")
@pytest.mark.parametrize("name", COUNTED["correct"])
def test_a_release_gets_the_same_of_1000_images_right(name, subset):
    network = zoo.deploy(zoo.create_model(name, pretrained=True).eval())
    with torch.inference_mode():
        logits = torch.cat([network(pixels) for pixels in subset.images.split(100)])
    assert int((logits.argmax(1) == subset.labels).sum()) == COUNTED["correct"][name]
