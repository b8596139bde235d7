"""Which files are images that are read. A set with some of its images left out would pass for the
set: an image of another kind is refused.
"""

from collections.abc import Collection
from pathlib import PurePath

KNOWN = {
    *(".avif", ".bmp", ".gif", ".heic", ".jp2", ".jpeg", ".jpg", ".jxl"),
    *(".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
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
