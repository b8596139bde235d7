import io

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from zoo.inference.image import decode

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def saved(kind: str, exif: Image.Exif | bytes) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, exif=exif, lossless=True)
    return file


@pytest.mark.parametrize("orientation", range(10))  # 1 is upright; 0 and 9 mean nothing
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_picture_is_turned_as_pil_turns_it(kind, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = saved(kind, exif)
    expected = ImageOps.exif_transpose(Image.open(file))
    assert np.array_equal(decode(file, "image", "it"), expected)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_picture_stays_as_it_is_where_nobody_can_read_what_its_camera_says(kind):
    assert np.array_equal(decode(saved(kind, b"garbage"), "image", "it"), PIXELS)


def test_a_damaged_header_is_named():
    whole = saved("png", b"").getvalue()
    short = whole.replace(b"\0\0\0\rIHDR", b"\0\0\0\x05IHDR")
    with pytest.raises(
        ValueError, match=r"^image: expected a whole JPEG, PNG, WEBP image, got it: "
    ):
        decode(io.BytesIO(short), "image", "it")
