"""Tests here use a real Postgres (fixtures in ../conftest.py)."""

from __future__ import annotations

from datetime import date

import pytest

from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.partitions import ensure_month


@pytest.fixture
def month(catalog: Catalog) -> date:
    """A month whose partitions are there."""
    first = date(2026, 11, 1)
    for table in ("samples", "matches"):
        ensure_month(catalog, first, table)
    return first
