"""One behaviour of files under a root, in a folder and behind a URL with a cache before it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sscd_ops.errors import ConfigError, FileMismatch, StoreUnavailable
from sscd_ops.model import StoredFile
from sscd_ops.options import StorageOptions
from sscd_ops.ports import Store
from sscd_ops.storage import checked
from sscd_ops.storage.store import open_store

Write = Callable[[BinaryIO], None]


class DriverError(Exception):
    """As a driver raises it: no OSError."""

    __module__ = "botocore.exceptions"


class Unreachable(MemoryFileSystem):
    """A driver whose every call fails."""

    protocol = "unreachable"

    def _fail(self, *_: Any, **__: Any) -> Any:
        raise DriverError("could not connect")

    exists = put_file = pipe_file = cat_file = get_file = find = rm_file = open = _fail


class Racing(MemoryFileSystem):
    """A driver with a true conditional put, where another writer is quicker than a look."""

    protocol = "racing"

    def exists(self, path: str, **_: Any) -> bool:
        return False

    def put_file(self, lpath: str, rpath: str, *_: Any, mode: str = "overwrite", **__: Any) -> None:
        if mode == "create" and super().exists(rpath):
            raise FileExistsError(rpath)
        self.pipe_file(rpath, Path(lpath).read_bytes())


for driver in (Unreachable, Racing):
    fsspec.register_implementation(driver.protocol, driver, clobber=True)


def writes(data: bytes) -> Write:
    def write(stream: BinaryIO) -> None:
        stream.write(data)

    return write


def remote(tmp_path: Path, *, cache_bytes: int = 10**6, protocol: str = "memory") -> Store:
    root = f"{protocol}://{uuid.uuid4().hex}"
    return open_store(StorageOptions(root, str(tmp_path / "cache"), cache_bytes))


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty root."""
    if request.param == "folder":
        yield open_store(StorageOptions(str(tmp_path / "root")))
        return
    made = remote(tmp_path)
    yield made
    for name in names(made):
        made.delete(name)


def names(store: Store) -> list[str]:
    """All files below the root, seen by another than the store."""
    fs, root = fsspec.core.url_to_fs(store.root)
    return sorted(path.removeprefix(f"{root}/") for path in fs.find(root))


def overwrite(store: Store, file: StoredFile, data: bytes) -> None:
    """Damage a file behind the store's back."""
    with fsspec.open(store.url(file.name), "wb") as stream:
        stream.write(data)


def test_a_file_is_named_by_its_content_and_read_back(store: Store) -> None:
    file = store.put("web/manifests", ".parquet", writes(b"rows"))
    again = store.put("web/manifests", ".parquet", writes(b"rows"))

    sha256 = hashlib.sha256(b"rows").hexdigest()
    assert file == again == StoredFile(f"web/manifests/{sha256}.parquet", sha256, 4)
    assert store.local(file).read_bytes() == b"rows"
    assert names(store) == [file.name]
    store.verify(file)
    with fsspec.open(store.url(file.name), "rb") as stream:
        assert stream.read() == b"rows"


def test_pieces_are_the_file_and_are_compared_behind_the_last(store: Store) -> None:
    data = os.urandom(3 << 20)
    file = store.put_named("web/shards/0.tar", writes(data))

    assert b"".join(store.pieces(file)) == data

    overwrite(store, file, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(FileMismatch, match=r"0\.tar has sha256 .*--repair"):
        list(store.pieces(file))
    store.delete(file.name)
    with pytest.raises(FileMismatch, match=r"0\.tar is missing; .*--repair"):
        list(store.pieces(file))


def test_a_final_name_is_written_again_with_equal_bytes_alone(store: Store) -> None:
    file = store.put_named("web/shards/0.tar", writes(b"one"))

    assert store.put_named("web/shards/0.tar", writes(b"one")) == file
    with pytest.raises(FileMismatch, match=r"0\.tar exists with other bytes; .*--repair"):
        store.put_named("web/shards/0.tar", writes(b"two"))

    store.verify(file)
    assert names(store) == [file.name]


def test_a_writer_that_fails_leaves_nothing(store: Store, tmp_path: Path) -> None:
    def fail(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise KeyError("no more")

    for put in (lambda: store.put("web", ".x", fail), lambda: store.put_named("web/0", fail)):
        with pytest.raises(KeyError):
            put()

    assert names(store) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


DAMAGES: dict[str, bytes | None] = {
    "missing": None,
    "longer": b"longer than it was",
    "cut": b"row",
    "empty": b"",
    "flipped": b"rowr",
    "zeroed": bytes(4),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("read_before", [False, True])
def test_a_file_that_is_not_what_was_written_is_refused(
    store: Store, damage: str, read_before: bool
) -> None:
    file = store.put("web/index/masks", ".mask", writes(b"rows"))
    if read_before and "://" not in store.root:  # a copy of a remote file is as good as the file
        store.local(file)
    data = DAMAGES[damage]
    if data is None:
        store.delete(file.name)
    else:
        overwrite(store, file, data)

    for ask in (store.verify, store.local):
        with pytest.raises(FileMismatch, match=r"\.mask .*; `sscd-ops index rebuild --data"):
            ask(file)


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("manifests", "`sscd-ops index rebuild --dataset web` writes it anew, from its source"),
        ("descriptors", "clear embed and what follows, or run its night again"),
        ("matches", "`sscd-ops index rebuild --dataset web` forgets it"),
        ("snapshots", "`sscd-ops snapshot verify --dataset web --repair` .* from the catalog"),
        ("shards/2026-11-01-ab", "`sscd-ops snapshot verify --dataset web --repair` .* backup"),
        ("anything", "restore it from a backup"),
    ],
)
def test_the_remedy_is_that_of_the_kind_of_file(store: Store, kind: str, remedy: str) -> None:
    with pytest.raises(FileMismatch, match=f"is missing; .*{remedy}"):
        store.local(StoredFile(f"web/{kind}/x", "00" * 32, 1))


def test_a_folder_in_the_place_of_a_file_is_named_and_never_removed(tmp_path: Path) -> None:
    folder = open_store(StorageOptions(str(tmp_path / "root")))
    behind_url = open_store(
        StorageOptions(f"file://{tmp_path}/root", str(tmp_path / "cache"), 10**6)
    )
    data = b"rows"
    file = folder.put("web/index/masks", ".mask", writes(data))
    there = Path(folder.url(file.name))
    there.unlink()
    (there / "mine").mkdir(parents=True)

    calls: list[Callable[[Store], object]] = [
        lambda store: store.local(file),
        lambda store: store.verify(file),
        lambda store: store.put("web/index/masks", ".mask", writes(data)),
        lambda store: store.put_named(file.name, writes(data)),
        lambda store: store.restore(file, writes(data)),
    ]
    for store in (folder, behind_url):
        for call in calls:
            with pytest.raises(FileMismatch, match=r"not a file .move it away first.; .*rebuild"):
                call(store)
        assert store.read_small(file.name) is None
    assert (there / "mine").is_dir()


def test_a_file_of_which_no_row_tells_is_written_over_when_that_is_asked(store: Store) -> None:
    store.put_named("web/shards/0.tar", writes(b"half of it"))

    file = store.put_named("web/shards/0.tar", writes(b"all"), over=True)

    assert store.local(file).read_bytes() == b"all"


def test_a_lost_file_is_restored_by_its_own_bytes_alone(store: Store) -> None:
    file = store.put_named("web/shards/0.tar", writes(b"one"))
    overwrite(store, file, b"ONE")

    assert not store.restore(file, writes(b"two"))
    with pytest.raises(FileMismatch):
        store.verify(file)
    assert store.restore(file, writes(b"one"))

    store.verify(file)
    assert names(store) == [file.name]


def test_a_file_is_compared_once_and_again_when_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(StorageOptions(str(tmp_path)))
    file = store.put("web", ".x", writes(b"rows"))
    read: list[Path] = []
    real = checked.sha256_of
    monkeypatch.setattr(checked, "sha256_of", lambda path: read.append(path) or real(path))

    time.sleep(0.11)  # what was written just now is read again
    path = store.local(file)
    store.local(file)
    assert len(read) == 1
    store.verify(file)
    assert len(read) == 2
    times = path.stat()
    path.write_bytes(b"ROWS")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(FileMismatch):
        store.local(file)
    assert len(read) == 3


def test_a_copy_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though each use of it is noted in its times."""
    store = remote(tmp_path)
    file = store.put("web", ".x", writes(b"rows"))
    store.local(file)
    time.sleep(0.11)
    read: list[Path] = []
    real = checked.sha256_of
    monkeypatch.setattr(checked, "sha256_of", lambda path: read.append(path) or real(path))

    for _ in range(3):
        store.local(file)

    assert len(read) == 1


def test_a_disk_that_cannot_read_a_file_is_no_transient_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(StorageOptions(str(tmp_path)))
    file = store.put("web/index/masks", ".mask", writes(b"rows"))

    def fails(_: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checked, "sha256_of", fails)

    with pytest.raises(FileMismatch, match=r"cannot be read .Input/output error.; `sscd-ops index"):
        store.local(file)


def test_a_damaged_file_named_by_its_content_is_written_anew(store: Store) -> None:
    """As `index rebuild` does."""
    file = store.put("web", ".x", writes(b"rows"))
    overwrite(store, file, b"ROWS")

    store.put("web", ".x", writes(b"rows"))

    store.verify(file)
    assert store.local(file).read_bytes() == b"rows"


def test_small_files_are_replaced_and_deleted(store: Store) -> None:
    assert store.read_small("web/latest.json") is None

    store.replace("web/latest.json", b"1")
    store.replace("web/latest.json", b"2")
    assert store.read_small("web/latest.json") == b"2"

    store.delete("web/latest.json")
    store.delete("web/latest.json")
    assert names(store) == []


def test_a_listing_has_every_file_below_a_folder_with_its_size_and_time(store: Store) -> None:
    began = time.time() - 2
    file = store.put("web/manifests", ".parquet", writes(b"rows"))
    for name in ("web/shards/night/00000.tar", "web/shards/.tmp-1", "web/shardsome/x"):
        store.replace(name, b"12")

    listed = list(store.list("web/shards"))

    assert {(each.name, each.bytes, each.is_regular) for each in listed} == {
        ("web/shards/night/00000.tar", 2, True),
        ("web/shards/.tmp-1", 2, True),
    }
    assert [each.name for each in store.list("web/manifests")] == [file.name]
    for each in listed:
        assert each.modified is not None
        assert began <= each.modified <= time.time() + 2
    assert list(store.list("web/nothing")) == list(store.list("nothing/at/all")) == []
    assert store.has(file.name)
    assert not store.has("web/manifests")
    store.delete(file.name)
    assert not store.has(file.name)
    assert list(store.list("web/manifests")) == []


def test_links_are_listed_and_never_followed(tmp_path: Path) -> None:
    store = open_store(StorageOptions(str(tmp_path / "root")))
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "more").mkdir(parents=True)
    (elsewhere / "more" / "x").write_bytes(b"x")
    folder = tmp_path / "root" / "web" / "matches"
    folder.mkdir(parents=True)
    (folder / "folder").symlink_to(elsewhere)
    (folder / "file").symlink_to(elsewhere / "more" / "x")
    (tmp_path / "root" / "web" / "index").symlink_to(elsewhere)
    os.mkfifo(folder / "pipe")

    assert {(each.name, each.is_regular) for each in store.list("web/matches")} == {
        ("web/matches/folder", False),
        ("web/matches/file", False),
        ("web/matches/pipe", False),
    }
    assert [(e.name, e.is_regular) for e in store.list("web/index/more")] == [("web/index", False)]


@pytest.mark.parametrize(
    ("info", "modified"),
    [
        ({"LastModified": datetime(2026, 11, 1, tzinfo=UTC)}, 1793491200.0),
        ({"last_modified": datetime(2026, 11, 1)}, 1793491200.0),  # noqa: DTZ001
        ({"updated": "2026-11-01T00:00:00.000Z", "created": 5}, 1793491200.0),
        ({"mtime": 1793491200.5}, 1793491200.5),
        ({"mtime": "yesterday", "created": 5}, 5.0),
        ({}, None),
    ],
)
def test_the_time_of_a_file_is_read_as_its_driver_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: dict[str, Any], modified: float | None
) -> None:
    store = remote(tmp_path)
    store.replace("web/x", b"x")
    found = {f"/{store.root.partition('://')[2]}/web/x": {"type": "file", "size": 1, **info}}
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *_, **__: found)

    (listed,) = store.list("web")

    assert listed.modified == modified


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "web//x", "web/../../x"])
def test_no_name_leads_out_of_the_root(store: Store, name: str) -> None:
    for use in (store.read_small, store.delete, store.url, store.has, lambda n: [*store.list(n)]):
        with pytest.raises(ValueError, match="not a name below the storage root"):
            use(name)
    with pytest.raises(ValueError, match="not a name below the storage root"):
        store.put_named(name, writes(b""))


# ---------------------------------------------------------------- behind a URL alone


def test_a_remote_root_needs_a_cache() -> None:
    with pytest.raises(ConfigError, match=r"set storage\.cache"):
        open_store(StorageOptions("memory://x"))


def test_a_copy_is_fetched_once(tmp_path: Path) -> None:
    store = remote(tmp_path)
    file = store.put("web", ".x", writes(b"rows"))
    store.local(file)
    store.delete(file.name)

    assert store.local(file).read_bytes() == b"rows"


def test_the_cache_keeps_to_its_size_and_drops_what_was_longest_unused(tmp_path: Path) -> None:
    store = remote(tmp_path, cache_bytes=250)
    files = [store.put("web", ".x", writes(bytes([n]) * 100)) for n in range(3)]
    paths = [store.local(file) for file in files[:2]]
    mapped = paths[1].open("rb")
    for age, path in zip((300, 200), paths, strict=True):
        os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    store.local(files[0])  # now the second is the least recently used

    store.local(files[2])

    left = {path.name for path in (tmp_path / "cache").iterdir()}
    assert left == {files[0].sha256, files[2].sha256}
    with mapped:
        assert mapped.read() == bytes([1]) * 100


def test_a_file_larger_than_the_cache_is_still_read(tmp_path: Path) -> None:
    store = remote(tmp_path, cache_bytes=1)
    file = store.put("web", ".x", writes(b"rows"))

    assert store.local(file).read_bytes() == b"rows"


def test_a_bad_copy_is_not_kept(tmp_path: Path) -> None:
    store = remote(tmp_path)
    file = store.put("web", ".x", writes(b"rows"))
    overwrite(store, file, b"ROWS")
    with pytest.raises(FileMismatch):
        store.local(file)

    overwrite(store, file, b"rows")

    assert store.local(file).read_bytes() == b"rows"
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "zeroed", "folder"])
@pytest.mark.parametrize("another", [False, True])
def test_a_damaged_copy_is_fetched_again(tmp_path: Path, damage: str, another: bool) -> None:
    """By the process that fetched it, and by another one."""
    store = remote(tmp_path)
    file = store.put("web", ".x", writes(b"rows"))
    path = store.local(file)
    if damage == "folder":
        path.unlink()
        (path / "mine").mkdir(parents=True)
    else:
        path.write_bytes(DAMAGES[damage] or b"")
    if another:
        store = open_store(StorageOptions(store.root, str(tmp_path / "cache"), 10**6))

    assert store.local(file).read_bytes() == b"rows"


def test_a_damaged_copy_of_a_damaged_file_is_no_way_out(tmp_path: Path) -> None:
    store = remote(tmp_path)
    file = store.put("web/index/masks", ".mask", writes(b"rows"))
    store.local(file).write_bytes(b"ROWS")
    overwrite(store, file, b"rowS")

    with pytest.raises(FileMismatch, match=r"has sha256 .*; `sscd-ops index rebuild"):
        store.local(file)

    assert store.drop_damaged_copy(file)
    assert not store.drop_damaged_copy(file)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_sound_copy_is_never_dropped(store: Store) -> None:
    file = store.put("web", ".x", writes(b"rows"))
    assert not store.drop_damaged_copy(file)
    store.local(file)
    assert not store.drop_damaged_copy(file)


def test_a_disk_full_of_copies_has_room_for_the_next_try(tmp_path: Path) -> None:
    store = remote(tmp_path)
    copy = store.local(store.put("web", ".x", writes(b"rows")))
    os.utime(copy, (1, 1))

    def fails(_: BinaryIO) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreUnavailable):
        store.put("web", ".x", fails)

    assert not copy.exists()


def test_a_cache_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    store = remote(tmp_path)
    file = store.put("web", ".x", writes(b"rows"))
    store.local(file)
    shutil.rmtree(tmp_path / "cache")

    assert store.local(file).read_bytes() == b"rows"
    shutil.rmtree(tmp_path / "cache")
    store.put("web", ".x", writes(b"more"))


def test_a_driver_without_conditional_puts_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = remote(tmp_path)
    put = MemoryFileSystem.put_file

    def refuses(self: MemoryFileSystem, lpath: str, rpath: str, **options: Any) -> None:
        if "mode" in options:
            raise NotImplementedError
        put(self, lpath, rpath, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", refuses)

    file = store.put_named("web/0.tar", writes(b"one"))

    assert store.local(file).read_bytes() == b"one"


def test_of_two_writers_at_once_the_first_counts(tmp_path: Path) -> None:
    store = remote(tmp_path, protocol="racing")
    file = store.put_named("web/0.tar", writes(b"one"))

    assert store.put_named("web/0.tar", writes(b"one")) == file
    with pytest.raises(FileMismatch, match="exists with other bytes"):
        store.put_named("web/0.tar", writes(b"two"))
    store.verify(file)


def test_what_a_driver_raises_is_tried_again(tmp_path: Path) -> None:
    store = remote(tmp_path, protocol="unreachable")
    file = StoredFile("web/0.tar", "00" * 32, 1)

    calls: list[Callable[[], object]] = [
        lambda: store.put("web", ".x", writes(b"")),
        lambda: store.put_named("web/0.tar", writes(b"")),
        lambda: store.replace("web/latest.json", b""),
        lambda: store.read_small("web/latest.json"),
        lambda: store.local(file),
        lambda: store.verify(file),
        lambda: store.delete("web/0.tar"),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match=r"unreachable://.*could not connect"):
            call()
