"""Compute the table of networks that the command line reads.

python -m short_bp_zoo.figures   # writes short_bp_zoo/networks.json anew
"""

import json
from dataclasses import asdict

import timm
import torch
import tyro

import zoo
from short_bp_zoo.networks import TABLE, Network
from zoo.console import watched
from zoo.deployment.fold import why_not_exact
from zoo.diagnostics import count_connections
from zoo.hub import neuron_constants
from zoo.hub.files import write


def figures(name: str) -> Network:
    """Compute the figures of one network on the meta device."""
    cfg = timm.get_pretrained_cfg(name)
    with torch.device("meta"):
        model = zoo.create_model(name, time_steps=1)
        macs = count_connections(model, torch.zeros(1, *cfg.input_size))
        model = zoo.create_model(name)
    return Network(
        name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=sum(macs.values()),
        time_steps=model.time_steps,
        input_size=list(cfg.input_size),
        num_classes=model.num_classes,
        neuron=neuron_constants(model),
        why_not_exact=why_not_exact(model),
        paper=cfg.paper_name,
        arxiv=cfg.paper_ids.removeprefix("arXiv:"),
    )


def table(names: list[str]) -> str:
    """The content of networks.json, a line for each network."""
    rows = [json.dumps(asdict(figures(name))) for name in watched(names, "networks")]
    return "[\n" + ",\n".join(rows) + "\n]\n"


def main() -> None:
    """Write the table."""
    write(TABLE, table(zoo.list_models()))


if __name__ == "__main__":
    tyro.cli(main)
