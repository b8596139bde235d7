"""The figures of a network as tables and as JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from zoo.diagnostics.gradients import Gradient
from zoo.diagnostics.operations import SOURCE, Operations


@dataclass(frozen=True)
class Report:
    """Figures in order from the input; gradients by the weight of the heads."""

    title: str
    """Network, weights, time steps and images."""
    gradients: dict[float, list[Gradient]]
    firing_rates: dict[str, float]
    operations: list[Operations]

    @property
    def energy(self) -> float:
        """Of one image, in nJ."""
        return sum(layer.energy for layer in self.operations) / 1000

    def values(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "title": self.title,
            "gradients": [
                {"head_weight": weight, "layers": [asdict(row) for row in rows]}
                for weight, rows in self.gradients.items()
            ],
            "firing_rates": self.firing_rates,
            "operations": [
                asdict(row) | {"energy_nj": row.energy / 1000} for row in self.operations
            ],
            "energy_nj": self.energy,
            "energy_by": SOURCE,
        }

    def print(self, console: Console) -> None:
        heads = (f"heads at {weight:g}" if weight else "no heads" for weight in self.gradients)
        title = f"{escape(self.title)}\nMean and variance of absolute gradients"
        table = Table(_layer("layer"), "of", *heads, title=title)
        for rows in zip(*self.gradients.values(), strict=True):
            numbers = (f"{row.mean:.2e}  {row.variance:.2e}" for row in rows)
            table.add_row(rows[0].layer, rows[0].of, *numbers)
        console.print(table)

        title = "Spikes per neuron and time step"
        table = Table(_layer("spiking layer"), "firing rate", title=title)
        for layer, rate in self.firing_rates.items():
            table.add_row(layer, f"{rate:.4f}" if rate else "[red]silent[/red]")
        console.print(table)

        title = f"Operations per image, {self.energy:,.0f} nJ in all"
        columns = (_layer("layer"), "input", "multiplied", "accumulated", "nJ")
        table = Table(*columns, title=title, caption=SOURCE)
        for row in self.operations:
            numbers = row.multiply_accumulates, row.accumulates, row.energy / 1000
            table.add_row(row.layer, row.inputs, *(f"{number:,.0f}" for number in numbers))
        console.print(table)


def _layer(header: str) -> Column:
    return Column(header, overflow="fold")
