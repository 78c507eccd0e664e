"""A real Postgres for tests: one embedded server a run, a cloned database a test."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.embedded import ensure_running, stop
from sscd_ops.catalog.migrate import upgrade
from sscd_ops.index import int8
from tests.databases import fresh_database

# a busy machine is slow; `make soak` chooses the other by --hypothesis-profile
settings.register_profile("test", max_examples=100, deadline=None)
settings.register_profile("soak", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile("test")


@pytest.fixture(autouse=True)
def _log_levels() -> None:
    """Commands that ran in this process have set its log levels: each test begins without."""
    for name in ("sscd_ops", "sscd_ops.wiring"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(autouse=True, scope="session")
def _exact_everywhere() -> None:
    """`exact` is tested on machines too where it is slower than `flat` and would give way to it."""
    int8.LEAST_SPEED = 0.0


@pytest.fixture(scope="session")
def postgres_home() -> Iterator[Path]:
    """The home of a running embedded server; stopped and removed at the end."""
    # Not below pytest's own folder: that is closed to others, and as root the server is `nobody`.
    home = Path(tempfile.mkdtemp(prefix="sscd-ops-postgres-"))
    home.chmod(0o755)
    try:
        ensure_running(home)
        yield home
    finally:
        stop(home)
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def catalog_template(postgres_home: Path) -> str:
    """URL of a migrated database that nobody connects to: tests clone it."""
    url = ensure_running(postgres_home, ("catalog_template",))["catalog_template"]
    upgrade(url)
    return url


@pytest.fixture
def empty_url(postgres_home: Path) -> Iterator[str]:
    """URL of a fresh database without a catalog, dropped afterwards."""
    yield from fresh_database(postgres_home, "template1")


@pytest.fixture
def catalog_url(postgres_home: Path, catalog_template: str) -> Iterator[str]:
    """URL of a fresh database with an empty catalog, dropped afterwards."""
    yield from fresh_database(postgres_home, catalog_template.rpartition("/")[2])


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    """A fresh, empty catalog."""
    opened = Catalog(catalog_url)
    yield opened
    opened.dispose()
