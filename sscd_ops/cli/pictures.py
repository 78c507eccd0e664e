"""Pictures for people: images side by side with what is said about each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from sscd_ops.images.sheets import thumbnail

Panel = tuple[bytes, str, "str | None"]
"""An image's bytes, its title, its caption."""

_SIDE = 400
_TEXT = 110


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
