"""Our errors as Airflow's: what trying again cannot help is not tried again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowFailException

from sscd_ops.drivers import remedy_for
from sscd_ops.errors import ConfigError, DataError, InvariantError, MissingExtra, UsageError

_FINAL = (ConfigError, DataError, InvariantError, MissingExtra, UsageError)


@contextmanager
def as_airflow() -> Iterator[None]:
    """Fail without a retry on errors that a person must look at; transient ones pass through."""
    try:
        yield
    except _FINAL as error:
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error
    except OSError as error:  # of a local file that is read as it lies
        remedy = remedy_for(error)
        if remedy is None:
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}: {remedy}") from error
