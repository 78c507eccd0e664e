"""What a catalog's URL may say: everything is used or refused by name, and no secret is shown."""

from __future__ import annotations

import pytest

from sscd_ops.catalog.sessions import open_engine
from sscd_ops.catalog.urls import checked_url, shown
from sscd_ops.errors import ConfigError


def dialled(url: str) -> dict[str, object]:
    engine = open_engine(checked_url(url), application_name="x")
    return dict(engine.dialect.create_connect_args(engine.url)[1])


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql://u:p%40%2F@h:5/d", {"user": "u", "password": "p@/", "host": "h", "port": 5}),
        ("postgresql://u@%2Frun%2Fpg:5/d", {"user": "u", "host": "/run/pg", "port": "5"}),
        ("postgresql://u@%2Frun%2Fpg/d?sslmode=disable", {"host": "/run/pg"}),
        ("postgresql://u@/d?host=/run/pg&port=5", {"host": "/run/pg", "port": "5"}),
        ("postgresql:///d", {"dbname": "d"}),
        ("postgresql://[::1]:5/d", {"host": "::1", "port": 5}),
        ("postgresql://a,b:5/d", {"host": "a,b", "port": 5}),
        ("postgresql://u@/d?host=a:1&host=b", {"host": "a,b", "port": "1,"}),
        ("postgresql+asyncpg://h/d?target_session_attrs=any", {"target_session_attrs": "any"}),
        ("postgres://h/d?client_encoding=utf-8", {"dbname": "d"}),
        ("postgresql://h/?service=nightly", {"service": "nightly"}),
    ],
)
def test_what_a_url_says_is_used(url: str, wanted: dict[str, object]) -> None:
    found = dialled(url)

    assert found == found | wanted


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:geheim@h/d?sslmod=require", "no parameter 'sslmod'"),
        ("postgresql://u:geheim@h/d?client_encoding=latin1", "always UTF8"),
        ("postgresql://u:geheim@h/d?sslmode=require&sslmode=disable", "'sslmode' twice"),
        ("postgresql://u:geheim@h/d?replication=true", "no parameter 'replication'"),
        ("postgresql://u:geheim@h", "names no database"),
        ("postgresql://u:geheim@h/", "names no database"),
        ("postgresql://u:geheim@h:x/d", "is not the URL of a Postgres database"),
        ("postgresql://u:geheim@a:1,b:2/d", "host=HOST:PORT&host=HOST:PORT"),
        ("postgresql://u:p@geheim@h/d", "as %40"),
        ("mysql://u:geheim@h/d", "is not the URL of a Postgres database"),
    ],
)
def test_what_it_cannot_say_is_refused_by_name(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^catalog\.url") as caught:
        checked_url(url)

    assert said in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_hosts_and_ports_that_do_not_fit_are_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match=r"catalog\.url.*port"):
        dialled("postgresql://u@/d?host=a,b&port=1,2,3")


def test_no_secret_is_shown() -> None:
    url = "postgresql://ann:geheim@h/d?sslpassword=geheim&password=geheim&sslmode=require"

    found = shown(checked_url(url))

    assert "geheim" not in found
    assert "ann" in found
    assert "sslmode=require" in found
