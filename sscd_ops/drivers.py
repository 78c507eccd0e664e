"""What storage drivers raise, sorted into errors of ours. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sscd_ops.errors import StoreUnavailable

_DRIVERS = frozenset(
    {"aiohttp", "aiobotocore", "asyncio", "azure", "botocore", "gcsfs", "google", "httpx"}
    | {"paramiko", "requests", "s3fs", "urllib3"}
)


@contextmanager
def asking(url: str) -> Iterator[None]:
    """Around calls to storage.

    Raises:
        StoreUnavailable: for whatever the driver raises save FileNotFoundError.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreUnavailable(f"{url}: {error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in _DRIVERS:
            raise StoreUnavailable(f"{url}: {type(error).__name__}: {error}") from error
        raise
