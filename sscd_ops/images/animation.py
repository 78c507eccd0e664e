"""Further frames of a picture that moves, or has pages: for one whose first says nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

from PIL import Image

from sscd_ops.images.ground import visible
from sscd_ops.images.orientation import upright
from sscd_ops.images.plain import is_plain

_FORMATS = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")
_MOST_FRAMES = 32
"""With the first."""
_MOST_PIXELS = 100_000_000
"""Of the frames after the first, all together."""


def first_not_plain(
    data: bytes, form: str | None, resized: Callable[[Image.Image], Image.Image]
) -> tuple[Image.Image, Image.Image] | None:
    """Of the frames after the first, the first that has something in it; none where all are plain.

    At most 31 frames of 100 megapixels together are looked at. They end where the picture does, or
    where it is damaged, which is no fault of it: its first frame was read.

    Args:
        data: the file's bytes.
        form: Pillow's name of the format.
        resized: makes a frame as large as it is wanted.

    Returns:
        The frame upright, in RGB, and resized.

    Raises:
        MemoryError: there is too little for a frame.
    """
    for rgb in _later(data, form):
        small = resized(rgb)
        if not is_plain(small):
            return rgb, small
    return None


def _later(data: bytes, form: str | None) -> Iterator[Image.Image]:
    if form not in _FORMATS:
        return
    try:
        image = Image.open(io.BytesIO(data), formats=(form,))
        left = _MOST_PIXELS
        for number in range(1, _MOST_FRAMES):
            image.seek(number)
            left -= image.width * image.height  # pages differ in size
            if left < 0:
                return
            yield visible(upright(image))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the end, or whatever decoders raise at bad bytes
        return
