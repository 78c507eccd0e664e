"""The catalog's versions."""
from __future__ import annotations
from sscd_ops.catalog.migrate import HEAD, status
def test_a_cloned_catalog_is_at_head(catalog, catalog_url):
    catalog.check_schema()
    assert status(catalog_url) == (HEAD, HEAD)
