"""Decode one image, turn it upright, and crop it to what a network sees."""

import math
from contextlib import suppress
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps
from torchvision.transforms import v2

FORMATS = ("JPEG", "PNG", "WEBP")
# What Pillow raises for a damaged image.
DAMAGED = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def decode(file: IO[bytes], key: str, place: Path | str) -> Image.Image:
    """Decode a JPEG, PNG or WebP image and turn it upright as its EXIF says.

    Args:
        key: The argument or option that it came by, for the error.
        place: Its path, for the error.

    Raises:
        ValueError: It is no such image, is damaged, or has more than 8 bits per channel.
    """
    try:
        image = Image.open(file, formats=FORMATS)
        image.load()
    except DAMAGED as error:
        raise ValueError(
            f"{key}: expected a whole {', '.join(FORMATS)} image, got {place}: {error}"
        ) from None
    return upright(image, key, place)


def upright(image: Image.Image, key: str, place: Path | str) -> Image.Image:
    """Turn an image as its EXIF says. EXIF that cannot be read is ignored.

    Raises:
        ValueError: It has more than 8 bits per channel.
    """
    if image.mode[0] in "IF":  # Pillow would clip their values to 255
        raise ValueError(f"{key}: expected 8 bits per channel, got {image.mode} in {place}")
    with suppress(Exception):  # broken EXIF raises errors of all kinds
        return ImageOps.exif_transpose(image)
    return image


def middle(
    image: Image.Image,
    height: int,
    width: int,
    crop: float,
    interpolation: v2.InterpolationMode,
) -> Image.Image:
    """Resize an image and crop its middle, height x width, as timm does with crop_mode "center".

    Args:
        crop: The part of the shorter side that is kept; of both sides if height and width differ.
    """
    sides = [math.floor(side / crop) for side in (height, width)]
    if height == width:
        sides = sides[:1]  # of the shorter side
    else:
        grown = max(sides[0] / image.height, sides[1] / image.width)
        sides = [round(image.height * grown), round(image.width * grown)]
    image = v2.functional.resize(image, sides, interpolation)
    return v2.functional.center_crop(image, [height, width])
