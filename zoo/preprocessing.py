"""What an image goes through before a network measures it."""

import math

from PIL import Image
from torchvision.transforms import v2


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
