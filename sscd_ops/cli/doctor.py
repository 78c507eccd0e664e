"""``doctor``: what is installed, what answers, and what to do about the rest."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from importlib import metadata

import click

from sscd_ops.cli.context import config_option, guarded
from sscd_ops.errors import SscdOpsError

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
@click.option("--conn-id", help="Test this Airflow connection instead of the config's database.")
@guarded
def doctor(config: str | None, conn_id: str | None) -> None:
    """Check versions, devices, database and storage; say what to do; exit 1 on a problem."""
    lines = [*_versions(), *_device(), *_parts(config, conn_id)]
    for what, found, good in lines:
        click.echo(f"{'ok  ' if good else 'BAD '} {what:<16} {found}")
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


def _parts(config: str | None, conn_id: str | None) -> Iterator[Line]:
    from sscd_ops.config import load_settings
    from sscd_ops.wiring import Wiring

    try:
        settings = load_settings(config)
    except SscdOpsError as error:
        yield "config", str(error), False
        return
    datasets = ", ".join(sorted(settings.datasets)) or "no dataset"
    yield "config", f"{settings.path}: {datasets}", True
    url = _connection(conn_id) if conn_id else None
    with Wiring(settings, database_url=url, allow_embedded=conn_id is None) as parts:
        yield _try("database", lambda: repr(parts.catalog))
        yield _try("storage", lambda: check_storage(parts))


def check_storage(parts: object) -> str:
    """Write, read and delete a small file; where."""
    from sscd_ops.wiring import Wiring

    if not isinstance(parts, Wiring):
        raise TypeError(type(parts))
    name = ".doctor/probe"
    parts.store.replace(name, b"probe")
    if parts.store.read_small(name) != b"probe":
        raise SscdOpsError(f"{parts.store.root}: what was written did not come back")
    parts.store.delete(name)
    return f"{parts.store.root} can be written"


def _connection(conn_id: str) -> str:
    """The URL of an Airflow connection, as the hook reads it."""
    from sscd_ops.errors import MissingExtra

    try:
        hooks = __import__("sscd_ops.provider.hooks", fromlist=["SscdOpsHook"])
    except ImportError as error:
        raise MissingExtra("--conn-id needs Airflow: pip install 'sscd-ops[airflow]'") from error
    url: str = hooks.SscdOpsHook(conn_id).database_url()
    return url


def _try(what: str, look: Callable[[], str]) -> Line:
    try:
        return what, look(), True
    except (SscdOpsError, OSError) as error:
        return what, str(error), False
