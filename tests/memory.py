"""How much memory a block of a test takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """Fail where the block's peak of resident memory is this much above what it began with."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far

    def read(key: str) -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split(f"{key}:")[1].split()[0])

    before = read("VmRSS")
    yield
    grown = (read("VmHWM") - before) / 1024
    assert grown <= megabytes, f"grew by {grown:.0f} MB"
