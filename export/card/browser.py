"""Files and keys that @huggingface/transformers needs beside the graph.

It loads a graph in a browser or in Node with ``AutoModel``, takes labels from config.json and
resizes images as preprocessor_config.json says.
"""

import json
import math
from pathlib import Path
from typing import Any

from PIL import Image

from zoo.hub import CONFIG, read_config
from zoo.inference.classifier import seen_of_an_image

PREPROCESSOR = "preprocessor_config.json"
BROWSER_KEYS = ("transformers.js_config", "id2label")


def browser_config(label_names: list[str], is_int8: bool) -> dict[str, Any]:
    """The keys of config.json for browsers: the labels if any, and the graph to load.

    Args:
        is_int8: There is onnx/model_quantized.onnx, "q8" to transformers.js, else only fp32.
    """
    labels = {str(number): name for number, name in enumerate(label_names)}
    dtype = {"transformers.js_config": {"dtype": "q8" if is_int8 else "fp32"}}
    return dtype | ({"id2label": labels} if labels else {})


def add_browser_config(folder: Path, is_int8: bool) -> None:
    """Add these keys to a folder's config.json."""
    config = read_config(folder)
    config |= browser_config(config.get("label_names", []), is_int8)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


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
