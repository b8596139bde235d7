"""python -m zoo list [--filter '*slim*'] [--json]"""

import json as json_format
from dataclasses import asdict, dataclass

import torch
import tyro
from rich.console import Console
from rich.table import Column, Table

import zoo
from zoo.console import said_in_a_line, watched
from zoo.deployment.fold import why_not_exact
from zoo.diagnostics import count_connections, part_connections

TYPICAL_RATE = 0.2  # MS-ResNet-18 and 34 on ImageNet fire at 0.22 and 0.20: arXiv 2209.13929


@dataclass(frozen=True)
class Entry:
    """One network of the zoo at its default arguments."""

    name: str
    parameters: int
    macs: int
    """Multiply-accumulates of one time step, for real inputs instead of spikes."""
    time_steps: int
    synaptic_operations: int
    """Additions for one image, at a firing rate of TYPICAL_RATE."""
    macs_on_currents: int
    """Multiply-accumulates for one image on pixels, averages and currents."""
    input_size: tuple[int, int, int]
    weights: list[str]
    """Tags of weights that can be loaded."""
    why_not_exact: str | None
    """Why its export cannot be exact with any weights, or None."""


def entry(name: str) -> Entry:
    """Compute the figures of one network on the meta device."""
    with torch.device("meta"):
        model, one_step = zoo.create_model(name), zoo.create_model(name, time_steps=1)
        image = torch.zeros(1, *model.pretrained_cfg["input_size"])
        macs = sum(count_connections(one_step, image).values())
        on_spikes, others = part_connections(model, image)
    return Entry(
        name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=macs,
        time_steps=model.time_steps,
        synaptic_operations=round(TYPICAL_RATE * sum(on_spikes.values())),
        macs_on_currents=sum(others.values()),
        input_size=tuple(model.pretrained_cfg["input_size"]),
        weights=[found.partition(".")[2] for found in zoo.list_models(name, pretrained=True)],
        why_not_exact=why_not_exact(model),
    )


def list_zoo(filter: str = "", json: bool = False) -> None:
    """List the networks: sizes, operations, weights, and whether their export is exact.

    Args:
        filter: A wildcard such as '*slim*'.
        json: Print JSON instead of a table.
    """
    names = zoo.list_models(filter)
    if not names:
        raise ValueError(
            f"filter: expected a wildcard that fits a name, got {filter!r}; omit it to list all"
        )
    entries = map(entry, watched(names, "zoo"))
    if json:
        print(json_format.dumps([asdict(found) for found in entries], indent=2))
        return
    headers = ("params", "MACs", "T", "SynOps", "left", "input", "weights", "exact")
    caption = (
        "MACs: of one time step, without spikes. For one image of T steps: SynOps, additions in "
        f"convolutions of spikes at a firing rate of {TYPICAL_RATE}; left, the "
        "multiply-accumulates on pixels, averages and currents. weights: tags that can be loaded. "
        "exact: whether the export is exact."
    )
    columns = (Column(header, no_wrap=True) for header in headers)
    name = Column("name", overflow="fold")
    table = Table(name, *columns, box=None, padding=(0, 1, 0, 0), caption=caption)
    for found in entries:
        table.add_row(
            found.name,
            in_short(found.parameters),
            in_short(found.macs),
            str(found.time_steps),
            in_short(found.synaptic_operations),
            in_short(found.macs_on_currents),
            "x".join(map(str, found.input_size)),
            ", ".join(found.weights) or "-",
            "no" if found.why_not_exact else "yes",
        )
    console = Console()
    if not console.is_terminal:  # do not wrap names in a pipe
        console.width = console.measure(table).maximum
    console.print(table)


def in_short(count: int) -> str:
    units = ("G", 1e9), ("M", 1e6), ("k", 1e3)
    unit, size = next(((f" {unit}", size) for unit, size in units if count >= size), ("", 1))
    return f"{count / size:.4g}{unit}"


def main() -> None:
    commands = {"list": list_zoo}
    with said_in_a_line():
        tyro.extras.subcommand_cli_from_dict(commands, prog="python -m zoo", description=__doc__)


if __name__ == "__main__":
    main()
