"""Files and keys that @huggingface/transformers needs beside the graph.

It loads onnx/model.onnx in a browser or in Node with ``AutoModel``, takes labels from config.json
and resizes images as preprocessor_config.json says.
"""

import json
import math
from pathlib import Path
from typing import Any

from PIL import Image

from zoo.hub import read_config
from zoo.inference.classifier import seen_of_an_image

PREPROCESSOR = "preprocessor_config.json"
BROWSER_KEYS = ("transformers.js_config", "id2label")


def browser_config(label_names: list[str]) -> dict[str, Any]:
    """The keys of config.json for browsers: fp32 is the only type, and the labels if any."""
    labels = {str(number): name for number, name in enumerate(label_names)}
    return {"transformers.js_config": {"dtype": "fp32"}} | ({"id2label": labels} if labels else {})


def preprocessor(folder: Path) -> str | None:
    """Content of preprocessor_config.json, or None unless images are RGB and square.

    Args:
        folder: Has config.json.
    """
    config = read_config(folder)
    (channels, height, width), crop, interpolation = seen_of_an_image(config, folder)
    if channels != 3 or height != width:  # transformers.js would pad other images with black
        return None
    described = {
        "image_processor_type": "CLIPImageProcessor",  # resizes, crops and normalises like timm
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": math.floor(height / crop)},
        "resample": Image.Resampling[interpolation.name].value,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": config["pretrained_cfg"]["mean"],
        "image_std": config["pretrained_cfg"]["std"],
    }
    return json.dumps(described, indent=2) + "\n"
