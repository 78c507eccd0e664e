"""Pictures for people: thumbnails, contact sheets of pairs, and a few side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from sscd_ops.images.animation import first_not_plain
from sscd_ops.images.ground import visible
from sscd_ops.images.header import open_image
from sscd_ops.images.orientation import upright
from sscd_ops.images.plain import is_plain
from sscd_ops.options import USUAL_LIMITS

Pair = tuple[bytes, bytes, str]
"""Two files, the second may be empty, and what is said below them."""
Section = tuple[str, Sequence[Pair]]
"""A heading and its pairs."""
Panel = tuple[bytes, str, "str | None"]
"""An image's bytes, its title, its caption."""

_SIDE, _GAP, _LINE, _COLUMNS = 110, 10, 30, 5
_PANEL, _CAPTION = 400, 110


def thumbnail(data: bytes, side: int) -> Image.Image:
    """A picture that fits a square, on a light ground; words where it cannot be shown."""
    ground = Image.new("RGB", (side, side), (245, 245, 245))
    small = _small(data, side)
    if isinstance(small, str):
        ImageDraw.Draw(ground).text((10, side // 2), small, fill=(160, 0, 0))
    else:
        ground.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return ground


def _small(data: bytes, side: int) -> Image.Image | str:
    """The picture as a model sees it: on a ground that shows it, and the frame that counts."""

    def fitted(rgb: Image.Image) -> Image.Image:
        copy = rgb.copy()
        copy.thumbnail((side, side))
        return copy

    # quarantined pictures are shown too, as what they are, and are decoded in this very process
    image = open_image(data)
    if isinstance(image, tuple):
        return "cannot be read"
    if image.width * image.height > USUAL_LIMITS.max_pixels:
        return "too large to show"
    try:
        small = fitted(visible(upright(image)))
        if is_plain(small):
            later = first_not_plain(data, image.format, fitted)
            small = later[1] if later else small
    except Exception:  # noqa: BLE001 - decoders raise whatever they like at bad bytes
        return "cannot be read"
    return small


def contact_sheet(sections: Sequence[Section]) -> Image.Image:
    """Pairs of pictures side by side under headings, five pairs a row."""
    cell = 2 * _SIDE + _GAP
    width = _COLUMNS * (cell + _GAP) + _GAP
    height = _GAP
    for _, pairs in sections:
        height += 2 * _LINE + -(-max(len(pairs), 1) // _COLUMNS) * (_SIDE + _LINE)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    title, small = ImageFont.load_default(18), ImageFont.load_default(12)
    top = _GAP
    for name, pairs in sections:
        draw.text((_GAP, top), name if pairs else f"{name}: none", fill="black", font=title)
        top += _LINE
        for number, (one, other, said) in enumerate(pairs):
            left = _GAP + number % _COLUMNS * (cell + _GAP)
            at = top + number // _COLUMNS * (_SIDE + _LINE)
            sheet.paste(thumbnail(one, _SIDE), (left, at))
            if other:
                sheet.paste(thumbnail(other, _SIDE), (left + _SIDE + 4, at))
            draw.text((left, at + _SIDE + 2), said, fill=(80, 80, 80), font=small)
        top += -(-max(len(pairs), 1) // _COLUMNS) * (_SIDE + _LINE) + _LINE
    return sheet


def side_by_side(panels: Sequence[Panel]) -> Image.Image:
    """Panels in a row."""
    sheet = Image.new("RGB", (_PANEL * len(panels) + 10, _PANEL + _CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for number, (data, title, caption) in enumerate(panels):
        left = number * _PANEL + 10
        sheet.paste(thumbnail(data, _PANEL - 10), (left, 5))
        draw.text((left, _PANEL), title[:60], fill="black", font=font)
        lines = textwrap.wrap(caption or "(no caption)", 58)[:5]
        draw.text((left, _PANEL + 20), "\n".join(lines), fill=(90, 90, 90), font=font)
    return sheet
