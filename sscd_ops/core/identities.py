"""Identities: sample ids and names in published paths. docs/identities.md has the exact form."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from functools import lru_cache
from uuid import UUID
from zoneinfo import ZoneInfo

from sscd_ops.model import Interval

NAMESPACE = UUID("8d3f7a52-6c1e-5b0e-9c44-5ad1f0c0de21")
"""The namespace of sample ids. It never changes."""

_compact = json.JSONEncoder(separators=(",", ":")).encode

_DAY = timedelta(hours=22), timedelta(hours=26)
"""A local day lasts 23 to 25 hours; some zones shift by other amounts."""


def sample_id(
    dataset: str,
    source: str,
    relative_uri: str,
    key: str,
    occurrence: int,
    image_member: str,
    image_sha256: bytes,
    caption_sha256: bytes,
) -> bytes:
    """The id of a sample: a UUID of version 5 over a JSON array of what makes it this sample.

    Args:
        dataset: its name.
        source: name of the source.
        relative_uri: the source shard, relative to the source's root.
        key: the sample's key; lone surrogates are allowed.
        occurrence: how many samples of this key came before it in the shard.
        image_member: name of the image member, empty without one.
        image_sha256: digest of the image bytes, empty without an image.
        caption_sha256: digest of the caption bytes, empty without a caption.

    Returns:
        The UUID's 16 bytes.
    """
    shard = _shard(dataset, source, relative_uri)
    name = (
        f"{shard},{_compact(key)},{occurrence},{_compact(image_member)},"
        f'"{image_sha256.hex()}","{caption_sha256.hex()}"]'
    )
    # uuid.uuid5 would do the same and refuse nothing; json is ASCII, so surrogates are escaped
    digest = hashlib.sha1(NAMESPACE.bytes + name.encode("ascii"), usedforsecurity=False).digest()
    answer = bytearray(digest[:16])
    answer[6] = answer[6] & 0x0F | 0x50  # the version
    answer[8] = answer[8] & 0x3F | 0x80  # and the variant
    return bytes(answer)


@lru_cache(maxsize=64)
def _shard(dataset: str, source: str, relative_uri: str) -> str:
    """How the array begins, which is the same for all samples of a source shard."""
    return _compact([dataset, source, relative_uri])[:-1]


def interval_label(interval: Interval, timezone: str) -> str:
    """The interval's name in published paths: its local start.

    ``2026-11-01`` for an interval of about a day (two of those never start on one local day),
    ``2026-11-01T0500Z`` in UTC for any other.
    """
    if _DAY[0] <= interval.end - interval.start <= _DAY[1]:
        return interval.start.astimezone(ZoneInfo(timezone)).strftime("%Y-%m-%d")
    return interval.start.astimezone(ZoneInfo("UTC")).strftime("%Y-%m-%dT%H%MZ")


def batch_label(interval: str, supplement: int) -> str:
    """The batch's name there: its interval's, ``2026-11-01-s1`` for the first supplement to it."""
    return f"{interval}-s{supplement}" if supplement else interval


def turn_label(turn: int) -> str:
    """The name there of a decision that is no batch's: ``turn-000123``."""
    return f"turn-{turn:06d}"
