"""One image: decoded, turned upright, and cut to what a network sees of it."""

import math
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, UnidentifiedImageError
from torchvision.transforms import v2

# What PIL raises of a damaged image: SyntaxError and ValueError of a PNG, RuntimeError of an AVIF.
NOT_WHOLE = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)
TURNS = {  # by EXIF's orientation, all that is not upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(file: IO[bytes], key: str, place: Path | str) -> Image.Image:
    """An image with all of its pixels, turned as its camera says (EXIF).

    Args:
        key: The argument or option that it came by, for the error.
        place: Which one it is, for the error.

    Raises:
        ValueError: It is no whole image, or grey of more than 8 bits.
    """
    try:
        image = Image.open(file)
        image.load()
    except UnidentifiedImageError:  # it would name the open file and not its place
        raise ValueError(
            f"{key}: expected an image, got {place}, which is none, or a damaged one"
        ) from None
    except NOT_WHOLE as error:
        raise ValueError(f"{key}: expected a whole image, got {place}: {error}") from None
    if image.mode[0] in "IF":  # PIL would clip their values to 255
        raise ValueError(f"{key}: expected 8 bits a channel, got {image.mode} in {place}")
    return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """An image turned as its camera says; as it is where its EXIF says nothing that can be read."""
    try:
        # PIL's exif_transpose writes all tags anew, and stops at one that is no EXIF.
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # of as many kinds as there are ways to write it wrongly
        return image
    return image if turn is None else image.transpose(turn)


def middle(
    image: Image.Image,
    height: int,
    width: int,
    crop: float,
    interpolation: v2.InterpolationMode,
) -> Image.Image:
    """The middle of an image, height x width, once it is so large that crop of its shorter side is
    seen, or of either if it is to be no square; as timm does with crop_mode "center".
    """
    sides = [math.floor(side / crop) for side in (height, width)]
    if height == width:
        sides = sides[:1]  # of the shorter side
    else:
        grown = max(sides[0] / image.height, sides[1] / image.width)
        sides = [round(image.height * grown), round(image.width * grown)]
    image = v2.functional.resize(image, sides, interpolation)
    return v2.functional.center_crop(image, [height, width])
