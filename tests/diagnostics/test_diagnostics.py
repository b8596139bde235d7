"""What goes on inside a network: gradients, firing rates, operations, and the command."""

import json
import sys

import pytest
import torch
from exact_networks import awaken
from spikingjelly.activation_based.op_counter import (
    DispatchCounterMode,
    MACCounter,
    SynOpCounter,
)
from torch import nn
from torch.nn import functional as F

import zoo
from zoo import hub
from zoo.data import DataConfig, load_images, normalise
from zoo.diagnostics import (
    count_connections,
    count_operations,
    firing_rates,
    gradients,
)
from zoo.diagnostics.__main__ import Options, diagnose, main, trained_on
from zoo.hub import run_folder as runs

aten = torch.ops.aten


def create(name="short_bp_resnet20_slim", time_steps=2, depths=(1, 1, 1), **kwargs):
    torch.manual_seed(0)
    return awaken(zoo.create_model(name, time_steps=time_steps, depths=depths, **kwargs))


def images(batch=2, size=16):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def only(model, x):
    (found,) = count_operations(model, [x])
    return found.inputs, found.multiply_accumulates, found.accumulates


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(4, 4, 1, groups=4),
    ],
)
def test_a_spike_is_one_addition_for_each_weight_it_meets(conv):
    spikes = (torch.rand(2, 4, 7, 7, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    ones = F.conv2d(
        spikes,
        torch.ones_like(conv.weight),
        None,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
    )
    assert only(conv, spikes) == ("binary", 0, ones.sum().item() / 2)


def test_a_single_spike_in_a_corner_meets_four_taps_of_nine():
    spike = torch.zeros(1, 1, 5, 5)
    spike[..., 0, 0] = 1
    assert only(nn.Conv2d(1, 10, 3, padding=1), spike) == ("binary", 0, 40)


def test_connections_without_padding_are_those_that_spikes_everywhere_meet():
    conv, spikes = nn.Conv2d(2, 10, 3, stride=2, padding=1), torch.ones(1, 2, 5, 5)
    assert count_connections(conv, spikes) == {"": 10 * 2 * 3 * 3 * 9}
    assert count_connections(conv, spikes, padding=False) == {"": 10 * 2 * 49}
    assert only(conv, spikes) == ("binary", 0, 10 * 2 * 49)


def test_whole_numbers_skip_zeros_add_ones_and_multiply_the_rest():
    whole = torch.tensor([0.0, 1, 3, -1]).view(1, 1, 1, 4)
    assert only(nn.Linear(4, 5), whole) == ("integer", 5, 10)
    assert only(nn.Linear(4, 5), whole / 2) == ("real", 20, 0)


def test_rates_are_counted_as_the_whole_numbers_that_they_are_of():
    network = nn.Sequential(zoo.LIF(1.0, reset="subtract", levels=4), nn.Linear(4, 5))
    currents = torch.tensor([0.1, 0.3, 0.8, 1.5]).view(1, 1, 1, 4)  # rates of 0, 1, 3 and 4
    assert only(network, currents) == ("integer", 10, 5)
    frames = nn.Sequential(nn.Linear(4, 5), zoo.LIF(1.0, reset="subtract", levels=4))
    assert only(frames, torch.tensor([0.0, 1, 1, 0]).view(1, 1, 1, 4)) == ("binary", 0, 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("levels", [3, 25])  # of most, k / levels * levels is not always k
def test_rates_of_any_number_of_levels_are_counted_as_whole_numbers(levels, dtype):
    network = nn.Sequential(
        zoo.LIF(1.0, reset="subtract", levels=levels), nn.Linear(levels + 1, 5)
    ).to(dtype)
    rates = torch.arange(levels + 1, dtype=dtype).view(1, 1, 1, -1) / levels
    assert only(network, rates + 0.5 / levels) == ("integer", (levels - 1) * 5, 5)
    means = nn.Sequential(network[0], nn.AvgPool2d((1, 2)), nn.Linear(2, 5, dtype=dtype))
    assert only(means, rates[..., :4] + 0.5 / levels)[0] == "real"


class Product(nn.Module):
    def __init__(self, other):
        super().__init__()
        self.other = other

    def forward(self, x):
        return x @ self.other


def test_a_product_of_activations_is_counted_by_the_narrower_one():
    spikes = torch.tensor([[1.0, 0, 1], [0, 0, 1]])[None, None]  # [1, 1, 2, 3]
    others = torch.tensor([[1.0, 1], [1, 0], [0, 1]])[None, None]
    assert only(Product(others), spikes) == ("binary", 0, (spikes @ others).sum().item())
    assert only(Product(others * 1.5), spikes) == ("binary", 0, 3 * 2)
    assert only(Product(others), spikes * 1.5) == ("binary", 0, 4 * 2)
    assert only(Product(others * 1.5), spikes * 2) == ("integer", 3 * 2, 0)
    assert only(Product(others * 1.5), spikes * 1.5) == ("real", 2 * 3 * 2, 0)


def test_a_gate_multiplies_only_where_neither_side_is_a_spike():
    class Gate(nn.Module):
        def forward(self, x):
            return x * torch.full_like(x, 0.3)

    assert count_operations(Gate(), [torch.ones(1, 1, 1, 4)]) == []
    assert only(Gate(), torch.full((1, 1, 1, 4), 0.5)) == ("real", 4, 0)
    assert only(Gate(), torch.tensor([0.0, 1, 0.5, 2]).view(1, 1, 1, 4)) == ("real", 2, 0)


def test_attention_of_torch_is_counted_as_its_two_products():
    class Attention(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x)

    kind, multiplied, added = only(Attention(), torch.rand(1, 2, 5, 3))
    assert (kind, added) == ("real", 0)
    assert multiplied == 2 * 2 * 5 * 5 * 3
    assert count_connections(Attention(), torch.rand(1, 2, 5, 3)) == {"": multiplied}


def test_the_first_convolution_is_counted_once_and_not_at_every_step():
    first = [count_operations(create(time_steps=T), [images()])[0] for T in (1, 4)]
    assert first[0] == first[1]
    assert first[0].multiply_accumulates == 3 * 9 * 16 * 16 * 16
    frames = torch.randn(4, 2, 3, 16, 16)
    shown = count_operations(create(time_steps=4), [frames])[0]
    assert shown.multiply_accumulates == 4 * first[0].multiply_accumulates


def test_batches_may_be_computed_on_the_way_and_are_not_counted():
    x = images(4)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=2)
    computed = (batch @ torch.eye(16) for (batch,) in loader)
    assert count_operations(create(), computed) == count_operations(create(), x.split(2))


def test_energy_is_the_sum_of_both_kinds():
    first, second, *_ = count_operations(create(), [images()])
    assert first.energy == 4.6 * first.multiply_accumulates
    assert second.energy == 0.9 * second.accumulates > 0


def theirs(counter, model, x):
    """SpikingJelly's count of each layer's convolutions, per image."""
    with DispatchCounterMode([counter]), torch.no_grad():
        model(x)
    root = f"{type(model).__name__}."
    return {
        scope.removeprefix(root): counts[aten.convolution.default] / len(x)
        for scope, counts in counter.get_counts().items()
        if scope.endswith(".conv") and aten.convolution.default in counts
    }


@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("short_bp_resnet20", (1, 1)),  # averages of spikes go into a convolution
        ("short_bp_resnet50", (1, 1)),
    ],
)
def test_convolutions_on_spikes_and_on_real_numbers_are_counted_as_spikingjelly_does(name, depths):
    model, x = create(name, depths=depths, widths=(8,) * len(depths)), images(size=32)
    ours = {o.layer: o for o in count_operations(model, [x]) if o.layer.endswith(".conv")}
    kinds = {o.inputs for o in ours.values()}
    assert kinds == ({"binary", "real"})
    assert sum(o.accumulates for o in ours.values()) > 1000
    assert theirs(SynOpCounter(), model, x) == {n: o.accumulates for n, o in ours.items()}
    assert theirs(MACCounter(), model, x) == {n: o.multiply_accumulates for n, o in ours.items()}


def test_connections_are_known_without_values():
    model = create(time_steps=2)
    seen = count_connections(model, images(batch=1))
    with torch.device("meta"):
        twin = zoo.create_model("short_bp_resnet20_slim", time_steps=2, depths=(1, 1, 1))
        assert count_connections(twin, torch.zeros(1, 3, 16, 16)) == seen
    assert seen["stages.0.0.conv1.conv"] == 2 * 16 * 16 * 9 * 16 * 16


def test_inference_mode_counts_the_same():
    model, x = create(), images()

    def counted():
        return count_operations(model, [x]), count_connections(model, x)

    expected = counted()
    assert len(expected[0]) > 5
    with torch.inference_mode():
        assert counted() == expected


def test_firing_rates_are_means_over_all_batches():
    model, x = create(), images(batch=6)
    outputs = []
    model.stages[1][0].spike1.register_forward_hook(lambda *args: outputs.append(args[2]))
    rates = firing_rates(model, x.split([4, 2]))
    assert rates["stages.1.0.spike1"] == pytest.approx(torch.cat(outputs, 1).mean().item())
    assert list(rates)[:2] == ["stem.1", "stages.0.0.spike1"]
    assert all(0 < rate < 1 for rate in rates.values())


@pytest.mark.parametrize("measure", [firing_rates, count_operations])
def test_one_batch_in_the_place_of_several_is_refused(measure):
    with pytest.raises(ValueError, match=r"batches: expected several, as \[x\], got one of shape"):
        measure(create(), images())


def test_a_compiled_network_is_measured_as_what_was_compiled():
    model, x, labels = create(shortcut_heads=True), images(), torch.tensor([1, 2])
    compiled = torch.compile(model)
    assert firing_rates(compiled, [x]) == firing_rates(model, [x])
    assert count_operations(compiled, [x]) == count_operations(model, [x])
    assert gradients(compiled, x, labels, 0.5) == gradients(model, x, labels, 0.5)


def test_measuring_leaves_the_network_as_it_was():
    model, x = create(shortcut_heads=True).train(), images()
    model.stages[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    firing_rates(model, [x])
    count_operations(model, [x])
    gradients(model, x, torch.tensor([1, 2]), 0.25)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_gradients_are_those_of_a_training_step():
    model, x, labels = create(shortcut_heads=True), images(), torch.tensor([1, 2])
    found = {(g.layer, g.of): g for g in gradients(model, x, labels, head_weight=0.5)}
    exits = []
    model.stages[0][0].spike2.register_forward_hook(lambda *args: exits.append(args[2]))
    logits, side_logits = model.train()(x)
    exits[0].retain_grad()
    F.cross_entropy(logits + 0.5 * side_logits.sum(0), labels).backward()
    for name, of, grad in (
        ("stem.0.conv", "weights", model.stem[0].conv.weight.grad),
        ("stages.0.0.spike2", "spikes", exits[0].grad),
        ("head.fc", "weights", model.head.fc.weight.grad),
    ):
        assert found[name, of].mean == pytest.approx(grad.abs().mean().item(), rel=1e-5)
        assert found[name, of].variance == pytest.approx(grad.abs().var().item(), rel=1e-5)
    assert next(iter(found)) == ("stem.0.conv", "weights")
    assert list(found)[-1] == ("head.fc", "weights")
    assert not [name for name, _ in found if "shortcut_heads" in name]


def test_a_layer_of_one_weight_has_a_gradient_without_variance():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 2))
    first, _ = gradients(model, torch.ones(4, 1), torch.tensor([0, 1, 1, 1]))
    assert (first.layer, first.variance) == ("0", 0)
    assert first.mean > 0


def test_heads_carry_gradient_to_the_first_layer():
    model, x, labels = create(shortcut_heads=True), images(batch=8), torch.arange(8)
    alone, helped = (gradients(model, x, labels, weight)[0].mean for weight in (0, 1))
    assert helped > 1.1 * alone


def test_a_weight_for_heads_that_are_not_there_is_refused():
    with pytest.raises(ValueError, match="head_weight: expected 0 for a network without"):
        gradients(create(), images(), torch.tensor([1, 2]), 0.25)
    with pytest.raises(ValueError, match="head_weight: expected 0 for a network without"):
        gradients(nn.Conv2d(3, 2, 1), images(), torch.tensor([1, 2]), 0.25)


DIGITS = ("--data.name", "digits", "--data.mean", "78", "--data.std", "96")


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["zoo.diagnostics", *arguments])
        main()

    return run


def test_the_command_prints_tables_and_writes_json(command, capsys, tmp_path):
    arguments = (*DIGITS, "--num-images", "20", "--output", "out")
    command("short_bp_resnet20_slim.untrained", *arguments)
    printed = " ".join(capsys.readouterr().out.split())
    for said in ("heads at 0.25", "Horowitz 2014", "random weights, T = 4, 20 test images of dig"):
        assert said in printed
    found = json.loads((tmp_path / "out/diagnostics.json").read_text())
    assert [entry["head_weight"] for entry in found["gradients"]] == [0, 0.25]
    assert found["energy_nj"] == pytest.approx(sum(o["energy_nj"] for o in found["operations"]))
    assert found["operations"][0]["inputs"] == "real"
    assert min(found["firing_rates"].values()) > 0  # norms of random weights have seen the images


def test_images_that_are_not_there_are_not_made_up(command, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        command("short_bp_resnet20_slim", "--data.root", "nowhere")
    assert "cifar10 is not in 'nowhere'" in stopped.value.code
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def published(tmp_path):
    """The name of a network without heads, for one channel and four classes."""
    folder = tmp_path / "small"
    folder.mkdir()
    hub.save_pretrained(create(in_chans=1, num_classes=4, time_steps=3), folder)
    return f"local-dir:{folder}"


def test_images_of_other_classes_are_refused(published, command):
    with pytest.raises(SystemExit, match="data: expected 4 classes, those of small, got 10"):
        command(published, *DIGITS)


def test_an_unknown_name_is_told_before_missing_images(command):
    with pytest.raises(SystemExit) as stopped:
        command("no_such", "--data.root", "nowhere")
    assert stopped.value.code.startswith("error: unknown model 'no_such'")


def test_a_released_network_is_measured_on_what_it_was_trained_on(command, monkeypatch, tmp_path):
    folder = tmp_path / "weights" / "short_bp_resnet20_slim.small"
    folder.mkdir(parents=True)
    data = {"name": "digits", "mean": [125], "std": [63]}
    network = create(in_chans=1, num_classes=10, time_steps=2)
    recipe = {"model": "short_bp_resnet20_slim", "model_args": {}, "epochs": 1}
    hub.save_pretrained(
        network, folder, training=recipe | {"data": data, "loss": {"name": "vanilla"}}
    )
    monkeypatch.setenv("SHORT_BP_ZOO_WEIGHTS", str(folder.parent))
    command("short_bp_resnet20_slim.small", "--num-images", "4")
    found = tmp_path / "runs/diagnostics/short_bp_resnet20_slim.small/diagnostics.json"
    assert "4 test images of digits" in found.read_text()


def test_pixels_are_those_of_a_network_whose_training_is_not_recorded(tmp_path):
    cfg = {"input_size": (1, 8, 8), "mean": (10 / 255,), "std": (200 / 255,)}
    hub.save_pretrained(create(in_chans=1, pretrained_cfg_overlay=cfg), tmp_path)
    found = trained_on(f"local-dir:{tmp_path}")
    assert (found.mean, found.std) == ((10,), (200,))
    assert trained_on("short_bp_resnet18_imagenet").mean == (124, 116, 104)


def test_images_are_measured_as_the_network_was_trained_on_them(tmp_path):
    model = awaken(create(in_chans=1, num_classes=10))
    hub.save_pretrained(model, tmp_path)
    data = DataConfig(name="digits", mean=(78,), std=(96,))
    found = diagnose(f"local-dir:{tmp_path}", Options(data=data, num_images=360)).firing_rates
    x = normalise(load_images(data, "test").images, (78,), (96,))
    assert found == pytest.approx(firing_rates(model, x.split(50)))
    assert any(found.values())


def test_a_run_folder_is_measured_with_the_weights_of_its_newest_checkpoint(tmp_path):
    model = create(time_steps=3)
    folder = tmp_path / "run/checkpoints/step_0000001"
    folder.mkdir(parents=True)
    hub.save_pretrained(model, folder)
    runs.seal(folder)
    report = diagnose(str(tmp_path / "run"), Options(random_pixels=True, num_images=4))
    assert report.title == "run, its own weights, T = 3, 4 random images"
    assert list(report.gradients) == [0]  # trained without heads
    with pytest.raises(ValueError, match="unknown model 'short_bp_resnet81'"):
        diagnose("short_bp_resnet81", Options(random_pixels=True))
