"""The losses against the paper's formulas, written out by hand."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from zoo.training.losses import LossConfig, classification_loss, head_weight

torch.manual_seed(0)
LOGITS, SIDE, LABELS = torch.randn(4, 10), torch.randn(3, 4, 10), torch.tensor([1, 0, 9, 3])


def loss(name, weight, side=SIDE, **config):
    return classification_loss(LossConfig(name=name, **config), LOGITS, side, LABELS, weight)


def test_vanilla_is_the_cross_entropy_of_the_network_alone():
    assert loss("vanilla", 0.0, side=None) == cross_entropy(LOGITS, LABELS)


def test_shortcut_sums_every_head_into_the_logits():
    expected = cross_entropy(LOGITS + SIDE[0] + SIDE[1] + SIDE[2], LABELS)
    torch.testing.assert_close(
        loss("shortcut", head_weight(LossConfig(name="shortcut"), 7, 9)), expected
    )


def test_evolutionary_weighs_the_heads_by_lambda():
    expected = cross_entropy(LOGITS + 0.2 * (SIDE[0] + SIDE[1] + SIDE[2]), LABELS)
    torch.testing.assert_close(loss("evolutionary", 0.2), expected)


def test_per_head_adds_one_cross_entropy_for_each_head():
    expected = cross_entropy(LOGITS, LABELS)
    expected = expected + 0.2 * sum(cross_entropy(side, LABELS) for side in SIDE)
    torch.testing.assert_close(loss("per_head", 0.2), expected)


def test_label_smoothing_reaches_every_cross_entropy():
    for name in ("vanilla", "shortcut", "constant", "evolutionary", "per_head"):
        side = None if name == "vanilla" else SIDE
        sums = [LOGITS] if name == "vanilla" else [LOGITS + 0.2 * SIDE.sum(0)]
        weights = [1.0]
        if name == "per_head":
            sums, weights = [LOGITS, *SIDE], [1.0, 0.2, 0.2, 0.2]
        expected = sum(
            weight * cross_entropy(logits, LABELS, label_smoothing=0.1)
            for logits, weight in zip(sums, weights, strict=True)
        )
        smoothed = loss(name, 0.2, side=side, label_smoothing=0.1)
        torch.testing.assert_close(smoothed, expected)


@pytest.mark.parametrize("name", ["evolutionary", "per_head"])
def test_lambda_falls_from_a_quarter_to_nothing_by_iteration(name):
    config = LossConfig(name=name)
    weights = [head_weight(config, i, 1000) for i in (0, 1, 500, 1000)]
    assert weights == [0.25, 0.25 * (1 - 1 / 1000), 0.125, 0.0]


def test_a_constant_weight_stays():
    config = LossConfig(name="constant", coefficient=0.3)
    assert [head_weight(config, i, 1000) for i in (0, 500, 999)] == [0.3, 0.3, 0.3]
