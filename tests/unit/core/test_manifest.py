"""The manifest without the text of some samples: as if it had been read so."""

from __future__ import annotations

import io
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_ops.core import manifest
from sscd_ops.core.manifest import ManifestBuilder, ManifestRow, MemberRow, erase, write_erased
from sscd_ops.model import Fault

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
MEMBERS = st.builds(
    MemberRow, TEXT, TEXT, st.integers(0, 9), st.integers(0, 9), st.binary(min_size=32, max_size=32)
)
ROWS = st.builds(
    ManifestRow,
    sample_id=st.sampled_from([bytes([n] * 16) for n in range(6)]),
    key=TEXT,
    occurrence=st.integers(0, 2),
    members=st.lists(MEMBERS, max_size=3),
    image_member=st.none() | TEXT,
    image_sha256=st.none() | st.just(b"i" * 32),
    width=st.none() | st.integers(0, 9),
    caption=st.none() | TEXT,
    caption_sha256=st.none() | st.just(b"c" * 32),
    meta=st.none() | st.just('{"url": "u"}'),
    code=st.none() | st.just("no_caption"),
    message=st.none() | TEXT,
)


def written(rows: list[ManifestRow], *, faulty: bool) -> bytes:
    stream = io.BytesIO()
    with ManifestBuilder(stream) as builder:
        for row in rows:
            builder.add(row)
        if faulty:
            builder.add_shard_fault(Fault.TRUNCATED_SHARD, "ends early")
    return stream.getvalue()


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, max_size=12), st.sets(st.integers(0, 5)), st.booleans())
def test_an_erased_manifest_is_that_of_erased_rows(
    rows: list[ManifestRow], numbers: set[int], faulty: bool
) -> None:
    ids = {bytes([n] * 16) for n in numbers}
    wanted = deepcopy(rows)
    for row in wanted:
        if row.sample_id in ids:
            erase(row)

    erased = io.BytesIO()
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "_ROWS", 5)
        file = Path(folder) / "manifest.parquet"
        file.write_bytes(written(rows, faulty=faulty))
        write_erased(file, erased, ids)
        expected = written(wanted, faulty=faulty)

    assert erased.getvalue() == expected
    for row in pq.read_table(io.BytesIO(expected)).to_pylist():
        if row["sample_id"] in ids:
            assert row["key"] == "(erased)"
            left = [row[n] for n in ("caption", "meta", "message", "image_member")]
            assert left == [None] * 4
            assert {m["name"] for m in row["members"]} <= {"(erased)"}
