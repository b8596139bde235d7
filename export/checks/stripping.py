"""Removing the shortcut heads changes no bit.

Shapes: B batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.checks.check import Check, batches, count_different


@dataclass(frozen=True, kw_only=True)
class Stripping(Check):
    id = "stripping"
    title = "removing the shortcut heads changes no bit"
    fault = "images_that_differ"
    images: int
    images_that_differ: int


@torch.inference_mode()
def check_stripping(whole: nn.Module, stripped: nn.Module, images: Tensor) -> Stripping:
    """Compare features and logits of a network with heads and of the same one without."""
    different = sum(
        count_different(features_and_logits(whole, x), features_and_logits(stripped, x))
        for x in batches(images, "stripping")
    )
    return Stripping(images=len(images), images_that_differ=different)


def features_and_logits(model: nn.Module, x: Tensor) -> Tensor:
    """What the classifier is given and the logits it returns, side by side, [B, all of it]."""
    seen = []
    with model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        logits = model(x)
    return torch.cat([seen[0].flatten(1), logits], 1)
