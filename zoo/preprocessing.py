"""What an image goes through before a network measures it."""

from PIL import Image
from torchvision.transforms import v2


def middle(
    image: Image.Image,
    height: int,
    width: int,
    crop: float,
    interpolation: v2.InterpolationMode,
) -> Image.Image:
    """The middle of an image, height x width, once its shorter side is so large that crop of it is
    seen; as timm does with crop_mode "center".
    """
    image = v2.functional.resize(image, [round(min(height, width) / crop)], interpolation)
    return v2.functional.center_crop(image, [height, width])
