"""``doctor``: what is installed, what answers, and what to do about the rest."""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sscd_ops.cli.context import config_option, guarded
from sscd_ops.cli.output import print_line
from sscd_ops.errors import SscdOpsError

if TYPE_CHECKING:
    from sscd_ops.options import DatasetOptions
    from sscd_ops.wiring import Wiring

_PACKAGES = (
    "numpy",
    "pillow",
    "pyarrow",
    "sqlalchemy",
    "psycopg2-binary",
    "faiss-cpu",
    "faiss-gpu",
    "torch",
    "apache-airflow",
)

Line = tuple[str, str, bool]
"""What, what was found, whether it is as it should be."""


@click.command()
@config_option
@click.option("--conn-id", help="Test this Airflow connection, as a task would use it.")
@guarded
def doctor(config: str | None, conn_id: str | None) -> None:
    """Check versions, devices, sources, database, storage; say what to do; exit 1 on a problem."""
    lines = [*_versions(), *_device(), *_machine(), *_parts(config, conn_id)]
    for what, found, good in lines:
        print_line(f"{'ok  ' if good else 'BAD '} {what:<18} {found}")
    if not all(good for *_, good in lines):
        sys.exit(1)


def _versions() -> Iterator[Line]:
    yield "python", platform.python_version(), sys.version_info >= (3, 11)
    found = {name: _version(name) for name in _PACKAGES}
    for name, version in found.items():
        if version:
            yield name, version, True
    if not found["faiss-cpu"] and not found["faiss-gpu"]:
        yield "faiss", "missing: pip install 'sscd-ops[cpu]' or 'sscd-ops[gpu]'", False


def _version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _device() -> Iterator[Line]:
    if not _version("torch"):
        yield "device", "cpu (torch is not installed: dct alone)", True
        return
    import torch

    if torch.cuda.is_available():
        yield "device", f"cuda: {torch.cuda.get_device_name()}", True
    else:
        yield "device", "cpu", True
    if _version("faiss-cpu") or _version("faiss-gpu"):
        yield "search", _search(), True


def _search() -> str:
    """Whether large histories are searched in int8 here; decisions are the same either way."""
    from sscd_ops.index import int8

    fault = int8.usable(256, 512)
    if fault:
        return f"exact falls back to flat: {fault}"
    return f"exact runs in int8, {int8.speed(256, 512):.0f} times as fast as float32"


def _machine() -> Iterator[Line]:
    from sscd_ops.machine import cores, memory_limit

    number, why = cores()
    yield "cores", f"{number}: {why}", True
    limit = memory_limit()
    if limit is not None:
        yield "memory", f"{limit / 2**30:.1f} GiB: a control group's limit", True


def _parts(config: str | None, conn_id: str | None) -> Iterator[Line]:
    from sscd_ops.config import load_settings
    from sscd_ops.wiring import Wiring

    try:
        settings = load_settings(config, tolerant=True)
    except SscdOpsError as error:
        yield "config", str(error), False
        return
    yield "config", settings.path, True
    with Wiring(settings) as parts:
        for name in sorted(settings.datasets):
            dataset = settings.datasets[name]
            yield f"dataset {name}", _sources(dataset), True
            yield f"dataset {name}", _decoders(dataset), True
            for problem in (*_feeds(dataset, parts), *_problems(dataset)):
                yield f"dataset {name}", problem, False
    for message in settings.faulty.values():
        yield "dataset", message.removeprefix(f"{settings.path}: "), False
    if conn_id:
        yield _connection(settings.path, conn_id)
        return
    with Wiring(settings, allow_embedded=True) as parts:
        database = _try("database", lambda: repr(parts.catalog))
        yield database
        if database[-1]:
            yield from _catalog(parts)
        storage = _try("storage", parts.check_storage)
        yield storage
        if database[-1] and storage[-1]:
            yield from _snapshots(parts)
            yield from _removed(parts)


def _catalog(parts: Wiring) -> Iterator[Line]:
    from sscd_ops.catalog.health import findings

    try:
        with parts.catalog.read() as conn:
            yield from list(findings(conn))
    except SscdOpsError as error:
        yield "database", str(error), False


def _snapshots(parts: Wiring) -> Iterator[Line]:
    """Where a restore left catalog and files of two ages."""
    from sscd_ops.steps.snapshots import root_fault

    for name in sorted(parts.settings.datasets):
        try:
            with parts.catalog.begin() as conn:
                fault = root_fault(parts, conn, name)
        except SscdOpsError as error:
            fault = str(error)
        if fault is not None:
            yield f"snapshots {name}", fault, False


def _removed(parts: Wiring) -> Iterator[Line]:
    """Whether what was removed could come back."""
    from sscd_ops.catalog import datasets
    from sscd_ops.steps.looking import said, tell

    for name in sorted(parts.settings.datasets):
        with parts.catalog.begin() as conn:
            known = datasets.read(conn, name)
        if known is not None:
            yield f"removed {name}", said(tell(parts, known.dataset_id)), True


def _sources(dataset: DatasetOptions) -> str:
    listed = ", ".join(f"{source.name} ({source.kind})" for source in dataset.sources)
    return f"{listed}; {dataset.schedule} {dataset.timezone}"


def _decoders(dataset: DatasetOptions) -> str:
    """How many there will be, and what they may take: a thousand usual pictures take far less."""
    from sscd_ops.images.pool import default_workers
    from sscd_ops.machine import memory_limit

    number = dataset.fingerprint.workers or default_workers()
    each, limit = dataset.limits.decoder_memory, memory_limit()
    said = f"{number} decoders, at most {each / 2**30:.1f} GiB each (limits.decode_memory)"
    if limit is not None and number * each > limit:
        said += (
            ": with large pictures more than the control group's limit allows; set a smaller"
            " limits.max_pixels or limits.decode_memory, or fewer fingerprint.workers"
        )
    return said


def _feeds(dataset: DatasetOptions, parts: Wiring) -> Iterator[str]:
    """What no night would find where its sources say."""
    from sscd_ops.core.schedule import interval_holding, intervals_before
    from sscd_ops.sources.absent import nowhere

    cron = (dataset.schedule, dataset.timezone)
    (last,) = intervals_before(*cron, interval_holding(*cron, datetime.now(UTC)), 1)
    for source in dataset.sources:
        try:
            problems = nowhere(
                source, lambda one: parts.source(one, dataset.limits), last, dataset.timezone
            )
        except SscdOpsError as error:
            problems = [str(error)]
        yield from (f"source {source.name}: {problem}" for problem in problems)


def _problems(dataset: DatasetOptions) -> Iterator[str]:
    """What its first night would stop at, as far as that shows without reading or fetching."""
    fingerprint = dataset.fingerprint
    if fingerprint.device not in ("auto", "cpu") and not _has(fingerprint.device):
        yield f"fingerprint.device is {fingerprint.device!r}: there is no such device"
    if fingerprint.engine == "openvino" and not _version("openvino"):
        yield "fingerprint.engine is 'openvino': pip install 'sscd-ops[openvino]'"
    for key in ("weights", "postprocessing"):
        place = getattr(fingerprint, key)
        if place and "://" not in place and not Path(place).expanduser().is_file():
            yield f"fingerprint.{key}: no file {place}"
    if fingerprint.postprocessing and dataset.duplicates.threshold is None:
        yield (
            "duplicates.threshold is missing: none is measured with fingerprint.postprocessing."
            " Choose it on copies of your own pictures (docs/descriptors.md)"
        )


def _has(device: str) -> bool:
    if not _version("torch"):
        return False
    import torch

    from sscd_ops.descriptors.networks import devices

    try:
        named = devices(device)
    except RuntimeError:  # no name of a device
        return False
    gpus = [one.index or 0 for one in named if one.type == "cuda"]
    return max(gpus, default=-1) < torch.cuda.device_count()


def _connection(config: str, conn_id: str) -> Line:
    """What the hook's own test says of an Airflow connection."""
    what = f"conn {conn_id}"
    try:
        hooks = importlib.import_module("sscd_ops.provider.hooks")
    except ImportError:
        return what, "Airflow is missing: pip install 'sscd-ops[airflow]'", False
    try:
        good, said = hooks.SscdOpsHook(conn_id, config).test_connection()
    except Exception as error:  # noqa: BLE001 - whatever Airflow raises for one it does not have
        return what, f"{type(error).__name__}: {error}", False
    return what, said, good


def _try(what: str, look: Callable[[], str]) -> Line:
    try:
        return what, look(), True
    except (SscdOpsError, OSError) as error:
        return what, str(error), False
