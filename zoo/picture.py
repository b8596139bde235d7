"""One image file."""

from pathlib import Path
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError

# What PIL raises of a damaged image: SyntaxError of a PNG, RuntimeError of an AVIF.
NOT_WHOLE = (OSError, SyntaxError, RuntimeError, Image.DecompressionBombError)


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
    ImageOps.exif_transpose(image, in_place=True)
    return image
