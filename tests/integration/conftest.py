"""Tests here use a real Postgres (fixtures in ../conftest.py)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from datetime import date
from pathlib import Path

import pytest

from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.partitions import ensure_month
from tests import recording
from tests.databases import fresh_database
from tests.integration.world import World


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record what a test left (see ../recording.py), before its fixtures end."""
    report = yield
    if call.when == "call" and not report.skipped:
        recording.record(item, report.outcome)
    return report


@pytest.fixture
def month(catalog: Catalog) -> date:
    """A month whose partitions are there."""
    first = date(2026, 11, 1)
    for table in ("samples", "matches"):
        ensure_month(catalog, first, table)
    return first


@pytest.fixture
def world(tmp_path: Path, catalog_url: str) -> World:
    """An empty dataset."""
    return World(tmp_path, catalog_url)


@pytest.fixture(scope="module")
def module_world(
    tmp_path_factory: pytest.TempPathFactory, postgres_home: Path, catalog_template: str
) -> Iterator[World]:
    """An empty dataset that is begun once, of which a module's tests get copies."""
    for url in fresh_database(postgres_home, catalog_template.rpartition("/")[2]):
        yield World(tmp_path_factory.mktemp("begun"), url)


@pytest.fixture
def other_world(tmp_path: Path, postgres_home: Path, catalog_template: str) -> Iterator[World]:
    """Another root and another database over the same incoming folder."""
    for url in fresh_database(postgres_home, catalog_template.rpartition("/")[2]):
        yield World(tmp_path / "other", url, incoming=tmp_path / "incoming")
