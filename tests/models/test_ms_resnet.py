"""Membrane-shortcut networks: initialisation, attention and gradients."""

import pytest
import torch
from exact_networks import awaken, settle
from torch import nn

import zoo
from zoo.layers.attention import ChannelSpatialAttention, Gate
from zoo.models.ms_resnet import MSResNet

SMALL = {"depths": (2, 1), "widths": (8, 16), "stem_width": 4, "time_steps": 2, "num_classes": 10}
VARIANTS = {
    "plain": {},
    "pooled shortcuts": {"avg_down": True},
    "attention": {"block": "attention", "avg_down": True},
    "gated": {"gated": True},
}


def create(seed=0, **kwargs):
    torch.manual_seed(seed)
    return MSResNet(**SMALL | kwargs)


@pytest.mark.parametrize("name", zoo.list_models("*ms_resnet*"))
def test_neurons_are_those_of_the_paper(name):
    with torch.device("meta"):
        neurons = [m for m in zoo.create_model(name).modules() if isinstance(m, zoo.LIF)]
    expected = {
        "decay": 0.25,
        "v_threshold": 0.5,
        "reset": "zero",
        "surrogate": "rectangle",
        "width": 1.0,
        "detach_reset": True,
    }
    assert all(neuron.constants() == expected for neuron in neurons)


def test_a_block_starts_as_its_shortcut_and_norms_at_the_threshold():
    model = create(spike_layer={"v_threshold": 0.7}).train()
    x = torch.randn(2, 2, 8, 16, 16)
    assert torch.equal(model.stages[0][1](x), x)
    for name, norm in model.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.weight.unique().item() == pytest.approx(0 if ".conv2." in name else 0.7)


def test_attention_starts_where_its_relu_lets_a_gradient_through():
    model = create(block="attention").train()
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    last = model.stages[1][0].conv2.norm.weight
    assert last.unique().item() == pytest.approx(0.2 * 0.5)
    assert last.grad.any()


def test_a_current_bypasses_every_neuron_of_a_stage():
    model = create(spike_layer=lambda: nn.Threshold(1e9, 0.0)).eval()  # none ever fires
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        first, last = model.forward_intermediates(x, intermediates_only=True)
    assert first.unique().numel() > 100
    assert last.unique().numel() > 100


@pytest.mark.parametrize("name", zoo.list_models("att_*"))
def test_shortcuts_beside_attention_average_before_they_convolve(name):
    with torch.device("meta"):
        shortcut = zoo.create_model(name).stages[1][0].shortcut
    assert isinstance(shortcut[0], nn.AvgPool2d)


@pytest.mark.parametrize(("variant", "bf16"), [*zip(VARIANTS, [False, True] * 2, strict=True)])
def test_lean_memory_changes_no_bit_of_a_training_step(variant, bf16):
    results = []
    for memory in ("fast", "lean"):
        model = create(shortcut_heads=True, memory=memory, **VARIANTS[variant]).train()
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu", enabled=bf16):
            logits, side_logits = model(x)
        (logits.square().sum() + side_logits.square().sum()).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append([logits, side_logits, *gradients, *model.buffers()])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_lean_memory_remembers_the_spikes_of_every_convolution_as_bytes():
    remembered = {}
    for memory in ("fast", "lean"):
        saved = []

        def keep(tensor, saved=saved):
            if tensor.ndim == 4 and len(tensor) == 2 * 8 and tensor.unique().numel() == 2:
                saved.append(tensor.dtype)
            return tensor

        model = create(memory=memory).train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(torch.randn(8, 3, 32, 32))
        remembered[memory] = saved
    convs = 2 * 3
    assert remembered == {"fast": [torch.float32] * convs, "lean": [torch.int8] * convs}


def test_gradient_checkpointing_changes_nothing():
    for variant in VARIANTS.values():
        results = []
        for checkpointing in (False, True):
            model = create(**variant).train()
            model.set_grad_checkpointing(checkpointing)
            x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
            model(x).square().sum().backward()
            gradients = [parameter.grad for parameter in model.parameters()]
            results.append([*gradients, *model.buffers()])
        for plain, recomputed in zip(*results, strict=True):
            torch.testing.assert_close(recomputed, plain)


def test_attention_weighs_channels_and_then_pixels():
    attention = ChannelSpatialAttention(16)
    x = torch.randn(3, 2, 16, 5, 5)
    with torch.no_grad():
        weighed = attention(x)
        frames = x.movedim(0, 2)  # [B, C, T, H, W]
        pooled = (
            nn.functional.adaptive_avg_pool3d(frames, 1),
            nn.functional.adaptive_max_pool3d(frames, 1),
        )
        first, _, second = attention.channels
        sums = sum(
            torch.einsum(
                "ch,bh->bc",
                second.weight[..., 0, 0],
                torch.einsum("hc,bc->bh", first.weight[..., 0, 0], p.flatten(1)).relu(),
            )
            for p in pooled
        )
        y = x * sums.sigmoid()[None, ..., None, None]
        flat = y.transpose(0, 1).flatten(1, 2)  # [B, T*C, H, W]
        maps = torch.stack([flat.mean(1), flat.amax(1)], 1)
        y = y * nn.functional.conv2d(maps, attention.pixels.weight, padding=1).sigmoid()
    torch.testing.assert_close(weighed, y.relu())
    assert sum(p.numel() for p in attention.parameters()) == 2 * 16 * 2 + 2 * 9


def test_a_gate_is_one_number_per_step_times_a_map_per_step():
    gate = Gate(4, time_steps=3)
    x = torch.randn(3, 2, 4, 8, 8)
    with torch.no_grad():
        weights = [layer.weight[..., 0, 0] for layer in (gate.steps[0], gate.steps[2])]
        numbers = sum(
            (p @ weights[0].T).relu() @ weights[1].T
            for p in (x.mean((2, 3, 4)).T, x.amax((2, 3, 4)).T)
        )  # [B, T]
        for t in range(3):
            y = x[t]
            for conv in (gate.pixels[1], gate.pixels[4]):
                y = nn.functional.conv2d(y, conv.weight, padding="same")
                y = y.relu() if conv is gate.pixels[1] else y
            expected = (numbers[:, t].view(-1, 1, 1, 1) * y).sigmoid()
            torch.testing.assert_close(gate(x)[t], expected)


def test_the_gates_map_of_a_still_image_is_computed_once():
    x = torch.randn(2, 3, 16, 16)
    model, images = settle(awaken(create(gated=True, time_steps=4)), x).double(), []
    gate = model.stem[1].gate
    gate.pixels.register_forward_pre_hook(lambda _, inputs: images.append(len(inputs[0])))
    with torch.no_grad():
        still, frames = model(x.double()), model(x.double().repeat(4, 1, 1, 1, 1))
    assert images == [2, 8]
    assert not torch.equal(still[0], still[1])
    torch.testing.assert_close(still, frames)


def test_event_frames_of_another_length_are_refused_by_a_gate_alone():
    frames = torch.randn(5, 2, 3, 16, 16)
    assert create()(frames).shape == (2, 10)
    with pytest.raises(ValueError, match="x: expected 2 time steps, got 5; the gate has weights"):
        create(gated=True)(frames)
