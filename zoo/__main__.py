"""python -m zoo list [--filter '*slim*']"""

from dataclasses import dataclass

import torch
import tyro
from rich.console import Console
from rich.table import Column, Table

import zoo
from zoo.console import said_in_a_line, watched
from zoo.deployment.fold import why_not_exact
from zoo.diagnostics import count_connections


@dataclass(frozen=True)
class Entry:
    """One network of the zoo at its default arguments."""

    name: str
    parameters: int
    macs: int
    """Multiply-accumulates of one time step, for real inputs instead of spikes."""
    time_steps: int
    input_size: tuple[int, int, int]
    weights: list[str]
    """Tags of weights that can be loaded."""
    is_exact: bool
    """Whether its export is exact."""


def entry(name: str) -> Entry:
    """Compute the figures of one network on the meta device."""
    with torch.device("meta"):
        model = zoo.create_model(name, time_steps=1)
        macs = count_connections(model, torch.zeros(1, *model.pretrained_cfg["input_size"]))
        model = zoo.create_model(name)
    return Entry(
        name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=sum(macs.values()),
        time_steps=model.time_steps,
        input_size=tuple(model.pretrained_cfg["input_size"]),
        weights=[found.partition(".")[2] for found in zoo.list_models(name, pretrained=True)],
        is_exact=why_not_exact(model) is None,
    )


def list_zoo(filter: str = "") -> None:
    """List the networks: sizes, weights, and whether their export is exact.

    Args:
        filter: A wildcard such as '*slim*'.
    """
    names = zoo.list_models(filter)
    if not names:
        raise ValueError(f"no network fits {filter!r}; omit --filter to list all")
    columns = (
        Column(h, no_wrap=True) for h in ("params", "MACs", "T", "input", "weights", "exact")
    )
    table = Table(Column("name", no_wrap=True), *columns, box=None, padding=(0, 1, 0, 0))
    table.caption = "MACs: of one time step, without spikes. weights: tags that can be loaded."
    for found in map(entry, watched(names, "zoo")):
        table.add_row(
            found.name,
            in_short(found.parameters),
            in_short(found.macs),
            str(found.time_steps),
            "x".join(map(str, found.input_size)),
            ", ".join(found.weights) or "-",
            "yes" if found.is_exact else "no",
        )
    Console().print(table)


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
