"""Cores and memory that a process may use, read from made-up files of Linux."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from sscd_ops.images.pool import default_workers
from sscd_ops.machine import Read, cores, cpu_quota, limit_threads, memory_limit, share_cores

TWO = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
ONE = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
)


def files(groups: str, mounts: str, rest: Mapping[str, str]) -> Read:
    every = {"/proc/self/cgroup": groups, "/proc/self/mountinfo": mounts, **rest}

    def read(path: str) -> str:
        if path not in every:
            raise FileNotFoundError(path)
        return every[path]

    return read


def two(path: str = "/", **rest: str) -> Read:
    named = {
        f"/sys/fs/cgroup/{name.replace('__', '/').replace('_', '.')}": text
        for name, text in rest.items()
    }
    return files(f"0::{path}\n", TWO, named)


@pytest.mark.parametrize(
    ("read", "quota"),
    [
        pytest.param(two(cpu_max="250000 100000\n"), 2.5, id="a quota"),
        pytest.param(two(cpu_max="max 100000\n"), None, id="no quota"),
        pytest.param(two(), None, id="the root has no file"),
        pytest.param(two(cpu_max="50000 100000\n"), 0.5, id="half a core"),
        pytest.param(two(cpu_max="nonsense"), None, id="no number"),
        pytest.param(two(cpu_max=""), None, id="an empty file"),
        pytest.param(two(cpu_max="100000"), None, id="no period"),
        pytest.param(
            two("/a/b", a__b__cpu_max="max 100000", a__cpu_max="300000 100000"),
            3.0,
            id="the group above says it",
        ),
        pytest.param(
            two("/a/b", a__b__cpu_max="800000 100000", a__cpu_max="300000 100000"),
            3.0,
            id="the lesser of two counts",
        ),
        pytest.param(two("/../other", cpu_max="200000 100000"), 2.0, id="a group outside"),
        pytest.param(
            files(
                "0::/docker/abc\n",
                "30 24 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup ro\n",
                {"/sys/fs/cgroup/cpu.max": "150000 100000"},
            ),
            1.5,
            id="the group itself is what is mounted",
        ),
        pytest.param(
            files(
                "0::/a b\n",
                "30 24 0:26 / /mnt/c\\040g rw - cgroup2 cgroup rw\n",
                {"/mnt/c g/a b/cpu.max": "150000 100000"},
            ),
            1.5,
            id="spaces in names",
        ),
        pytest.param(
            files(
                "4:memory:/x\n3:cpu,cpuacct:/x/y\n0::/\n",
                ONE,
                {
                    "/sys/fs/cgroup/cpu,cpuacct/x/y/cpu.cfs_quota_us": "-1\n",
                    "/sys/fs/cgroup/cpu,cpuacct/x/y/cpu.cfs_period_us": "100000\n",
                    "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "400000\n",
                    "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
                },
            ),
            4.0,
            id="version 1, -1 is no quota",
        ),
        pytest.param(
            files(
                "3:cpu,cpuacct:/\n",
                ONE,
                {
                    "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                    "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                },
            ),
            None,
            id="version 1 without a quota",
        ),
        pytest.param(
            files(
                "3:cpu,cpuacct:/docker/abc\n",
                "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n",
                {
                    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
                    "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                },
            ),
            2.0,
            id="version 1 in a container",
        ),
        pytest.param(
            files("3:cpuset:/\n1:cpuacct:/\n", ONE, {}), None, id="no group about processors"
        ),
        pytest.param(files("", "", {}), None, id="no groups"),
        pytest.param(files("nonsense\n::\n", "nonsense\n - \n", {}), None, id="nonsense"),
    ],
)
def test_the_least_quota_over_a_process_counts(read: Read, quota: float | None) -> None:
    assert cpu_quota(read) == quota


def test_no_proc_no_quota() -> None:
    def nowhere(path: str) -> str:
        raise FileNotFoundError(path)

    assert cpu_quota(nowhere) is None
    assert memory_limit(nowhere) is None
    assert cores(nowhere).number >= 1


@pytest.mark.parametrize(
    ("quota", "here", "number"),
    [
        ("50000 100000", 8, 1),
        ("100000 100000", 8, 1),
        ("250000 100000", 8, 2),
        ("800000 100000", 8, 8),
        ("6400000 100000", 8, 8),
        ("max 100000", 8, 8),
        ("1000 100000", 1, 1),
    ],
)
def test_cores_are_what_quota_and_affinity_allow(
    quota: str, here: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(here)), raising=False)

    found = cores(two(cpu_max=quota))

    assert found.number == number
    assert ("quota" in found.why) is (number < here)


def test_where_no_affinity_is_known_the_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)

    assert cores(two()).number == 6


def test_processes_of_a_command_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sscd_ops.machine._sharing", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(10)))
    none = files("", "", {})

    share_cores(4)
    assert cores(none).number == 2
    assert "shared by 4 processes" in cores(none).why
    share_cores(30)
    assert cores(none).number == 1


def test_decoders_are_as_many_as_cores_and_at_most_16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sscd_ops.images.pool.cores", lambda: cores(two(cpu_max="300000 100000")))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert default_workers() == 3

    monkeypatch.setattr("sscd_ops.images.pool.cores", lambda: cores(two()))
    assert default_workers() == 16


@pytest.mark.parametrize(
    ("read", "limit"),
    [
        (two(memory_max="4294967296\n"), 4 << 30),
        (two(memory_max="max\n"), None),
        (two("/a", a__memory_max="max", memory_max="1073741824"), 1 << 30),
        (
            files("4:memory:/x\n", ONE, {"/sys/fs/cgroup/memory/memory.limit_in_bytes": "1000"}),
            1000,
        ),
        (
            files(
                "4:memory:/\n",
                ONE,
                {"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"},
            ),
            None,
        ),
    ],
)
def test_the_memory_of_control_groups(read: Read, limit: int | None) -> None:
    assert memory_limit(read) == limit


def test_libraries_get_no_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    library = SimpleNamespace(get_num_threads=lambda: 64, set_num_threads=told.append)
    monkeypatch.setitem(sys.modules, "torch", library)
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 3}, raising=False)

    limit_threads()
    assert told == [cores().number]

    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    limit_threads()
    assert len(told) == 1


def test_the_real_libraries_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    before = faiss.omp_get_max_threads()
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1}, raising=False)
    try:
        faiss.omp_set_num_threads(5)
        limit_threads()
        assert faiss.omp_get_max_threads() == 1
    finally:
        faiss.omp_set_num_threads(before)
