"""Several processes train what one process trains."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from image_sets import write_shards
from waiting import end_of, wait_for_a_checkpoint

import zoo
from zoo.data import load_images, normalise
from zoo.hub import WEIGHTS
from zoo.hub import run_folder as runs
from zoo.training.config import load_config
from zoo.training.engine import train
from zoo.training.run_folder import read_log

# zoo.training, in a process that says so if its network outlives the group of processes: torch may
# wait forever then.
WATCHED = """
import gc, runpy
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

destroy, networks = dist.destroy_process_group, []

def count(group=None):
    networks.append(sum(isinstance(found, DistributedDataParallel) for found in gc.get_objects()))
    destroy(group)

dist.destroy_process_group = count
runpy.run_module("zoo.training", run_name="__main__")
assert networks == [0], f"expected no network when the group ends, got {networks}"
"""
# The second process, and no other, is asked to end after its fourth step.
ASKED = """
import os, signal
from zoo.training.learner import Learner

step = Learner.step

def asked(self, chunks, iteration, total):
    sums = step(self, chunks, iteration, total)
    if iteration == 3 and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGTERM)
    return sums

Learner.step = asked
"""
RECIPE = Path(__file__).parent.parent.parent / "configs" / "digits_demo.yaml"


def launch(script: Path, run: Path, epochs: int, recipe: Path = RECIPE) -> subprocess.Popen:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = ["--epochs", str(epochs), "--device", "cpu", "--output", str(run)]
    return subprocess.Popen(
        [*line, str(script), str(recipe), *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, str]:
    """Two epochs of two processes, and what they printed."""
    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "watched.py").write_text(WATCHED)
    process = launch(folder / "watched.py", folder / "run", 2)
    output, errors = end_of(process)
    assert process.returncode == 0, errors
    return folder / "run", output


@pytest.mark.slow
def test_two_processes_learn_what_one_with_two_accumulations_learns(unbroken, recipe, tmp_path):
    one, (two, output) = tmp_path / "one", unbroken
    assert output.count("epoch   1  loss") == 1  # one process speaks for both
    train(replace(recipe, epochs=2, gradient_accumulation=2, output=str(one)))
    single, double = read_log(one)[0], read_log(two)[0]
    for key in ("loss", "accuracy", "head_accuracies", "learning_rate", "head_weight"):
        assert double[key] == pytest.approx(single[key], abs=1e-5)
    network = zoo.create_model(f"local-dir:{runs.newest_checkpoint(two)}", pretrained=True).eval()
    images = load_images(recipe.data, "test")
    with torch.inference_mode():
        logits = network(normalise(images.images, recipe.data.mean, recipe.data.std))
    right = 100 * (logits.argmax(1) == images.labels).float().mean().item()
    assert read_log(two)[1]["test_accuracy"] == pytest.approx(right, abs=0.3)  # an image of 360
    assert runs.newest_checkpoint(two).name == runs.newest_checkpoint(one).name


SHARDS = """
model: short_bp_resnet20_slim
model_args: {{time_steps: 2, depths: [1, 1], widths: [8, 16]}}
data: {{name: wds/set, root: {root}, size: 32, holdout: 8}}
augment: {{crop_padding: 0, auto: randaugment}}
batch_size: 8
"""


@pytest.mark.slow
def test_two_processes_learn_from_shards_what_one_learns(tmp_path):
    write_shards(tmp_path / "set", 40)
    (tmp_path / "shards.yaml").write_text(SHARDS.format(root=tmp_path))
    (tmp_path / "watched.py").write_text(WATCHED)
    process = launch(tmp_path / "watched.py", tmp_path / "two", 2, tmp_path / "shards.yaml")
    _, errors = end_of(process)
    assert process.returncode == 0, errors
    recipe = load_config(tmp_path / "shards.yaml")
    one = {
        "gradient_accumulation": 2,
        "epochs": 2,
        "device": "cpu",
        "output": str(tmp_path / "one"),
    }
    train(replace(recipe, **one))
    single, double = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    for key in ("loss", "accuracy", "head_accuracies", "learning_rate"):
        assert double[0][key] == pytest.approx(single[0][key], abs=1e-5)
    # The norms' statistics are the first process's, so that what is measured may differ.
    assert [entry["epoch"] for entry in double] == [1, 2]


@pytest.mark.slow
def test_two_processes_that_are_stopped_and_then_killed_end_with_the_same_bits(unbroken, tmp_path):
    script, run = tmp_path / "asked.py", tmp_path / "run"
    script.write_text(ASKED + WATCHED)
    process = launch(script, run, 2)
    output, errors = end_of(process)
    assert process.returncode == 0, errors
    assert "after epoch 0, step 4" in output
    (stopped,) = runs.checkpoints(run)
    assert stopped.name == "step_0000004"

    script.write_text(WATCHED)
    process = launch(script, run, 2)
    wait_for_a_checkpoint(run, process, after=stopped)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    process = launch(script, run, 2)
    _, errors = end_of(process)
    assert process.returncode == 0, errors
    ends = [runs.newest_checkpoint(folder) for folder in (run, unbroken[0])]
    assert (ends[0] / WEIGHTS).read_bytes() == (ends[1] / WEIGHTS).read_bytes()
    for a, b in zip(*map(read_log, (run, unbroken[0])), strict=True):
        assert (a["loss"], a["test_accuracy"]) == (b["loss"], b["test_accuracy"])
