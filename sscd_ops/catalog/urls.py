"""The catalog's URL: what it may say, how it is shown, and how one is made from its parts.

Everything in a URL is used, or refused by name: a mistyped parameter must not reach another server
or an unencrypted one. What libpq knows and this release's list lacks is refused too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from sscd_ops.errors import ConfigError

CONFIGURED = "catalog.url (or SSCD_OPS_DATABASE_URL)"
"""What a URL is called in messages where nothing else is known of it."""

# fmt: off
PARAMETERS = frozenset({
    "host", "hostaddr", "port", "dbname", "user", "password", "passfile", "service",
    "connect_timeout", "application_name", "options", "target_session_attrs",
    "load_balance_hosts", "keepalives", "keepalives_idle", "keepalives_interval",
    "keepalives_count", "tcp_user_timeout", "sslmode", "sslnegotiation", "sslcompression",
    "sslcert", "sslkey", "sslpassword", "sslcertmode", "sslrootcert", "sslcrl", "sslcrldir",
    "sslsni", "ssl_min_protocol_version", "ssl_max_protocol_version", "require_auth",
    "channel_binding", "requirepeer", "gssencmode", "krbsrvname", "gsslib", "gssdelegation",
})
# fmt: on
"""What may follow the question mark: libpq's parameters of a connection."""
_HOST = re.compile(r"\[(.+)\](?::(.*))?|([^:]+)(?::(.*))?")
"""A host in brackets or without colons, and its port; an IPv6 address without brackets is none."""
_SECRETS = ("password", "sslpassword")


def checked_url(url: str, named: str = CONFIGURED) -> URL:
    """The parsed URL of a Postgres database.

    Args:
        url: SQLAlchemy's or libpq's form.
        named: where it comes from, for messages.

    Raises:
        ConfigError: it is none, or has a parameter that no connection has; the URL itself is not
            shown, as it may hold a password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the second: a port that is no number
        parsed = None
    if (
        parsed is None
        or parsed.get_backend_name() not in ("postgresql", "postgres")
        or "@" in (parsed.host or "")  # the end of a password that was not escaped
    ):
        raise ConfigError(
            f"{named} is not the URL of a Postgres database: expected"
            " postgresql+psycopg2://USER:PASSWORD@HOST:PORT/DATABASE, with the characters"
            " @ : / ? # % of user and password written as %40 %3A %2F %3F %23 %25; several hosts:"
            " postgresql+psycopg2://USER:PASSWORD@/DATABASE?host=HOST:PORT&host=HOST:PORT"
        )
    _check_parameters(parsed.query, named)
    if not parsed.database and not {"dbname", "service"} & set(parsed.query):
        raise ConfigError(f"{named} names no database: add /DATABASE behind host and port")
    folder = unquote(parsed.host or "")
    if folder.startswith("/"):  # a socket's, as libpq writes it
        port = {"port": str(parsed.port)} if parsed.port else {}
        query = {**parsed.query, "host": folder, **port}
        parsed = URL.create(
            parsed.drivername, parsed.username, parsed.password, None, None, parsed.database, query
        )
    return parsed.set(drivername="postgresql+psycopg2")


def _check_parameters(query: Mapping[str, object], named: str) -> None:
    for name, value in query.items():
        if name == "client_encoding" and str(value).lower().replace("-", "") == "utf8":
            continue
        if name == "client_encoding":
            raise ConfigError(f"{named}: client_encoding is always UTF8 here: take {value!r} out")
        if name not in PARAMETERS:
            raise ConfigError(
                f"{named}: a connection to Postgres has no parameter {name!r}; it may have"
                f" {', '.join(sorted(PARAMETERS))}"
            )
        if not isinstance(value, str) and name not in ("host", "port"):
            raise ConfigError(f"{named} has the parameter {name!r} twice: take one out")


def shown(url: URL) -> str:
    """The URL without its secrets, for messages."""
    hidden = {name: "***" for name in _SECRETS if name in url.query}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def url_of(
    *,
    user: str,
    password: str,
    host: str,
    port: int | None,
    database: str,
    parameters: Mapping[str, str],
) -> str:
    """A URL from its parts, with the password in it.

    Args:
        user: empty: the operating system's.
        password: empty: none, or that of ``passfile``.
        host: a name, an address, the folder of a socket, or several with commas between, each with
            a port of its own or without (``a:5433,b``).
        port: of every host that names none.
        database: its name.
        parameters: what libpq calls them.

    Raises:
        ValueError: a host's port is none; says which.
    """
    hosts, ports = zip(*(_split(one, port) for one in host.split(",")), strict=True)
    query = dict(parameters)
    single: str | None = hosts[0]
    number = ports[0]
    if len(hosts) > 1 or hosts[0].startswith("/"):
        query["host"] = ",".join(hosts)
        if any(ports):
            query["port"] = ",".join(str(one or 5432) for one in ports)
        single = number = None
    url = URL.create(
        "postgresql+psycopg2",
        username=user or None,
        password=password or None,
        host=single,
        port=number,
        database=database,
        query=query,
    )
    return url.render_as_string(hide_password=False)


def _split(one: str, port: int | None) -> tuple[str, int | None]:
    """``host``, ``host:port``, ``[v6]:port``, ``v6`` or ``/folder`` as host and port."""
    one = one.strip()
    found = None if one.startswith("/") else _HOST.fullmatch(one)
    six, of_six, name, of_name = found.groups() if found else (None, None, one, None)
    own = of_six or of_name or ""
    if not one or (own and not (own.isascii() and own.isdigit() and 0 < int(own) < 65536)):
        raise ValueError(f"{one!r} is no HOST or HOST:PORT")
    return six or name, int(own) if own else port
