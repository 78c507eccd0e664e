"""Which catalog and which config file a task uses, and what the connection test finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from airflow.sdk.exceptions import AirflowNotFoundException

from sscd_ops.errors import ConfigError
from sscd_ops.provider import SscdOpsHook

CONNECTION = "postgresql+psycopg2://ann:geheim@of-the-connection:5433/cat?sslmode=require"
NAMED = "postgresql+psycopg2://of-a-named-connection/catalog"
ENVIRONMENT = "postgresql+psycopg2://of-the-environment/catalog"
FILE = "postgresql+psycopg2://of-the-file/catalog"


def connect(monkeypatch: pytest.MonkeyPatch, name: str, url: str = "", **extra: str) -> None:
    """Give Airflow a connection; without a URL one that only has extras."""
    found = sa.make_url(url) if url else sa.make_url("none://")
    given = {
        "conn_type": "sscd_ops",
        "host": found.host,
        "port": found.port,
        "login": found.username,
        "password": found.password,
        "schema": found.database,
        "extra": {**found.query, **extra},
    }
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(given))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config file that names a catalog, and nothing else that does."""
    for name in ("SSCD_OPS_DATABASE_URL", "SSCD_OPS_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "curation.toml"
    path.write_text(f'[storage]\nroot = "{tmp_path}/root"\n[catalog]\nurl = "{FILE}"\n')
    return path


@pytest.mark.parametrize(
    ("connection", "environment", "wanted"),
    [
        (CONNECTION, ENVIRONMENT, CONNECTION),
        (None, ENVIRONMENT, ENVIRONMENT),
        ("", ENVIRONMENT, ENVIRONMENT),
        (None, None, FILE),
        ("", None, FILE),
    ],
    ids=["connection", "environment", "connection without a host", "file", "only extras"],
)
def test_the_catalog_is_the_connection_s_else_the_environment_s_else_the_file_s(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    connection: str | None,
    environment: str | None,
    wanted: str,
) -> None:
    if connection is not None:
        connect(monkeypatch, "sscd_ops_default", connection)
    connect(monkeypatch, "other", NAMED)
    if environment is not None:
        monkeypatch.setenv("SSCD_OPS_DATABASE_URL", environment)

    assert SscdOpsHook(config=str(config)).wiring().database_url == wanted
    assert SscdOpsHook("other", str(config)).get_conn().database_url == NAMED


def given(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """The default connection, from its fields as Airflow's JSON has them."""
    fields = {"conn_type": "sscd_ops", **fields}
    monkeypatch.setenv("AIRFLOW_CONN_SSCD_OPS_DEFAULT", json.dumps(fields))


def dialled(config: Path) -> dict[str, Any]:
    """What libpq is asked to connect to, by the catalog of the hook's parts."""
    from sscd_ops.catalog.database import Catalog

    url = SscdOpsHook(config=str(config)).wiring().database_url
    engine = Catalog(url).engine
    return engine.dialect.create_connect_args(engine.url)[1]


ODD = "p@ss:w/o?r#d%20 é&=+"
LOGIN = {"user": "ann", "password": ODD}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"host": "h"}, {"host": "h", "dbname": "catalog"}),
        ({"host": "h", "port": "5433", "schema": "d b/é"}, {"port": 5433, "dbname": "d b/é"}),
        ({"host": "/run/pg"}, {"host": "/run/pg"}),
        ({"host": "/run/pg", "port": 5433}, {"host": "/run/pg", "port": "5433"}),
        ({"host": "::1", "port": 5433}, {"host": "::1", "port": 5433}),
        ({"host": "[::1]"}, {"host": "::1"}),
        ({"host": "[::1]:7"}, {"host": "::1", "port": 7}),
        ({"host": "a,b", "port": 5433}, {"host": "a,b", "port": "5433,5433"}),
        ({"host": "a:1, b:2,c"}, {"host": "a,b,c", "port": "1,2,5432"}),
        ({"host": "[::1]:1,/run/pg"}, {"host": "::1,/run/pg", "port": "1,5432"}),
        ({"host": "h", "conn_type": "postgres"}, {"host": "h"}),
        (
            {
                "host": "h",
                "extra": {
                    "sslmode": "verify-full",
                    "sslrootcert": "/etc/ca of ours.pem",
                    "sslcert": "c.pem",
                    "sslkey": "k.pem",
                    "connect_timeout": 3,
                    "keepalives": True,
                    "keepalives_idle": "7",
                    "application_name": "night",
                    "target_session_attrs": "read-write",
                    "options": "-c work_mem=64MB",
                    "gssencmode": "disable",
                    "sslcrl": "",
                    "config": None,
                },
            },
            {
                "sslmode": "verify-full",
                "sslrootcert": "/etc/ca of ours.pem",
                "sslcert": "c.pem",
                "sslkey": "k.pem",
                "connect_timeout": "3",
                "keepalives": "1",
                "keepalives_idle": "7",
                "application_name": "night",
                "target_session_attrs": "read-write",
                "options": "-c work_mem=64MB",
                "gssencmode": "disable",
            },
        ),
    ],
)
def test_everything_in_a_connection_is_used(
    config: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], wanted: dict[str, Any]
) -> None:
    given(monkeypatch, login="ann", password=ODD, **fields)

    found = dialled(config)

    assert found == found | LOGIN | wanted


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"login": "ann"}, "has login, but no host"),
        ({"schema": "cat", "port": 5432}, "has schema, port, but no host"),
        ({"password": "geheim"}, "has password, but no host"),
        ({"extra": {"sslmode": "require"}}, "has sslmode, but no host"),
        ({"host": "h", "extra": {"sslmod": "require"}}, "the extra 'sslmod'"),
        ({"host": "h", "extra": {"iam": True}}, "the extra 'iam'"),
        ({"host": "h", "extra": {"sslmode": ["require"]}}, "the extra 'sslmode'"),
        ({"host": "h", "extra": {"client_encoding": "latin1"}}, "the extra 'client_encoding'"),
        ({"host": "h", "extra": "sslmode=require"}, "extra is not a JSON object"),
        ({"host": "h", "extra": "[1]"}, "extra is not a JSON object"),
        ({"host": "h", "extra": {"dbname": "x"}}, "'dbname' belongs into the field schema"),
        ({"host": "h", "extra": {"host": "x"}}, "'host' belongs into the field host"),
        ({"host": "h", "port": 70000}, "70000 is no port"),
        ({"host": "h:x"}, "'h:x' is no HOST or HOST:PORT"),
        ({"host": "a,,b"}, "'' is no HOST"),
        ({"host": "h", "conn_type": "mysql"}, "is of type 'mysql'"),
    ],
)
def test_what_would_not_be_used_is_refused_by_name(
    config: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], said: str
) -> None:
    given(monkeypatch, **fields)

    with pytest.raises(ConfigError, match="'sscd_ops_default'") as caught:
        SscdOpsHook(config=str(config)).wiring()

    assert said in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_task_never_starts_the_embedded_server(config: Path) -> None:
    config.write_text(config.read_text().partition("[catalog]")[0])

    with pytest.raises(ConfigError, match=r"catalog\.url is not set.*the connection's host"):
        _ = SscdOpsHook(config=str(config)).wiring().database_url


def test_a_connection_that_is_named_must_be_there_and_the_default_one_need_not(
    config: Path,
) -> None:
    assert SscdOpsHook(config=str(config)).settings().path == str(config)
    with pytest.raises(AirflowNotFoundException, match="nowhere"):
        SscdOpsHook("nowhere", str(config)).wiring()


def test_the_config_file_is_the_operator_s_else_the_connection_s_else_the_environment_s(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / name for name in ("environment.toml", "connection.toml", "operator.toml")]
    for path in paths:
        path.write_text(config.read_text())

    def path_of(**given: Any) -> str:
        with SscdOpsHook(**given).wiring() as parts:
            return Path(parts.settings.path).name

    with pytest.raises(ConfigError, match=r"`config`, the connection 'sscd_ops_default'"):
        path_of()
    monkeypatch.setenv("SSCD_OPS_CONFIG", str(paths[0]))
    assert path_of() == "environment.toml"
    connect(monkeypatch, "sscd_ops_default", config=str(paths[1]))
    assert path_of() == "connection.toml"
    assert path_of(config=str(paths[2])) == "operator.toml"


# ---------------------------------------------------------------- the connection test


def said_of(config: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> tuple[bool, str]:
    """What the test says of a connection, while everything else points at nowhere."""
    monkeypatch.setenv("SSCD_OPS_DATABASE_URL", "postgresql+psycopg2://127.0.0.1:1/x")
    connect(monkeypatch, "sscd_ops_default", url)
    return SscdOpsHook(config=str(config)).test_connection()


def test_a_good_connection_answers_with_schema_version_and_root(
    config: Path, monkeypatch: pytest.MonkeyPatch, catalog_url: str
) -> None:
    good, said = said_of(config, monkeypatch, catalog_url)

    assert good, said
    assert "schema version 0" in said
    assert f"{config.parent}/root can be written" in said
    assert [p for p in (config.parent / "root").rglob("*") if p.is_file()] == []


def test_a_dead_database_is_named_without_its_password(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, said = said_of(
        config, monkeypatch, "postgresql+psycopg2://ann:geheim@127.0.0.1:2/catalog"
    )

    assert not good
    assert "127.0.0.1" in said
    assert "geheim" not in said


def test_a_database_without_a_catalog_is_named_with_the_remedy(
    config: Path, monkeypatch: pytest.MonkeyPatch, empty_url: str
) -> None:
    good, said = said_of(config, monkeypatch, empty_url)

    assert not good
    assert "sscd-ops db upgrade" in said


def test_a_catalog_of_another_release_is_named_with_the_remedy(
    config: Path, monkeypatch: pytest.MonkeyPatch, catalog_url: str
) -> None:
    with sa.create_engine(catalog_url).begin() as conn:
        conn.execute(sa.text("UPDATE sscd_ops.schema_version SET version_num = '9999'"))

    good, said = said_of(config, monkeypatch, catalog_url)

    assert not good
    assert "9999" in said
    assert "install the release that wrote it" in said


def test_a_root_that_cannot_be_written_is_named_after_the_database_answered(
    config: Path, monkeypatch: pytest.MonkeyPatch, catalog_url: str
) -> None:
    (config.parent / "root").write_text("a file where the folder should be")

    good, said = said_of(config, monkeypatch, catalog_url)

    assert not good
    assert said.startswith("database answers")
    assert f"{config.parent}/root" in said
