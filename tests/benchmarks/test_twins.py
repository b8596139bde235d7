"""Which run counts as a release's twin."""

import copy
import sys
from pathlib import Path
from statistics import pstdev

import pytest
import torch

from zoo import hub
from zoo.hub.run_folder import all_runs

sys.path.append(str(Path(__file__).parent.parent.parent / "benchmarks"))

from twins import check_twin, row

NAME = "short_bp_resnet20_slim.cifar10"
RELEASED = hub.read_config(hub.find_pretrained(NAME))["training"]


@pytest.fixture
def twin():
    """The release's runs as they would be trained today, without heads."""
    training = copy.deepcopy(RELEASED)
    for run in all_runs(training):
        run["loss"]["name"] = "vanilla"
        run |= {"training_images": 50000, "workers": 2}
    return training


def test_the_same_recipes_without_heads_are_a_twin(twin, tmp_path):
    assert check_twin(tmp_path, twin, NAME, RELEASED) == ""


def test_a_twin_of_another_precision_is_one_whose_row_says_so(twin, tmp_path):
    next(all_runs(twin))["precision"] = "fp16"
    assert check_twin(tmp_path, twin, NAME, RELEASED) == "run 1, precision: fp16, not bf16"


def test_a_twin_with_heads_in_its_first_run_is_refused(twin, tmp_path):
    next(all_runs(twin))["loss"]["name"] = "evolutionary"
    with pytest.raises(ValueError, match="expected runs without heads"):
        check_twin(tmp_path, twin, NAME, RELEASED)


def test_a_twin_that_was_stopped_is_refused(twin, tmp_path):
    next(all_runs(twin))["log"].pop()
    with pytest.raises(ValueError, match="got 53 of 54 epochs of run 1"):
        check_twin(tmp_path, twin, NAME, RELEASED)


def test_a_twin_of_another_budget_is_refused(twin, tmp_path):
    first = next(all_runs(twin))
    first["epochs"] += 1
    first["log"].append(first["log"][-1])
    with pytest.raises(ValueError, match="run 1, epochs: 55, not 54"):
        check_twin(tmp_path, twin, NAME, RELEASED)


def test_a_row_says_how_far_the_release_is_ahead_and_how_sure_that_is():
    ours, twin = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 1]]).bool()
    found = row(NAME, ours, twin)
    assert (found["only with heads"], found["only the twin"]) == (2, 1)
    assert found["points to twin"] == 25
    assert found["error over images"] == pytest.approx(100 * pstdev([0, 1, 1, -1]) / 2)
