"""A published network in onnxruntime: an image in, labels with their probabilities out.

Shapes: C channels, H height, W width, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import Message
from onnx.external_data_helper import uses_external_data
from PIL import Image
from torchvision.transforms import v2

from zoo import hub
from zoo.factory import check_name
from zoo.inference.image import NOT_WHOLE, decode, middle, upright
from zoo.validation import whole

MODES = {1: "L", 3: "RGB"}  # PIL's, by the number of channels
LONGEST = 100  # times its other side, of an image; more would take much memory to be shown little


@dataclass(frozen=True)
class Classifier:
    """The graph of a network for whole pixels, and what an image goes through before it.

    Args:
        session: onnxruntime's, for uint8 pixels; it runs on a CPU.
        size: C, H and W of an image as the network sees it.
        crop: The part of an image's shorter side that it sees.
        interpolation: By which an image of another size is brought to this one.
        labels: Of the K classes.
    """

    session: onnxruntime.InferenceSession
    size: tuple[int, int, int]
    crop: float
    interpolation: v2.InterpolationMode
    labels: tuple[str, ...]

    def classify(
        self, image: Image.Image | Path | str | np.ndarray, top: int = 5
    ) -> list[tuple[str, float]]:
        """The likeliest labels and their softmax probabilities, the likeliest first.

        Args:
            image: A PIL image, the path of one, or uint8 pixels [H, W, C] or [H, W], of any size,
                up to a hundred times as long as wide. It is turned as its camera says (EXIF), and
                transparency is left out.
            top: How many.

        Raises:
            FileNotFoundError: There is no file of that path.
            ValueError: It is no image of 8-bit pixels, or much longer than wide; or top is no whole
                number from 1 on.
        """
        whole("top", top, 1)
        (logits,) = self.session.run(["logits"], {"pixel_values": self.pixels(image)})
        scores = np.exp(logits[0].astype(np.float64) - logits[0].max())
        scores /= scores.sum()
        best = np.argsort(-scores, kind="stable")[:top]
        return [(self.labels[i], float(scores[i])) for i in best]

    def pixels(self, image: Image.Image | Path | str | np.ndarray) -> np.ndarray:
        """What the network sees of an image, uint8 [1, C, H, W]: its middle, as it is measured.

        Raises:
            FileNotFoundError: There is no file of that path.
            ValueError: It is no image of 8-bit pixels, or much longer than wide.
        """
        channels, height, width = self.size
        image = _opened(image)
        if max(image.size) > LONGEST * min(image.size):
            raise ValueError(
                f"image: expected a side of at most {LONGEST} times the other, got {image.width} x "
                f"{image.height}"
            )
        image = image.convert(MODES[channels])
        image = middle(image, height, width, self.crop, self.interpolation)
        return np.asarray(image).reshape(1, height, width, channels).transpose(0, 3, 1, 2).copy()


def _opened(image: Image.Image | Path | str | np.ndarray) -> Image.Image:
    if isinstance(image, str | Path):
        if Path(image).is_dir():
            raise ValueError(f"image: expected a file, got the folder {image}")
        with open(image, "rb") as file:
            return decode(file, "image", image)
    if isinstance(image, np.ndarray):
        shape = image.shape[:2] if image.shape[2:] == (1,) else image.shape
        if image.dtype != np.uint8 or shape[2:] not in ((), (3,)) or len(shape) < 2:
            raise ValueError(
                "image: expected uint8 pixels [H, W, 3] or [H, W], got "
                f"{image.dtype} {list(image.shape)}"
            )
        image = Image.fromarray(image.reshape(shape))
    if not isinstance(image, Image.Image) or image.mode.startswith(("I", "F")):
        found = image.mode if isinstance(image, Image.Image) else type(image).__name__
        raise ValueError(f"image: expected a path or an image of 8-bit pixels, got {found}")
    if 0 in image.size:
        raise ValueError(f"image: expected one with pixels, got {image.width} x {image.height}")
    try:
        image.load()
    except NOT_WHOLE as error:
        raise ValueError(f"image: expected a whole image, got {error}") from None
    return upright(image)


def load_onnx(name: str, cache_dir: str | Path | None = None) -> Classifier:
    """A network's graph in onnxruntime, with its pre-processing.

    >>> zoo.load_onnx("hf-hub:org/name").classify("cat.jpg")

    Args:
        name: As for create_model: ``arch``, ``arch.tag``, ``local-dir:FOLDER`` or
            ``hf-hub:org/name[@revision]``, of a published network.
        cache_dir: For what comes from the Hub; huggingface_hub's own cache if None.

    Returns:
        The graph in onnxruntime on a CPU, with ``classify(image)``.

    Raises:
        ValueError, FileNotFoundError, PullError: As create_model, for the graph.
    """
    check_name(name)
    folder = hub.locate(name, (hub.CONFIG, hub.UINT8_GRAPH), cache_dir)
    config = hub.read_config(folder)
    path = folder / hub.UINT8_GRAPH
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the graph of a published network, found none")
    try:
        content = path.read_bytes()
        graph = onnx.load_model_from_string(content)
        if outside := [tensor.name for tensor in tensors(graph) if uses_external_data(tensor)]:
            raise ValueError(f"weights in other files, {outside[:3]}, which no hash covers")
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnx's and onnxruntime's have no kind in common
        raise ValueError(f"{path}: expected a whole ONNX graph, got {error}") from None
    size, crop, interpolation = seen_of_an_image(config, folder)
    classes = config["num_classes"]
    (pixels, *more), (logits, *_) = session.get_inputs(), session.get_outputs()
    found = (pixels.name, pixels.type, *pixels.shape[1:], logits.name, *logits.shape[1:])
    if more or found != ("pixel_values", "tensor(uint8)", *size, "logits", classes):
        raise ValueError(f"{path}: expected the graph of its {hub.CONFIG}, got {found}")
    labels = tuple(config.get("label_names") or map(str, range(classes)))  # no more than logits
    return Classifier(session, size, crop, interpolation, labels)


def seen_of_an_image(
    config: dict[str, Any], folder: Path
) -> tuple[tuple[int, int, int], float, v2.InterpolationMode]:
    """Size, crop and interpolation, as Classifier has them, of the config.json of a folder.

    Raises:
        ValueError: Its pretrained_cfg asks for what a Classifier does not do.
    """
    cfg = config["pretrained_cfg"]
    try:
        size, crop, mode = tuple(cfg["input_size"]), cfg["crop_pct"], cfg["crop_mode"]
        interpolation = v2.InterpolationMode(cfg["interpolation"])
        known = size[0] in MODES and mode == "center" and 0.01 <= crop <= 1
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / hub.CONFIG}: expected what an image goes through in pretrained_cfg, got "
            f"{error!r}"
        ) from None
    if not known:
        raise ValueError(
            f"{folder / hub.CONFIG}: expected 1 or 3 channels and the middle of an image in "
            f"pretrained_cfg, crop_mode 'center' and crop_pct up to 1, got {size[0]} channels, "
            f"crop_mode {mode!r} and crop_pct {crop}"
        )
    return size, crop, interpolation


def tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor of an ONNX file or a part of one, wherever it stands."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                yield from tensors(part)
