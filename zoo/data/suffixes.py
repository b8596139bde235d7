"""Which files are images that are read. A set with some of its images left out would pass for the
set: an image of another kind is refused, and so is a class of which no file is read.
"""

from collections.abc import Collection, Iterable
from pathlib import Path, PurePath

KNOWN = {
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif"),
    *(".jp2", ".jpe", ".jpeg", ".jpg", ".jxl", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".psd"),
    *(".tga", ".tif", ".tiff", ".webp"),
}


def is_image(path: PurePath, read: Collection[str]) -> bool:
    """Whether a file is an image.

    Args:
        read: Suffixes of those that are read, in lower case.

    Raises:
        ValueError: It is an image of another kind, or what macOS keeps beside an image.
    """
    suffix = path.suffix.lower()
    if suffix in KNOWN and path.name.startswith("._"):
        raise ValueError(f"data.root: expected images, got {path}, which macOS made; remove it")
    if suffix in KNOWN and suffix not in read:
        raise ValueError(f"data.root: expected images in {', '.join(sorted(read))}, got {path}")
    return suffix in read


def refuse_dangling(path: Path) -> None:
    """Raise for a link to nothing: a class whose disk is not there would be left out. Hidden links
    are nobody's class.
    """
    if path.is_symlink() and not path.exists() and not path.name.startswith("."):
        raise ValueError(f"data.root: expected what {path} links to, found nothing there")


def check_classes(folders: Iterable[str], classes: Collection[str], place: str) -> None:
    """Raise unless every folder of a split has images, and there are two or more.

    Args:
        folders: Names; those that a dot hides are nobody's class, and have no images.
        classes: Names of those that images were found in.
        place: Which split, for the error.
    """
    if hidden := sorted(name for name in classes if name.startswith(".")):
        raise ValueError(
            f"data.root: expected no images in hidden folders of {place}, got some in {hidden[0]}; "
            "remove it"
        )
    if bare := sorted({name for name in folders if not name.startswith(".")} - {*classes}):
        raise ValueError(
            f"data.root: expected images in each class of {place}, found none in {bare[0]}"
        )
    if len(classes) == 1:
        (only,) = classes
        raise ValueError(
            f"data.root: expected images of two classes or more in {place}, got {only!r} alone"
        )
