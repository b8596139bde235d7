"""The spiking VGG-16."""

import pytest
import torch
import torchvision
from exact_networks import awaken
from torch.nn.functional import avg_pool2d

import zoo


def create(**kwargs):
    torch.manual_seed(0)
    return zoo.create_model("short_bp_vgg16", time_steps=2, **kwargs)


def test_its_convolutions_and_norms_are_those_of_torchvisions_vgg16():
    with torch.device("meta"):
        ours = create().state_dict()
        ours = [ours[n] for n in ours if n != "neurons" and ours[n].ndim][:-2]  # but the classifier
        theirs = torchvision.models.vgg16_bn().features.state_dict().items()
        biases = {
            f"{n}.bias"
            for n, m in torchvision.models.vgg16_bn().features.named_children()
            if isinstance(m, torch.nn.Conv2d)
        }
    theirs = [tensor for name, tensor in theirs if tensor.ndim and name not in biases]
    assert [tensor.shape for tensor in ours] == [tensor.shape for tensor in theirs]


def test_heads_hang_on_all_stages_but_the_last():
    model = create(shortcut_heads=True).train()
    _, side_logits = model(torch.randn(2, 3, 32, 32))
    assert side_logits.shape == (4, 2, 10)
    widths = [head.in_features for head in model.shortcut_heads.heads]
    assert widths == [64, 128, 256, 512]
    assert [stage["reduction"] for stage in model.feature_info] == [1, 2, 4, 8, 16]


@torch.no_grad()
def test_the_fifth_pooling_is_the_heads():
    model = awaken(create())
    x = torch.randn(2, 3, 32, 32)
    features = model.forward_features(x)
    assert features.shape == (2, 512, 2, 2)
    assert torch.equal(model(x), model.head.fc(avg_pool2d(features, 2).flatten(1)))


@torch.no_grad()
def test_every_stage_gives_off_spikes_and_takes_averages():
    model = awaken(create())
    seen = []
    for stage in model.stages[1:]:
        stage[0].conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    stream = model.stem(torch.randn(2, 3, 32, 32))
    for stage in model.stages:
        stream = stage(stream)
        assert {*stream.unique().tolist()} == {0, 1}
    for averages in seen:
        assert {*averages.unique().tolist()} == {0, 0.25, 0.5, 0.75, 1}


def test_lean_memory_changes_no_bit():
    results = []
    for memory in ("fast", "lean"):
        model = create(memory=memory, shortcut_heads=True, widths=(8,) * 5).train()
        logits, side_logits = model(torch.randn(2, 3, 32, 32))
        (logits.square().sum() + side_logits.square().sum()).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        assert any(gradient.any() for gradient in gradients)
        results.append([logits, side_logits, *gradients, *model.buffers()])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_a_first_stage_of_one_convolution_is_rejected():
    with pytest.raises(ValueError, match="depths: expected at least 2 convolutions first"):
        create(depths=(1, 2, 3, 3, 3))
