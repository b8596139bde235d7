"""Cards say what was measured, their snippets run, and MODEL_CARDS.md is up to date."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image
from spikingjelly.activation_based import neuron as neurons

import zoo
from export.card.card import PAPERS, front_matter, in_other_terms, titles_of_datasets, write_card
from export.card.history import head_weights, history_and_notes
from export.checks.images import DATASETS
from export.folder import read_report
from export.releases import model_cards, readme
from export.strip import load_source, write_stripped
from export.to_onnx import Options, export
from zoo import hub
from zoo.data.config import EVENTS, NAMES
from zoo.hub import files as disk
from zoo.training.machine import processor

ROOT = Path(__file__).parent.parent.parent
SECTIONS = ["Use", "Results", "Neurons", "Exactness", "Energy", "Verification", "Training"]


@pytest.fixture(scope="module")
def card(exported) -> str:
    return (exported / "README.md").read_text()


def test_the_front_matter_is_what_the_hub_reads(exported, card):
    front = yaml.safe_load(card.split("---")[1])
    report = json.loads((exported / "verification.json").read_text())
    (measured,) = (c["figures"] for c in report["checks"] if c["id"] == "accuracy")
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
            "name": "top-1 on 360 test images of scikit-learn digits",
        }
    ]


def test_a_card_has_every_section_in_its_order(card):
    assert re.findall(r"^## (.*)", card, flags=re.M) == [*SECTIONS, "Limits", "Citation"]
    assert "https://arxiv.org/abs/2401.04486" in card
    assert "author = {Guo, Yufei and " in card
    assert "{" not in re.sub(r"```.*?```", "", card, flags=re.S)  # no blank is left


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
    assert {*DATASETS} == {*NAMES} - {*EVENTS}


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


RUN = {
    "data": {"name": "cifar10", "title": ""},
    "model_args": {"time_steps": 4},
    "epochs": 300,
    "loss": {"name": "vanilla"},
}
CUT = RUN | {"log": [{"seconds": 60.0}] * 12}
FALLING = {"loss": {"name": "evolutionary", "coefficient": 0.05}}


def after(run: dict, before: dict | None) -> dict:
    return run | {"began_with": {"training": before}}


@pytest.mark.parametrize(
    ("training", "history"),
    [
        (CUT, "12 of 300 epochs at T = 4, 12 minutes."),
        (after(RUN, CUT), "12 of 300 epochs at T = 4, 12 minutes; then 300 epochs at T = 4."),
        (after(RUN, None), "not recorded; then 300 epochs at T = 4."),
        (None, "not recorded."),
    ],
)
def test_a_history_counts_the_epochs_that_were_trained(training, history):
    assert history_and_notes({"training": training, "pretrained_cfg": {}}) == history


@pytest.mark.parametrize(
    ("training", "weights"),
    [
        (RUN, ""),
        (after(CUT, RUN | FALLING), "0.05, falling to 0; then none"),
        (after(RUN | {"loss": {"name": "shortcut"}}, RUN), "none; then 1"),
        (after(RUN | FALLING, RUN | FALLING), "0.05, falling to 0 in each run"),
        (
            after(CUT | FALLING, RUN | FALLING),
            "0.05, falling to 0; then 0.05, cut short while falling to 0",
        ),
    ],
)
def test_head_weights_are_told_run_by_run(training, weights):
    assert head_weights(training) == weights


def test_data_sets_are_called_by_their_titles():
    config, report = {"num_classes": 10, "pretrained_cfg": {}}, {"checks": []}
    assert front_matter(config | {"training": CUT}, report).datasets == ["uoft-cs/cifar10"]
    titled = CUT | {"data": {"name": "cifar10", "title": "CIFAR-10 (JPEG)"}}
    assert front_matter(config | {"training": titled}, report).datasets is None
    later = after(CUT, RUN | {"data": {"name": "cifar100"}})
    assert titles_of_datasets(later, 10) == "CIFAR-100 and CIFAR-10"
    folder = CUT | {"data": {"name": "imagenet"}}
    assert titles_of_datasets(folder, 1000) == "ImageNet"
    assert titles_of_datasets(folder, 7) == "a folder in ImageNet's layout"
    unknown = after(CUT, None)
    assert titles_of_datasets(unknown, 10).endswith("is not recorded and CIFAR-10")


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
    assert in_other_terms(**constants) == f"It is SpikingJelly's {said}{rounding}. "
    name, arguments = re.match(r"(\w+) with (.*)", said).groups()
    arguments = arguments.replace(" and ", ", ")
    theirs = eval(f"spikingjelly.{name}({arguments}, step_mode='m')", {"spikingjelly": neurons})
    x = torch.rand(6, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(theirs(x), zoo.LIF(**constants)(x))


def test_license_and_notes_stay_with_the_weights(exported, tmp_path):
    notes = ("Test images chose its length.", "It was trained on the 29th of February.")
    first, again = (str(tmp_path / name) for name in ("first", "again"))
    options = {"license": "mit", "notes": notes, "num_images": 10}
    export(Options(source=str(exported), output=first, **options))
    export(Options(source=first, output=again, num_images=10))
    for folder in (first, again):
        card = (Path(folder) / "README.md").read_text()
        assert yaml.safe_load(card.split("---")[1])["license"] == "mit"
        training = card.partition("## Training\n")[2]
        assert training.partition("\n\n![")[0].endswith(" ".join(("", *notes)))


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
    assert re.search(r"Top-1 on 360 test images of scikit-learn digits: [\d.]+ %", text)[0] in card
    assert "| neurons | `zoo.LIF`, 2 time steps, decay 0.5, v_threshold 1.0, reset zero |" in text
    assert "| where | the package |" in text
    assert disk.file_sha256(exported / "model.safetensors") in text

    folder = tmp_path / "short_bp_resnet20_slim.digits"
    (folder / "onnx/model.onnx").unlink()
    cards = model_cards()
    assert "the package, without `onnx/model.onnx` |" in cards
    assert f"`python -m export.to_onnx {folder.name} --output FOLDER --num-images 360`" in cards
