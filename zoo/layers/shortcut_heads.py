"""Shortcut heads: classifiers at the exits of stages, for training only.

Paper: Take A Shortcut Back, sec. 4.2, https://arxiv.org/abs/2401.04486
Shapes: T time steps, B batch, C channels, H height, W width.
"""

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class ShortcutHeads(nn.Module):
    """One pooling and one linear layer per stage exit, averaged over time.

    Args:
        widths: Channels at each exit.
        num_classes: Classes; 0 leaves no head.
    """

    def __init__(self, widths: Sequence[int], num_classes: int, **dd):
        super().__init__()
        self.widths = tuple(widths)
        self.reset(num_classes, **dd)

    def reset(self, num_classes: int, **dd) -> None:
        """New heads for another number of classes."""
        widths = self.widths if num_classes > 0 else ()
        self.heads = nn.ModuleList(nn.Linear(width, num_classes, **dd) for width in widths)
        self.heads.train(self.training)

    def forward(self, exits: Sequence[Tensor]) -> Tensor:
        """Stage outputs, each [T, B, C, H, W], -> their logits, [heads, B, num_classes]."""
        # The mean over time commutes with the linear layer, which then runs once, not T times.
        rates = [_mean_over_pixels(x).mean(0) for x in exits]
        return torch.stack([head(rate) for head, rate in zip(self.heads, rates, strict=True)])


def _mean_over_pixels(x: Tensor) -> Tensor:
    """[T, B, C, H, W] -> [T, B, C]. In channels_last, training's layout, one axis of pixels is a
    view, and its gradient takes a quarter of the time of that of mean((3, 4)).
    """
    return x.movedim(2, -1).flatten(2, 3).mean(2)


def strip_heads(model: Network) -> Network:
    """A copy of the network without its shortcut heads; in eval mode its outputs are bit-identical.

    Args:
        model: A network of the zoo. The wrapper of torch.compile or DistributedDataParallel, if
            any, is removed.
    """
    model = unwrap_model(model)
    if not hasattr(model, "shortcut_heads"):
        raise ValueError(f"model: expected a spiking network of zoo, got {type(model).__name__}")
    stripped = copy.deepcopy(model)
    stripped.shortcut_heads = None
    return stripped
