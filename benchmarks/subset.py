"""How many of 1,000 fixed test images each released network gets right, on the exact grid.

    python benchmarks/subset.py --root FOLDER_OR_TAR

Writes tests/released.json, which a test holds the releases to. The exact network's bits are the
same everywhere, and so is the count.
"""

import json
from pathlib import Path

import torch
import tyro

import zoo
from zoo import hub
from zoo.data import DataConfig, load_images

COUNT = 1000
FILE = Path(__file__).parent.parent / "tests" / "released.json"


def main(root: str) -> None:
    """Count what the released networks get right.

    Args:
        root: A folder or tar archive with train/CLASS/IMAGE and test/CLASS/IMAGE.
    """
    found = load_images(DataConfig(name="image_folder", root=root), "test")
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(1000))
    indices = order[:COUNT].sort().values
    pixels, labels = found.images[indices], found.labels[indices]
    correct = {}
    for name in zoo.list_models(pretrained=True):
        config = hub.read_config(hub.find_pretrained(name))
        if config["label_names"] == list(found.classes):
            network = zoo.deploy(zoo.create_model(name, pretrained=True).eval())
            with torch.inference_mode():
                logits = torch.cat([network(part) for part in pixels.split(100)])
            correct[name] = int((logits.argmax(1) == labels).sum())
            print(f"{name}: {correct[name]} of {COUNT}")
    content = {
        "command": "python benchmarks/subset.py --root FOLDER_OR_TAR",
        "correct": correct,
        "indices": indices.tolist(),
    }
    FILE.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
