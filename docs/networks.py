"""The tables of neurons and of networks in docs/networks.md.

python docs/networks.py
"""

from pathlib import Path

import torch
import tyro

import zoo
from export.releases import with_part
from short_bp_zoo.networks import in_short, networks
from zoo import hub

PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- python docs/networks.py writes this -->", "<!-- as far as here -->"
NEURONS = "<!-- python docs/networks.py writes the neurons -->", "<!-- the neurons end here -->"
HEAD = "| Network | Params | MACs | T | Input | Exact export | Paper |"
SAID = (
    "MACs: of one time step, without spikes. [Exact export](exact_export.md). "
    "Take A Shortcut Back has no VGG, no more than 34 layers on ImageNet, and another ResNet-20 "
    "than `short_bp_resnet20_slim`, which is that of [He et al.](https://arxiv.org/abs/1512.03385) "
    "with convolutions as shortcuts between stages. T is our default; `att_ms_resnet*` was "
    "published at T = 1 with a `drop_rate` of 0.2."
)


def page(text: str) -> str:
    """The page with a table of today's networks in it."""
    lines = [HEAD, "|---" * (HEAD.count("|") - 1) + "|"]
    for name, found in networks().items():
        cells = [
            f"`{name}`",
            in_short(found.parameters),
            in_short(found.macs),
            str(found.time_steps),
            "x".join(map(str, found.input_size)),
            "no" if found.why_not_exact else "yes",
            f"[{found.paper}](https://arxiv.org/abs/{found.arxiv})",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    text = with_part(text, *NEURONS, neurons())
    return with_part(text, BEGIN, END, "\n".join([*lines, "", SAID]))


def neurons() -> str:
    """A table of the neurons of each class of networks."""
    found = {}
    for name in zoo.list_models():
        with torch.device("meta"):
            model = zoo.create_model(name)
        found[type(model).__name__] = hub.neuron_constants(model)
    columns = list(zoo.LIF().constants())
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    lines += [[f"`{kind}`", *map(str, constants.values())] for kind, constants in found.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Write the table."""
    PAGE.write_text(page(PAGE.read_text()))
    print(f"{PAGE}: written")


if __name__ == "__main__":
    tyro.cli(main)
