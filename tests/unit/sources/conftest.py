"""Where sources lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.unit.sources.feeds import memory_folder


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path)
        return
    made = memory_folder()
    yield made
    memory = fsspec.filesystem("memory")
    if memory.exists(made):
        memory.rm(made, recursive=True)
