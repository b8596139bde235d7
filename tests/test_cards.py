"""Cards say what was measured, their snippets run, and MODEL_CARDS.md is of this minute."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from export.card import model_cards
from zoo import hub

ROOT = Path(__file__).parent.parent
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
    assert front["license"] == "apache-2.0"
    assert not {"timm", "transformers"} & {*front["tags"]}
    (result,) = front["model-index"][0]["results"]
    assert front["model-index"][0]["name"] == "short_bp_resnet20_slim.digits"
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"]["name"] == "scikit-learn digits"
    assert result["metrics"] == [
        {"type": "accuracy", "value": round(measured["onnxruntime_percent"], 2)}
    ]


def test_a_card_has_every_section_in_its_order(card):
    assert re.findall(r"^## (.*)", card, flags=re.M) == [*SECTIONS, "Limits", "Citation"]
    assert "https://arxiv.org/abs/2401.04486" in card
    assert "{" not in re.sub(r"```.*?```", "", card, flags=re.S)  # every blank is filled


def test_the_energy_on_a_card_is_what_was_counted(exported, card):
    measured = json.loads((exported / "verification.json").read_text())["energy"]
    assert measured["picojoules"] == pytest.approx(
        0.9 * measured["accumulates"] + 4.6 * measured["multiply_accumulates"]
    )
    assert measured["images"] == 100
    assert f"{measured['accumulates'] / 1e6:.2f} M additions" in card
    assert f"{measured['picojoules'] / 1e6:.2f} uJ" in card


def test_every_snippet_of_a_card_runs_as_it_stands(exported, card, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "slim")
    Image.new("L", (8, 8), 200).save(folder / "image.png")
    snippets = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    assert len(snippets) == 3
    code = "import torch\npixel_values = torch.zeros(2, 1, 8, 8)\n" + "\n".join(snippets)
    run = subprocess.run(
        [sys.executable, "-c", code + "\nprint(logits.shape)"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 6
    assert run.stdout.splitlines()[-1] == "(1, 10)"


def test_a_card_names_the_command_that_measures_it_anew(card):
    assert "`python export/verify.py FOLDER --num-images 360` measures these figures anew" in card


def test_model_cards_are_those_of_the_released_weights():
    assert (ROOT / "MODEL_CARDS.md").read_text() == model_cards()


def test_a_release_has_a_section_with_its_numbers(exported, tmp_path, monkeypatch):
    shutil.copytree(exported, tmp_path / "short_bp_resnet20_slim.digits")
    monkeypatch.setattr(hub, "BUNDLED", tmp_path)
    text, card = model_cards(), (exported / "README.md").read_text()
    assert "## short_bp_resnet20_slim.digits" in text
    assert re.search(r"Top-1 on 360 test images of digits: [\d.]+ %", text)[0] in card
    assert "| neurons | LIF, 2 time steps, decay 0.5, v_threshold 1.0, reset zero |" in text
    assert "| where | the package |" in text
    assert hub.file_sha256(exported / "model.safetensors") in text

    folder = tmp_path / "short_bp_resnet20_slim.digits"
    (folder / "model.safetensors").unlink()
    place = f"org/slim@{'0' * 40}"
    (tmp_path / "hub.json").write_text(json.dumps({folder.name: place}))
    assert model_cards() == text.replace("the package |", f"Hub, `{place}` |")
