"""Networks of two time steps and images for them."""

import torch
from exact_networks import awaken, settle

import zoo


def images(model, batch=2):
    """Small images, so that the tests are fast; no test here depends on the size."""
    channels, height, _ = model.pretrained_cfg["input_size"]
    size = 64 if height == 224 else 16
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def create(name, **kwargs):
    torch.manual_seed(0)
    return zoo.create_model(name, time_steps=2, **kwargs)


def awake(name, **kwargs):
    """A network in eval mode that fires. A fresh one is silent, so that its logits are the bias of
    its classifier, whatever it computes.
    """
    model = create(name, **kwargs)
    return settle(awaken(model), images(model))


def assert_it_sees(model, x):
    """The logits depend on the images."""
    with torch.no_grad():
        features, logits = model.forward_features(x), model(x)
    assert features.any()
    assert not torch.equal(logits[0], logits[1])
