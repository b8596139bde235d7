"""Count the test images that the releases classify correctly on the exact grid.

    python benchmarks/accuracy.py --root DATA

Writes docs/results/accuracy.json, and for a test the counts of 1,000 images to tests/released.json.
The exact network has the same bits on every machine, so the counts are the same too.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from measure import release_hashes, report, run_script
from torch import Tensor, nn

import zoo
from export.checks.check import logits_of
from zoo import hub
from zoo.data import DataConfig, load_images

COUNT = 1000
FILE = Path(__file__).parent.parent / "tests" / "released.json"
COMMAND = "python benchmarks/accuracy.py --root DATA"


def is_right(model: nn.Module, pixels: Tensor, labels: Tensor, name: str) -> Tensor:
    """Which images the deployed network classifies correctly, [N]."""
    return logits_of(zoo.deploy(model), pixels, name).argmax(1) == labels


def releases_of(classes: Sequence[str]) -> list[str]:
    """The released networks with these classes, in this order."""
    names = [
        name
        for name in zoo.list_models(pretrained=True)
        if hub.read_config(hub.find_pretrained(name))["label_names"] == list(classes)
    ]
    if not names:
        raise ValueError(
            f"root: expected images of the classes of a release, got {list(classes)[:10]}"
        )
    return names


def main(root: str) -> None:
    """Count the test images that the releases classify correctly.

    Args:
        root: A folder or tar archive with train/CLASS/IMAGE and test/CLASS/IMAGE.
    """
    data = DataConfig(name="image_folder", root=root)
    found = load_images(data, "test")
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(1000))
    indices = order[:COUNT].sort().values
    rows, correct = [], {}
    for name in releases_of(found.classes):
        config = hub.read_config(hub.find_pretrained(name))
        model = zoo.create_model(name, pretrained=True).eval()
        right = is_right(model, found.images, found.labels, name)
        correct[name] = int(right[indices].sum())
        rows.append(
            {
                "network": name,
                "T": config["model_args"]["time_steps"],
                "test images": len(right),
                "right": int(right.sum()),
                "accuracy, %": 100 * right.double().mean().item(),
                f"right of {COUNT}": correct[name],
            }
        )
    title = "Released networks on test images, on the exact grid"
    report("accuracy", title, COMMAND, rows, **release_hashes(correct))
    content = {"command": COMMAND, "correct": correct, "indices": indices.tolist()}
    FILE.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    run_script(main)
