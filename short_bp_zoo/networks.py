"""List and describe the networks of the zoo by a table, in a moment: nothing here needs torch."""

import difflib
import json
import os
import textwrap
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("networks.json")  # short_bp_zoo.figures writes it
WEIGHTS_FOLDER_VARIABLE = "SHORT_BP_ZOO_WEIGHTS"


@dataclass(frozen=True)
class Network:
    """One network of the zoo at its default arguments."""

    name: str
    parameters: int
    macs: int
    """Multiply-accumulates of one time step, for real inputs instead of spikes."""
    time_steps: int
    input_size: list[int]
    num_classes: int
    neuron: dict[str, Any]
    """The constants that its spiking layers share, as arguments of zoo.LIF."""
    why_not_exact: str | None
    """What keeps its export from being exact."""
    paper: str
    arxiv: str


def networks() -> dict[str, Network]:
    """All networks by their names, in the order of the alphabet."""
    rows = json.loads(TABLE.read_text())
    return {row["name"]: Network(**row) for row in rows}


def releases() -> dict[str, Path]:
    """Folders with weights that load by name, by ``arch.tag``, as zoo.hub finds them.

    Raises:
        FileNotFoundError: $SHORT_BP_ZOO_WEIGHTS names no folder.
    """
    roots = [Path(find_spec("zoo").origin).parent / "weights"]
    if named := os.environ.get(WEIGHTS_FOLDER_VARIABLE):
        if not Path(named).is_dir():
            raise FileNotFoundError(f"{WEIGHTS_FOLDER_VARIABLE}: no such folder: {named!r}")
        roots.append(Path(named))
    return {
        config.parent.name: config.parent
        for root in roots
        for config in sorted(root.glob("*/config.json"))
        if (config.parent / "model.safetensors").is_file()
        and config.parent.name.partition(".")[0] in networks()
    }


def list_networks(filters: list[str], pretrained: bool) -> str:
    """A table of networks, a line each.

    Args:
        filters: Parts of names or wildcards, of ``arch`` or ``arch.tag``; a network that fits one
            is listed.
        pretrained: Only networks with weights.

    Raises:
        ValueError: No network fits.
    """
    rows = [("name", "params", "MACs", "T", "input", "exact", "weights")]
    found = sorted(releases())
    for network in networks().values():
        weights = [name for name in found if name.partition(".")[0] == network.name]
        if (pretrained and not weights) or not fit(filters, [network.name, *weights]):
            continue
        rows.append(
            (
                network.name,
                in_short(network.parameters),
                in_short(network.macs),
                str(network.time_steps),
                "x".join(map(str, network.input_size)),
                "no" if network.why_not_exact else "yes",
                ", ".join(name.partition(".")[2] for name in weights) or "-",
            )
        )
    if len(rows) == 1:
        asked = " ".join([*map(repr, filters), *(["--pretrained"] if pretrained else [])])
        raise ValueError(f"no network fits {asked}; `short-bp-zoo list` shows all")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    said = "MACs: of one time step, without spikes. exact: whether the export is."
    return "\n".join([*lines, "", said])


def fit(filters: list[str], names: list[str]) -> bool:
    """Whether a filter fits a name, or there is none."""
    patterns = [f if set(f) & set("*?[") else f"*{f}*" for f in filters]
    return not filters or any(fnmatch(name, p) for name in names for p in patterns)


def in_short(count: int) -> str:
    units = ("G", 1e9), ("M", 1e6), ("k", 1e3)
    unit, size = next(((f" {unit}", size) for unit, size in units if count >= size), ("", 1))
    return f"{count / size:.4g}{unit}"


def describe(name: str) -> str:
    """What is known of a network, and the next command to type.

    Args:
        name: ``arch``, ``arch.tag``, a run or another folder, or ``hf-hub:org/name[@revision]``.

    Raises:
        ValueError: There is no network of that name; the message has the closest ones.
        OSError: There is no such folder, or the Hub does not give it.
    """
    known, found, config, report = networks(), releases(), {}, {}
    if name not in known:
        folder = found.get(name) or folder_of(name)
        config = json.loads((folder / "config.json").read_text())
        if (folder / "verification.json").is_file():
            report = json.loads((folder / "verification.json").read_text())
    network = known[config.get("architecture", name)]
    weights = sorted(release for release in found if release.partition(".")[0] == network.name)
    lines = {
        "parameters": f"{in_short(network.parameters)} with {network.num_classes} classes",
        "MACs": f"{in_short(network.macs)}, of one time step, without spikes",
        "time steps": network.time_steps,
        "input": "x".join(map(str, network.input_size)),
        "neurons": constants(network.neuron),
        "exact": f"no: {network.why_not_exact}" if network.why_not_exact else "yes",
        "paper": f"{network.paper}, https://arxiv.org/abs/{network.arxiv}",
        "license": "apache-2.0, of the code",
        "weights": ", ".join(weights) or "none yet",
    }
    if config:
        cfg, args = config["pretrained_cfg"], config["model_args"]
        reason = report.get("why_not_exact")
        lines |= {
            "time steps": args["time_steps"],
            "input": "x".join(map(str, cfg["input_size"])),
            "neurons": constants(args["spike_layer"]),
            "exact": f"no: {reason}" if reason else "yes, proved" if report else "not exported yet",
            "license": cfg.get("license") or "not stated",
            "weights": f"{name}, {config['num_classes']} classes",
        }
        next_command = f"classify {name} IMAGE" if report else f"export {name} --output FOLDER"
    else:
        next_command = f"info {weights[0]}" if weights else f"diagnose {name} --random-pixels"
    indent = " " * (max(map(len, lines)) + 4)
    said = (
        textwrap.fill(
            f"  {key}".ljust(len(indent)) + str(value),
            80,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for key, value in lines.items()
    )
    return "\n".join([name, *said, "", f"next: short-bp-zoo {next_command}"])


def folder_of(name: str) -> Path:
    """The folder of weights that are not known by their name alone.

    Raises:
        ValueError, OSError: As describe.
    """
    if ":" not in name and not Path(name).is_dir():
        close = difflib.get_close_matches(name, [*networks(), *releases()], n=3)
        advice = f"closest names: {close}" if close else "`short-bp-zoo list` shows all"
        raise ValueError(f"unknown model {name!r}, {advice}")
    from zoo import hub  # needs torch, which takes seconds to import

    folder = hub.locate(name, (hub.CONFIG,))
    hub.read_config(folder)  # raises unless it is one of the zoo
    return folder


def constants(neuron: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in neuron.items())
