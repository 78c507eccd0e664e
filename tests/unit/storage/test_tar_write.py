"""Published tars are what tarfile would write for the same members."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.errors import InvariantError
from sscd_ops.storage.tar_read import read_tar
from sscd_ops.storage.tar_write import TarWriter, header

names = st.text("abcdef0123456789-./_é", min_size=1, max_size=60).filter(
    lambda name: len(name.encode()) <= 100 and not name.endswith("/")
)


def written(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    writer = TarWriter(out)
    for name, data in members:
        writer.add(name, data)
    writer.close()
    return out.getvalue()


def by_tarfile(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@given(st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=12))
def test_the_bytes_are_those_of_tarfile(members: list[tuple[str, bytes]]) -> None:
    assert written(members) == by_tarfile(members)


def test_large_members_are_written_as_tarfile_writes_them() -> None:
    members = [("a.jpg", b"x" * (3 << 20)), ("b.jpg", b"y" * 700_001), ("c.txt", b"")]

    assert written(members) == by_tarfile(members)


def test_add_answers_where_the_data_begins() -> None:
    out = io.BytesIO()
    writer = TarWriter(out)

    offsets = [writer.add(f"{n}.jpg", b"x" * n * 300) for n in range(10)]
    writer.close()

    data = out.getvalue()
    assert [data[at : at + n * 300] for n, at in enumerate(offsets)] == [
        b"x" * n * 300 for n in range(10)
    ]


def test_a_name_of_100_bytes_fits_and_one_of_101_does_not() -> None:
    assert written([("n" * 100, b"")]) == by_tarfile([("n" * 100, b"")])

    with pytest.raises(InvariantError, match="101 bytes"):
        written([("n" * 101, b"")])


def test_sizes_from_8_gib_on_are_read_back_by_us_and_by_tarfile() -> None:
    size = 9 << 30

    block = header("large.tif", size)

    assert tarfile.TarInfo.frombuf(block, "utf-8", "strict").size == size

    class Endless(io.RawIOBase):
        """The header, then zeros without end."""

        sent = 0

        def readinto(self, view) -> int:  # type: ignore[no-untyped-def]
            view[:] = (block if not self.sent else b"").ljust(len(view), b"\0")
            self.sent += 1
            return len(view)

    entry = next(read_tar(Endless(), gz=False, max_member_bytes=10))
    assert (entry.name, entry.size, entry.offset) == ("large.tif", size, 512)
