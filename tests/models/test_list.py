"""python -m zoo list: what it says of a network is computed, and agrees with public numbers."""

import sys

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, ResNet34_Weights

import zoo
from zoo import hub
from zoo.__main__ import entry, in_short, main
from zoo.deployment.fold import why_not_exact


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["zoo", "list", *arguments])
        main()
        return capsys.readouterr().out

    return run


def test_multiply_accumulates_are_those_that_torchvision_publishes():
    published = {
        "short_bp_resnet18_imagenet": ResNet18_Weights.DEFAULT.meta["_ops"],
        "short_bp_resnet34_imagenet": ResNet34_Weights.DEFAULT.meta["_ops"],
    }
    assert {name: round(entry(name).macs / 1e9, 3) for name in published} == published


def test_counts_are_shown_in_four_digits():
    shown = [in_short(count) for count in (0, 999, 1000, 272_474, 3_627_122_688)]
    assert shown == ["0", "999", "1 k", "272.5 k", "3.627 G"]


def test_the_list_is_a_table_of_figures(command):
    table = command("--filter", "*slim*").split()
    assert "short_bp_resnet20_slim" in table
    assert "272.5 k 40.81 M 4 3x32x32 cifar10 yes" in " ".join(table)


def test_weights_that_load_are_listed_by_their_tags(monkeypatch, tmp_path):
    folder = tmp_path / "short_bp_resnet20_slim.digits"
    hub.save_pretrained(zoo.create_model("short_bp_resnet20_slim"), folder)
    monkeypatch.setenv(hub.WEIGHTS_FOLDER_VARIABLE, str(tmp_path))
    assert entry("short_bp_resnet20_slim").weights == ["cifar10", "digits"]


def test_a_filter_that_fits_nothing_says_so(command):
    with pytest.raises(SystemExit, match="no network fits 'nothing'"):
        command("--filter", "nothing")


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"spike_layer": {"decay": 0.75}},
        {"spike_layer": {"decay": 1.0, "reset": "subtract"}},
        {"spike_layer": {"decay": 0.3}},
        {"spike_layer": {"decay": 0.75}, "time_steps": 16},
        {"spike_layer": {"decay": 0.75, "v_threshold": 0.3, "reset": "subtract"}},
        {"spike_layer": nn.ReLU},
        {"global_pool": "max"},
        {"in_chans": 1},
    ],
)
def test_exactness_without_weights_is_that_of_deploying(kwargs):
    kwargs = {"depths": (1, 1, 1), "time_steps": 3} | kwargs
    with torch.device("meta"):
        reason = why_not_exact(zoo.create_model("short_bp_resnet20_slim", **kwargs))
    try:
        zoo.deploy(zoo.create_model("short_bp_resnet20_slim", **kwargs))
        expected = None
    except zoo.NotExactError as error:
        expected = str(error).partition(", got ")[0]
    assert (reason and reason.partition(", got ")[0]) == expected
