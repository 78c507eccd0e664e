"""Published tars are what tarfile would write for the same members."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path
from random import Random

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


in_tars = st.lists(
    st.lists(st.tuples(names, st.binary(max_size=1500)), min_size=1, max_size=5), max_size=4
)


@given(in_tars, st.integers(1, 3_000), st.randoms(use_true_random=False))
def test_tars_appended_whole_are_what_all_members_one_after_another_give(
    tars: list[list[tuple[str, bytes]]], piece: int, random: Random
) -> None:
    expected, out = io.BytesIO(), io.BytesIO()
    plain, writer = TarWriter(expected), TarWriter(out)
    for members in tars:
        one = io.BytesIO()
        alone = TarWriter(one)
        places = [alone.add(*member) for member in members]
        alone.close()
        data = one.getvalue()
        pieces = [data[at : at + piece] for at in range(0, len(data), piece)]

        # any member may be the one from which on the end is looked for
        moved = writer.append(pieces, random.choice(places))

        assert [moved + at for at in places] == [plain.add(*member) for member in members]
    for each in (writer, plain):
        each.add("between.txt", b"more")
        each.close()

    assert out.getvalue() == expected.getvalue()


def test_what_looks_like_an_end_inside_a_member_is_none() -> None:
    zeros = [("a.jpg", bytes(4_096)), ("a.txt", b""), ("b.jpg", bytes(2_000))]
    one, out = io.BytesIO(), io.BytesIO()
    alone, writer = TarWriter(one), TarWriter(out)
    last = [alone.add(*member) for member in zeros][-1]
    alone.close()

    writer.append([one.getvalue()], last)
    writer.close()

    assert out.getvalue() == one.getvalue()


@given(
    st.lists(st.tuples(names, st.binary(max_size=1500), st.booleans()), max_size=12),
    st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=2),
)
def test_some_members_copied_are_what_these_alone_give(
    members: list[tuple[str, bytes, bool]], before: list[tuple[str, bytes]]
) -> None:
    """A name is wanted or not, wherever it stands."""
    wanted = {name: is_wanted for name, _, is_wanted in members}
    kept = [(name, data) for name, data, _ in members if wanted[name]]
    expected, out, one = io.BytesIO(), io.BytesIO(), io.BytesIO()
    plain, writer, whole = TarWriter(expected), TarWriter(out), TarWriter(one)
    for each in before:
        plain.add(*each)
        writer.add(*each)
    there = [(name, whole.add(name, data)) for name, data, _ in members]
    whole.close()
    with tempfile.NamedTemporaryFile() as file:
        file.write(one.getvalue())
        file.flush()

        runs = writer.copy(Path(file.name), wanted.__getitem__)

    moved = {a: b - a for a, b in runs}
    here = [
        at + moved[max(start for start in moved if start < at)]
        for name, at in there
        if wanted[name]
    ]
    assert here == [plain.add(*each) for each in kept]
    for each in (plain, writer):
        each.add("after.txt", b"more")
        each.close()
    assert out.getvalue() == expected.getvalue()


def test_a_tar_that_is_cut_off_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(written([("a.jpg", b"x" * 700)])[:1_536])
    with pytest.raises(InvariantError, match="neither a member nor its end"):
        TarWriter(io.BytesIO()).copy(tmp_path / "a.tar", lambda name: True)


def test_a_tar_that_is_cut_off_is_refused() -> None:
    data = written([("a.jpg", b"x" * 700)])
    with pytest.raises(InvariantError, match="neither a member nor its end"):
        TarWriter(io.BytesIO()).append([data[:1_536]], 512)


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
