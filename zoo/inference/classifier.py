"""A published network in onnxruntime: an image in, labels with their probabilities out.

Shapes: C channels, H height, W width, K classes.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.external_data_helper import uses_external_data
from PIL import Image
from torchvision.transforms import v2

from zoo import hub
from zoo.inference.image import decode, middle, upright
from zoo.validation import whole

Picture = Image.Image | Path | str | np.ndarray
MODES = {1: "L", 3: "RGB"}  # Pillow's, by the number of channels


@dataclass(frozen=True)
class Classifier:
    """The graph of a network for uint8 pixels, with its pre-processing.

    Args:
        session: onnxruntime's session on a CPU.
        size: C, H and W of an image as the network sees it.
        crop: The part of an image's shorter side that the network sees.
        interpolation: For resizing.
        labels: Of the K classes.
    """

    session: onnxruntime.InferenceSession
    size: tuple[int, int, int]
    crop: float
    interpolation: v2.InterpolationMode
    labels: tuple[str, ...]

    def classify(
        self, image: Picture | Sequence[Picture], top: int = 5
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """The most likely labels and their softmax probabilities, best first.

        Args:
            image: A PIL image, the path of a JPEG, PNG or WebP file, or uint8 pixels [H, W, 3] or
                [H, W], of any size. EXIF orientation is applied and transparency is dropped. A
                sequence of these gives a list of such results.
            top: How many labels.

        Raises:
            FileNotFoundError: There is no file of that path.
            ValueError: It is no image with 8 bits per channel, or top is below 1.
        """
        if isinstance(image, list | tuple):
            return [self.classify(one, top) for one in image]
        whole("top", top, 1)
        (logits,) = self.session.run(["logits"], {"pixel_values": self.pixels(image)})
        scores = np.exp(logits[0].astype(np.float64) - logits[0].max())
        scores /= scores.sum()
        best = np.argsort(-scores, kind="stable")[:top]
        return [(self.labels[i], float(scores[i])) for i in best]

    def pixels(self, image: Picture) -> np.ndarray:
        """What the network sees of an image: its middle, uint8 [1, C, H, W].

        Raises:
            FileNotFoundError, ValueError: As classify.
        """
        channels, height, width = self.size
        image = _opened(image).convert(MODES[channels])
        image = middle(image, height, width, self.crop, self.interpolation)
        return np.asarray(image).reshape(1, height, width, channels).transpose(0, 3, 1, 2).copy()


def _opened(image: Picture) -> Image.Image:
    if isinstance(image, str | Path):
        with open(image, "rb") as file:
            return decode(file, "image", image)
    if isinstance(image, Image.Image):
        return upright(image, "image", "a PIL image")
    if image.dtype != np.uint8 or (image.ndim, *image.shape[2:]) not in ((2,), (3, 1), (3, 3)):
        raise ValueError(
            "image: expected uint8 pixels [H, W, 3] or [H, W], got "
            f"{image.dtype} {list(image.shape)}"
        )
    return Image.fromarray(image.squeeze(2) if image.shape[2:] == (1,) else image)


def load_onnx(name: str, cache_dir: str | Path | None = None) -> Classifier:
    """Load the ONNX graph of a published network with its pre-processing.

    >>> zoo.load_onnx("hf-hub:org/name").classify("cat.jpg")

    Args:
        name: As for create_model: ``arch``, ``arch.tag``, a folder, or
            ``hf-hub:org/name[@revision]``.
        cache_dir: For downloads; huggingface_hub's own cache if None.

    Returns:
        The graph in onnxruntime on a CPU, with ``classify(image)``.

    Raises:
        ValueError, FileNotFoundError, PullError: As create_model, for the graph.
    """
    graph = _graph_of_pixels(hub.locate(name, (hub.CONFIG,), cache_dir))
    folder = hub.locate(name, (hub.CONFIG, graph), cache_dir)
    config = hub.read_config(folder)
    path = folder / graph
    content = path.read_bytes()
    try:
        if any(map(uses_external_data, onnx.load_model_from_string(content).graph.initializer)):
            raise ValueError("it keeps weights in other files, which have no hash")
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's have no base in common
        raise ValueError(f"{path}: cannot be loaded: {error}") from None
    size, crop, interpolation = seen_of_an_image(config, folder)
    classes = config["num_classes"]
    (pixels, *_), (logits, *_) = session.get_inputs(), session.get_outputs()
    found = (pixels.name, pixels.type, *pixels.shape[1:], logits.name, *logits.shape[1:])
    if found != ("pixel_values", "tensor(uint8)", *size, "logits", classes):
        raise ValueError(f"{path}: expected the graph of its {hub.CONFIG}, got {found}")
    labels = tuple(config.get("label_names") or map(str, range(classes)))
    return Classifier(session, size, crop, interpolation, labels)


def _graph_of_pixels(folder: Path) -> str:
    """The int8 graph if a folder has one, else the one in fp32."""
    with suppress(OSError, ValueError, KeyError):  # no report
        if hub.INT8_GRAPH in json.loads((folder / hub.REPORT).read_text())["sha256"]:
            return hub.INT8_GRAPH
    return hub.INT8_GRAPH if (folder / hub.INT8_GRAPH).is_file() else hub.UINT8_GRAPH


def seen_of_an_image(
    config: dict[str, Any], folder: Path
) -> tuple[tuple[int, int, int], float, v2.InterpolationMode]:
    """Size, crop and interpolation of a Classifier by a folder's config.json.

    Raises:
        ValueError: Its pretrained_cfg asks for other pre-processing.
    """
    cfg = config["pretrained_cfg"]
    size, crop, mode = tuple(cfg["input_size"]), cfg["crop_pct"], cfg["crop_mode"]
    if size[0] not in MODES or mode != "center" or not 0 < crop <= 1:
        raise ValueError(
            f"{folder / hub.CONFIG}: expected 1 or 3 channels, crop_mode 'center' and crop_pct up "
            f"to 1 in pretrained_cfg, got {size[0]} channels, {mode!r} and {crop}"
        )
    return size, crop, v2.InterpolationMode(cfg["interpolation"])
