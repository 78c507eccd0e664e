"""What of the machine this process may use: cores and memory, as Linux and its control groups say.

A container with two of a host's 64 cores sees all 64; decoders and threads for 64 would wait for
each other, and be held back by the kernel. Numbers of cores and threads come from here alone.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

Read = Callable[[str], str]
"""A file's text; OSError where there is none."""

_NO_MEMORY_LIMIT = 1 << 60
"""Version 1 has no word for "no limit": it says a number near 2**63."""


class Cores(NamedTuple):
    """How many cores may be used, and what says so."""

    number: int
    why: str


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")


_sharing = 1
"""How many processes share what this one may use."""


def share_cores(processes: int) -> None:
    """Let this process take its share alone: it is one of so many of a command."""
    global _sharing
    _sharing = processes


def cores(read: Read = _read) -> Cores:
    """The cores this process may keep busy: at least 1; a share of one counts as one.

    The smaller of the cores it may run on (``taskset``, cpusets) and the quota of its control
    group and of those above; 2.5 cores are 2, so that the kernel holds nobody back. Of these its
    share, where a command has processes of its own.
    """
    number, why = _allowed(read)
    if _sharing > 1:
        return Cores(max(1, number // _sharing), f"{why}, shared by {_sharing} processes")
    return Cores(number, why)


def _allowed(read: Read) -> Cores:
    if hasattr(os, "sched_getaffinity"):
        here, why = len(os.sched_getaffinity(0)), "cores it may run on"
    else:
        here, why = os.cpu_count() or 1, "cores"
    quota = cpu_quota(read)
    if quota is not None and max(1, int(quota)) < here:
        return Cores(max(1, int(quota)), f"a control group's quota of {quota:g} of {here} cores")
    return Cores(here, why)


_THREADS = (
    ("torch", "get_num_threads", "set_num_threads"),
    ("faiss", "omp_get_max_threads", "omp_set_num_threads"),
)
"""Libraries that start a thread for each core they see: how many, and how to say how many."""


def limit_threads() -> None:
    """No more threads than cores, of the libraries that are imported by now.

    To be called by whoever is about to use them; OMP_NUM_THREADS is somebody's own choice, and
    goes before.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return
    most = cores().number
    for name, asked, told in _THREADS:
        library = sys.modules.get(name)
        if library is not None and getattr(library, asked)() > most:
            getattr(library, told)(most)


def cpu_quota(read: Read = _read) -> float | None:
    """Cores of the least quota over this process; None: there is none."""
    quotas = []
    for folder in _folders("cpu", read):
        quotas += _quota(read, f"{folder}/cpu.max", "")
        quotas += _quota(read, f"{folder}/cpu.cfs_quota_us", f"{folder}/cpu.cfs_period_us")
    return min(quotas, default=None)


def _quota(read: Read, path: str, period_path: str) -> list[float]:
    try:
        text = read(path).split() + (read(period_path).split() if period_path else [])
        quota, period = int(text[0]), int(text[1])
    except (OSError, ValueError, IndexError):  # "max", or no such file
        return []
    return [quota / period] if quota > 0 and period > 0 else []


def memory_limit(read: Read = _read) -> int | None:
    """Bytes that the control groups over this process allow; None: they set no limit."""
    limits = []
    for folder in _folders("memory", read):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                limit = int(read(f"{folder}/{name}"))
            except (OSError, ValueError):
                continue
            if 0 < limit < _NO_MEMORY_LIMIT:
                limits.append(limit)
    return min(limits, default=None)


def _folders(controller: str, read: Read) -> Iterator[str]:
    """The folders of this process's control groups, and of those above, of both versions."""
    try:
        groups, mounts = read("/proc/self/cgroup"), read("/proc/self/mountinfo")
    except OSError:
        return
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        named, _, path = rest.partition(":")
        second = number == "0" and not named
        if not second and controller not in named.split(","):
            continue
        for root, point in _mounts(mounts, "" if second else controller):
            yield from _upwards(root, point, path)


def _mounts(mounts: str, controller: str) -> Iterator[tuple[str, str]]:
    """(root, mount point) of the hierarchy with a controller; without one, of version 2."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        head, tail = before.split(), after.split()
        if len(head) < 5 or len(tail) < 3:
            continue
        wanted = controller in tail[2].split(",") if controller else True
        if wanted and tail[0] == ("cgroup" if controller else "cgroup2"):
            yield _plain(head[3]), _plain(head[4])


def _plain(path: str) -> str:
    """A path of mountinfo, where spaces and such are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _upwards(root: str, point: str, path: str) -> Iterator[str]:
    # what is mounted may be the group itself, or one above it; a group outside of it, "/../x",
    # is not to be seen from here
    own = PurePosixPath(path)
    inside = own.relative_to(root) if own.is_relative_to(root) else PurePosixPath()
    if ".." in inside.parts:
        inside = PurePosixPath()
    for part in (inside, *inside.parents):
        yield str(PurePosixPath(point) / part)
