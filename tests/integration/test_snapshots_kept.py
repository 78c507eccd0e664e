"""Snapshots that people name, keep and give up: ``snapshot tag``, ``users`` and ``expire``."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from sscd_ops.catalog import datasets, lookups
from sscd_ops.cli.main import main
from sscd_ops.errors import UsageError
from sscd_ops.steps import snapshot_tags
from sscd_ops.steps.rebuilding import rebuild_snapshots
from sscd_ops.steps.snapshot_diff import diff
from sscd_ops.steps.snapshot_users import users
from sscd_ops.steps.verify import verify_snapshot
from sscd_ops.wiring import Wiring
from tests.databases import fresh_database
from tests.integration.orders import lead_by
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import DATASET, World, assert_catalog_and_files_agree

ANN: dict[str, Any] = {"actor": "ann", "why": "the release"}


def three_nights(world: World) -> None:
    """Three snapshots; an order after the second takes two samples of the first night's shard."""
    for number, day in enumerate(DAYS[:3]):
        world.put(day, "a.tar", clouds(range(10 * number, 10 * number + 4)))
        if day == DAYS[2]:
            with world.parts() as parts:
                lead_by(parts, {"c0001": "free", "c0002": "withdrawn"})
        world.night(day)


@pytest.fixture(scope="module")
def begun(module_world: World) -> World:
    three_nights(module_world)
    return module_world


@pytest.fixture
def made(begun: World, postgres_home: Path) -> Iterator[World]:
    """Three snapshots, in a database of its own; its files are those of all tests here."""
    for url in fresh_database(postgres_home, begun.url.rpartition("/")[2]):
        world = World(begun.base, url)
        world.options = begun.options
        yield world


@pytest.fixture
def parts(made: World) -> Iterator[Wiring]:
    with made.parts() as opened:
        yield opened


def events(world: World, kind: str) -> list[dict[str, Any]]:
    return [
        row["details"] | {"actor": row["actor"], "why": row["why"]}
        for row in world.ask("SELECT * FROM curation.events WHERE kind = :k ORDER BY 1", k=kind)
    ]


def expired(world: World) -> list[int]:
    return [
        row["snapshot"]
        for row in world.ask(
            "SELECT snapshot FROM curation.snapshots WHERE expired_at IS NOT NULL ORDER BY 1"
        )
    ]


# ---------------------------------------------------------------- tags


def test_a_tag_names_a_snapshot_and_says_who_trained_on_it(made: World, parts: Wiring) -> None:
    until = date(2999, 12, 31)
    snapshot_tags.tag(parts, DATASET, 1, "v1", used_by="clip-7", keep_until=until, **ANN)
    snapshot_tags.tag(parts, DATASET, 1, "v1", used_by="clip-7", **ANN)
    said = snapshot_tags.tag(parts, DATASET, 1, "v1", used_by="clip-8", actor="bob", why="too")

    assert said == "snapshot 1 of 'web' has the tag 'v1', which keeps it until 2999-12-31"
    (tag,) = made.ask("SELECT * FROM curation.snapshot_tags")
    del tag["at"]
    assert tag == {
        "dataset": "web", "snapshot": 1, "name": "v1", "keep_until": until, "actor": "ann",
        "why": "the release",
    }  # fmt: skip
    used = made.ask("SELECT snapshot, run, actor FROM curation.snapshot_users ORDER BY at")
    assert used == [
        {"snapshot": 1, "run": "clip-7", "actor": "ann"},
        {"snapshot": 1, "run": "clip-8", "actor": "bob"},
    ]
    assert events(made, "tagged") == [
        {"snapshot": 1, "tag": "v1", "keep_until": "2999-12-31", "used_by": "clip-7"} | ANN,
        {"snapshot": 1, "tag": "v1", "keep_until": "2999-12-31", "used_by": "clip-8"}
        | {"actor": "bob", "why": "too"},
    ]
    tags = made.ask("SELECT tags FROM curation.snapshots ORDER BY snapshot")
    assert [row["tags"] for row in tags] == ["v1", None, None]


def test_a_tag_that_is_taken_away_leaves_who_trained_on_the_snapshot(
    made: World, parts: Wiring
) -> None:
    snapshot_tags.tag(parts, DATASET, 2, "v1", used_by="clip-7", **ANN)

    for _ in range(2):
        said = snapshot_tags.untag(parts, DATASET, 2, "v1", **ANN)
        assert said == "snapshot 2 of 'web' has no tag 'v1'"

    assert made.ask("SELECT * FROM curation.snapshot_tags") == []
    assert len(made.ask("SELECT * FROM curation.snapshot_users")) == 1
    assert events(made, "untagged") == [{"snapshot": 2, "tag": "v1"} | ANN]


@pytest.mark.parametrize(
    ("number", "name", "given", "said"),
    [
        (9, "v2", {}, "no snapshot 9 of 'web'"),
        (1, "v 2", {}, "'v 2' is no name of a tag"),
        (1, "", {}, "'' is no name of a tag"),
        (1, "v2", {"used_by": " "}, "say what was trained"),
        (1, "v2", {"keep_until": date(2026, 11, 1)}, "2026-11-01 is over"),
        (1, "v2", {"why": ""}, "say who and why"),
        (2, "v1", {}, "the tag 'v1' is on snapshot 1 of 'web'"),
        (3, "v2", {}, "snapshot 3 of 'web' was expired on"),
    ],
)
def test_a_tag_that_cannot_be_is_refused(
    made: World, parts: Wiring, number: int, name: str, given: dict[str, Any], said: str
) -> None:
    snapshot_tags.tag(parts, DATASET, 1, "v1", **ANN)
    with parts.catalog.begin() as conn:
        datasets.run(conn, "UPDATE sscd_ops.snapshots SET expired_at = now() WHERE snapshot = 3")

    with pytest.raises(UsageError, match=said):
        snapshot_tags.tag(parts, DATASET, number, name, **(ANN | given))

    assert len(made.ask("SELECT * FROM curation.snapshot_tags")) == 1


# ---------------------------------------------------------------- expired


def test_the_newest_and_what_a_tag_keeps_are_never_expired_and_the_remedy_works(
    made: World, parts: Wiring, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_tags.tag(parts, DATASET, 1, "v1", **ANN)
    for numbers, said in (
        ((2, 3), "snapshot 3 is the newest of 'web'"),
        ((2, 1), "the tag v1 keeps snapshot 1"),
        ((2, 8), "no snapshot 8"),
    ):
        with pytest.raises(UsageError, match=said) as refused:
            snapshot_tags.expire(parts, DATASET, numbers, **ANN)
        if "v1" in said:
            remedy = re.findall("`sscd-ops (.*?)`", str(refused.value))[0]
    assert expired(made) == []

    as_command(made, remedy.replace("'...'", "over"))
    snapshot_tags.expire(parts, DATASET, (2, 1), **ANN)

    assert expired(made) == [1, 2]
    assert events(made, "expired") == [{"snapshots": [1, 2]} | ANN]


def as_command(world: World, line: str) -> None:
    """Run a command that a message prints, over the world's settings."""
    config = world.base / "kept.toml"
    config.write_text(
        f'[storage]\nroot = "{world.storage.root}"\n[datasets.web]\n'
        '[[datasets.web.sources]]\nurls = ["in/*.tar"]\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSCD_OPS_CONFIG", str(config))
        patch.setenv("SSCD_OPS_DATABASE_URL", world.url)
        main(line.split(), standalone_mode=False)


def test_all_but_the_last_are_expired_and_those_that_a_tag_keeps(
    made: World, parts: Wiring
) -> None:
    snapshot_tags.tag(parts, DATASET, 1, "v1", keep_until=date(2999, 1, 1), **ANN)

    told = snapshot_tags.expire(parts, DATASET, keep_last=1, dry_run=True, **ANN)
    assert expired(made) == []
    done = snapshot_tags.expire(parts, DATASET, keep_last=1, **ANN)
    again = snapshot_tags.expire(parts, DATASET, keep_last=1, **ANN)

    for found in (told, done):
        assert [each.number for each in found.snapshots] == [2]
        assert [str(tag) for tag in found.tagged] == ["v1 (until 2999-01-01)"]
    assert expired(made) == [2]
    assert again.snapshots == []
    # a tag whose last day is over keeps nothing
    with parts.catalog.begin() as conn:
        datasets.run(conn, "UPDATE sscd_ops.snapshot_tags SET keep_until = '2026-11-01'")
    assert [
        each.number for each in snapshot_tags.expire(parts, DATASET, keep_last=1, **ANN).snapshots
    ] == [1]
    assert events(made, "expired") == [{"snapshots": [2]} | ANN, {"snapshots": [1]} | ANN]


def test_expiring_again_changes_nothing(made: World, parts: Wiring) -> None:
    snapshot_tags.expire(parts, DATASET, (1,), **ANN)
    before = made.ask("SELECT * FROM curation.snapshots ORDER BY snapshot")

    done = snapshot_tags.expire(parts, DATASET, (1,), **ANN)

    assert (done.snapshots, done.already) == ([], [1])
    assert made.ask("SELECT * FROM curation.snapshots ORDER BY snapshot") == before
    assert len(events(made, "expired")) == 1


def test_of_a_tag_and_expiry_at_once_one_is_refused(made: World, parts: Wiring) -> None:
    refused: list[str] = []

    def attempt(what: Any) -> None:
        try:
            what()
        except UsageError as error:
            refused.append(str(error))

    threads = [
        threading.Thread(target=attempt, args=[what])
        for what in (
            lambda: snapshot_tags.tag(parts, DATASET, 1, "v1", **ANN),
            lambda: snapshot_tags.expire(parts, DATASET, (1,), **ANN),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(refused) == 1
    tagged = made.ask("SELECT * FROM curation.snapshot_tags")
    assert len(tagged) + len(expired(made)) == 1


def test_what_only_expired_snapshots_name_is_not_missed(world: World) -> None:
    """The first night's shard as it was in snapshots 1 and 2, and the files of both."""
    three_nights(world)
    gone = world.ask(
        "SELECT shard FROM curation.shards WHERE snapshot_to IS NOT NULL ORDER BY shard"
    )
    files = world.ask("SELECT file FROM curation.snapshots WHERE snapshot < 3 ORDER BY snapshot")
    root = Path(world.storage.root)
    with world.parts() as parts:
        before = diff(parts, DATASET, 1, 3)
        snapshot_tags.expire(parts, DATASET, (1, 2), **ANN)
        for row in gone:
            for path in root.glob(row["shard"].removesuffix(".tar") + "*"):
                path.unlink()
        for row in files:
            (root / row["file"]).unlink()

        assert verify_snapshot(parts, DATASET) == []
        assert rebuild_snapshots(parts, DATASET) == ([], [])
        assert not list((root / DATASET / "snapshots").glob("000001-*"))
        assert verify_snapshot(parts, DATASET, 1) == []
        assert diff(parts, DATASET, 1, 3) == before
    assert [row["shards"] for row in world.ask("SELECT * FROM curation.snapshots ORDER BY 2")] == [
        1, 2, 3,
    ]  # fmt: skip
    assert_catalog_and_files_agree(world)
    world.put(DAYS[3], "a.tar", clouds(range(40, 42)))
    world.night(DAYS[3])
    assert_catalog_and_files_agree(world)


def test_a_sample_is_looked_up_in_a_shard_that_can_be_read(made: World, parts: Wiring) -> None:
    """A sample whose newest place is one of an expired snapshot, as no release leaves it."""
    key = made.ask("SELECT sample_id FROM curation.kept WHERE key = 'c0000'")[0]["sample_id"]
    snapshot_tags.expire(parts, DATASET, (1, 2), **ANN)
    with parts.catalog.begin() as conn:
        found = lookups.published_place(conn, UUID(str(key)))

    assert found is not None
    assert "/turn-" in found["tar"].name


# ---------------------------------------------------------------- who, and what came after


def test_who_trained_on_a_snapshot_and_what_came_after_is_one_question(
    made: World, parts: Wiring
) -> None:
    snapshot_tags.tag(parts, DATASET, 1, "v1", used_by="clip-7", **ANN)
    snapshot_tags.untag(parts, DATASET, 1, "v1", **ANN)
    snapshot_tags.tag(parts, DATASET, 2, "v2", **ANN)
    snapshot_tags.expire(parts, DATASET, (1,), **ANN)

    found = users(parts, DATASET, 1)

    assert found.snapshot.expired_at is not None
    assert (list(found.tags), [each.run for each in found.users]) == ([], ["clip-7"])
    assert [each.number for each in found.later] == [2, 3]
    assert [(d.change, d.decision and d.decision.turn, d.samples) for d in found.since] == [
        ("added", 2, 4),
        ("added", 4, 4),
        ("removed", 3, 2),
        ("moved", 1, 2),
    ]
    newest = users(parts, DATASET, 3)
    assert (list(newest.later), list(newest.since)) == ([], [])
    assert [tag.name for tag in users(parts, DATASET, 2).tags] == ["v2"]


# ---------------------------------------------------------------- as commands print it


def test_commands_say_what_the_steps_answer(
    made: World, capsys: pytest.CaptureFixture[str]
) -> None:
    as_command(
        made,
        "snapshot tag 1 v1 --dataset web --used-by clip-7 --keep-until 2999-12-31 --who ann"
        " --why paper",
    )
    as_command(made, "snapshot expire --keep-last 1 --dataset web --who ann --why month")
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "snapshot 1 of 'web' has the tag 'v1', which keeps it until 2999-12-31"
    ]
    assert re.sub(r"\d{4}-\d\d-\d\d, ", "", said.out).splitlines() == [
        "snapshot 2: expired (8 samples in 2 shards)",
        "snapshot 1: kept by its tag v1 (until 2999-12-31)",
    ]

    as_command(made, "snapshot users 1 --dataset web")
    told = capsys.readouterr().out
    since = "2 snapshots, the newest is 3: 8 added, 2 removed, 2 moved"
    for words in ("readable    True", since, "v1", "clip-7"):
        assert words in told
    assert re.search(r"^3 +order +2 ", told, re.MULTILINE)

    as_command(made, "snapshot users 1 --dataset web --format json")
    (found,) = json.loads(capsys.readouterr().out)
    assert [tag["name"] for tag in found["tags"]] == ["v1"]
    assert [user["run"] for user in found["users"]] == ["clip-7"]
    assert [(row["snapshot"], row["expired_at"] is None) for row in found["later"]] == [
        (2, False),
        (3, True),
    ]
    assert [row["samples"] for row in found["since"] if row["change"] == "removed"] == [2]

    as_command(made, "snapshot diff 3 1 --dataset web --format json")
    counts = {row["change"]: row["samples"] for row in json.loads(capsys.readouterr().out)}
    as_command(made, "snapshot diff 3 1 --dataset web --format json --samples")
    listed = Counter(row["change"] for row in json.loads(capsys.readouterr().out))
    assert counts | {"removed": 8} == listed == {"added": 2, "removed": 8, "moved": 2}
    as_command(made, "snapshot diff 2 2 --dataset web")
    assert capsys.readouterr().err == (
        "snapshots 2 and 2 of 'web' hold the same samples in equal shards\n"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("snapshot urls --dataset web --snapshot 1", "snapshot reproduce 1 --dataset web"),
        ("snapshot verify --dataset web --snapshot 1", "snapshot reproduce 1 --dataset web"),
        ("snapshot expire --dataset web --why x", "say which: numbers of snapshots"),
        ("snapshot expire 1 --keep-last 2 --dataset web --why x", "say which: numbers of"),
        ("snapshot tag 1 v1 --remove --used-by r --dataset web --why x", "give neither"),
    ],
)
def test_what_cannot_be_asked_is_said(
    made: World, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    as_command(made, "snapshot expire 1 --dataset web --why x")

    with pytest.raises(SystemExit) as ended:
        as_command(made, line)

    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    as_command(made, "snapshot show --dataset web --snapshot 1")
    assert "expired_at" in capsys.readouterr().out
