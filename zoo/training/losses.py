"""What the shortcut heads add to the loss.

Paper: Take A Shortcut Back, eq. 5 to 10 and Algorithm 1, https://arxiv.org/abs/2401.04486
Shapes: B batch, K classes.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from zoo.console import check_range

LossName = Literal["vanilla", "shortcut", "constant", "evolutionary", "per_head"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    name: LossName = "evolutionary"
    """vanilla: no heads. shortcut: heads summed into the logits, weight 1. constant: the same with
    the coefficient as weight. evolutionary: with a weight that decays to 0. per_head: one
    cross-entropy per head, with that weight."""
    coefficient: float = 0.25
    """The heads' weight, where it decays its start: lambda in the paper's eq. 10."""
    label_smoothing: float = 0.0

    def __post_init__(self):
        check_range("loss.coefficient", self.coefficient, 0)
        check_range("loss.label_smoothing", self.label_smoothing, 0, 1)

    @property
    def needs_heads(self) -> bool:
        return self.name != "vanilla"


def head_weight(config: LossConfig, iteration: int, iterations: int) -> float:
    """The heads' weight at one iteration; where it decays, lambda(i) = lambda * (1 - i / I)."""
    if config.name == "shortcut":
        return 1.0
    if config.name == "constant":
        return config.coefficient
    return config.coefficient * (1 - iteration / iterations)


def classification_loss(
    config: LossConfig,
    logits: Tensor,
    side_logits: Tensor | None,
    labels: Tensor,
    weight: float,
) -> Tensor:
    """The training loss of one batch.

    Args:
        logits: [B, K].
        side_logits: Logits of the shortcut heads, [heads, B, K]; None for a network without.
        labels: [B], or shares of the classes [B, K].
        weight: What head_weight gives at this iteration.
    """

    def loss(logits: Tensor) -> Tensor:
        return cross_entropy(logits, labels, label_smoothing=config.label_smoothing)

    if side_logits is None:
        return loss(logits)
    if config.name == "per_head":
        return loss(logits) + weight * sum(loss(side) for side in side_logits)
    # In bf16 the small contribution of the heads towards the end would be rounded away.
    return loss(logits.float() + weight * side_logits.float().sum(0))
