"""Several processes train what one process trains."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from zoo import runs
from zoo.training.engine import LOG, train

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
RECIPE = Path(__file__).parent.parent / "configs" / "digits_demo.yaml"


def read_log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / LOG).read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_learn_what_one_with_two_accumulations_learns(recipe, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train(replace(recipe, epochs=1, gradient_accumulation=2, output=str(one)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = ["--epochs", "1", "--device", "cpu", "--output", str(two)]
    watched = tmp_path / "watched.py"
    watched.write_text(WATCHED)
    done = subprocess.run(
        [*launch, str(watched), str(RECIPE), *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch   1  loss") == 1  # one process speaks for both
    (single,), (double,) = read_log(one), read_log(two)
    for key in ("loss", "accuracy", "learning_rate", "head_weight"):
        assert double[key] == pytest.approx(single[key], abs=1e-5)
    assert double["head_accuracies"] == pytest.approx(single["head_accuracies"], abs=1e-5)
    assert runs.newest_checkpoint(two).name == runs.newest_checkpoint(one).name
