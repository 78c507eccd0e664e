"""SQL of the pages runs as pasted, on a catalog with a night in it, as the read-only role."""

from __future__ import annotations

from pathlib import Path

import pytest

from sscd_ops.testing import picture
from tests.docs.pages import PAGES, ROOT, blocks, name_of
from tests.integration.world import World, pair


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
    one, other = picture(1), picture(2)
    world.put("2026-11-01", "a.tar", [pair("a", one), pair("b", other), pair("c", one)])
    world.put("2026-11-01", "b.tar", [pair("d", b"no picture")])
    world.night("2026-11-01")
    for statement in filter(str.strip, block.split(";")):
        with world.parts() as parts, parts.catalog.begin() as conn:
            conn.exec_driver_sql("SET LOCAL ROLE sscd_ops_auditor")
            found = conn.exec_driver_sql(statement).all()
        if "sha256" not in statement:  # the pasted digest is of nobody's picture
            assert found
