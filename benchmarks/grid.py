"""Count what the exact grid changes in the releases, layer by layer.

    python benchmarks/grid.py --root DATA

Compares the folded network with one layer at a time on the grid with the folded network; and the
trained network with itself in another memory layout and with its norms folded, which shows what
fp32 rounding alone changes.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from accuracy import releases_of
from measure import release_hashes, report, run_script
from torch import Tensor, nn

import zoo
from export.checks.check import logits_of
from export.checks.images import data_images
from zoo import hub
from zoo.data import DataConfig, load_images
from zoo.deployment.layers import PixelConv

IMAGES = 200
TRAINED, FOLDED = "as trained", "norms folded"
CHANGE = 1e-3  # of a logit; rounding without a flipped spike changes less
COMMAND = "python benchmarks/grid.py --root DATA"


def one_on_the_grid(folded: nn.Module, exact: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Each layer before neurons by name, and the folded network with that one on the grid."""
    stems = {name for name, module in folded.named_modules() if isinstance(module, PixelConv)}
    for name, module in folded.named_modules():
        place, _, child = name.rpartition(".")
        if isinstance(module, nn.Conv2d | PixelConv) and place not in stems:
            network = copy.deepcopy(folded)
            setattr(network.get_submodule(place), child, exact.get_submodule(name))
            yield name, network


def row(name: str, what: str, logits: Tensor, other: str, expected: Tensor) -> dict[str, Any]:
    apart = (logits - expected).abs()
    return {
        "network": name,
        "what": what,
        "compared with": other,
        "images whose logits change": int((apart.amax(1) > CHANGE).sum()),
        "classes that change": int((logits.argmax(1) != expected.argmax(1)).sum()),
        "mean change of a logit": apart.mean().item(),
    }


def main(root: str) -> None:
    """Count what changes.

    Args:
        root: A folder or tar archive with train/CLASS/IMAGE and test/CLASS/IMAGE.
    """
    found = load_images(DataConfig(name="image_folder", root=root), "test")
    rows, names = [], releases_of(found.classes)
    for name in names:
        model = zoo.create_model(name, pretrained=True).eval()
        config = hub.read_config(hub.find_pretrained(name))
        x = data_images(model, config, root, IMAGES).values
        folded, exact = zoo.deploy(model, exact=False), zoo.deploy(model)
        trained, without = logits_of(model, x, "as trained"), logits_of(folded, x, "folded")
        layout = logits_of(model, x, "channels_last", torch.channels_last)
        on_grid = logits_of(exact, x, "exact")
        rows += [
            row(name, "as trained, in channels_last", layout, TRAINED, trained),
            row(name, FOLDED, without, TRAINED, trained),
            row(name, "all layers on the grid", on_grid, TRAINED, trained),
            row(name, "all layers on the grid", on_grid, FOLDED, without),
        ]
        for layer, network in one_on_the_grid(folded, exact):
            logits = logits_of(network, x, layer)
            rows.append(row(name, f"{layer} alone", logits, FOLDED, without))
    facts = {
        "images": f"{IMAGES} test images of CIFAR-10 (JPEG)",
        "a change": f"more than {CHANGE}",
        **release_hashes(names),
    }
    report("grid", "What the exact grid changes, by layer", COMMAND, rows, **facts)


if __name__ == "__main__":
    run_script(main)
