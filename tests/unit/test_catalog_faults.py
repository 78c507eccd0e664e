"""What a refused connection says, of which psycopg2 gives no code, as our errors."""

from __future__ import annotations

import psycopg2
import pytest
from sqlalchemy.exc import OperationalError

from sscd_ops.catalog.faults import mapped
from sscd_ops.errors import CatalogUnavailable, ConfigError, InvariantError, SscdOpsError

SAID = {
    "FATAL:  sorry, too many clients already": (CatalogUnavailable, "up to 3 at once"),
    "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute": (
        CatalogUnavailable,
        "max_connections, which is 100",
    ),
    'FATAL:  too many connections for role "ann"': (CatalogUnavailable, "CONNECTION LIMIT"),
    "FATAL:  no more connections allowed (max_client_conn)": (CatalogUnavailable, "pooler"),
    "FATAL:  the database system is starting up": (CatalogUnavailable, "try again"),
    "FATAL:  the database system is in recovery mode": (CatalogUnavailable, "try again"),
    "connection refused": (CatalogUnavailable, "Is the server up?"),
    'could not translate host name "h" to address': (CatalogUnavailable, "catalog.url"),
    "session is read-only": (CatalogUnavailable, "target_session_attrs"),
    'FATAL:  password authentication failed for user "ann"': (ConfigError, "catalog.url"),
    'FATAL:  Peer authentication failed for user "ann"': (ConfigError, "pg_hba.conf"),
    'FATAL:  database "x" does not exist': (ConfigError, "catalog.url"),
    'FATAL:  role "ann" is not permitted to log in': (ConfigError, "LOGIN"),
    'FATAL:  permission denied for database "x"': (ConfigError, "GRANT CONNECT"),
    'FATAL:  database "x" is not currently accepting connections': (ConfigError, "ALTER DATABASE"),
    "FATAL:  unsupported startup parameter: options": (ConfigError, "PGOPTIONS"),
    "server does not support SSL, but SSL was required": (ConfigError, "sslmode"),
    "SSL error: certificate verify failed": (ConfigError, "sslrootcert"),
    'root certificate file "/x" does not exist': (ConfigError, "sslrootcert"),
    'private key file "k" has group or world access': (ConfigError, "0600"),
    'invalid sslmode value: "x"': (ConfigError, "catalog.url"),
    "server closed the connection unexpectedly": (CatalogUnavailable, "Is the server up?"),
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("said", list(SAID))
def test_a_refused_connection_is_a_sentence_with_a_remedy(said: str, wrapped: bool) -> None:
    kind, remedy = SAID[said]
    error: Exception = psycopg2.OperationalError(said)
    if wrapped:
        error = OperationalError("SELECT 1", {}, error)

    with pytest.raises(SscdOpsError) as caught, mapped("Catalog('x')", 100):
        raise error

    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"Catalog('x'): {' '.join(said.split())}. ")
    assert remedy in str(caught.value)


def test_a_parameter_that_an_older_libpq_does_not_know_is_a_wrong_setting() -> None:
    said = 'invalid dsn: invalid connection option "sslnegotiation"'

    with pytest.raises(ConfigError, match=r"catalog\.url"), mapped("Catalog('x')"):
        raise psycopg2.ProgrammingError(said)


def test_a_value_that_has_no_sql_is_a_fault_of_ours() -> None:
    with pytest.raises(InvariantError, match="can't adapt"), mapped("Catalog('x')"):
        raise psycopg2.ProgrammingError("can't adapt type 'object'")
