"""Transactions, locks and lost servers."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import text

from sscd_ops.catalog.database import Catalog
from sscd_ops.errors import CatalogUnavailable, ConfigError


def add(catalog: Catalog, name: str) -> None:
    with catalog.begin() as conn:
        conn.execute(text("INSERT INTO sscd_ops.datasets (name) VALUES (:n)"), {"n": name})


def names(catalog: Catalog) -> list[str]:
    with catalog.read() as conn:
        return list(conn.execute(text("SELECT name FROM sscd_ops.datasets ORDER BY 1")).scalars())


def test_a_transaction_commits_at_its_end_and_rolls_back_when_it_raises(catalog: Catalog) -> None:
    add(catalog, "web")

    with pytest.raises(KeyError), catalog.begin() as conn:
        conn.execute(text("INSERT INTO sscd_ops.datasets (name) VALUES ('lost')"))
        raise KeyError("stop")

    assert names(catalog) == ["web"]


def test_reading_never_writes_and_sees_one_moment(catalog: Catalog) -> None:
    with catalog.read() as conn:
        before = conn.execute(text("SELECT count(*) FROM sscd_ops.datasets")).scalar()
        add(catalog, "web")
        after = conn.execute(text("SELECT count(*) FROM sscd_ops.datasets")).scalar()

        assert before == after == 0
        with pytest.raises(Exception, match="read-only transaction"):
            conn.execute(text("INSERT INTO sscd_ops.datasets (name) VALUES ('x')"))
    add(catalog, "also")
    assert names(catalog) == ["also", "web"]


def test_a_lock_that_is_not_granted_in_time_is_told_as_unavailable(catalog: Catalog) -> None:
    add(catalog, "web")
    lock = text("SELECT * FROM sscd_ops.datasets FOR NO KEY UPDATE")

    with catalog.begin() as holder:
        holder.execute(lock)
        with (
            pytest.raises(CatalogUnavailable, match="lock timeout"),
            catalog.begin(lock_timeout=0.1) as conn,
        ):
            conn.execute(lock)

    with catalog.begin(lock_timeout=0.1) as conn:
        conn.execute(lock)


def test_the_timeout_of_one_transaction_does_not_stay_with_its_connection(catalog: Catalog) -> None:
    with catalog.begin(lock_timeout=0.1) as conn:
        assert conn.execute(text("SHOW lock_timeout")).scalar() == "100ms"
    with catalog.begin() as conn:
        assert conn.execute(text("SHOW lock_timeout")).scalar() == "1min"
        assert conn.execute(text("SHOW idle_in_transaction_session_timeout")).scalar() == "1min"
        assert conn.execute(text("SHOW tcp_keepalives_idle")).scalar() == "30"


def test_a_transaction_that_stands_idle_too_long_lets_its_lock_go(catalog: Catalog) -> None:
    add(catalog, "web")

    with (
        pytest.raises(CatalogUnavailable, match=r"idle-in-transaction|closed the connection"),
        catalog.begin(idle_timeout=0.2) as conn,
    ):
        conn.execute(text("UPDATE sscd_ops.datasets SET next_turn = 7"))
        time.sleep(0.6)
        conn.execute(text("SELECT 1"))

    with catalog.begin(lock_timeout=1) as conn:
        assert conn.execute(text("SELECT next_turn FROM sscd_ops.datasets")).scalar() == 1


@pytest.mark.parametrize("raw", [False, True])
def test_a_session_that_is_ended_is_unavailable_and_the_next_one_works(
    catalog: Catalog, raw: bool
) -> None:
    with pytest.raises(CatalogUnavailable), catalog.begin() as conn:
        pid = conn.execute(text("SELECT pg_backend_pid()")).scalar()
        with catalog.begin() as other:
            other.execute(text("SELECT pg_terminate_backend(:p)"), {"p": pid})
        if raw:
            conn.connection.cursor().execute("SELECT 1")
        else:
            conn.execute(text("SELECT 1"))

    assert names(catalog) == []


def test_a_session_that_ended_before_the_commit_is_unavailable(catalog: Catalog) -> None:
    with pytest.raises(CatalogUnavailable), catalog.begin() as conn:
        pid = conn.execute(text("SELECT pg_backend_pid()")).scalar()
        conn.execute(text("INSERT INTO sscd_ops.datasets (name) VALUES ('web')"))
        with catalog.begin() as other:
            other.execute(text("SELECT pg_terminate_backend(:p)"), {"p": pid})

    assert names(catalog) == []


def test_a_mistake_in_sql_is_no_outage(catalog: Catalog) -> None:
    with pytest.raises(Exception, match="does not exist") as caught, catalog.begin() as conn:
        conn.execute(text("SELECT * FROM sscd_ops.nothing"))

    assert not isinstance(caught.value, (CatalogUnavailable, ConfigError))


def test_a_deadlock_is_unavailable_for_one_of_the_two(catalog: Catalog) -> None:
    add(catalog, "a")
    add(catalog, "b")
    met = threading.Barrier(2)
    outcomes: list[str] = []

    def work(first: str, second: str) -> None:
        try:
            with catalog.begin() as conn:
                for name in (first, second):
                    conn.execute(
                        text("SELECT 1 FROM sscd_ops.datasets WHERE name = :n FOR NO KEY UPDATE"),
                        {"n": name},
                    )
                    if name == first:
                        met.wait(10)
            outcomes.append("done")
        except CatalogUnavailable:
            outcomes.append("unavailable")

    threads = [threading.Thread(target=work, args=order) for order in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(outcomes) == ["done", "unavailable"]


def test_a_direct_session_holds_its_lock_until_it_is_closed(catalog: Catalog) -> None:
    taken = text("SELECT pg_try_advisory_lock(1, 2)")

    with catalog.direct() as one, catalog.direct() as two:
        assert one.execute(taken).scalar() is True
        assert two.execute(taken).scalar() is False
    with catalog.direct() as three:
        assert three.execute(taken).scalar() is True


def test_a_direct_session_may_stay_idle(catalog_url: str) -> None:
    catalog = Catalog(catalog_url, idle_timeout=0.2)

    with catalog.direct() as conn:
        conn.execute(text("SELECT pg_advisory_lock(1, 2)"))
        time.sleep(0.6)
        assert conn.execute(text("SELECT 1")).scalar() == 1

    catalog.dispose()


def test_the_password_is_never_shown(catalog: Catalog) -> None:
    password = catalog.engine.url.password
    wrong = Catalog(catalog.url.replace(str(password), "wr0ng-passw0rd"))

    with pytest.raises(ConfigError, match="password authentication failed") as caught:
        wrong.check_schema()

    assert "wr0ng-passw0rd" not in repr(wrong) + str(caught.value)
    assert str(password) not in repr(catalog)


def test_a_database_that_is_not_there_is_a_wrong_setting(catalog: Catalog) -> None:
    absent = Catalog(catalog.url + "_absent")

    with pytest.raises(ConfigError, match=r"does not exist.*catalog\.url"):
        absent.check_schema()


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(CatalogUnavailable, match="refused"):
        Catalog("postgresql+psycopg2://u:p@127.0.0.1:1/x").check_schema()


@pytest.mark.parametrize("url", ["", "nonsense", "sqlite:///x.db", "mysql://u:s3cret@h/x"])
def test_what_is_not_the_url_of_a_postgres_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"postgresql\+psycopg2://") as caught:
        Catalog(url)

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg2", "postgres"])
def test_every_usual_way_to_write_the_url_works(catalog: Catalog, scheme: str) -> None:
    opened = Catalog(scheme + "://" + catalog.url.partition("://")[2])

    opened.check_schema()

    opened.dispose()


def test_the_application_is_named(catalog: Catalog) -> None:
    with catalog.direct() as session, catalog.read() as conn:
        found = conn.execute(
            text(
                "SELECT application_name FROM pg_stat_activity"
                " WHERE datname = current_database() ORDER BY 1"
            )
        ).scalars()
        assert list(found) == ["sscd-ops", "sscd-ops session"]
        assert session.execute(text("SELECT 1")).scalar() == 1
