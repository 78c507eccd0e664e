"""Pixels that ingest looks at are decoded in a process apart."""

from __future__ import annotations

import gc
import io
import os
from pathlib import Path

from PIL import Image

from sscd_ops.images.inspector import Inspector
from sscd_ops.model import Fault, ImageHeader
from sscd_ops.options import LimitsOptions
from sscd_ops.testing import picture


def children() -> set[str]:
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {pid for task in tasks for pid in task.read_text().split()}


def test_a_dear_picture_costs_its_decoder_and_nothing_else() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (5000, 5000), (9, 9, 9, 99)).save(out, "WEBP", lossless=True, method=0)
    inspector = Inspector(LimitsOptions(decode_memory=200 << 20))

    dear = inspector(out.getvalue(), pixels=True)
    good = inspector(picture(1), pixels=True)
    cut = inspector(picture(2)[:-900], pixels=True)

    assert isinstance(dear, tuple)
    assert dear[0] is Fault.DECODER_LIMIT
    assert isinstance(good, ImageHeader)
    assert isinstance(cut, tuple)
    assert cut[0] is Fault.UNDECODABLE
    assert isinstance(inspector(out.getvalue()), ImageHeader), "the header alone is cheap"


def test_its_decoder_starts_when_pixels_are_asked_for_and_ends_with_it() -> None:
    before = children()
    inspector = Inspector(LimitsOptions())

    inspector(picture(1))
    assert children() == before
    inspector(picture(1), pixels=True)
    assert len(children() - before) == 1
    del inspector
    gc.collect()

    assert children() == before
