"""What @huggingface/transformers needs of a published folder besides the graph.

It loads onnx/model.onnx in a browser or in Node by ``AutoModel``, with labels from config.json and
pixels as preprocessor_config.json says. Its image-classification pipeline knows architectures by
name and not ours; posing as one of them would be a lie.
"""

import json
import math
from pathlib import Path
from typing import Any

from zoo.hub import CONFIG, read_config
from zoo.inference.classifier import seen_of_an_image

PREPROCESSOR = "preprocessor_config.json"
BROWSER_KEYS = ("transformers.js_config", "id2label")
RESAMPLE = {
    "nearest": 0,
    "lanczos": 1,
    "bilinear": 2,
    "bicubic": 3,
    "box": 4,
    "hamming": 5,
}  # PIL's


def browser_config(label_names: list[str]) -> dict[str, Any]:
    """Of BROWSER_KEYS those that a config.json has: labels, and that fp32 is the only type."""
    labels = {str(number): name for number, name in enumerate(label_names)}
    return {"transformers.js_config": {"dtype": "fp32"}} | ({"id2label": labels} if labels else {})


def preprocessor(folder: Path) -> str | None:
    """preprocessor_config.json of a folder with config.json; None where images are not RGB or not
    square, for which there is no such description.

    Raises:
        ValueError: Its pretrained_cfg asks for what zoo.load_onnx or AutoImageProcessor cannot do.
    """
    config = read_config(folder)
    (channels, height, width), crop, interpolation = seen_of_an_image(config, folder)
    if channels != 3 or height != width:  # other sides it would fill up with black
        return None
    if interpolation.value not in RESAMPLE:
        raise ValueError(
            f"{folder / CONFIG}: expected interpolation as one of {[*RESAMPLE]} in pretrained_cfg, "
            f"got {interpolation.value!r}"
        )
    described = {
        "image_processor_type": "CLIPImageProcessor",  # it resizes, crops and normalises as timm
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": math.floor(height / crop)},
        "resample": RESAMPLE[interpolation.value],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": config["pretrained_cfg"]["mean"],
        "image_std": config["pretrained_cfg"]["std"],
    }
    return json.dumps(described, indent=2) + "\n"
