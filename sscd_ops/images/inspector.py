"""Looks at pictures as ingest does: at headers here, at pixels in a process apart."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from sscd_ops.images.header import inspect
from sscd_ops.model import Fault, ImageHeader

if TYPE_CHECKING:
    from sscd_ops.images.pool import DecoderPool
    from sscd_ops.options import LimitsOptions

_PRESET = "grid-64-draft"
"""Meets the damage that any other meets, and scales a JPEG as it is decoded."""


class Inspector:
    """``ports.InspectImage`` with a dataset's limits.

    Pixels are decoded by a decoder process, which starts when the first ones are asked for and ends
    with this object: ingest itself is not to die, hang or swell of a picture.

    Args:
        limits: of pixels, sides, aspect, and of what decoding may take.
    """

    def __init__(self, limits: LimitsOptions) -> None:
        self._limits = limits
        self._pool: DecoderPool | None = None

    def __call__(self, data: bytes, *, pixels: bool = False) -> ImageHeader | tuple[Fault, str]:
        """A header, or why there is none; with ``pixels`` also why they cannot be decoded."""
        found = inspect(data, self._limits)
        if not pixels or not isinstance(found, ImageHeader):
            return found
        if found.fault is not None and found.fault[0] is Fault.TOO_MANY_PIXELS:
            return found
        decoded = next(self._decoder().map([data]))
        return decoded if isinstance(decoded, tuple) else found

    def _decoder(self) -> DecoderPool:
        if self._pool is None:
            from sscd_ops.images.pool import DecoderPool

            self._pool = DecoderPool(_PRESET, 1, limits=self._limits).__enter__()
            weakref.finalize(self, self._pool.__exit__)
        return self._pool
