"""Two classes of noise, dark and light, as images of several sizes in each form that is read."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

CLASSES = ("dark", "light")


def encoded(split: str, count: int) -> Iterator[tuple[int, bytes]]:
    """Labels and JPEG files, the classes in turn."""
    draw = np.random.default_rng(len(split))
    for i in range(count):
        shape = (40 + 4 * (i % 5), 60 - 4 * (i % 5), 3)
        pixels = draw.integers(0, 128, shape, dtype=np.uint8) + np.uint8(128 * (i % 2))
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        yield i % 2, file.getvalue()


def write_shards(root: Path, train: int = 16, test: int = 8) -> Path:
    """Two shards to train on and one to measure on, by WebDataset's own writer."""
    root.mkdir()
    for split, count, shards in (("train", train, 2), ("val", test, 1)):
        pattern = str(root / f"set-{split}-%04d.tar")
        with webdataset.ShardWriter(pattern, maxcount=count // shards, verbose=0) as writer:
            for i, (label, image) in enumerate(encoded(split, count)):
                writer.write({"__key__": f"{i:06d}", "jpg": image, "cls": label})
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def write_folder(root: Path, train: int = 16, test: int = 8) -> Path:
    """The same images in folders."""
    for split, count in (("train", train), ("validation", test)):
        for i, (label, image) in enumerate(encoded("train" if split == "train" else "val", count)):
            place = root / split / CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i:06d}.jpg").write_bytes(image)
    return root
