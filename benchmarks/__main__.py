"""Run every benchmark and keep the last result in docs/performance.md (`make bench`).

Each is a process of its own, so that none inherits another's memory or threads; it ends with 0
where its targets are met, 3 where one is missed. Neither a miss nor a crash ends the run: the exit
code says so at the end, and a run with a crash is not kept.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- last result: written by `make bench` -->", "<!-- end of last result -->"
BENCHMARKS = (
    "ingest_read",
    "embed",
    "match",
    "leader",
    "resolve",
    "publish_copy",
    "night",
    "dag_import",
)


def machine() -> str:
    """Processor and cores."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    name = found[1] if found else platform.processor()
    return f"{name}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def main() -> int:
    """Run the benchmarks named as arguments, or all; 1 if one missed a target or crashed."""
    wanted = sys.argv[1:] or list(BENCHMARKS)
    parts = [f"{datetime.now(UTC):%Y-%m-%d}, {machine()}\n"]
    missed = failed = 0
    for name in wanted:
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        said = {0: "Targets met", 3: "Targets missed"}.get(done.returncode, "FAILED")
        missed += said == "Targets missed"
        failed += said == "FAILED"
        text = (
            f"### {name}\n\n```\n{done.stdout.strip()}\n```\n\n"
            f"{said}; {time.monotonic() - start:.0f} s.\n"
        )
        print(text, flush=True)
        parts.append(text)
    if wanted == list(BENCHMARKS) and not failed:
        keep("\n".join(parts))
    return 1 if missed or failed else 0


def keep(result: str) -> None:
    """Put the result between the page's marks."""
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{result}\n{END}{tail}", encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
