"""Pictures for people: images side by side with what is said about each."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

Panel = tuple[bytes, str, "str | None"]
"""An image's bytes, its title, its caption."""

_SIDE = 400
_TEXT = 110


def thumbnail(data: bytes, side: int) -> Image.Image:
    """A picture that fits a square, on a light ground; a grey square where it cannot be read."""
    ground = Image.new("RGB", (side, side), (245, 245, 245))
    try:
        image = Image.open(io.BytesIO(data))
        upright = ImageOps.exif_transpose(image) or image
        small = upright.convert("RGBA")
        small.thumbnail((side, side))
    except Exception:  # noqa: BLE001 - a quarantined picture is shown as what it is: unreadable
        ImageDraw.Draw(ground).text((10, side // 2), "cannot be read", fill=(160, 0, 0))
        return ground
    ground.paste(small, ((side - small.width) // 2, (side - small.height) // 2), small)
    return ground


def side_by_side(panels: Sequence[Panel]) -> Image.Image:
    """Panels in a row."""
    sheet = Image.new("RGB", (_SIDE * len(panels) + 10, _SIDE + _TEXT), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for number, (data, title, caption) in enumerate(panels):
        left = number * _SIDE + 10
        sheet.paste(thumbnail(data, _SIDE - 10), (left, 5))
        draw.text((left, _SIDE), title[:60], fill="black", font=font)
        lines = textwrap.wrap(caption or "(no caption)", 58)[:5]
        draw.text((left, _SIDE + 20), "\n".join(lines), fill=(90, 90, 90), font=font)
    return sheet
