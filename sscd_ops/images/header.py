"""Header checks: is it a picture, and one that may be decoded? No pixel is decoded here."""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

from sscd_ops.core.formats import sniff
from sscd_ops.images.bare import BARE, Bare, gif, jpeg, png, tiff_tags
from sscd_ops.images.jpeg_header import jpeg_size
from sscd_ops.images.orientation import upright_size
from sscd_ops.model import Fault, ImageHeader
from sscd_ops.options import LimitsOptions

# we hold pictures to limits.max_pixels ourselves
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# and need not be told, picture by picture, of EXIF that is damaged
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_LONGEST_SIDE = 2**31 - 1
"""What a row can hold."""
_MUCH = 16 << 20
"""Bytes of a JPEG's segments beside its pixels."""
_PARTS, _MOST_PARTS = (273, 324), 1 << 20
"""Tags with a TIFF's strips and tiles. Pillow makes a list of them as it reads the header: this
many take it a second, and no real picture has so many."""


_PILLOWS = {
    "jpg": "JPEG",
    "png": "PNG",
    "gif": "GIF",
    "bmp": "BMP",
    "tiff": "TIFF",
    "jp2": "JPEG2000",
    "webp": "WEBP",
    "avif": "AVIF",
}
"""Our name of a format -> Pillow's."""


def open_image(data: bytes) -> Image.Image | tuple[Fault, str]:
    """An image with its header read, or why there is none. Never raises.

    What stands beside the pixels costs no picture: where a decoder stumbles over it, it is opened
    without.
    """
    if not data:
        return Fault.EMPTY_IMAGE, "the image has no bytes"
    form = sniff(data)
    if not form:
        return Fault.NOT_AN_IMAGE, f"no known picture begins with {data[:8]!r}"
    image = _open(_first_try(data, form), form)
    if isinstance(image, tuple) and image[0] is Fault.NOT_AN_IMAGE and form in BARE:
        again = _open(BARE[form](data), form)
        return image if isinstance(again, tuple) else again
    return image


def _first_try(data: bytes, form: str) -> Bare:
    # a PNG's text may change how its pixels are read, and what says its orientation may stand
    # behind them, where no header check comes
    if form == "png":
        return png(data)
    if form == "jpg" and len(data) > _MUCH:
        # Pillow joins segments one by one: 4,000 of them would take it minutes
        bare = jpeg(data)
        return bare if len(data) - len(bare.data) > _MUCH else Bare(data, {})
    if form == "gif" and len(data) > _MUCH:
        # nor does it need every comment: of a byte each they take thirty times the file
        return gif(data)
    return Bare(data, {})


def _open(bare: Bare, form: str) -> Image.Image | tuple[Fault, str]:
    if form == "tiff" and any(
        tag in _PARTS and count > _MOST_PARTS for _, tag, _, count in tiff_tags(bare.data)
    ):
        return Fault.DECODER_LIMIT, f"tiff header: more than {_MOST_PARTS} strips or tiles"
    try:
        image: Image.Image = Image.open(io.BytesIO(bare.data), formats=(_PILLOWS[form],))
    except UnidentifiedImageError:
        return Fault.NOT_AN_IMAGE, f"begins like {form}, but its header cannot be read"
    except Image.DecompressionBombError as error:
        return Fault.TOO_MANY_PIXELS, str(error)
    except MemoryError as error:
        # not the bytes' fault: a code that does not follow them
        return Fault.DECODER_DIED, f"{form} header: {type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 - decoders raise whatever they like at bad bytes
        return Fault.NOT_AN_IMAGE, f"{form} header: {type(error).__name__}: {error}"
    image.info.update(bare.notes)
    return image


def inspect(data: bytes, limits: LimitsOptions) -> ImageHeader | tuple[Fault, str]:
    """A picture's format and size as displayed (EXIF orientation applied), or why there is none.

    A picture beyond the limits has a header with its fault.

    Args:
        data: the file's bytes.
        limits: pixels, least side, greatest aspect.
    """
    size = jpeg_size(data)
    if size is None:
        return inspect_with_pillow(data, limits)
    return ImageHeader("jpg", *size, _beyond(*size, limits))


def inspect_with_pillow(data: bytes, limits: LimitsOptions) -> ImageHeader | tuple[Fault, str]:
    """What ``inspect`` answers, whatever the picture."""
    form = sniff(data)
    image = open_image(data)
    if isinstance(image, tuple):
        bomb = _open_bomb(data, form) if image[0] is Fault.TOO_MANY_PIXELS else None
        if bomb is None:
            return image
        image = bomb
    width, height = upright_size(image)
    fault = _beyond(width, height, limits)
    if fault is not None and max(width, height) > _LONGEST_SIDE:
        return fault
    return ImageHeader(form, width, height, fault)


def _beyond(width: int, height: int, limits: LimitsOptions) -> tuple[Fault, str] | None:
    if width * height > limits.max_pixels:
        return Fault.TOO_MANY_PIXELS, f"{width}x{height}, at most {limits.max_pixels} pixels"
    short, long = min(width, height), max(width, height)
    if short < limits.min_side:
        return Fault.TOO_SMALL, f"{width}x{height}, at least {limits.min_side} a side"
    if long > limits.max_aspect * short:
        return Fault.EXTREME_ASPECT, f"{width}x{height}, at most {limits.max_aspect:g} to 1"
    return None


def _open_bomb(data: bytes, form: str) -> Image.Image | None:
    """The header of a picture larger than Pillow opens; nothing ever decodes it."""
    bare = _first_try(data, form)
    try:
        image: Image.Image = Image.OPEN[_PILLOWS[form]][0](io.BytesIO(bare.data), "")
    except Exception:  # noqa: BLE001 - as in open_image
        return None
    image.info.update(bare.notes)
    return image
