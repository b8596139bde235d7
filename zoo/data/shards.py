"""WebDataset's shards: tar archives of images and their labels, read in any order.

A stream has no order that a run could resume in. So the headers of each archive are read once, for
the place of each image; then an image is read by its number, as one in a folder.
Shapes: N images.
"""

import io
import re
import tarfile
from functools import partial
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from zoo.console import watched
from zoo.data.config import SPLITS, DataConfig, Split
from zoo.data.files import SUFFIXES, ImageFiles, class_names

CLASSES = "classes.txt"  # names of the classes, a line each; without it their numbers


def image_shards(config: DataConfig, split: Split) -> ImageFiles:
    """A split of shards that lie anywhere in a folder, ``*train*.tar`` and ``*val*.tar`` by their
    names or folders. Each image, KEY.jpg, has its label in KEY.cls, a number from 0.

    Raises:
        FileNotFoundError: There are no shards of that split.
        ValueError: One is no plain tar archive, or an image has no label.
    """
    shards = find_shards(config.place, split)
    places, labels = [], []
    for number, shard in enumerate(watched(shards, f"listing {split} shards")):
        for offset, size, label in _listed(shard):
            places.append((number, offset, size))
            labels.append(label)
    numbers, file = torch.tensor(labels), config.place / CLASSES
    names = file.read_text(encoding="utf-8").splitlines() if file.is_file() else None
    classes = class_names(numbers, names, str(config.place))
    read = partial(_opened, shards, torch.tensor(places))
    return ImageFiles(read, torch.arange(len(places)), numbers, classes, config.size)


def find_shards(place: Path, split: Split) -> list[Path]:
    """The archives of a split, sorted.

    Raises:
        FileNotFoundError: There are none.
    """
    shards = sorted(place.rglob("*.tar"))
    for name in SPLITS[split]:
        # Words of the path within the folder, so that "interval" is no "val".
        found = [s for s in shards if name in re.split(r"[\W_\d]+", str(s.relative_to(place)))]
        if found:
            return found
    raise FileNotFoundError(
        f"data.root: {place} has no shards of {' or '.join(SPLITS[split])}, such as "
        f"{SPLITS[split][0]}-0000.tar"
    )


def _listed(shard: Path) -> list[tuple[int, int, int]]:
    """Offset, size and label of each image of a shard, in their order."""
    images, labels = {}, {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                # WebDataset's key ends at the first dot of the file's name.
                folder, _, name = member.name.rpartition("/")
                key, _, suffix = name.partition(".")
                if f".{suffix.lower()}" in SUFFIXES:
                    images[folder, key] = member.offset_data, member.size
                elif suffix == "cls":
                    labels[folder, key] = int(archive.extractfile(member).read())
        return [(*place, labels[key]) for key, place in images.items()]
    except (tarfile.TarError, ValueError, KeyError) as error:
        raise ValueError(
            f"data.root: expected a tar archive with a number in KEY.cls for each image, got "
            f"{shard}: {error}"
        ) from None


def _opened(shards: list[Path], places: Tensor, number: int) -> tuple[IO[bytes], str]:
    shard, offset, size = places[number].tolist()
    with open(shards[shard], "rb") as file:
        file.seek(offset)
        return io.BytesIO(file.read(size)), f"the image at byte {offset} of {shards[shard]}"
