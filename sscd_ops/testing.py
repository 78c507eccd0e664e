"""What the tests are made with, shipped so that users can test the same way."""

from __future__ import annotations

import io
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sscd_ops.images.ground import visible
from sscd_ops.images.header import open_image
from sscd_ops.images.plain import is_plain
from sscd_ops.model import EmbeddedChunk, Fault, Fingerprint
from sscd_ops.storage.tar_write import TarWriter

Sample = tuple[str, Mapping[str, bytes]]
"""A key, and extension -> bytes of each member."""


def make_tar(path: Path, samples: Iterable[Sample]) -> Path:
    """Write a WebDataset tar, whole or not at all.

    Args:
        path: where; folders are made.
        samples: (key, {"jpg": ..., "txt": ...}), written in this order.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as stream:
        tar = TarWriter(stream)
        for key, members in samples:
            for extension, data in members.items():
                tar.add(f"{key}.{extension}", data)
        tar.close()
    temporary.replace(path)
    return path


def picture(seed: int, width: int = 160, height: int = 120, quality: int = 90) -> bytes:
    """A JPEG of coloured clouds. Other seeds give other pictures, other qualities near copies."""
    clouds = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = Image.fromarray(clouds).resize((width, height), Image.Resampling.BICUBIC)
    return encode(image, quality)


def encode(image: Image.Image, quality: int) -> bytes:
    """An image as JPEG."""
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=quality)
    return out.getvalue()


COPIES = ("byte_copy", "other_caption", "jpeg_40", "half_size", "crop_70", "text_10")
"""Planted copies, mildest first. The strengths were fixed before anything was measured."""


def plant(data: bytes, copy: str) -> bytes:
    """A copy of a picture.

    Args:
        data: the original's bytes.
        copy: one of ``COPIES``: equal bytes (twice: the caption is the caller's), JPEG quality 40,
            half width and height, the middle 70% of each side, a box of text over 10% of the area.

    Raises:
        ValueError: another name, or bytes that are no picture.
    """
    if copy in ("byte_copy", "other_caption"):
        return data
    opened = open_image(data)
    if isinstance(opened, tuple):
        raise ValueError(opened[1])
    image = visible(opened)
    width, height = image.size
    if copy == "jpeg_40":
        return encode(image, 40)
    if copy == "half_size":
        return encode(image.resize((width // 2, height // 2), Image.Resampling.LANCZOS), 90)
    if copy == "crop_70":
        left, top = round(width * 0.15), round(height * 0.15)
        return encode(
            image.crop((left, top, left + round(width * 0.7), top + round(height * 0.7))), 90
        )
    if copy == "text_10":
        return encode(_with_text(image), 90)
    raise ValueError(f"{copy!r} is none of {', '.join(COPIES)}")


def _with_text(image: Image.Image) -> Image.Image:
    """White letters on a dark box of half the width and a fifth of the height: 10% of the area."""
    width, height = image.size
    box_width, box_height = width // 2, height // 5
    left, top = width // 4, height // 2
    copy = image.copy()
    draw = ImageDraw.Draw(copy)
    draw.rectangle((left, top, left + box_width, top + box_height), fill=(20, 20, 20))
    font = ImageFont.load_default(max(8, box_height // 2))
    draw.text((left + 4, top + box_height // 4), "NOT FOR SALE", fill="white", font=font)
    return copy


class TinyEmbedder:
    """Descriptors without a model: mean-free 8x8 colours. For tests that need no real ones."""

    dimensions = 192

    def __init__(self) -> None:
        self.fingerprint = Fingerprint("tiny", "", "grid-8", "", self.dimensions, 1, "0" * 64)

    def __enter__(self) -> TinyEmbedder:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def runtime(self) -> dict[str, str]:
        """Versions."""
        return {"device": "cpu", "machine": platform.machine(), "numpy": np.__version__}

    def embed(self, images: Iterable[bytes]) -> Iterator[EmbeddedChunk]:
        """One chunk a picture."""
        for data in images:
            row = np.zeros((1, self.dimensions), np.float32)
            faults: dict[int, tuple[Fault, str]] = {}
            try:
                image = Image.open(io.BytesIO(data)).convert("RGB")
            except Exception as error:  # noqa: BLE001 - bad bytes raise anything
                faults[0] = (Fault.UNDECODABLE, str(error))
                yield EmbeddedChunk(row, faults)
                continue
            if is_plain(image):
                yield EmbeddedChunk(row, faults, plain=frozenset([0]))
                continue
            vector = np.asarray(image.resize((8, 8)), np.float32).reshape(-1) - 128
            row[0] = vector / np.linalg.norm(vector)
            yield EmbeddedChunk(row, faults)
