"""One image file of a data set."""

from typing import IO

from PIL import Image, UnidentifiedImageError


def decode(file: IO[bytes], place: str) -> Image.Image:
    """An image in RGB.

    Args:
        place: Which one it is, for the error.

    Raises:
        ValueError: It is no whole image, or one with more than 8 bits a channel.
    """
    try:
        image = Image.open(file)
        if image.mode[0] in "IF":  # PIL would clip their values to 255
            raise ValueError(f"data.root: expected 8 bits a channel, got {image.mode} in {place}")
        return image.convert("RGB")
    except UnidentifiedImageError:  # it would name the open file and not its place
        raise ValueError(f"data.root: expected an image, got {place}, which is none") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        # SyntaxError is PIL's of a damaged PNG
        raise ValueError(f"data.root: expected an image, got {place}: {error}") from None
