"""Data sets of the library ``datasets``, from the Hub or a folder, as timm's hfds/ reads them."""

import io
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from zoo.data.config import SPLITS, DataConfig, Split
from zoo.data.files import ImageFiles, class_names


def image_table(config: DataConfig, split: Split) -> ImageFiles:
    """A split of a set on the Hub, or in a folder of save_to_disk, Parquet files or images.

    Raises:
        FileNotFoundError: There is no such set or split.
        ImportError: datasets is not installed.
        ValueError: It has no column of images, or none of labels.
    """
    import datasets  # optional, and slow to import

    table = _load(config, split)
    images, labels = (
        [name for name, feature in table.features.items() if isinstance(feature, kind)]
        for kind in (datasets.Image, datasets.ClassLabel)
    )
    label = [*labels, "label"][0]
    if not images or label not in table.features:
        raise ValueError(
            f"data.name: expected a column of images and one of labels in {config.name}, got "
            f"{table.features}"
        )
    numbers = torch.tensor(table[label][:])
    classes = class_names(numbers, getattr(table.features[label], "names", None), config.name)
    encoded = table.select_columns(images[:1]).cast_column(images[0], datasets.Image(decode=False))
    read = partial(_opened, encoded, config.name)
    return ImageFiles(read, torch.arange(len(numbers)), numbers, classes, config.size)


def _load(config: DataConfig, split: Split) -> Any:
    import datasets

    name = config.name.partition("/")[2]
    place = Path(config.root, name)
    if (place / "dataset_dict.json").is_file():
        found = datasets.load_from_disk(place)
    else:
        found = datasets.load_dataset(str(place) if place.is_dir() else name)
    splits = [name for name in SPLITS[split] if name in found]
    if not splits:
        raise FileNotFoundError(
            f"data.name: {config.name} has the splits {[*found]}, none of {[*SPLITS[split]]}; "
            "data.holdout measures on training images"
        )
    return found[splits[0]]


def _opened(table: Any, name: str, number: int) -> tuple[IO[bytes], str]:
    (image,) = table[number].values()
    if image["bytes"]:
        return io.BytesIO(image["bytes"]), f"image {number} of {name}"
    return open(image["path"], "rb"), image["path"]
