"""What follows from the figures of ``benchmarks.large``: a section of docs/performance.md.

A night's hours are worked out by the formulas that the section states; what they rest on is said
beside them. Nothing here measures.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from benchmarks.__main__ import END, PAGE
from benchmarks.match import THRESHOLD
from sscd_ops.core.cells import blocks
from sscd_ops.index.backends import choose

TITLE = "## Five million, twenty million"
_BEGIN, _END = "<!-- written by `make bench-large` -->", "<!-- end of `make bench-large` -->"
BACKENDS = ("exact", "sketch")
TARGET_WALL, TARGET_CPU, TARGET_TASK = 0.55, 1.15, 2.0
TARGET_MINUTES = 40
TARGET_RESOLVE = {5_000_000: 8.0, 20_000_000: 16.0}
"""GiB of resolve by samples."""
HISTORIES = (0, 100_000_000, 1_000_000_000)
CORES = (2, 16, 64)

_BUSY = 1.1

Figures = dict[str, Any]


class _Lines:
    """Lines of text, and whether what they say meets its targets."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.good = True

    def say(self, line: str) -> None:
        self.lines.append(line)

    def held(self, line: str, value: float, target: float) -> None:
        """A line that ends with its target."""
        met = value <= target
        self.good &= met
        self.say(f"{line}  target {target:g}{'' if met else ': MISSED'}")


def section(figures: Figures) -> tuple[str, bool]:
    """The section's text, and whether all targets in it are met."""
    out = _Lines()
    if "leader" in figures:
        for backend in BACKENDS:
            _leader(out, figures, backend)
    if "memory" in figures:
        _memory_of_a_task(out, figures["memory"]["sketch"])
    if "match" in figures:
        for backend in BACKENDS:
            rate = _match_seconds(figures, backend) * 1e9
            out.say(f"match, {backend}: {rate:.2f} cpu s for 10^9 pairs, one thread")
    if "resolve" in figures:
        _resolve(out, figures)
    for name in ("ingest", "publish"):
        if name in figures:
            samples, _, cpu = figures[name]
            out.say(f"{name}: {cpu / samples * 1e6:.0f} cpu us a sample of 60 kB, one process")
    measured = "\n".join(out.lines)
    parts = ["leader", "memory", "match", "resolve", "ingest", "publish"]
    absent = [part for part in parts if part not in figures]
    if len(figures.get("resolve", ())) == 1:
        absent.append("resolve at a second size")
    nights = f"Not measured yet: {', '.join(absent)}.\n" if absent else _nights(figures)
    when = f"{datetime.now(UTC):%Y-%m-%d}, {figures['machine']}"
    said = "Targets met" if out.good else "Targets missed"
    text = f"{TITLE}\n\n{nights}\n```\n{measured}\n```\n\n{said}; {when}.\n"
    return text, out.good


def write(text: str) -> None:
    """Put the section into docs/performance.md, after the last result of `make bench`."""
    page = PAGE.read_text(encoding="utf-8")
    if _BEGIN not in page:
        page = page.replace(END, f"{END}\n\n{_BEGIN}\n{_END}")
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    PAGE.write_text(f"{before}{_BEGIN}\n\n{text}\n{_END}{after}", encoding="utf-8")


def _leader(out: _Lines, figures: Figures, backend: str) -> None:
    size, found = figures["leader"], figures["leader"][backend]
    rows, single_rows = size["rows"], size["single_rows"]
    whole = size["pairs"] / size["measured_pairs"]
    one, two, single, pairs = found["one"][0], found["two"], found["single"], found["pairs"]
    times = rows / single_rows
    all_cells, over_pairs = one["cpu"] * whole, pairs["cpu"] * times
    linear = single["cpu"] - single["searched"]
    all_single = single["searched"] * times**2 + linear * times
    equal = single["found"] == pairs["found"]
    out.good &= equal
    out.say(
        f"leader, {backend}: {rows:,} rows in {size['cells']} cells, {size['measured_cells']}"
        f" measured; both passes at {single_rows:,}, scaled"
    )
    out.say(
        f"  cells {all_cells:,.0f} + pass over pairs {over_pairs:,.0f}, single pass"
        f" {all_single:,.0f} cpu s; rows kept {'equal' if equal else 'DIFFERENT'}"
    )
    cpu = (all_cells + over_pairs) / all_single
    out.held(f"  all together / single pass   {cpu:6.2f} cpu ", cpu, TARGET_CPU)
    wall = _together(figures, backend)
    out.held(f"  two tasks at once / one      {wall:6.2f} wall", wall, TARGET_WALL)
    peak = max(each["gib"] for each in (one, *two))
    out.held(f"  peak memory of a task        {peak:6.2f} GiB ", peak, TARGET_TASK)
    minutes = 5_000_000**2 / 2 * _leader_seconds(figures, backend) * 2 * wall / 16 / 60
    line = f"  5,000,000 on 16 cores, by these {minutes:4.0f} min "
    if backend == choose("auto", 5_000_000, THRESHOLD):
        out.held(line, minutes, TARGET_MINUTES)
    else:
        out.say(f"{line} (auto takes another backend)")
    busy = one["wall"] / one["cpu"]
    if busy > _BUSY:
        out.say(f"  (the machine was busy: wall of the one task {busy:.1f} times its cpu)")


def _memory_of_a_task(out: _Lines, found: Figures) -> None:
    size = len(blocks(5_000_000)[0])
    line = f"a task's peak with two blocks of {found['rows']:,} rows, {found['gib']:.2f} GiB"
    if found["rows"] == size:
        out.held(f"{line} (a night of 5,000,000)", found["gib"], TARGET_TASK)
        most = found["gib"] * len(blocks(20_000_000)[0]) / size
        out.say(f"  at 20,000,000, by the size of a block there: at most {most:.1f} GiB")
    else:
        out.say(line)


def _resolve(out: _Lines, figures: Figures) -> None:
    for samples, (seconds, gib) in figures["resolve"].items():
        out.say(f"resolve: {int(samples):,} samples {seconds:8.1f} s {gib:6.2f} GiB")
    if len(figures["resolve"]) == 1:
        return
    for samples, target in TARGET_RESOLVE.items():
        gib = _line(figures["resolve"], 1)(samples)
        line = f"resolve: {samples:,} samples, by the line through these, {gib:6.2f} GiB"
        out.held(line, gib, target)


def _line(measured: dict[str, list[float]], number: int) -> Any:
    """The straight line through the first and the last of what was measured by samples."""
    first, *_, last = sorted((int(samples), said[number]) for samples, said in measured.items())
    slope = (last[1] - first[1]) / (last[0] - first[0])
    return lambda samples: last[1] + slope * (samples - last[0])


def _together(figures: Figures, backend: str) -> float:
    """Wall of two tasks at once over that of one with the same work."""
    found = figures["leader"][backend]
    wall: float = max(each["wall"] for each in found["two"]) / found["one"][0]["wall"]
    return wall


def _match_seconds(figures: Figures, backend: str) -> float:
    """Processor seconds a pair."""
    found = figures["match"][backend]
    return float(found["cpu"] / found["pairs"])


def _leader_seconds(figures: Figures, backend: str) -> float:
    return float(figures["leader"][backend]["one"][0]["cpu"] / figures["leader"]["measured_pairs"])


def _hours(figures: Figures, night: int, history: int, cores: int) -> list[float]:
    """Hours of ingest, match, leader, resolve and publish."""
    backend = choose("auto", history + night, THRESHOLD)
    share = 2 * _together(figures, backend) / cores
    ingested, _, ingest = figures["ingest"]
    published, _, publish = figures["publish"]
    seconds = [
        night * ingest / ingested * share,
        night * history * _match_seconds(figures, backend) * share,
        night**2 / 2 * _leader_seconds(figures, backend) * share,
        _line(figures["resolve"], 0)(night),
        night * publish / published * share,
    ]
    return [each / 3600 for each in seconds]


def _said(hours: float) -> str:
    if hours == 0:
        return "-"
    if hours < 1:
        return f"{60 * hours:.0f} min" if hours >= 1 / 60 else "< 1 min"
    return f"{hours:,.1f} h" if hours < 48 else f"{hours / 24:,.0f} d"


def _nights(figures: Figures) -> str:
    titles = ["new", "history", "cores", "ingest", "match", "leader", "resolve", "publish", "all"]
    rows = [titles, ["---"] * len(titles)]
    for night in TARGET_RESOLVE:
        for history in HISTORIES:
            for cores in CORES:
                hours = _hours(figures, night, history, cores)
                millions = [f"{night // 10**6:,} M", f"{history // 10**6:,} M", str(cores)]
                rows.append([*millions, *map(_said, hours), _said(sum(hours))])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return _BEFORE.format(memory=_memory(figures)) + table + "\n" + _AFTER


def _memory(figures: Figures) -> str:
    line = _line(figures["resolve"], 1)
    return " and ".join(f"{line(night):.1f} GiB for {night:,}" for night in TARGET_RESOLVE)


_BEFORE = """\
**No night of this size was run: this is an extrapolation** from the figures below it, which are
measured. Embed is left out: `embed` above has a CPU's rates; on a GPU it was not measured. resolve
takes {memory} by its line.

"""
_AFTER = """
- **match** is new x history x the seconds of a pair, **leader** new x new / 2 x the seconds of a
  pair in a cell, both of clustered data, by the backend that `auto` takes for history and night
  together. That they grow with the pairs is arithmetic; what a thousand segments cost beside one of
  as many rows is not measured here.
- **Divided by cores** are ingest, match, leader and publish: their processor seconds, times twice
  the wall of two tasks of leader at once over that of one with the same work. So far, on two cores,
  it is measured; for 16 and 64 it supposes that each core adds what the second did, that tasks end
  together, and that storage keeps up.
- **resolve** is one process whatever the cores: the straight line through its seconds at the sizes
  below, Postgres on the same machine. Its leader goes over pairs that match found.
- **ingest and publish** are the processor seconds of their benchmarks, with samples of 60 kB, times
  samples: 5,000,000 are 300 GB, taken to be read and written as fast as they are worked on.
"""
