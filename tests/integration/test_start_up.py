"""What a night imports: seconds of a process that does nothing but answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sscd_ops.testing import make_tar, picture

HEAVY = ("pandas", "rich", "alembic", "torch")
PROGRAM = f"""
import atexit, sys
atexit.register(lambda: print("LOADED", [name for name in {HEAVY!r} if name in sys.modules]))
from sscd_ops.cli.main import main
main()
"""
CONFIG = """
[storage]
root = "root"
[datasets.web]
[[datasets.web.sources]]
urls = ["in/*.tar"]
[datasets.web.fingerprint]
model = "dct"
workers = 1
[datasets.web.duplicates]
search = "flat"
[datasets.web.guard]
first_nights_max = 1.0
"""


def test_a_night_loads_neither_pandas_nor_what_a_terminal_or_a_migration_needs(
    catalog_url: str, tmp_path: Path
) -> None:
    """Nor does one that only answers. ``auto`` and networks load more, which they need."""
    pairs = ((f"k{n}", {"jpg": picture(n % 8), "txt": b"a caption"}) for n in range(10))
    make_tar(tmp_path / "in" / "a.tar", pairs)
    (tmp_path / "sscd.toml").write_text(CONFIG)
    command = [sys.executable, "-c", PROGRAM, "run", "--config", str(tmp_path / "sscd.toml")]
    command += ["--dataset", "web", "--date", "2026-11-01"]
    environment = {**os.environ, "SSCD_OPS_DATABASE_URL": catalog_url}

    for said in ("kept                8", "nothing to do"):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=300
        )

        assert said in done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == "LOADED []"
