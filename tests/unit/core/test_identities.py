"""What published folders are called, and what ids depend on."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.core.identities import NAMESPACE, interval_label, sample_id
from sscd_ops.model import Interval


@pytest.mark.parametrize(
    ("start", "end", "timezone", "label"),
    [
        # nightly: the local day it starts
        ("2026-11-01T00:00Z", "2026-11-02T00:00Z", "UTC", "2026-11-01"),
        ("2026-11-01T02:00Z", "2026-11-02T02:00Z", "America/New_York", "2026-10-31"),
        ("2026-11-01T15:00Z", "2026-11-02T15:00Z", "Asia/Tokyo", "2026-11-02"),
        # 23 and 25 hours
        ("2026-03-28T23:00Z", "2026-03-29T22:00Z", "Europe/Berlin", "2026-03-29"),
        ("2026-10-24T22:00Z", "2026-10-25T23:00Z", "Europe/Berlin", "2026-10-25"),
        # any other length: the instant, in UTC whatever the timezone
        ("2026-11-01T05:00Z", "2026-11-01T06:00Z", "UTC", "2026-11-01T0500Z"),
        ("2026-11-01T05:00Z", "2026-11-01T06:00Z", "Asia/Tokyo", "2026-11-01T0500Z"),
        ("2026-11-01T05:30Z", "2026-11-01T17:30Z", "America/New_York", "2026-11-01T0530Z"),
        ("2026-11-01T00:00Z", "2026-11-08T00:00Z", "UTC", "2026-11-01T0000Z"),
    ],
)
def test_an_interval_is_called_by_its_local_start(
    start: str, end: str, timezone: str, label: str
) -> None:
    interval = Interval(datetime.fromisoformat(start), datetime.fromisoformat(end))

    assert interval_label(interval, timezone) == label


def test_the_hours_of_the_end_of_summer_time_have_names_of_their_own() -> None:
    """Two local hours of one name."""
    hours = [f"2026-10-25T{hour:02d}:00Z" for hour in range(4)]
    labels = [
        interval_label(
            Interval(datetime.fromisoformat(a), datetime.fromisoformat(b)), "Europe/Berlin"
        )
        for a, b in pairwise(hours)
    ]

    assert labels == ["2026-10-25T0000Z", "2026-10-25T0100Z", "2026-10-25T0200Z"]


def test_every_part_of_a_sample_makes_another_id() -> None:
    """A key may hold halves of pairs. docs/identities.md has the form, with an example."""
    given = ("web", "crawl", "2026-11-01/a.tar", "a/ä\udcff", 1, "a.jpg", bytes(32), b"\xff" * 32)
    others = ("w", "c", "a.tar", "b", 0, "a.png", b"\1" * 32, b"")

    ids = {sample_id(*given)}
    ids |= {sample_id(*given[:n], other, *given[n + 1 :]) for n, other in enumerate(others)}  # type: ignore[arg-type]

    assert len(ids) == 1 + len(others)
    assert {UUID(bytes=id).version for id in ids} == {5}


TEXT = st.text(st.characters(exclude_categories=()), max_size=9)


@given(st.tuples(TEXT, TEXT, TEXT, TEXT, st.integers(0, 9), TEXT), st.binary(), st.binary())
def test_an_id_is_of_one_json_array(
    said: tuple[str, str, str, str, int, str], image: bytes, caption: bytes
) -> None:
    array = json.dumps([*said, image.hex(), caption.hex()], separators=(",", ":"))
    digest = hashlib.sha1(NAMESPACE.bytes + array.encode(), usedforsecurity=False).digest()

    assert sample_id(*said, image, caption) == UUID(bytes=digest[:16], version=5).bytes
