"""Recipes: their keys, types, stages and dry runs."""

import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import zoo
from zoo import hub
from zoo.training.config import Config, load_config
from zoo.training.rehearsal import rehearse

CONFIGS = sorted((Path(__file__).parent.parent.parent / "configs").glob("*.yaml"))
STAGES = [(path, [*yaml.safe_load(path.read_text()).get("stages", [""])][-1]) for path in CONFIGS]


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_holds_differences_only(tmp_path):
    config = load_config(write(tmp_path, "epochs: 3\noptim: {lr: 1}\ndata: {title: Zürich}\n"))
    assert config.epochs == 3
    assert config.optim.lr == 1.0
    assert config.data.title == "Zürich"
    assert config.optim.weight_decay == Config().optim.weight_decay
    assert config.output == "runs/recipe"


def test_a_number_in_powers_of_ten_is_a_float(tmp_path):
    assert load_config(write(tmp_path, "optim: {lr: 1e-3}")).optim.lr == 1e-3


def test_a_stage_is_laid_over_the_recipe_and_starts_from_the_one_before(tmp_path):
    path = write(
        tmp_path,
        """
        model_args: {time_steps: 1, spike_layer: {decay: 1.0}}
        epochs: 7
        stages:
          rates: {model_args: {spike_layer: {levels: 4}}}
          spikes: {epochs: 2, model_args: {time_steps: 4}}
        """,
    )
    rates, spikes = load_config(path, "rates"), load_config(path, "spikes")
    assert rates.model_args == {"time_steps": 1, "spike_layer": {"decay": 1.0, "levels": 4}}
    assert (rates.epochs, rates.output, rates.start_from) == (7, "runs/recipe_rates", "")
    assert spikes.model_args == {"time_steps": 4, "spike_layer": {"decay": 1.0}}
    assert (spikes.epochs, spikes.output) == (2, "runs/recipe_spikes")
    assert spikes.start_from == rates.output


@pytest.mark.parametrize(("text", "stage"), [("stages: {a: {}}", ""), ("epochs: 1", "a")])
def test_an_unknown_stage_is_refused(tmp_path, text, stage):
    with pytest.raises(ValueError, match=r"recipe\.yaml: expected --stage, one of"):
        load_config(write(tmp_path, text), stage)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "stage"), STAGES, ids=lambda v: getattr(v, "stem", v))
def test_every_recipe_passes_its_dry_run(path, stage):
    config = load_config(path, stage)
    sized = config.data.streams or config.data.name == "imagenet"
    small = replace(config.data, size=32) if sized else config.data
    config = replace(config, device="cpu", workers=0, precision="fp32", data=small)
    first, _ = rehearse(config)
    # The heads add little to a loss that begins at chance.
    assert first == pytest.approx(math.log(config.data.usual[1]), abs=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "recipe.yaml: unknown key 'epoch', expected one of ['augment', "),
        ("optim: {learning_rate: 1}", "recipe.yaml: optim: unknown key 'learning_rate', expected "),
        ("epochs: three", "recipe.yaml: epochs: expected int, got 'three'"),
        ("epochs: true", "recipe.yaml: epochs: expected int, got True"),
        ("optim: {lr: 1e-three}", "recipe.yaml: optim: lr: expected float, got '1e-three'"),
        ("data: {mean: 125}", "recipe.yaml: data: mean: expected tuple, got 125"),
        ("loss: {name: sum}", "recipe.yaml: loss: name: expected ('vanilla', 'shortcut', "),
        ("optim: adamw", "recipe.yaml: optim: expected OptimConfig, got 'adamw'"),
        ("epochs: [", "recipe.yaml: expected YAML, got "),
        ("epochs: 0", "epochs: expected a number in [1, inf), got 0"),
        ("{batch_size: 3, gradient_accumulation: 4}", "batch_size: expected a number in [4, "),
        ("data: {holdout: -5}", "data.holdout: expected a number in [0, inf), got -5"),
        ("data: {std: [0]}", "data.std: expected a number in [1, 256), got 0"),
        ("loss: {label_smoothing: 3}", "loss.label_smoothing: expected a number in [0, 1), got 3"),
        ("optim: {lr: .nan}", "optim.lr: expected a number in [0, inf), got nan"),
        ("augment: {crop_padding: -1}", "augment.crop_padding: expected a number in [0, inf)"),
        (
            "{data: {name: cifar10_dvs, size: 64}, augment: {auto: randaugment}}",
            "augment.auto: expected none for cifar10_dvs",
        ),
    ],
)
def test_a_wrong_recipe_is_named_by_file_and_key(tmp_path, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config(write(tmp_path, text))


def test_a_dry_run_has_the_network_that_the_run_starts_from(recipe, tmp_path):
    neuron = {"decay": 1.0, "reset": "subtract"}
    hub.save_pretrained(zoo.create_model(recipe.model, in_chans=1, spike_layer=neuron), tmp_path)
    begun = replace(recipe, start_from=str(tmp_path), model_args={"spike_layer": {"levels": 4}})
    rehearse(begun)  # levels need a neuron without leak
    with pytest.raises(ValueError, match="levels"):
        rehearse(replace(begun, start_from=""))
    rehearse(replace(recipe, start_from=str(tmp_path / "not_trained_yet")))


@pytest.mark.parametrize("other", [{"num_classes": 3}, {"in_chans": 3}])
def test_a_dry_run_refuses_a_network_for_other_images(other, recipe, tmp_path):
    hub.save_pretrained(zoo.create_model(recipe.model, **{"in_chans": 1, **other}), tmp_path)
    with pytest.raises(ValueError, match=r"start_from: .* and the images have 1 and 10"):
        rehearse(replace(recipe, start_from=str(tmp_path)))


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "zoo.training", *arguments]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True)


def test_the_command_line_overrides_the_recipe_and_mistakes_end_in_one_line(tmp_path):
    write(tmp_path, "data: {name: image_folder, root: nowhere}\nmodel: short_bp_resnet20_slim\n")
    no_data = command("recipe.yaml", cwd=tmp_path)
    assert no_data.returncode == 1
    assert no_data.stderr.splitlines()[-1].startswith("error: data.root: nowhere/train has no fol")

    missing = command("nothing.yaml", cwd=tmp_path)
    assert re.fullmatch(r"error: .*nothing\.yaml.*", missing.stderr.splitlines()[-1])

    digits = ("--data.name", "digits", "--data.mean", "78", "--data.std", "96")
    dry = command("recipe.yaml", *digits, "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert "recipe.yaml: everything was built; losses of two steps on noise: " in dry.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
