"""python -m zoo list: what it says of a network is computed, and agrees with public numbers."""

import json
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


def of_stage(side: int, before: int, width: int, convolutions: int) -> int:
    """Where spikes meet weights of 3x3 convolutions, the first of which halves the side: all taps
    but those beyond a border, of which the first has none on the far sides.
    """
    rest = (3 * side - 2) ** 2 * width * width * (convolutions - 1)
    return (3 * side - 1) ** 2 * before * width + rest


def test_synaptic_operations_are_those_where_a_spike_meets_a_weight():
    found = entry("short_bp_resnet20_slim")
    first = 6 * 94**2 * 16 * 16  # of 32 pixels a side, none of them strided
    shortcuts = 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64
    spiking = first + of_stage(16, 16, 32, 6) + of_stage(8, 32, 64, 6) + shortcuts
    assert found.synaptic_operations == round(0.2 * 4 * spiking)
    assert found.macs_on_currents == 32 * 32 * 3 * 9 * 16 + 64 * 10
    assert found.parameters == 272_474


def test_what_multiplies_currents_is_no_synaptic_operation():
    plain, gated, attended = map(entry, ("ms_resnet18", "gac_ms_resnet18", "att_ms_resnet18"))
    # Strided shortcuts are on currents: 64 to 64 channels at the first stage, and three times twice
    # as many, at 56, 28, 14 and 7 pixels a side. The stem and the classifier run once.
    shortcuts = 4 * (56**2 * 64 * 64 + sum(7**2 * 4**i * 2 ** (17 - 2 * i) for i in range(3)))
    once = 112**2 * 64 * 3 * 49 + 512 * 1000
    assert plain.macs_on_currents == once + shortcuts
    widths = ((64, 64), (64, 128), (128, 256), (256, 512))
    spiking = 4 * sum(of_stage(56 // 2**i, *width, 4) for i, width in enumerate(widths))
    assert plain.synaptic_operations == round(0.2 * spiking)
    # A gate's map of a still image runs once, two 4x4 convolutions of all channels to all.
    assert gated.synaptic_operations == attended.synaptic_operations == plain.synaptic_operations
    maps = 2 * 112**2 * 64 * 64 * 16
    assert 0 < gated.macs_on_currents - plain.macs_on_currents - maps < 0.01 * maps
    assert attended.macs_on_currents > plain.macs_on_currents


def test_counts_are_shown_in_four_digits():
    shown = [in_short(count) for count in (0, 999, 1000, 272_474, 3_627_122_688)]
    assert shown == ["0", "999", "1 k", "272.5 k", "3.627 G"]


def test_the_list_is_a_table_or_json(command):
    rows = json.loads(command("--filter", "*slim*", "--json"))
    assert [row["name"] for row in rows] == zoo.list_models("*slim*")
    row = next(row for row in rows if row["name"] == "short_bp_resnet20_slim")
    released = [name.partition(".")[2] for name in zoo.list_models(row["name"], pretrained=True)]
    assert (row["input_size"], row["weights"]) == ([3, 32, 32], released)
    assert row["why_not_exact"] is None
    table = " ".join(command("--filter", "short_bp_resnet20_slim").split())
    for said in (
        "short_bp_resnet20_slim",
        "272.5 k",
        "40.81 M",
        "3x32x32",
        "yes",
        "firing rate of 0.2",
    ):
        assert said in table


def test_weights_that_load_are_listed_by_their_tags(command, monkeypatch, tmp_path):
    folder = tmp_path / "short_bp_resnet20_slim.digits"
    folder.mkdir()
    hub.save_pretrained(zoo.create_model("short_bp_resnet20_slim"), folder)
    monkeypatch.setenv(hub.WEIGHTS_FOLDER_VARIABLE, str(tmp_path))
    (row,) = json.loads(command("--filter", "short_bp_resnet20_slim", "--json"))
    assert "digits" in row["weights"]


def test_a_filter_that_fits_nothing_says_so(command):
    with pytest.raises(
        SystemExit, match="filter: expected a wildcard that fits a name, got 'nothing'"
    ):
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
