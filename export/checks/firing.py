"""Every spiking layer fires; a silent one would make the comparison of logits meaningless."""

from dataclasses import dataclass

from torch import Tensor, nn

from export.checks.check import Check, batches
from zoo.diagnostics import firing_rates


@dataclass(frozen=True, kw_only=True)
class Firing(Check):
    id = "firing"
    title = "every spiking layer fires"
    fault = "silent_layers"
    images: int
    silent_layers: list[str]
    lowest_rate: float
    firing_rates: dict[str, float]


def check_firing(model: nn.Module, images: Tensor) -> Firing:
    rates = firing_rates(model, batches(images, "firing rates"))
    return Firing(
        images=len(images),
        silent_layers=[name for name, rate in rates.items() if rate == 0],
        lowest_rate=min(rates.values()),
        firing_rates=rates,
    )
