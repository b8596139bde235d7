"""A published folder: the names in it, the hashes of its files, and how one comes to stand.

README.md            the model card
config.json          timm's schema, with the neuron constants
model.safetensors    the weights, without heads
onnx/model.onnx      the graph
verification.json    what was checked, with the sha256 of every other file
"""

import hashlib
from pathlib import Path

GRAPH, REPORT = "onnx/model.onnx", "verification.json"


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file by its path in the folder, the report itself left out."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != REPORT
    }


def move_into_place(folder: Path, target: Path) -> None:
    """Rename a whole folder to target; what stood there goes to where the folder came from."""
    replaced = folder.with_name(f"{folder.name}.replaced")
    if target.exists():
        target.rename(replaced)
    try:
        folder.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
