"""`publish.undo = "archive"`: what nights removed is kept beside what they published."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from sscd_ops.catalog import archive
from sscd_ops.errors import SourceChanged, StoreUnavailable
from sscd_ops.steps import commit, looking, maintaining, publish, resolve
from sscd_ops.steps.archiving import take_out
from sscd_ops.steps.rebuilding import rebuild_snapshots
from sscd_ops.steps.vacuum import vacuum
from sscd_ops.steps.verify import verify_catalog
from sscd_ops.testing import Sample, picture, plant
from tests.integration.test_crashes import Killed, die_at
from tests.integration.test_nights import DAYS, clouds, fill, planted_nights
from tests.integration.test_repair import (
    AFTER,
    LOST,
    REPAIRED,
    REST,
    assert_repaired,
    lose,
    mend,
    put_back,
    unpublishable,
)
from tests.integration.test_withdraw import withdraw
from tests.integration.world import (
    ASIDE,
    DATASET,
    World,
    assert_promises,
    assert_published_bytes,
    pair,
)
from tests.soak import sweep

COPIED = [
    pair("lead", picture(1), "a caption that says more than the others say"),
    pair("same", picture(1)),
    pair("near", plant(picture(1), "jpeg_40")),
    *clouds(range(20, 23)),
]
"""Of which two are removed."""


def archived(world: World) -> dict[str, bytes]:
    """The files of the archive that rows name, by their names below the root."""
    found = world.ask(
        "SELECT value ->> 'name' AS name FROM sscd_ops.archived_shards, jsonb_each(files)"
        " WHERE files IS NOT NULL ORDER BY 1"
    )
    return {row["name"]: world.stored(row["name"]) for row in found}


def contents(world: World) -> dict[str, bytes]:
    """Name of a member of the archive -> its bytes."""
    members: dict[str, bytes] = {}
    for name in archived(world):
        if name.endswith(".tar"):
            with tarfile.open(Path(world.storage.root) / name) as tar:
                for member in tar:
                    data = tar.extractfile(member)
                    assert data is not None
                    assert member.name not in members
                    members[member.name] = data.read()
    return members


def removed_ids(world: World) -> dict[str, UUID]:
    """Key -> id, of what is removed."""
    found = world.ask("SELECT key, sample_id FROM curation.removed")
    return {row["key"]: row["sample_id"] for row in found}


def assert_archived(world: World, keys: Iterable[str], samples: Iterable[Sample]) -> None:
    """The archive holds these samples, byte for byte as in the sources, and no other ones."""
    ids = removed_ids(world)
    delivered = dict(samples)
    members = contents(world)
    wanted = {}
    for key in keys:
        for extension, data in delivered[key].items():
            wanted[f"{ids[key].hex}.{extension}"] = data
    assert {name: data for name, data in members.items() if not name.endswith(".json")} == wanted
    listed: list[str] = []
    for name in archived(world):
        if name.endswith(".parquet"):
            table = pq.read_table(Path(world.storage.root) / name)
            listed += table.column("sample_id").to_pylist()
            tar = world.stored(name.removesuffix("parquet") + "tar")
            for row in table.to_pylist():
                image = tar[row["offset"] : row["offset"] + row["bytes"]]
                assert hashlib.sha256(image).hexdigest() == row["sha256"]
    assert sorted(listed) == sorted(str(ids[key]) for key in keys)


def keep(world: World, **publish: Any) -> None:
    world.change(publish={"undo": "archive", **publish})


def test_a_night_keeps_what_it_removed_and_no_snapshot_names_it(
    world: World, other_world: World
) -> None:
    nights = planted_nights()
    read = fill(world, nights)
    keep(world, max_samples=4)
    other_world.change(publish={"max_samples": 4})

    for day in DAYS[:3]:
        world.night(day)
        other_world.night(day)

    samples = [sample for night in nights.values() for sample in night]
    assert_archived(world, removed_ids(world), samples)
    assert len([name for name in archived(world) if name.endswith(".tar")]) >= 4
    assert all(name.startswith(f"{DATASET}/removed/2026-11-0") for name in archived(world))
    assert world.published() == other_world.published()
    assert recoverable(world) == dict.fromkeys(removed_ids(world), "archive")
    aside = {*ASIDE, "recoverable"}
    assert world.views(aside) == other_world.views(aside)
    assert not contents(other_world)
    for path in (Path(world.storage.root) / DATASET / "snapshots").iterdir():
        assert b"removed/" not in path.read_bytes()
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []
    assert_promises(world, read=read)


def test_undo_may_be_switched_on_and_off_between_nights(world: World) -> None:
    """It is frozen with the night: what is planned without it is published without it."""
    world.put(DAYS[0], "a.tar", COPIED)
    world.put(DAYS[1], "a.tar", [pair("again", picture(1, quality=60))])
    world.put(DAYS[2], "a.tar", [pair("third", picture(1, quality=50))])
    world.night(DAYS[0])
    keep(world)
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[1])
    world.change(publish={"undo": "source"})
    with world.parts() as parts:
        world.from_resolve(parts, batch_id)
    world.night(DAYS[2])

    assert_archived(world, ["again"], [pair("again", picture(1, quality=60))])


def test_a_night_that_keeps_nothing_has_an_archive(world: World) -> None:
    keep(world)
    world.put(DAYS[0], "a.tar", COPIED)
    world.put(DAYS[1], "a.tar", [pair("again", picture(1))])

    world.night(DAYS[0])
    report = world.night(DAYS[1])

    assert (report.state, report.snapshot) == ("published", None)
    assert_archived(world, ["same", "near", "again"], [*COPIED, pair("again", picture(1))])


POINTS = (
    "resolve.archive.add_plan",
    "publish.write_archived",
    "publish.archive.register",
    "commit._Commit.put",
)


@pytest.mark.parametrize(
    ("when", "point"),
    sweep(
        [(when, point) for when in ("before", "after") for point in POINTS],
        [("after", "publish.write_archived"), ("after", "resolve.archive.add_plan")],
    ),
)
def test_a_night_that_dies_ends_with_the_same_archive(
    world: World, other_world: World, monkeypatch: pytest.MonkeyPatch, when: str, point: str
) -> None:
    world.put(DAYS[0], "a.tar", COPIED)
    for each in (world, other_world):
        keep(each, max_samples=1)
    other_world.night(DAYS[0])
    die_at(monkeypatch, when, point)
    with pytest.raises(Killed):
        world.night(DAYS[0])
    monkeypatch.undo()

    world.night(DAYS[0])

    assert archived(world) == archived(other_world)
    assert len(archived(world)) == 6
    assert world.views() == other_world.views()
    assert_promises(world)
    before = world.ask("SELECT * FROM sscd_ops.archived_shards ORDER BY archive_id")
    world.night(DAYS[0])
    assert world.ask("SELECT * FROM sscd_ops.archived_shards ORDER BY archive_id") == before


# ---------------------------------------------------------------- read again


def test_a_copy_whose_source_is_gone_too_is_kept_from_the_archive(world: World) -> None:
    """All of an earlier night's files go, where copies lie that follow on what a later one lost."""
    keep(world, max_samples=2)
    world.put(DAYS[0], "a.tar", [pair("old", picture(50))])
    lost = world.put(DAYS[1], "lost.tar", LOST)
    world.put(DAYS[1], "rest.tar", REST)
    after = world.put(DAYS[2], "a.tar", AFTER)
    world.night(DAYS[0])
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[1])
        resolve.run(parts, batch_id)
    world.night(DAYS[2])
    lose(world, lost, after)
    with world.parts() as parts, pytest.raises(SourceChanged, match="batch repair"):
        world.from_resolve(parts, batch_id)

    report = mend(world, batch_id)

    assert world.verdicts() == REPAIRED
    assert "copy3" in {o.key for o in report.outcomes if o.becomes == "kept"}
    assert_repaired(world)


def test_an_order_keeps_copies_from_the_archive(world: World) -> None:
    """First the sample with equal bytes, then the near one; of both the source is gone."""
    keep(world)
    source = world.put(DAYS[0], "a.tar", COPIED)
    world.put(DAYS[1], "a.tar", clouds(range(40, 43)))
    world.night(DAYS[0])
    world.night(DAYS[1])
    lose(world, source)

    withdraw(world, "lead")
    first = world.verdicts()
    withdraw(world, "same")

    kept = [row["key"] for row in world.ask("SELECT key FROM curation.kept ORDER BY key")]
    assert (first["same"], first["near"]) == ("kept", "removed near")
    assert world.verdicts()["near"] == "kept"
    assert kept == ["c0020", "c0021", "c0022", "c0040", "c0041", "c0042", "near"]
    put_back(world)
    assert_published_bytes(world, replaced=True)
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []


def test_what_the_archive_holds_damaged_is_not_kept_from_it(world: World) -> None:
    keep(world)
    world.put(DAYS[0], "a.tar", [pair("old", picture(50))])
    lost = world.put(DAYS[1], "lost.tar", LOST)
    world.put(DAYS[1], "rest.tar", REST)
    after = world.put(DAYS[2], "a.tar", AFTER)
    world.night(DAYS[0])
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[1])
        resolve.run(parts, batch_id)
    world.night(DAYS[2])
    lose(world, lost, after)
    damage_tars(world)

    mend_all(world, batch_id)

    assert world.verdicts()["copy3"] == "quarantined source_gone"
    put_back(world)


def mend_all(world: World, batch_id: int) -> None:
    with world.parts() as parts, pytest.raises(SourceChanged):
        world.from_resolve(parts, batch_id)
    mend(world, batch_id)


def damage_tars(world: World) -> list[Path]:
    paths = [Path(world.storage.root) / name for name in archived(world) if name.endswith(".tar")]
    for path in paths:
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 4] ^= 1
        os.truncate(path, 0)
        path.write_bytes(whole)
    return paths


def test_what_cannot_be_archived_is_left_out_by_a_repair(world: World) -> None:
    """Of a removed sample the source goes between decision and publishing."""
    keep(world)
    lost = world.put(DAYS[0], "b.tar", COPIED[1:3])
    world.put(DAYS[0], "a.tar", [COPIED[0], *COPIED[3:], pair("same2", picture(1))])
    batch_id = unpublishable(world, DAYS[0], lost)

    dry = mend(world, batch_id, dry_run=True)
    report = mend(world, batch_id)

    assert [(o.becomes, o.key) for o in report.outcomes] == [
        ("not archived", "same"),
        ("not archived", "near"),
    ]
    assert dry.outcomes == report.outcomes
    assert_archived(world, ["same2"], [pair("same2", picture(1))])
    assert_repaired(world)


# ---------------------------------------------------------------- verify, repair


def test_a_damaged_archive_is_found_and_written_again(world: World) -> None:
    keep(world)
    world.put(DAYS[0], "a.tar", COPIED)
    world.night(DAYS[0])
    before = archived(world)
    damage_tars(world)

    with world.parts() as parts:
        found = verify_catalog(parts, DATASET)
        done, left = rebuild_snapshots(parts, DATASET)

    assert [finding.promise for finding in found] == ["I8"]
    assert f"sscd-ops snapshot verify --dataset {DATASET} --repair" in str(found[0])
    assert (len(done), left) == (1, [])
    assert archived(world) == before
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []


def test_a_damaged_list_of_the_archive_needs_no_source(world: World) -> None:
    keep(world)
    source = world.put(DAYS[0], "a.tar", COPIED)
    world.night(DAYS[0])
    before = archived(world)
    lose(world, source)
    for name in before:
        if not name.endswith(".tar"):
            (Path(world.storage.root) / name).unlink()

    with world.parts() as parts:
        assert rebuild_snapshots(parts, DATASET)[1] == []

    assert archived(world) == before


def test_a_damaged_archive_without_its_source_is_said_to_be_lost(world: World) -> None:
    keep(world)
    source = world.put(DAYS[0], "a.tar", COPIED)
    world.night(DAYS[0])
    damage_tars(world)
    lose(world, source)

    with world.parts() as parts:
        done, left = rebuild_snapshots(parts, DATASET)

    assert (done, len(left)) == ([], 1)
    assert "put the original back" in left[0]
    put_back(world)
    with world.parts() as parts:
        assert len(rebuild_snapshots(parts, DATASET)[0]) == 1
        assert verify_catalog(parts, DATASET) == []


# ---------------------------------------------------------------- less of it


def holding(world: World, *sample_ids: UUID) -> dict[int, set[UUID]]:
    with world.parts() as parts, parts.catalog.begin() as conn:
        held = archive.files_holding(conn, sample_ids)
    return {number: ids for number, (_, ids) in held.items()}


def take(world: World, *sample_ids: UUID) -> list[bool]:
    with world.parts() as parts:
        return [take_out(parts, each, sample_ids) for each in holding(world, *sample_ids)]


def test_a_sample_is_taken_out_of_the_archive(world: World) -> None:
    keep(world)
    source = world.put(DAYS[0], "a.tar", COPIED)
    world.night(DAYS[0])
    ids = removed_ids(world)
    before = archived(world)
    lose(world, source)

    assert take(world, ids["same"]) == [True]

    put_back(world)
    assert_archived(world, ["near"], COPIED)
    assert not before.keys() & archived(world).keys()
    assert holding(world, ids["same"]) == {}
    assert take(world, ids["same"]) == []
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []
        (done,) = vacuum(parts, DATASET, grace=0)
    assert done.removed.keys() >= before.keys()
    assert take(world, ids["near"]) == [True]
    assert archived(world) == {}
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []


def test_a_sample_is_taken_out_before_its_night_is_published(
    world: World, other_world: World
) -> None:
    keep(world)
    world.put(DAYS[0], "a.tar", COPIED)
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[0])
        resolve.run(parts, batch_id)
    same = removed_ids(world)["same"]

    assert take(world, same) == [True]

    with world.parts() as parts:
        world.from_resolve(parts, batch_id)
        assert verify_catalog(parts, DATASET) == []
    assert_archived(world, ["near"], COPIED)


# ---------------------------------------------------------------- retention


def test_what_was_removed_long_ago_is_let_go(world: World) -> None:
    keep(world)
    world.change(retention={"removed": 30 * 86400.0, "grace": 0.0})
    for day in DAYS[:2]:
        world.put(day, "a.tar", COPIED if day == DAYS[0] else [pair("again", picture(1))])
        world.night(day)
    first = {name for name in archived(world) if "2026-11-01" in name}
    with world.parts() as parts, parts.catalog.begin() as conn:
        conn.execute(
            sa.text("UPDATE sscd_ops.decisions SET decided_at = decided_at - interval '31 days'"
                    " WHERE turn = 1")
        )  # fmt: skip

    with world.parts() as parts:
        dry = maintaining.run(parts, DATASET, "expire", dry_run=True)
        assert first <= archived(world).keys()
        done = maintaining.run(parts, DATASET, "expire")
        maintaining.run(parts, DATASET, "vacuum")
        again = maintaining.run(parts, DATASET, "expire")

    assert done.counts == dry.counts == {"expired": 0, "tagged": 0, "archived_shards": 1}
    assert again.counts["archived_shards"] == 0
    assert "1 file of the archive, 2 samples (retention.removed = 30d)" in done.lines
    assert_archived(world, ["again"], [pair("again", picture(1))])
    assert not any((Path(world.storage.root) / name).exists() for name in first)
    world.night(DAYS[0])
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []


# ---------------------------------------------------------------- what can be had


def recoverable(world: World) -> dict[str, str]:
    found = world.ask("SELECT key, recoverable FROM curation.removed")
    return {row["key"]: row["recoverable"] for row in found}


def shares(world: World) -> tuple[int, int, int]:
    with world.parts() as parts:
        found = looking.tell(parts, 1)
    return found.archive, found.source, found.gone


def look(world: World) -> int:
    with world.parts() as parts:
        return looking.look(parts, 1, 100)


def test_what_can_be_had_is_said_as_last_seen(world: World) -> None:
    first = world.put(DAYS[0], "a.tar", COPIED)
    world.night(DAYS[0])
    keep(world)
    world.put(DAYS[1], "a.tar", [pair("again", picture(1))])
    report = world.night(DAYS[1])
    assert recoverable(world) == {"same": "source", "near": "source", "again": "archive"}
    assert shares(world) == (1, 2, 0)

    lose(world, first)
    assert recoverable(world)["same"] == "source"  # nobody looked
    assert look(world) == 2
    assert recoverable(world) == {"same": "gone", "near": "gone", "again": "archive"}
    since = world.ask("SELECT gone_at FROM sscd_ops.source_shards ORDER BY shard_id")[0]["gone_at"]
    look(world)
    assert world.ask("SELECT gone_at FROM sscd_ops.source_shards ORDER BY shard_id")[0][
        "gone_at"
    ] == since  # fmt: skip
    assert shares(world) == (1, 0, 2)

    put_back(world)
    os.utime(first, (1, 1))  # another version of the same bytes
    look(world)
    assert recoverable(world)["near"] == "source"
    world.put(DAYS[0], "a.tar", clouds(range(30, 33)))
    look(world)
    assert recoverable(world)["near"] == "gone"
    assert report.state == "published"


def test_commit_maintain_and_doctor_tell_the_shares(world: World) -> None:
    keep(world)
    world.put(DAYS[0], "a.tar", COPIED)
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[0])
        for group in resolve.run(parts, batch_id).groups:
            publish.run(parts, batch_id, group)
        first = commit.run(parts, batch_id)
        again = commit.run(parts, batch_id)
        maintained = maintaining.run(parts, DATASET, "verify")

    wanted = {"archive": 2, "source": 0, "gone": 0, "since": None}
    assert first.summary()["recoverable"] == wanted
    assert again.summary()["recoverable"] == wanted
    told = "of 2 removed samples 100.0% from the archive, 0.0% gone"
    assert first.funnel().endswith(f"; {told}")
    assert told in maintained.lines
    assert maintained.counts["looked_at"] == 1


def test_sources_take_turns_and_one_that_does_not_answer_is_passed_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.tar", "b.tar", "c.tar"):
        world.put(DAYS[0], name, [pair(f"{name[0]}{n}", picture(1)) for n in range(3)])
    world.night(DAYS[0])
    before = {row["relative_uri"]: row["seen_at"] for row in seen(world)}
    with world.parts() as parts:
        assert looking.look(parts, 1, 2) == 2
    after = {row["relative_uri"]: row["seen_at"] for row in seen(world)}
    assert len([name for name in after if after[name] != before[name]]) == 2
    with world.parts() as parts:
        looking.look(parts, 1, 2)
    assert all(row["seen_at"] > before[row["relative_uri"]] for row in seen(world))

    def silent(*_: Any) -> str:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr("sscd_ops.sources.webdataset.WebDatasetSource.version", silent)
    told = seen(world)
    assert look(world) == 0
    assert seen(world) == told


def seen(world: World) -> list[dict[str, Any]]:
    return world.ask("SELECT * FROM sscd_ops.source_shards ORDER BY shard_id")
