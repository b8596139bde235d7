"""What was measured on a published folder, in the words of its card and of MODEL_CARDS.md."""

from pathlib import Path
from typing import Any

import zoo


def measured_accuracy(checks: dict[str, Any]) -> dict[str, Any] | None:
    """Of either rule; None where the images had no labels."""
    names = ("the grid keeps the accuracy", "accuracy is the same")
    found = [checks[name] for name in names if "onnxruntime_percent" in checks.get(name, {})]
    return found[0] if found else None


def told_accuracy(checks: dict[str, Any], images: str) -> str:
    if (measured := measured_accuracy(checks)) is None:
        return "Not measured: the network was verified on pixels without labels."
    return (
        f"Top-1 on {images}: {measured['trained_percent']:.2f} % as trained, in PyTorch, "
        f"{measured['onnxruntime_percent']:.2f} % in onnxruntime."
    )


def told_operations(measured: dict[str, Any]) -> str:
    return (
        f"{measured['accumulates'] / 1e6:.2f} M additions, "
        f"{measured['multiply_accumulates'] / 1e6:.2f} M multiply-accumulates, "
        f"{measured['picojoules'] / 1e6:.2f} uJ ({measured['source']})"
    )


def how_measured(images: str, training: dict[str, Any], release: str = "") -> str:
    """What measures the results once more, in the folder's own words; of a release that it has to
    be made of anew, if named.
    """
    count = int(images.split()[0])
    made = f"to_onnx {release} --output FOLDER" if release else "verify FOLDER"
    if images.startswith(f"{count} random images, seed"):
        made += " --random-images"
    elif training["data"]["name"] != "digits":
        made += " --data-root DATA"
    return f"python -m export.{made} --num-images {count}"


def parameter_count(folder: Path) -> int:
    network = zoo.create_model(f"local-dir:{folder}", device="meta")
    return sum(parameter.numel() for parameter in network.parameters())
