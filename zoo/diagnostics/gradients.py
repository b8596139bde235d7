"""How much of the loss reaches each layer.

Paper: Take A Shortcut Back, fig. 2 and the table of its rebuttal, https://arxiv.org/abs/2401.04486
Shapes: T time steps, B batch, C channels, H height, W width, K classes.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from zoo.layers.hooks import hooks
from zoo.neurons import LIF


@dataclass(frozen=True)
class Gradient:
    """Mean and variance of |dL/dx| over the elements of one layer's x; of one element 0."""

    layer: str
    of: Literal["weights", "spikes"]
    mean: float
    variance: float


def gradients(
    model: nn.Module, images: Tensor, labels: Tensor, head_weight: float = 0.0
) -> list[Gradient]:
    """What one training step on a batch would see, layer by layer in order from the input: of the
    weights of a convolution or linear layer, and of the spikes of a LIF layer at every time step.

    The loss is the cross-entropy of logits + head_weight * side_logits, summed over the heads
    (eq. 10); norms see the batch, and frozen layers are shown too. The model itself is left as it
    was.

    Args:
        images: Normalised, [B, C, H, W] or event frames [T, B, C, H, W].
        labels: [B].
        head_weight: 0 leaves the shortcut heads out, whether or not there are any.

    Raises:
        ValueError: head_weight is not 0, and the network has no heads.
    """
    model = unwrap_model(model)
    heads = getattr(model, "shortcut_heads", None)
    if head_weight and not (heads is not None and heads.heads):
        raise ValueError(
            f"head_weight: expected 0 for a network without shortcut heads, got {head_weight}"
        )
    model = copy.deepcopy(model).train().requires_grad_(True)
    found: dict[tuple[str, str], Tensor | None] = {}  # in the order of the forward pass

    def note(name: str, of: str):
        def hook(module: nn.Module, _, output: Tensor) -> None:
            found[name, of] = None
            of_what = module.weight if of == "weights" else output
            of_what.register_hook(lambda grad: found.update({(name, of): grad.abs()}))

        return hook

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, LIF):
            module.backend = "eager"  # one step is not worth compiling for
            handles.append(module.register_forward_hook(note(name, "spikes")))
        elif isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            handles.append(module.register_forward_hook(note(name, "weights")))
    with hooks(*handles), torch.enable_grad():
        outputs = model(images)
        logits, side_logits = outputs if isinstance(outputs, tuple) else (outputs, None)
        if head_weight:
            logits = logits + head_weight * side_logits.sum(0)
        cross_entropy(logits, labels).backward()
    return [
        Gradient(name, of, float(grad.mean()), float(grad.var()) if grad.numel() > 1 else 0.0)
        for (name, of), grad in found.items()
        if grad is not None and not name.startswith("shortcut_heads.")
    ]
