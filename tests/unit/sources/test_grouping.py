"""Members -> samples: keys and extensions, and what a tar out of order says."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from sscd_ops.model import Fault, RawSample
from sscd_ops.sources.grouping import split_name
from tests.unit.sources.feeds import DAY, FEEDS, put, samples_of, tar_bytes


@pytest.mark.parametrize(
    ("name", "key", "extension"),
    [
        ("a.jpg", "a", "jpg"),
        ("./a.JPG", "./a", "jpg"),
        ("/d.v1/a.0.jpg", "/d.v1/a", "0.jpg"),
        ("d.v1\\a.jpg", "d.v1\\a", "jpg"),
        ("d/e.f\\a.jpg", "d/e.f\\a", "jpg"),
        ("a", "a", ""),
        ("d.v1/a", "d.v1/a", ""),
        ("._a.jpg", "._a.jpg", ""),
        ("__MACOSX/d/._a.jpg", "__MACOSX/d/._a.jpg", ""),
        ("d\\.a", "d\\.a", ""),
    ],
)
def test_a_key_ends_at_the_first_dot_of_the_last_part(name: str, key: str, extension: str) -> None:
    assert split_name(name) == (key, extension)


def read(folder: Path) -> list[RawSample]:
    source = FEEDS["webdataset"].open(f"{folder}/*.tar")
    (shard,) = source.find(DAY, "UTC")
    return samples_of(source, shard)[0]


def test_a_tar_out_of_order_is_named_and_the_way_out_works(tmp_path: Path) -> None:
    keys = ("k0", "k1", "k2")
    names = [f"{key}.{extension}" for extension in ("jpg", "txt", "json") for key in keys]
    put(f"{tmp_path}/a.tar", tar_bytes([(name, name.encode()) for name in names]))

    samples = read(tmp_path)

    assert [(s.key, s.occurrence) for s in samples] == [
        (key, occurrence) for occurrence in range(3) for key in keys
    ]
    for sample in samples[3:]:
        assert sample.fault is not None
        assert sample.fault[0] is Fault.DUPLICATE_KEY
        assert "tar --sort=name" in sample.fault[1]

    tar = shutil.which("tar")
    if tar is None:
        pytest.skip("no tar")
    with tarfile.open(tmp_path / "a.tar") as old:
        old.extractall(tmp_path / "files", filter="data")
    subprocess.run(
        [tar, "--sort=name", "-cf", tmp_path / "a.tar", "-C", tmp_path / "files", "."], check=True
    )

    repacked = [s for s in read(tmp_path) if s.members]
    assert [s.key for s in repacked] == [f"./{key}" for key in keys]
    assert all(s.fault is None and len(s.members) == 3 for s in repacked)
