"""Links in tars: what they lead to, read once and fetched again; what stands for nothing."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from sscd_ops.model import Fault, RawSample
from sscd_ops.options import LimitsOptions
from sscd_ops.ports import Source
from tests.unit.sources.feeds import DAY, FEEDS, memory_folder, put, refs_of, samples_of

JPEG = b"\xff\xd8\xff"


def tar_of(*entries: tuple[str, bytes | str], form: int = tarfile.GNU_FORMAT) -> bytes:
    """Entries by name: bytes of a file, the target of a hard link, or of a symbolic one: ``->x``"""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, what in entries:
            info = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what))
                continue
            info.type = tarfile.SYMTYPE if what.startswith("->") else tarfile.LNKTYPE
            info.linkname = what.removeprefix("->")
            tar.addfile(info)
    return out.getvalue()


def opened(folder: str, data: bytes, limit: int = 1 << 20) -> Source:
    put(f"{folder}/a.tar", data)
    return FEEDS["webdataset"].open(
        f"{folder}/*", limits=LimitsOptions(max_member_bytes=limit, max_members=6)
    )


def read(source: Source) -> tuple[list[RawSample], dict[str, int]]:
    (shard,) = source.find(DAY, "UTC")
    samples, end = samples_of(source, shard)
    assert end.fault is None
    return samples, end.ignored


MANY = [
    entry
    for n in range(40)
    for entry in (
        (f"{n:02d}.jpg", JPEG + bytes([n]) * 5000 if n % 3 else f"{n - 2:02d}.jpg"),
        (f"{n:02d}.txt", f"->{n - 1:02d}.txt" if n % 2 else b"caption %d" % n),
    )
]
MANY[0] = ("00.jpg", JPEG)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_members_are_those_of_tarfile_and_are_fetched_again(
    tmp_path: Path, where: str, packed: bool
) -> None:
    # a link to a link, by another name and in another folder
    names = [*MANY, ("d/x.jpg", "./00.jpg"), ("d/x.txt", "->../d/../01.txt")]
    data = tar_of(*names)
    folder = str(tmp_path) if where == "disk" else memory_folder()
    source = opened(folder, gzip.compress(data) if packed else data)

    samples, ignored = read(source)

    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        wanted = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    assert {m.name: m.data for s in samples for m in s.members} == wanted
    assert ignored == {}
    assert [s.fault for s in samples] == [None] * 41
    (shard,) = source.find(DAY, "UTC")
    for chosen in (samples, samples[1::2], samples[5:6], samples[-1:]):
        members = [m for s in chosen for m in s.members]
        assert list(source.fetch(shard, refs_of(members))) == [m.data for m in members]
        images = [s.members[0] for s in chosen]
        assert list(source.fetch(shard, refs_of(images))) == [m.data for m in images]


def test_of_equal_names_the_last_one_before_a_hard_link_is_meant(tmp_path: Path) -> None:
    source = opened(
        str(tmp_path),
        tar_of(("a.jpg", b"1"), ("a.jpg", b"2"), ("b.jpg", "a.jpg"), ("a.jpg", b"3")),
    )

    samples, _ = read(source)

    assert [s.members[0].data for s in samples if s.key == "b"] == [b"2"]


@pytest.mark.parametrize("target", ["gone.txt", "b.txt", "c.txt", "->b.txt", "->/etc/hosts", "->"])
def test_a_link_to_nothing_takes_its_sample_with_it(tmp_path: Path, target: str) -> None:
    source = opened(
        str(tmp_path),
        tar_of(
            ("a.jpg", b"1"),
            ("b.txt", target),
            ("b.jpg", b"2"),
            ("c.jpg", b"3"),
            ("c.txt", b"x"),
        ),
    )

    samples, ignored = read(source)

    found = {s.key: s.fault for s in samples}
    assert found["a"] is None
    assert found["c"] is None
    assert found["b"] is not None
    assert found["b"][0] is Fault.BAD_MEMBER
    assert "'b.txt' is a link to" in found["b"][1]
    assert ignored == {"link": 1}


def test_a_link_alone_is_no_sample(tmp_path: Path) -> None:
    source = opened(str(tmp_path), tar_of(("a.jpg", b"1"), ("b.jpg", "gone"), ("c.jpg", b"2")))

    samples, ignored = read(source)

    assert [(s.key, s.fault) for s in samples] == [("a", None), ("c", None)]
    assert ignored == {"link": 1}


def test_a_link_to_a_member_that_is_too_large_is_too_large(tmp_path: Path) -> None:
    source = opened(str(tmp_path), tar_of(("a.jpg", b"12345"), ("b.jpg", "a.jpg")), limit=4)

    samples, _ = read(source)

    assert [(m.size, m.data) for s in samples for m in s.members] == [(5, b"")] * 2


def test_links_in_a_cut_tar_lead_to_what_is_there(tmp_path: Path) -> None:
    data = tar_of(("a.jpg", b"1"), ("b.jpg", "a.jpg"), ("c.jpg", b"3" * 2000))
    put(f"{tmp_path}/a.tar", data[: data.index(b"3333") + 10])
    source = FEEDS["webdataset"].open(f"{tmp_path}/*")
    (shard,) = source.find(DAY, "UTC")

    samples, end = samples_of(source, shard)

    assert [s.members[0].data for s in samples] == [b"1", b"1"]
    assert end.fault is not None
    assert "'c'" in end.fault[1]


def test_links_in_joined_tars_lead_back_into_the_first(tmp_path: Path) -> None:
    data = tar_of(("a.jpg", b"1")) + tar_of(("b.jpg", "a.jpg"))

    samples, _ = read(opened(str(tmp_path), data))

    assert [s.members[0].data for s in samples] == [b"1", b"1"]
