"""Sets of images and of event streams, behind one door.

Shapes: N images, T frames, C channels, H height, W width.
"""

from typing import get_args

from zoo.data.config import DataConfig, DatasetName, Split
from zoo.data.events import event_frames
from zoo.data.files import ImageFiles, image_files
from zoo.data.sets import ImageSet, normalise
from zoo.data.small import digits, image_folder, torchvision_set

__all__ = ["DataConfig", "ImageFiles", "ImageSet", "Split", "load_images", "normalise"]


def load_images(config: DataConfig, split: Split) -> ImageSet | ImageFiles:
    """One split of a set.

    Raises:
        FileNotFoundError: The set is not at config.root; the message says what to do.
        ValueError: Images of several sizes, no images, mean and std for other channels, or no such
            set or split.
    """
    for key, known, got in (("data.name", DatasetName, config.name), ("split", Split, split)):
        if got not in get_args(known):
            raise ValueError(f"{key}: expected one of {list(get_args(known))}, got {got!r:.100}")
    match config.name:
        case "digits":
            found = digits(split)
        case "image_folder":
            found = image_folder(config, split)
        case "imagenet":
            found = image_files(config, split)
        case "cifar10_dvs" | "dvs_gesture":
            found = event_frames(config, split)
        case _:
            found = torchvision_set(config, split)
    config.check_channels(found.shape[-3])
    return found
