"""Which way up a picture is shown. One rule for its size and its pixels.

Pillow's own ``exif_transpose`` writes the picture's EXIF anew, without the orientation, and fails
where any tag is odd: a rational below zero, text where a number belongs. Here EXIF is read and
never written, so what stands beside the orientation costs no picture.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

_ORIENTATION = 0x0112
_DIRECTORIES = (0x8769, 0x8825, 0xA005)
"""EXIF tags that point to more tags: EXIF's own, GPS, interoperability."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; XMP's where EXIF says nothing. Never raises: else it is 1."""
    try:
        # not PNG's own way, which decodes all pixels in search of EXIF behind them
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
        return next((number for number in _TURNS if value == number), 1)
    except Exception:  # noqa: BLE001 - damaged EXIF is no reason to lose a picture
        return 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened picture as displayed; nothing is decoded."""
    width, height = image.size
    tags: Any = getattr(image, "tag_v2", {})
    if tags.get(_ORIENTATION) in _ON_ITS_SIDE:  # a TIFF: Pillow has exchanged them already
        width, height = height, width
    return (height, width) if orientation_of(image) in _ON_ITS_SIDE else (width, height)


def upright(image: Image.Image) -> Image.Image:
    """A picture as displayed, decoded.

    Raises:
        Exception: whatever its decoder does at bad bytes.
    """
    turn = _TURNS.get(orientation_of(image))
    if image.format == "TIFF":
        _leave_as_stored(image)
    image.load()
    return image if turn is None else image.transpose(turn)


def _leave_as_stored(image: Image.Image) -> None:
    """Keep Pillow from turning a TIFF itself, which it does as it decodes, and writes EXIF for."""
    try:
        exif = Image.Image.getexif(image)
    except Exception:  # noqa: BLE001 - damaged: asked again, Pillow answers with what it could read
        exif = Image.Image.getexif(image)
    for tag in (_ORIENTATION, *_DIRECTORIES):
        if tag in exif:
            del exif[tag]
