"""Run the benchmarks and keep the last result of each in docs/performance.md (`make bench`).

Each is a process of its own, so that none inherits another's memory or threads; it ends with 0
where its targets are met, 3 where one is missed. Neither a miss nor a crash ends the run: the exit
code says so at the end, and of a crash nothing is kept.
"""

from __future__ import annotations

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
INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
"""Of x86 and ARM, as the kernel names them."""
BENCHMARKS = (
    "ingest_read",
    "embed",
    "match",
    "leader",
    "resolve",
    "publish_copy",
    "merge_shards",
    "rewrite_shards",
    "withdraw",
    "snapshot_diff",
    "night",
    "dag_import",
)


def machine() -> str:
    """Processor, the instruction sets that search rests on, cores, and how fast int8 is."""
    from sscd_ops.index import int8
    from sscd_ops.machine import cores

    said = Path("/proc/cpuinfo").read_text()
    found = re.search(r"model name\s*:\s*(.+)", said)
    name = found[1] if found else platform.processor()
    flags = set(re.findall(r"\w+", said))
    sets = " ".join(each for each in INSTRUCTIONS if each in flags) or "no vector instructions"
    return (
        f"{name} ({sets}), {cores().number} cores, Python"
        f" {platform.python_version()}; int8 product {int8.speed(256, 512):.1f} times as fast as"
        " float32's"
    )


def main() -> int:
    """Run the benchmarks named as arguments, or all; 1 if one missed a target or crashed."""
    wanted = sys.argv[1:] or list(BENCHMARKS)
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
        when = f"{time.monotonic() - start:.0f} s; {datetime.now(UTC):%Y-%m-%d}, {machine()}"
        text = f"### {name}\n\n```\n{done.stdout.strip()}\n```\n\n{said}; {when}.\n"
        print(text, flush=True)
        if said != "FAILED":
            keep(name, text)
    return 1 if missed or failed else 0


def keep(name: str, text: str) -> None:
    """Put a benchmark's result between the page's marks, in the order of ``BENCHMARKS``."""
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    last, _, tail = rest.partition(END)
    found = re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", last, re.MULTILINE | re.DOTALL)
    results = {title: f"### {title}\n{body}".strip() + "\n" for title, body in found}
    results[name] = text
    kept = "\n".join(results[title] for title in BENCHMARKS if title in results)
    PAGE.write_text(f"{head}{BEGIN}\n\n{kept}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
