"""Data sets of images and of event streams, behind one function.

Shapes: N images, T frames, C channels, H height, W width.
"""

import torch
from torch import Tensor

from zoo.data.config import DataConfig, Split, pixel_values
from zoo.data.events import event_frames
from zoo.data.files import ImageFiles, image_files, image_folder
from zoo.data.hfds import image_table
from zoo.data.sets import ImageSet, normalise
from zoo.data.shards import image_shards
from zoo.data.small import digits, torchvision_set


def load_images(config: DataConfig, split: Split) -> ImageSet | ImageFiles:
    """Load one split of a data set.

    Raises:
        FileNotFoundError: The data set is not at config.root; the message says what to do.
        ImportError: The library that reads it is not installed.
        ValueError: Images of several sizes, labels that are missing, or mean and std for other
            channels.
    """
    match config.kind:
        case "digits":
            found = digits(split)
        case "image_folder":
            found = image_folder(config, split)
        case "imagenet" | "folder":
            found = image_files(config, split)
        case "wds":
            found = image_shards(config, split)
        case "hfds":
            found = image_table(config, split)
        case "cifar10_dvs" | "dvs_gesture":
            found = event_frames(config, split)
        case _:
            found = torchvision_set(config, split)
    config.check_channels(found.shape[-3])
    return found


def measured_images(
    config: DataConfig, train: ImageSet | ImageFiles | None = None
) -> tuple[ImageSet | ImageFiles, str]:
    """The images that a run is measured on, and "holdout" or "test".

    Args:
        train: The whole training split, if it is loaded already.
    """
    if not config.holdout:
        return load_images(config, "test"), "test"
    if train is None:
        train = load_images(config, "train")
    return train.subset(drawn_order(len(train))[: config.holdout]), "holdout"


def drawn_order(count: int) -> Tensor:
    """One random order of images, of which the first are held out; the same for every seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))
