"""SQL of the pages runs as pasted, on a catalog with a night in it, as the read-only role."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from sscd_ops.testing import picture, plant
from tests.docs.pages import PAGES, ROOT, blocks, name_of
from tests.integration.world import DATASET, World, pair


@pytest.fixture
def world(tmp_path: Path, catalog_url: str) -> World:
    """An empty dataset."""
    return World(tmp_path, catalog_url)


QUERIES = [(page, block) for page in PAGES for block in blocks(page, "sql") if "GRANT" not in block]


def test_the_readme_has_three_audit_queries() -> None:
    assert len(blocks(ROOT / "README.md", "sql")) == 3


@pytest.mark.parametrize(
    ("page", "block"), QUERIES, ids=[f"{name_of(page)}" for page, _ in QUERIES]
)
def test_queries_run_as_pasted(world: World, page: Path, block: str) -> None:
    last_night(world)
    for statement in filter(str.strip, block.split(";")):
        assert ask(world, statement)


def test_the_readme_shows_the_last_night_of_a_dataset(world: World) -> None:
    last_night(world)

    removed, sources, _ = (ask(world, query) for query in blocks(ROOT / "README.md", "sql"))

    assert [(row["key"], row["reason"], row["witness_key"]) for row in removed] == [
        ("again", "exact", "b"),
        ("resized", "near", "a"),
    ]
    assert all(row["witness_shard"].endswith(".tar") for row in removed)
    assert [(row["source"], row["read"], row["removed"]) for row in sources] == [("crawl", 8, 3)]


def test_the_readme_shows_a_picture_with_its_witness_and_its_shard(world: World) -> None:
    last_night(world)

    found = ask(world, blocks(ROOT / "README.md", "sql")[2])

    assert [(row["key"], row["verdict"], row["reason"]) for row in found] == [
        ("b", "kept", None),
        ("again", "removed", "exact"),
    ]
    assert found[0]["shard"].endswith(".tar")
    assert found[1]["witness_key"] == "b"


def test_the_catalog_page_shows_what_took_a_turn_and_all_that_was_decided_of_a_picture(
    world: World,
) -> None:
    last_night(world)

    decisions, verdicts = (
        ask(world, query) for query in blocks(ROOT / "docs" / "catalog.md", "sql")[:2]
    )

    assert [(row["turn"], row["kind"], row["changes"]) for row in decisions] == [
        (2, "night", 0),
        (1, "night", 0),
    ]
    assert sorted((row["turn"], row["verdict"], row["reason"]) for row in verdicts) == [
        (1, "kept", None),
        (2, "removed", "exact"),
    ]
    kept, removed = sorted(verdicts, key=lambda row: row["turn"])
    assert removed["witness_sample_id"] == kept["sample_id"]


# ---------------------------------------------------------------- two nights, and asking


def last_night(world: World) -> None:
    """A night, then one with a copy of equal bytes, a resized one and a page that is no picture."""
    one, other = picture(1), picture(2)
    world.put("2026-11-01", "a.tar", [pair("a", one), pair("b", other), pair("c", one)])
    world.put("2026-11-01", "b.tar", [pair("d", b"no picture")])
    world.put(
        "2026-11-02",
        "a.tar",
        [
            pair("again", other),
            pair("new", picture(3)),
            pair("page", b"<html>"),
            pair("resized", plant(one, "half_size")),
        ],
    )
    world.night("2026-11-01")
    world.night("2026-11-02")


def ask(world: World, statement: str) -> list[dict[str, Any]]:
    """As the read-only role; the example's dataset and digest are those of the test."""
    statement = statement.replace("'demo'", f"'{DATASET}'")
    digest = hashlib.sha256(picture(2)).hexdigest()
    statement = re.sub(r"'[0-9a-f]{64}'", f"'{digest}'", statement)
    with world.parts() as parts, parts.catalog.begin() as conn:
        conn.exec_driver_sql("SET LOCAL ROLE sscd_ops_auditor")
        return [dict(row) for row in conn.exec_driver_sql(statement).mappings()]
