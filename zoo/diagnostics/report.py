"""The figures of a network as a table, as JSON and as a picture."""

import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from zoo.diagnostics.gradients import Gradient
from zoo.diagnostics.operations import ACCUMULATE, MULTIPLY_ACCUMULATE, SOURCE, Operations
from zoo.hub.files import write

JSON, PICTURE = "diagnostics.json", "diagnostics.png"


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
                {"head_weight": weight, "layers": [dataclasses.asdict(row) for row in rows]}
                for weight, rows in self.gradients.items()
            ],
            "firing_rates": self.firing_rates,
            "operations": [
                dataclasses.asdict(row) | {"energy_nj": row.energy / 1000}
                for row in self.operations
            ],
            "energy_nj": self.energy,
            "energy_by": SOURCE,
        }

    def write(self, folder: Path) -> None:
        """Write diagnostics.json and diagnostics.png."""
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / JSON, json.dumps(self.values(), indent=2) + "\n")
        self._draw(folder / PICTURE)

    def print(self, console: Console) -> None:
        columns = [_loss(weight) for weight in self.gradients]
        title = f"{escape(self.title)}\nMean and variance of absolute gradients"
        table = Table(_layer("layer"), "of", *columns, title=title)
        for rows in zip(*self.gradients.values(), strict=True):
            numbers = (f"{row.mean:.2e}  {row.variance:.2e}" for row in rows)
            table.add_row(rows[0].layer, rows[0].of, *numbers)
        console.print(table)

        table = Table(
            _layer("spiking layer"), "firing rate", title="Spikes per neuron and time step"
        )
        for layer, rate in self.firing_rates.items():
            table.add_row(layer, f"{rate:.4f}" if rate else "[red]silent[/red]")
        console.print(table)

        counts = ("multiplied", "accumulated", "nJ")
        said = f"{SOURCE}; what runs once per image and not at every step is counted once"
        table = Table(_layer("layer"), "input", *counts, title="Operations per image", caption=said)
        for row in self.operations:
            numbers = row.multiply_accumulates, row.accumulates, row.energy / 1000
            table.add_row(row.layer, row.inputs, *(f"{number:,.0f}" for number in numbers))
        table.add_section()
        mac, ac = (sum(getattr(row, key) for row in self.operations) for key in KEYS)
        table.add_row("all", "", f"{mac:,.0f}", f"{ac:,.0f}", f"{self.energy:,.0f}")
        console.print(table)

    def _draw(self, path: Path) -> None:
        from matplotlib.figure import Figure

        lines = max(len(self.firing_rates), len(self.operations))
        figure = Figure(figsize=(14, max(5.0, 1.5 + 0.19 * lines)), layout="constrained")
        gradients, rates, energy = figure.subplots(1, 3)

        for weight, rows in self.gradients.items():
            for of, style in (("weights", "o-"), ("spikes", "s--")):
                means = [row.mean for row in rows if row.of == of]
                label = f"{of}, {_loss(weight)}"
                gradients.plot(range(1, len(means) + 1), means, style, ms=4, label=label)
        gradients.set(title="Absolute gradients", xlabel="layer, from the input", yscale="log")
        gradients.set_ylabel("mean of |dL/dx| over the elements of x")
        gradients.legend(fontsize=8)

        layers = list(self.firing_rates)
        rates.barh(range(len(layers)), self.firing_rates.values(), color="C2")
        rates.set(title="Firing rates", xlabel="spikes per neuron and time step")
        rates.set_yticks(range(len(layers)), layers, fontsize=6)

        layers = [row.layer for row in self.operations]
        added = [ACCUMULATE * row.accumulates / 1000 for row in self.operations]
        multiplied = [
            MULTIPLY_ACCUMULATE * row.multiply_accumulates / 1000 for row in self.operations
        ]
        places = range(len(layers))
        energy.barh(places, added, label="accumulates, 0.9 pJ each")
        energy.barh(places, multiplied, left=added, label="multiply-accumulates, 4.6 pJ each")
        energy.set(title=f"Energy, {self.energy:,.0f} nJ in all", xlabel="nJ per image")
        energy.set_yticks(places, layers, fontsize=6)
        energy.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=2)

        for axes in (rates, energy):
            axes.invert_yaxis()
            axes.margins(x=0.05, y=0.01)
        figure.suptitle(self.title)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=120)
        write(path, picture.getvalue())


KEYS = ("multiply_accumulates", "accumulates")


def _layer(header: str) -> Column:
    return Column(header, overflow="fold")


def _loss(head_weight: float) -> str:
    return f"heads at {head_weight:g}" if head_weight else "no heads"
