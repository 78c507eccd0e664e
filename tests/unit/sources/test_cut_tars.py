"""What a cut tar still gives: every sample that is whole, and the name of the one that is not."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from sscd_ops.model import Fault, RawSample
from tests.unit.sources.feeds import DAY, FEEDS, put, samples_of, tar_bytes

KEYS = ("k0", "k1", "k2")
DATA = {"jpg": b"\xff\xd8\xff" * 700, "txt": b"x" * 512, "json": b"{}"}
WHOLE = tar_bytes([(f"{key}.{ext}", data) for key in KEYS for ext, data in DATA.items()])
STARTS = {f"{key}.{ext}": WHOLE.index(f"{key}.{ext}\0".encode()) for key in KEYS for ext in DATA}
"""Where each member's header begins."""


def read(folder: Path, data: bytes) -> tuple[list[RawSample], tuple[Fault, str] | None]:
    put(f"{folder}/a.tar", data)
    source = FEEDS["webdataset"].open(f"{folder}/*")
    (shard,) = source.find(DAY, "UTC")
    samples, end = samples_of(source, shard)
    return samples, end.fault


@pytest.mark.parametrize(
    ("at", "behind", "used", "named"),
    [
        ("k1.jpg", 0, "k0", None),  # only the end mark is missing
        ("k2.jpg", 0, "k0 k1", None),
        ("k2.jpg", 100, "k0", "k1"),  # whose header this is nobody knows
        ("k2.jpg", 512, "k0 k1", "k2"),  # a sample of another key has begun: k1 is whole
        ("k2.jpg", 700, "k0 k1", "k2"),
        ("k1.jpg", 700, "k0", "k1"),
        ("k1.txt", -100, "k0", "k1"),  # in the padding
        ("k1.txt", 0, "k0", "k1"),  # between members, but k0 had more of them
        ("k1.txt", 600, "k0", "k1"),
        ("k1.json", 0, "k0", "k1"),
        ("k1.json", 513, "k0", "k1"),
        ("k0.jpg", 700, "", "k0"),
        ("k0.txt", 100, "", "k0"),
    ],
)
def test_a_sample_that_may_have_lost_members_is_left_out_and_named(
    tmp_path: Path, at: str, behind: int, used: str, named: str | None
) -> None:
    samples, fault = read(tmp_path, WHOLE[: STARTS[at] + behind])

    assert [sample.key for sample in samples] == used.split()
    assert all([m.data for m in s.members] == list(DATA.values()) for s in samples)
    assert fault is not None
    assert fault[0] is Fault.TRUNCATED_SHARD
    assert [key for key in KEYS if repr(key) in fault[1]] == ([named] if named else [])


def test_wherever_it_is_cut_only_whole_samples_come_and_at_most_one_more_is_lost(
    tmp_path: Path,
) -> None:
    ends = [STARTS["k1.jpg"], STARTS["k2.jpg"], len(WHOLE)]
    for size in range(1, len(WHOLE), 128):
        samples, _ = read(tmp_path, WHOLE[:size])

        assert all([m.data for m in s.members] == list(DATA.values()) for s in samples), size
        there = sum(end <= size for end in ends)
        assert there - 1 <= len(samples) <= there + 1, size


@pytest.mark.parametrize("level", [0, 6])
def test_a_gzip_stream_that_is_cut_never_ends_behind_a_sample(tmp_path: Path, level: int) -> None:
    packed = gzip.compress(WHOLE, level)
    for size in range(20, len(packed), max(1, len(packed) // 200)):
        samples, _ = read(tmp_path, packed[:size])

        assert all([m.data for m in s.members] == list(DATA.values()) for s in samples), size


def test_a_gzip_stream_of_a_tar_without_end_mark_loses_nothing(tmp_path: Path) -> None:
    samples, fault = read(tmp_path, gzip.compress(WHOLE[: STARTS["k2.jpg"]]))

    assert [sample.key for sample in samples] == ["k0", "k1"]
    assert fault is not None


def test_damage_at_a_header_leaves_out_the_sample_before_it(tmp_path: Path) -> None:
    spoiled = bytearray(WHOLE)
    spoiled[STARTS["k1.json"] + 3] ^= 1

    samples, fault = read(tmp_path, bytes(spoiled))

    assert [sample.key for sample in samples] == ["k0"]
    assert fault is not None
    assert "'k1'" in fault[1]


def test_something_that_is_no_member_ends_no_sample(tmp_path: Path) -> None:
    members = [("k0.jpg", b"1"), ("README", b"x" * 2000), ("k0.txt", b"x")]
    data = tar_bytes(members)

    samples, fault = read(tmp_path, data[: data.index(b"README") + 1000])

    assert samples == []
    assert fault is not None
    assert "'k0'" in fault[1]
