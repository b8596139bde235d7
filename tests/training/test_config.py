"""Recipes: what they may say, and what a wrong one is told."""

import math
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import zoo
from zoo import hub
from zoo.data import DataConfig
from zoo.training.config import Config, load_config
from zoo.training.prepare import build_model
from zoo.training.rehearsal import rehearse

CONFIGS = sorted((Path(__file__).parent.parent.parent / "configs").glob("**/*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_recipe_is_utf_8_whatever_the_machine_speaks(tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: {title: Zürich}\n", encoding="utf-8")
    code = "from pathlib import Path; from zoo.training.config import load_config; "
    code += "print(ascii(load_config(Path('recipe.yaml')).data.title))"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    line = [sys.executable, "-c", code]
    environment = os.environ | plain
    said = subprocess.check_output(line, cwd=tmp_path, env=environment, text=True)
    assert said == ascii("Zürich") + "\n"


def test_a_recipe_holds_differences_only(tmp_path):
    config = load_config(write(tmp_path, "epochs: 3\noptim: {lr: 1}\n"))
    assert config.epochs == 3
    assert config.optim.lr == 1.0
    assert config.optim.weight_decay == Config().optim.weight_decay
    assert config.output == "runs/recipe"


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_passes_its_rehearsal(path):
    config = replace(load_config(path), device="cpu", workers=0)
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
        ("data: {mean: 125}", "recipe.yaml: data: mean: expected a list, got 125"),
        ("loss: {name: sum}", "recipe.yaml: loss: name: expected one of ['vanilla', 'shortcut', "),
        ("optim: adamw", "recipe.yaml: optim: expected keys and values, got 'adamw'"),
        ("epochs: [", "recipe.yaml: expected YAML, got "),
        ("data: {}\ndata: {limit: 1}", "recipe.yaml: expected YAML, got the key 'data' twice"),
        ("optim: {lr: 1, lr: 2}", "recipe.yaml: expected YAML, got the key 'lr' twice"),
        ("epochs: 0", "epochs: expected a finite number >= 1, got 0"),
        (
            "{sync_batchnorm: true, compile: true}",
            "compile: expected false beside sync_",
        ),
        ("batch_size: 0", "batch_size: expected a finite number >= 1, got 0"),
        (
            "{batch_size: 3, gradient_accumulation: 4}",
            "batch_size: expected at least an image for each of 4 accumulations, got 3",
        ),
        ("data: {holdout: -5}", "data.holdout: expected a number >= 0, got -5"),
        ("data: {std: [0]}", "data.std: expected numbers > 0, got (0,)"),
        ("loss: {label_smoothing: 3}", "loss.label_smoothing: expected a number in [0, 1), got 3"),
        ("loss: {coefficient: .nan}", "loss.coefficient: expected a number >= 0, got nan"),
        ("optim: {lr: .nan}", "optim.lr: expected a finite number >= 0, got nan"),
        ("optim: {lr: .inf}", "optim.lr: expected a finite number >= 0, got inf"),
        ("augment: {mixup: .inf}", "augment.mixup: expected a finite number >= 0, got inf"),
        ("augment: {mixup: 1e-320}", "augment.mixup: expected 0 or at least 1e-06, got 1e-320"),
        ("data: {mean: [300, 0, 0]}", "data.mean: expected pixel values up to 255, got"),
        ("data: {std: [900, 1, 1]}", "data.std: expected pixel values up to 255, got"),
        ("optim: {name: admaw}", "optim.name: unknown 'admaw', closest names: ["),
        (
            "optim: {name: adahessian}",
            "optim.name: expected an optimizer of first derivatives, got",
        ),
        ("optim: {warmup_epochs: 400}", "optim.warmup_epochs: expected at most 300 epochs, got"),
        ("checkpoint_minutes: -1", "checkpoint_minutes: expected a number >= 0, got -1"),
        (
            "{data: {name: cifar10_dvs, size: 64}, augment: {auto: randaugment}}",
            "augment.auto: expected none for the event streams of cifar10_dvs, got randaugment",
        ),
        ("[]", "recipe.yaml: expected keys and values, got []"),
        ("false", "recipe.yaml: expected keys and values, got False"),
        ("seed: -1", "seed: expected a finite number >= 0, got -1"),
        (f"seed: {2**32}", f"seed: expected a number below 2^32, got {2**32}"),
        ("optim: {lr: 1e-three}", "recipe.yaml: optim: lr: expected float, got '1e-three'"),
        ("augment: {crop_padding: -1}", "augment.crop_padding: expected a finite number >= 0, got"),
    ],
)
def test_a_wrong_recipe_is_named_by_file_and_key(tmp_path, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config(write(tmp_path, text))


def test_a_number_in_powers_of_ten_is_one(tmp_path):
    assert load_config(write(tmp_path, "optim: {lr: 1e-3}")).optim.lr == 1e-3


def test_a_recipe_that_is_no_text_is_named(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"recipe\.yaml: expected YAML, got 'utf-8' codec"):
        load_config(tmp_path / "recipe.yaml")


def test_a_rehearsal_has_the_neurons_of_what_the_run_begins_with(recipe, tmp_path):
    neuron = {"decay": 1.0, "reset": "subtract"}
    hub.save_pretrained(zoo.create_model(recipe.model, in_chans=1, spike_layer=neuron), tmp_path)
    begun = replace(recipe, start_from=str(tmp_path), model_args={"spike_layer": {"levels": 4}})
    rehearse(begun)  # without leak, as rates must be
    with pytest.raises(ValueError, match="levels: expected decay 1"):
        rehearse(replace(begun, start_from=""))


def test_a_rehearsal_has_the_shape_of_what_the_run_begins_with(recipe, tmp_path, monkeypatch):
    built = []

    def build(config, images):
        built.append(build_model(config, images))
        return built[-1]

    monkeypatch.setattr("zoo.training.rehearsal.build_model", build)
    (tmp_path / "wide").mkdir()
    wide = zoo.create_model(recipe.model, in_chans=1, widths=(8, 12, 24))
    hub.save_pretrained(wide, tmp_path / "wide")
    rehearse(replace(recipe, start_from=str(tmp_path / "wide")))
    assert built[0].num_features == 24
    rehearse(replace(recipe, start_from=str(tmp_path / "not_yet")))
    assert built[1].num_features == 64


@pytest.mark.parametrize("other", [{"num_classes": 3}, {"in_chans": 3}])
def test_a_rehearsal_refuses_to_begin_with_a_network_for_other_images(other, recipe, tmp_path):
    hub.save_pretrained(zoo.create_model(recipe.model, **{"in_chans": 1, **other}), tmp_path)
    with pytest.raises(
        ValueError, match=r"start_from: .* images of 1 channels and 10 classes, got"
    ):
        rehearse(replace(recipe, start_from=str(tmp_path)))


def test_data_that_no_run_writes_is_told_of_what_a_run_would_begin_with(recipe, tmp_path):
    told = asdict(recipe) | {"data": {"name": "digits", "std": 128}}
    hub.save_pretrained(zoo.create_model(recipe.model, in_chans=1), tmp_path, training=told)
    with pytest.raises(ValueError, match=r"config\.json: expected the data of a training, got"):
        rehearse(replace(recipe, start_from=str(tmp_path)))


@pytest.mark.parametrize("reader", [{"name": "image_folder"}, {"name": "imagenet", "size": 32}])
def test_a_rehearsal_leaves_open_how_many_classes_a_folder_of_images_has(reader, recipe, tmp_path):
    hub.save_pretrained(zoo.create_model(recipe.model, num_classes=3), tmp_path)
    folders = DataConfig(**reader)
    rehearse(replace(recipe, start_from=str(tmp_path), data=folders))


def test_a_rehearsal_crops_as_large_as_the_recipe(tmp_path):
    text = "model: short_bp_resnet20_slim\ndata: {name: image_folder}\naugment: {crop_size: 48}"
    assert len(rehearse(load_config(write(tmp_path, text)))) == 2


def test_a_rehearsal_refuses_means_for_other_channels(tmp_path):
    recipe = write(tmp_path, "data: {name: cifar10, mean: [125], std: [63]}")
    with pytest.raises(ValueError, match=r"data\.mean and data\.std: expected 3 values each"):
        rehearse(load_config(recipe))


def test_a_rehearsal_refuses_the_name_of_trained_weights(tmp_path):
    recipe = write(tmp_path, "model: short_bp_resnet20_slim.cifar10\ndata: {name: cifar10}")
    with pytest.raises(ValueError, match=r"model: expected a name from zoo\.list_models\(\), got"):
        rehearse(load_config(recipe))


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "zoo.training", *arguments]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True)


def last_words(finished: subprocess.CompletedProcess) -> str:
    """What it said last; torch may have said before that it found a compiler and no GPU."""
    return finished.stderr.splitlines()[-1]


def test_the_command_line_overrides_the_recipe_and_bad_input_ends_in_one_line(tmp_path):
    write(tmp_path, "data: {name: image_folder, root: nowhere}\nmodel: short_bp_resnet20_slim\n")
    no_data = command("recipe.yaml", cwd=tmp_path)
    assert no_data.returncode == 1
    assert last_words(no_data).startswith("error: data.root: expected a folder or a tar archive")

    wrong = ("recipe.yaml", "--data.name", "digits", "--data.mean", "78", "--data.std", "96")
    unknown = command(*wrong, "--model", "short_bp_resnet81", cwd=tmp_path)
    assert last_words(unknown).startswith("error: unknown model 'short_bp_resnet81', closest ")

    missing = command("nothing.yaml", cwd=tmp_path)
    assert last_words(missing) == "error: nothing.yaml: expected a recipe, found no such file"

    dry = command("recipe.yaml", "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert "recipe.yaml: all was built; losses of two steps on noise: " in dry.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]

    late = command("--dry-run", "recipe.yaml", cwd=tmp_path)
    assert late.returncode == 1
    assert last_words(late).startswith("error: expected python -m zoo.training RECIPE, the rec")


@pytest.mark.parametrize(
    ("title", "tag"),
    [("CIFAR-10 (JPEG)", "cifar10"), ("", "image_folder"), ("My Set, 2nd (a) try", "myset2ndtry")],
)
def test_a_tag_is_what_a_title_says_before_brackets(title, tag):
    assert DataConfig(name="image_folder", title=title).tag == tag
