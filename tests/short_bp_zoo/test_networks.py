"""What is listed and told of networks is computed, and agrees with public numbers."""

import sys

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, ResNet34_Weights

import zoo
from short_bp_zoo.__main__ import main
from short_bp_zoo.figures import figures, table
from short_bp_zoo.networks import TABLE, in_short, networks, releases
from zoo import hub
from zoo.deployment.fold import why_not_exact


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["short-bp-zoo", *arguments])
        main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def own_weights(monkeypatch, tmp_path):
    """Weights of the user's own, in $SHORT_BP_ZOO_WEIGHTS."""
    name = "short_bp_resnet20_slim.own"
    model = zoo.create_model("short_bp_resnet20_slim", time_steps=3, spike_layer={"decay": 0.25})
    hub.save_pretrained(model, tmp_path / name)
    monkeypatch.setenv(hub.WEIGHTS_FOLDER_VARIABLE, str(tmp_path))
    return name


def test_the_table_has_every_network():
    assert [*networks()] == zoo.list_models()


@pytest.mark.parametrize("name", ["short_bp_resnet20_slim", "gac_ms_resnet18"])
def test_a_line_of_the_table_is_computed(name):
    assert figures(name) == networks()[name]


@pytest.mark.release
def test_the_table_is_of_todays_networks():
    assert TABLE.read_text() == table(zoo.list_models())


def test_multiply_accumulates_are_those_that_torchvision_publishes():
    published = {
        "short_bp_resnet18_imagenet": ResNet18_Weights.DEFAULT.meta["_ops"],
        "short_bp_resnet34_imagenet": ResNet34_Weights.DEFAULT.meta["_ops"],
    }
    assert {name: round(figures(name).macs / 1e9, 3) for name in published} == published


def test_counts_are_shown_in_four_digits():
    shown = [in_short(count) for count in (0, 999, 1000, 272_474, 3_627_122_688)]
    assert shown == ["0", "999", "1 k", "272.5 k", "3.627 G"]


def listed(text: str) -> list[str]:
    """The names in a list."""
    _, *lines = text.partition("\n\n")[0].splitlines()
    return [line.split()[0] for line in lines]


def test_the_list_is_a_table_of_figures(command):
    text = command("list")
    assert listed(text) == zoo.list_models()
    assert "272.5 k 40.81 M 4 3x32x32 yes cifar10" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["slim"], ["short_bp_resnet20_slim"]),
        (["sew*34"], ["sew_resnet34"]),
        (["slim", "*_4_384"], ["short_bp_resnet20_slim", "spikformer_4_384"]),
        (["18.cifar10"], ["short_bp_resnet18"]),
        (["--pretrained", "resnet18"], ["short_bp_resnet18"]),
        (["--pretrained"], ["short_bp_resnet18", "short_bp_resnet20_slim"]),
    ],
)
def test_filters_are_parts_of_names_or_wildcards(command, arguments, names):
    assert listed(command("list", *arguments)) == names


def test_own_weights_are_listed_by_their_tags(command, own_weights):
    assert [*releases()] == [*hub.pretrained_folders()]
    assert "cifar10, own" in command("list", "slim")


def test_a_filter_that_fits_nothing_says_so(command):
    with pytest.raises(SystemExit, match="no network fits 'nothing' --pretrained"):
        command("list", "nothing", "--pretrained")


def test_weights_are_described_with_their_own_constants(command, own_weights, tmp_path):
    for name in (own_weights, f"local-dir:{tmp_path / own_weights}"):
        text = " ".join(command("info", name).split())
        assert "time steps 3" in text
        assert "decay=0.25" in text
        assert text.endswith(f"short-bp-zoo export {name} --output FOLDER")


def test_a_description_of_an_architecture_leads_to_its_weights(command):
    text = command("info", "short_bp_resnet18")
    assert "decay=0.5" in text
    assert "https://arxiv.org/abs/2401.04486" in text
    assert text.endswith("short-bp-zoo info short_bp_resnet18.cifar10\n")
    assert "apache-2.0\n" in command("info", "short_bp_resnet18.cifar10")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("short_bp_resnet81", "'short_bp_resnet18'"),
        ("short_bp_resnet18.cifar", "'short_bp_resnet18.cifar10'"),
        ("local-dir:nowhere", "nowhere: no such folder"),
    ],
)
def test_an_unknown_name_ends_in_a_line(command, name, said):
    with pytest.raises(SystemExit, match=said):
        command("info", name)


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
