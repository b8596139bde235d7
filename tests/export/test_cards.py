"""Cards say what was measured, their snippets run, and MODEL_CARDS.md is of this minute."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import timm
import torch
import yaml
from PIL import Image
from spikingjelly.activation_based import neuron as neurons

import zoo
from export.card.card import (
    DATASETS,
    PAPERS,
    _front_matter,
    _in_other_terms,
    _title,
    _trained_with,
    write_card,
)
from export.card.history import history, history_and_notes
from export.folder import read_report
from export.releases import model_cards, readme
from export.strip import load_source, write_stripped
from export.to_onnx import Options, export
from zoo import hub
from zoo.data.config import EVENTS, DatasetName
from zoo.hub import files as disk
from zoo.training.engine import train
from zoo.training.machine import processor

ROOT = Path(__file__).parent.parent.parent
SECTIONS = ["Use", "Results", "Neurons", "Exactness", "Energy", "Verification", "Training"]


@pytest.fixture(scope="module")
def card(exported) -> str:
    return (exported / "README.md").read_text()


def test_the_front_matter_is_what_the_hub_reads(exported, card):
    front = yaml.safe_load(card.split("---")[1])
    report = json.loads((exported / "verification.json").read_text())
    (measured,) = (
        c["measured"] for c in report["checks"] if c["name"] == "the grid keeps the accuracy"
    )
    assert front["library_name"] == "short-bp-zoo"
    assert front["pipeline_tag"] == "image-classification"
    assert "license" not in front
    assert not {"timm", "transformers"} & {*front["tags"]}
    (result,) = front["model-index"][0]["results"]
    assert front["model-index"][0]["name"] == "short_bp_resnet20_slim.digits"
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"]["name"] == "scikit-learn digits"
    assert result["metrics"] == [
        {
            "type": "accuracy",
            "value": round(measured["onnxruntime_percent"], 2),
            "name": "top-1 on 360 test images of digits",
        }
    ]


def test_a_card_has_every_section_in_its_order(card):
    assert re.findall(r"^## (.*)", card, flags=re.M) == [*SECTIONS, "Limits", "Citation"]
    assert "https://arxiv.org/abs/2401.04486" in card
    assert "author = {Guo, Yufei and " in card
    assert "{" not in re.sub(r"```.*?```", "", card, flags=re.S)  # every blank is filled


def test_the_paper_of_every_network_is_cited_with_its_authors():
    cited = {}
    for entry in PAPERS.read_text().strip().split("\n\n"):
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", entry, flags=re.M))
        assert fields.keys() >= {"title", "author", "year", "eprint"}, entry
        cited[f"arXiv:{fields['eprint']}"] = fields["author"]
    papers = {timm.get_pretrained_cfg(name).paper_ids for name in zoo.list_models()}
    assert papers == cited.keys()
    assert len({*cited.values()}) == len(cited)


def test_every_set_of_still_images_has_a_name_on_cards():
    assert {*DATASETS} == {*get_args(DatasetName)} - {*EVENTS}


def test_a_card_shows_each_epoch_on_which_machine_and_the_curves(run, exported, card):
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for entry in log:
        assert (
            f"| 1 | {entry['epoch']} | {entry['learning_rate']:.2g} | {entry['loss']:.3f} | "
            f"{entry['accuracy']:.2f} | {entry['test_accuracy']:.2f} |" in card
        )
    machine = re.escape(processor(torch.device("cpu")))
    assert re.search(rf"3 epochs at T = 2, \d+ minutes? on {machine}, ", card)
    assert "![loss and accuracy by epoch](training.png)" in card
    with Image.open(exported / "training.png") as curves:
        assert curves.size == (900, 350)


def test_a_card_claims_no_more_than_the_runs_of_a_network():
    data = {"name": "cifar10", "title": ""}
    run = {
        "data": data,
        "model_args": {"time_steps": 4},
        "epochs": 300,
        "loss": {"name": "vanilla"},
    }
    cut = run | {"log": [{"seconds": 60.0}] * 12}
    assert history(cut) == "12 of 300 epochs at T = 4, 12 minutes"
    assert history(run | {"log": [{"seconds": 60.0}] * 300}).startswith("300 epochs at T = 4")
    config = {"num_classes": 10, "pretrained_cfg": {}, "training": cut}
    assert "uoft-cs/cifar10" in _front_matter(config, {}, "")
    for other in (data | {"title": "CIFAR-10 (JPEG)"}, {"name": "imagenet"}):
        assert "datasets" not in _front_matter(config | {"training": cut | {"data": other}}, {}, "")
    later = cut | {"began_with": {"training": run | {"data": {"name": "cifar100"}}}}
    assert "- uoft-cs/cifar100\n- uoft-cs/cifar10\n" in _front_matter(
        config | {"training": later}, {}, ""
    )
    assert _title(later, 10) == "CIFAR-100 and CIFAR-10"
    folder = cut | {"data": {"name": "imagenet"}}
    assert _title(folder, 1000) == "ImageNet"
    assert _title(folder, 7) == "a folder in ImageNet's layout"
    assert _title(folder | {"data": {"name": "imagenet", "title": "Flowers"}}, 7) == "Flowers"
    assert _trained_with(cut) == "It was trained without shortcut heads."
    heads = {"name": "evolutionary", "coefficient": 0.05}
    with_heads = cut | {"began_with": {"training": run | {"loss": heads}}}
    told = "with shortcut heads of weight 0.05, falling to 0; then none. What is"
    assert told in _trained_with(with_heads)
    both = with_heads | {"loss": {"name": "shortcut", "coefficient": 0.05}}
    assert "of weight 0.05, falling to 0; then 1. What is" in _trained_with(both)
    again = run | {"loss": heads}
    twice = _trained_with(again | {"began_with": {"training": again}})
    assert "of weight 0.05, falling to 0 in each run. What is" in twice
    halfway = _trained_with(cut | {"loss": heads, "began_with": {"training": again}})
    assert "of weight 0.05, falling to 0; then 0.05, cut short while falling to 0. What" in halfway
    unknown = cut | {"began_with": {"sha256": "", "training": None}}
    assert "is not recorded" in _trained_with(unknown)
    assert _title(unknown, 10) == "a set of images that is not recorded and CIFAR-10"
    tuned = _trained_with(unknown | {"loss": heads})
    assert "with shortcut heads of weight 0.05" in tuned
    assert "is not recorded" in tuned


@pytest.mark.parametrize(
    ("neuron", "said"),
    [
        ({"decay": 1.0, "reset": "subtract"}, "IFNode with v_reset=None"),
        ({"decay": 1.0, "v_threshold": 0.5}, "IFNode with v_threshold=0.5 and v_reset=0.0"),
        ({}, "LIFNode with tau=2.0, decay_input=False and v_reset=0.0"),
        (
            {"decay": 0.75, "v_threshold": 0.25},
            "LIFNode with tau=4.0, decay_input=False, v_threshold=0.25 and v_reset=0.0",
        ),
        ({"decay": 0.9}, "LIFNode with tau=10.0, decay_input=False and v_reset=0.0"),
    ],
)
def test_a_neuron_is_spikingjellys_with_every_constant(neuron, said):
    constants = {"decay": 0.5, "v_threshold": 1.0, "reset": "zero"} | neuron
    rounding = ", but for rounding" if constants["decay"] == 0.9 else ""
    assert _in_other_terms(**constants) == f"It is SpikingJelly's {said}{rounding}. "
    name, arguments = re.match(r"(\w+) with (.*)", said).groups()
    arguments = arguments.replace(" and ", ", ")
    theirs = eval(f"spikingjelly.{name}({arguments}, step_mode='m')", {"spikingjelly": neurons})
    x = torch.rand(6, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(theirs(x), zoo.LIF(**constants)(x))


def test_a_licence_is_what_its_owner_says(exported, tmp_path):
    first, again = (str(tmp_path / name) for name in ("first", "again"))
    export(Options(source=str(exported), output=first, num_images=10, license="mit"))
    export(Options(source=first, output=again, num_images=10))
    for folder in (first, again):
        front = yaml.safe_load((Path(folder) / "README.md").read_text().split("---")[1])
        assert front["license"] == "mit"


def test_a_card_says_of_the_training_what_its_owner_notes(exported, tmp_path):
    notes = ("Test images chose its length.", "It was trained on the 29th of February.")
    first, again = (str(tmp_path / name) for name in ("first", "again"))
    export(Options(source=str(exported), output=first, num_images=10, notes=notes))
    export(Options(source=first, output=again, num_images=10))
    for folder in (first, again):
        training = (Path(folder) / "README.md").read_text().partition("## Training\n")[2]
        assert training.partition("\n\n![")[0].endswith(" ".join(("", *notes)))


def test_notes_stay_with_the_training_that_they_are_of(exported, recipe, tmp_path):
    first, second = (str(tmp_path / name) for name in ("first", "second"))
    export(Options(source=str(exported), output=first, num_images=10, notes=("It rained.",)))
    train(replace(recipe, epochs=1, output=second, start_from=first, seed=5))
    source = load_source(second)
    assert not source.config["pretrained_cfg"]["notes"]
    (tmp_path / "stripped").mkdir()
    write_stripped(source, tmp_path / "stripped", notes=("It snowed.",))
    told = history_and_notes(hub.read_config(tmp_path / "stripped"))
    assert told.endswith(". It rained. It snowed.")


@pytest.mark.parametrize("name", sorted(hub.pretrained_folders()))
def test_a_released_card_is_what_its_files_give(name, tmp_path):
    folder = shutil.copytree(hub.pretrained_folders()[name], tmp_path / name)
    before = (folder / "README.md").read_text()
    write_card(folder, read_report(folder))
    assert (folder / "README.md").read_text() == before


def test_a_card_needs_no_matplotlib_and_no_log(exported, monkeypatch, tmp_path):
    monkeypatch.setattr("export.card.history.find_spec", lambda name: None)
    for path in (exported / "config.json", exported / "model.safetensors"):
        shutil.copy(path, tmp_path)
    source = load_source(str(tmp_path))
    del source.config["training"]["log"]
    (tmp_path / "stripped").mkdir()
    write_stripped(source, tmp_path / "stripped")
    write_card(tmp_path / "stripped", json.loads((exported / "verification.json").read_text()))
    card = (tmp_path / "stripped" / "README.md").read_text()
    assert not (tmp_path / "stripped" / "training.png").exists()
    assert "3 epochs at T = 2.\n\n<details>" in card


def test_a_card_copes_with_a_set_of_images_and_a_network_that_it_does_not_know(exported, tmp_path):
    for path in (exported / "config.json", exported / "model.safetensors"):
        shutil.copy(path, tmp_path)
    source = load_source(str(tmp_path))
    source.config["training"]["data"] = {"name": "my_set"}
    for key in ("tag", "paper_name"):
        del source.model.pretrained_cfg[key]
    (tmp_path / "stripped").mkdir()
    write_stripped(source, tmp_path / "stripped")
    write_card(tmp_path / "stripped", json.loads((exported / "verification.json").read_text()))
    card = (tmp_path / "stripped" / "README.md").read_text()
    assert "It was trained on my_set and knows nothing else" in card
    assert "# short_bp_resnet20_slim\n" in card
    assert "No paper is recorded for this network." in card


def test_the_energy_on_a_card_is_what_was_counted(exported, card):
    measured = json.loads((exported / "verification.json").read_text())["energy"]
    assert measured["picojoules"] == pytest.approx(
        0.9 * measured["accumulates"] + 4.6 * measured["multiply_accumulates"]
    )
    assert measured["images"] == 360
    assert f"{measured['accumulates'] / 1e6:.2f} M additions" in card
    assert f"{measured['picojoules'] / 1e6:.2f} uJ" in card


def test_every_snippet_of_a_card_runs_as_it_stands(exported, card, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "slim")
    Image.new("L", (8, 8), 200).save(folder / "image.png")
    snippets = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    assert len(snippets) == 3
    run = subprocess.run(
        [sys.executable, "-c", "\nprint(logits.shape)\n".join([*snippets, ""])],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert run.returncode == 0, run.stderr
    first, *labels, _, last = run.stdout.splitlines()
    assert (first, len(labels), last) == ("torch.Size([1, 10])", 5, "(1, 10)")


def test_a_card_says_which_logit_is_which_class(card):
    names = ", ".join(map(str, range(10)))
    assert f"\nLogits are in the order of `label_names` in `config.json`: {names}.\n" in card


def test_a_card_names_the_command_that_measures_it_anew(card):
    assert "`python -m export.verify FOLDER --num-images 360` measures these figures anew" in card


def test_model_cards_are_those_of_the_released_weights():
    assert (ROOT / "MODEL_CARDS.md").read_text() == model_cards()
    text = (ROOT / "README.md").read_text()
    assert text == readme(text)
    assert all(f"| `{name}` |" in text for name in zoo.list_models(pretrained=True))


def test_a_release_s_twin_stands_beside_it_and_only_beside_these_weights(tmp_path, monkeypatch):
    twins = json.loads((ROOT / "docs/results/twins.json").read_text())
    before = model_cards()
    for row in twins["rows"]:
        name, found = row["network"], f"{row['right, twin']} of {row['test images']} test images"
        weights = disk.file_sha256(hub.find_pretrained(name) / hub.WEIGHTS)
        assert (f"without heads | {found}" in before) == (weights == row["sha256 of the release"])
        row["sha256 of the release"] = "0" * 64
    (tmp_path / "twins.json").write_text(json.dumps(twins))
    monkeypatch.setattr("export.releases.TWINS", tmp_path / "twins.json")
    names = zoo.list_models(pretrained=True)
    assert model_cards().count("| its twin without heads | not trained yet |") == len(names)


def test_a_release_has_a_section_with_its_numbers(exported, tmp_path, monkeypatch):
    shutil.copytree(exported, tmp_path / "short_bp_resnet20_slim.digits")
    monkeypatch.setattr("zoo.hub.BUNDLED", tmp_path)
    text, card = model_cards(), (exported / "README.md").read_text()
    name = "short_bp_resnet20_slim.digits"
    assert f"## [{name}](zoo/weights/{name}/README.md)" in text
    assert "| its twin without heads | not trained yet |" in text
    assert re.search(r"Top-1 on 360 test images of digits: [\d.]+ %", text)[0] in card
    assert "| neurons | `zoo.LIF`, 2 time steps, decay 0.5, v_threshold 1.0, reset zero |" in text
    assert "| where | the package |" in text
    assert disk.file_sha256(exported / "model.safetensors") in text

    folder = tmp_path / "short_bp_resnet20_slim.digits"
    graph = folder / "onnx/model_readable.onnx"
    graph.rename(graph.with_suffix(".away"))
    assert (
        "`python -m export.to_onnx short_bp_resnet20_slim.digits --output FOLDER --num-images 360`"
        in model_cards()
    )
    graph.with_suffix(".away").rename(graph)

    (folder / "model.safetensors").unlink()
    place = f"org/slim@{'0' * 40}"
    (tmp_path / "hub.json").write_text(json.dumps({folder.name: place}))
    assert model_cards() == text.replace("the package |", f"Hub, `{place}` |")

    config = json.loads((folder / hub.CONFIG).read_text())
    config["training"]["loss"] = {"name": "vanilla"}
    (folder / hub.CONFIG).write_text(json.dumps(config))
    report = json.loads((folder / hub.REPORT).read_text())
    report["sha256"][hub.CONFIG] = disk.file_sha256(folder / hub.CONFIG)
    (folder / hub.REPORT).write_text(json.dumps(report))
    assert "its twin" not in model_cards()
