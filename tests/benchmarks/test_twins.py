"""Which runs count as a release's twin."""

import copy
from statistics import pstdev

import pytest
import torch
from twins import check_twin, row

from zoo import hub
from zoo.hub.run_folder import all_runs

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


def test_a_twin_may_have_another_precision(twin, tmp_path):
    next(all_runs(twin))["precision"] = "fp16"
    assert check_twin(tmp_path, twin, NAME, RELEASED) == "run 1, precision: fp16, not bf16"


def add_heads(run):
    run["loss"]["name"] = "evolutionary"


def stop(run):
    run["log"].pop()


def train_longer(run):
    run["epochs"] += 1
    run["log"].append(run["log"][-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_heads, "run 2 has heads"),
        (stop, "run 2 has 23 of 24 epochs"),
        (train_longer, "run 2, epochs: 25, not 24"),
    ],
)
def test_a_twin_has_no_heads_has_ended_and_has_the_same_budget(twin, tmp_path, change, message):
    change([*all_runs(twin)][1])
    with pytest.raises(ValueError, match=message):
        check_twin(tmp_path, twin, NAME, RELEASED)


def test_a_row_has_the_difference_and_its_error():
    ours, twin = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 1]]).bool()
    found = row(NAME, ours, twin)
    assert (found["only with heads"], found["only the twin"]) == (2, 1)
    assert found["points to twin"] == 25
    assert found["error over images"] == pytest.approx(100 * pstdev([0, 1, 1, -1]) / 2)
