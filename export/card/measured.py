"""Figures of a published folder in words, for its card and MODEL_CARDS.md."""

from pathlib import Path
from typing import Any

import zoo
from export.checks.check import figures_by_id
from export.checks.images import describe_images


def describe_accuracy(report: dict[str, Any]) -> str:
    accuracy = figures_by_id(report)["accuracy"]
    if "onnxruntime_percent" not in accuracy:
        return "Not measured: the network was verified on pixels without labels."
    told = (
        f"Top-1 on {describe_images(report['images'])}: {accuracy['trained_percent']:.2f} % as "
        f"trained, in PyTorch, {accuracy['onnxruntime_percent']:.2f} % in onnxruntime"
    )
    int8 = figures_by_id(report).get("int8_accuracy")
    return f"{told}, {int8['onnxruntime_percent']:.2f} % in int8." if int8 else f"{told}."


def describe_operations(energy: dict[str, Any]) -> str:
    return (
        f"{energy['accumulates'] / 1e6:.2f} M additions, "
        f"{energy['multiply_accumulates'] / 1e6:.2f} M multiply-accumulates, "
        f"{energy['picojoules'] / 1e6:.2f} uJ ({energy['source']})"
    )


def command_to_measure(images: dict[str, Any], training: dict[str, Any], release: str = "") -> str:
    """The command that measures a folder's figures again.

    Args:
        images: Their entry in verification.json.
        release: A release that the package holds without all graphs: the command exports it first.
    """
    command = f"to_onnx {release} --output FOLDER" if release else "verify FOLDER"
    if images["random"]:
        command += " --random-images"
    elif training["data"]["name"] != "digits":
        command += " --data-root DATA"
    return f"python -m export.{command} --num-images {images['count']}"


def parameter_count(folder: Path) -> int:
    network = zoo.create_model(f"local-dir:{folder}", device="meta")
    return sum(parameter.numel() for parameter in network.parameters())
