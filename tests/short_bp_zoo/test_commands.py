"""short-bp-zoo in processes of its own."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from digits_images import PIXELS
from PIL import Image

import zoo

SLOW = {"torch", "numpy", "tyro", "rich", "zoo", "export"}


def call(*arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    command = [sys.executable, *options, "-m", "short_bp_zoo", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["list", "--pretrained"], ["info", "spikformer_4_384"]]
)
def test_what_needs_no_network_imports_nothing_slow(arguments):
    run = call(*arguments, options=("-X", "importtime"))
    assert run.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "short_bp_zoo.networks" in imported
    assert not imported & SLOW


def test_no_arguments_are_a_question_for_help():
    assert call().stdout == call("--help").stdout


def test_the_version_is_that_of_the_package():
    assert call("--version").stdout.split() == ["short-bp-zoo", version("short-bp-zoo")]


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train", "--gradient-accumulation"),
        ("export", "--overwrite"),
        ("verify", "--data-root"),
        ("publish", "--to-folder"),
        ("diagnose", "--random-pixels"),
        ("classify", "--top"),
    ],
)
def test_a_command_has_a_help_of_its_own(command, option):
    run = call(command, "--help")
    assert run.returncode == 0
    assert run.stdout.startswith(f"usage: short-bp-zoo {command} ")
    assert option in run.stdout


def test_images_are_classified(exported, tmp_path):
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    for path, pixels in zip(paths, PIXELS[:, 0].numpy(), strict=False):
        Image.fromarray(pixels).save(path)
    run = call("classify", f"local-dir:{exported}", *paths, "--top", "3")
    classifier = zoo.load_onnx(f"local-dir:{exported}")
    expected = []
    for path in paths:
        likely = classifier.classify(path, top=3)
        expected += [path, *(f"{label} {probability:.2%}" for label, probability in likely)]
    assert [" ".join(line.split()) for line in run.stdout.splitlines()] == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["classify", "short_bp_resnet81", "a.png"], "closest names: ['short_bp_resnet1"),
        (["train", "digits"], "digits: no such file; recipes in the package: ['cifar10_resnet18"),
    ],
)
def test_a_wrong_name_ends_in_a_line(arguments, said):
    run = call(*arguments)
    assert run.returncode == 1
    assert said in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_recipe_is_found_by_its_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = call("train", "digits_demo", "--dry-run", "--device", "cpu")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("digits_demo: everything was built")
