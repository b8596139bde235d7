"""Every family learns: a narrow network of each, on real digits, with and without heads."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import zoo
from zoo.data import DataConfig, load_images, normalise
from zoo.diagnostics import firing_rates

RESNET = {"depths": (1, 1, 1), "widths": (8, 16, 16)}
MEMBRANE = RESNET | {"stem": "conv3x3", "stem_width": 8}
FAMILIES = {
    "short_bp_resnet20": RESNET | {"stem": "conv3x3"},
    "sew_resnet18_cifar": RESNET,
    "ms_resnet18_cifar": RESNET | {"stem_width": 8},
    "att_ms_resnet18": MEMBRANE,
    "gac_ms_resnet18": MEMBRANE,
    "short_bp_vgg16": {"depths": (2, 1, 1), "widths": (8, 16, 16)},
    "spikformer_4_384": {"embed_dim": 32, "num_heads": 4, "depths": (1, 1), "mlp_ratio": 2.0},
}
EPOCHS, IMAGES, BATCH = 2, 1408, 32


@pytest.fixture(scope="module")
def digits():
    """Images [N, 1, 8, 8] and labels [N], for training and for measuring."""
    config = DataConfig(name="digits", mean=(78,), std=(96,))
    pairs = []
    for split, count in (("train", IMAGES), ("test", 360)):
        pixels, labels = load_images(config, split).take(list(range(count)))
        pairs.append((normalise(pixels, config.mean, config.std), labels))
    return pairs


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_narrow_network_learns_digits_and_no_layer_falls_silent(name, heads, digits):
    torch.manual_seed(0)
    kwargs = FAMILIES[name] | {"in_chans": 1, "num_classes": 10, "time_steps": 2}
    model = zoo.create_model(name, shortcut_heads=heads, **kwargs).train()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.5  # few steps are all it has to see
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=0.01), []
    (x, labels), (unseen, answers) = digits
    for images, targets in [*zip(x.split(BATCH), labels.split(BATCH), strict=True)] * EPOCHS:
        logits = model(images)
        if heads:
            logits = logits[0] + 0.25 * logits[1].sum(0)
        loss = cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    rates = firing_rates(model, [unseen])
    with torch.no_grad():
        accuracy = (model.eval()(unseen).argmax(1) == answers).double().mean()
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    assert accuracy > 0.55  # of ten classes
    assert {layer for layer, rate in rates.items() if not 0 < rate < 1} == set()
