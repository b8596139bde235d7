"""Images in files of any size, read by timm when they are needed: ImageNet.

Shapes: B images of a batch, C channels, H height, W width.
"""

import dataclasses
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path, PurePath
from typing import IO

import torch
from PIL import Image
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader import Reader
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from timm.utils.misc import natural_key
from torch import Tensor
from torchvision.transforms import v2

from zoo.console import watched
from zoo.data.archive import StrictHeader
from zoo.data.config import CENTRE, DataConfig, Split
from zoo.data.suffixes import check_classes, is_image, refuse_dangling
from zoo.inference.image import decode, middle

SPLITS = {"train": "train", "test": "val"}
READ = get_img_extensions()
BICUBIC = v2.InterpolationMode.BICUBIC


@dataclass(frozen=True)
class ImageFiles:
    """What ImageSet is, for images that stay in their files; random crops where a seed is given.

    Args:
        reader: timm's; its own labels are not used.
        labels: Of each of its files, in its order.
        indices: Files of these images.
    """

    reader: Reader
    labels: Tensor
    indices: Tensor
    classes: tuple[str, ...]
    size: int

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, [C, H, W]."""
        return (3, self.size, self.size)

    def subset(self, indices: Tensor) -> "ImageFiles":
        """Those at int64 indices [N] of these."""
        return dataclasses.replace(self, indices=self.indices[indices])

    def take(
        self, indices: Sequence[int], seed: Callable[[int], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images and their labels.

        Args:
            indices: B of these images.
            seed: Is called with each index before a random part is taken; without it the middle is.

        Returns:
            uint8 [B, 3, size, size] and int64 [B].

        Raises:
            ValueError: A file cannot be read; the message names it.
        """
        images, labels = [], []
        for index in indices:
            file = int(self.indices[index])
            image = self._read(file)
            if seed is None:
                image = middle(image, self.size, self.size, CENTRE, BICUBIC)
            else:
                seed(index)
                image = v2.RandomResizedCrop(self.size, interpolation=BICUBIC)(image)
            images.append(v2.functional.pil_to_tensor(image))
            labels.append(int(self.labels[file]))
        return torch.stack(images), torch.tensor(labels)

    def _read(self, index: int) -> Image.Image:
        name = self.reader.filename(index, absolute=True)
        try:
            file, _ = self.reader[index]  # timm's dataset would pass over a broken one silently
        except OSError as error:
            raise ValueError(f"data.root: expected to read {name}, got: {error}") from None
        with file:
            return decode(file, "data.root", name).convert("RGB")


def image_files(config: DataConfig, split: Split) -> ImageFiles:
    """A split of a folder, or of a folder of tar archives, by timm's own readers."""
    place = Path(config.root) / SPLITS[split]
    archive = place.with_suffix(".tar")
    packed = archive.is_file()
    if packed and place.is_dir():
        raise ValueError(
            f"data.root: expected {place.name}/ or {archive.name}, got both in {config.root!r}, "
            "which need not hold the same images; move one away"
        )
    try:
        folders = _innermost(_check_whole(archive) if packed else _check_files(place))
    except (OSError, tarfile.TarError) as error:
        raise _none_there(config, error) from None
    try:
        if packed:
            # timm would cache a large archive's index as a pickle
            reader = ReaderImageInTar(str(archive), cache_tarinfo=False)
            numbers, theirs = reader.class_name_to_idx, reader.targets
        else:
            reader = ReaderImageFolder(str(place))
            numbers, theirs = reader.class_to_idx, [label for _, label in reader.samples]
    except (AssertionError, RuntimeError, OSError, ValueError, tarfile.TarError) as error:
        raise _none_there(config, error) from None
    _check_layout(reader, place)
    # timm numbers names that its key takes for the same, as a and A, otherwise in each process.
    names = sorted(numbers, key=lambda name: (natural_key(name), name))
    ours = {numbers[name]: label for label, name in enumerate(names)}
    labels = [ours[number] for number in map(int, theirs)]
    # One order, however it is packed: what is held out follows from it.
    files = [(label, reader.filename(i, basename=True)) for i, label in enumerate(labels)]
    order = sorted(range(len(files)), key=files.__getitem__)
    for one, other in pairwise(order):
        if files[one] == files[other]:
            raise ValueError(
                f"data.root: expected each image once, got {reader.filename(one)} twice in "
                f"{str(archive)!r}"
            )
    if "" in numbers:
        stray = next(file for label, file in files if names[label] == "")
        raise ValueError(f"data.root: expected CLASS/IMAGE in {str(place)!r}, got {stray}")
    check_classes(folders, names, repr(str(place)))
    return ImageFiles(reader, torch.tensor(labels), torch.tensor(order), tuple(names), config.size)


def _none_there(config: DataConfig, error: Exception) -> FileNotFoundError:
    return FileNotFoundError(
        f"data.root: expected {config.root!r} with train/CLASS/IMAGE and val/CLASS/IMAGE, or "
        f"train.tar and val.tar of such, got: {error}; ImageNet comes from "
        "https://image-net.org/download-images on request"
    )


def _check_whole(archive: Path | IO[bytes]) -> set[PurePath]:
    """Raise for an archive, or one inside it, that ends early; timm would read what is there. Its
    folders, of which an archive inside it is one.
    """
    outermost = isinstance(archive, Path)
    place = {"name": archive} if outermost else {"fileobj": archive}
    folders = set()
    with tarfile.open(**place, mode="r:", tarinfo=StrictHeader) as files:
        for member in watched(files, f"looking through {archive.name}") if outermost else files:
            path = PurePath(member.name)
            is_image(path, READ)
            folders.add(path if member.isdir() else path.parent)
            if member.islnk() or member.issym():  # timm would leave it out
                raise ValueError(
                    f"data.root: expected images themselves, got a link, {member.name}; pack with "
                    "tar --dereference --hard-dereference"
                )
            if member.name.endswith(".tar") and member.isfile():
                inside = path.with_suffix("")
                below = _check_whole(files.extractfile(member))
                folders |= {inside, *(inside / folder for folder in below)}
    return folders


def _check_files(place: Path) -> set[PurePath]:
    """Raise for what timm would leave out: an image of another kind, a folder that is not to be
    read. The folders inside.
    """
    folders = set()

    def refuse(error: OSError) -> None:
        raise error

    for folder, _, files in os.walk(place, onerror=refuse, followlinks=True):
        folders.add(PurePath(folder).relative_to(place))
        for path in (Path(folder, file) for file in files):
            if not is_image(path, READ):
                refuse_dangling(path)
    return folders


def _innermost(folders: set[PurePath]) -> set[str]:
    """Names of folders that have no other inside, but for those that a dot hides."""
    seen = {PurePath(*takewhile(lambda part: part[0] != ".", f.parts)) for f in folders}
    above = {parent for folder in seen for parent in folder.parents}
    return {folder.name for folder in seen - above} - {""}


def _check_layout(reader: Reader, place: Path) -> None:
    """Raise where images lie at different places above their class, whose name timm takes from the
    innermost folder alone.
    """
    first: dict[str, str] = {}
    for i in range(len(reader)):
        name = reader.filename(i)
        first.setdefault(os.path.dirname(os.path.dirname(name)), name)
        if len(first) > 1:
            found = " and ".join(first.values())
            raise ValueError(f"data.root: expected CLASS/IMAGE in {str(place)!r}, got {found}")
