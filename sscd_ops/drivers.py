"""What storage drivers raise, sorted into errors of ours. Standard library only.

The drivers of clouds are not imported here, nor need they be there: what they raise is known by
code, class name, HTTP status and errno, which may stand on the error or on the one it was made
from. Messages hold paths and are not read, save Google's, where they are all there is.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sscd_ops.errors import SscdOpsError, StoreRefused, StoreUnavailable

_DRIVERS = frozenset(
    {"adlfs", "aiohttp", "aiobotocore", "asyncio", "azure", "botocore", "fsspec", "gcsfs"}
    | {"google", "httpx", "msal", "msrest", "paramiko", "requests", "s3fs", "urllib3"}
)

# ---------------------------------------------------------------- what is refused, and what to do

_RIGHTS = (
    "{who} may not do this there: give it the right, by owner and mode of the folder or by the"
    " storage's policy"
)
_CREDENTIALS = (
    "storage takes no credentials of this process: give them by the environment or fsspec's own"
    " configuration, on every machine that runs tasks"
)
_NO_BUCKET = "there is no such bucket or container: make it, or mend the URL in the config file"
_NAME = (
    "a name is too long for this file system: give shorter folders (storage.root) or a shorter"
    " dataset name, or use another file system"
)
_NO_FOLDER = "what should be a folder on this path is a file: move it away, or name another folder"
_READ_ONLY = "the file system is mounted read-only: mount it for writing, or name another folder"
_CERTIFICATE = "the server's certificate is not trusted: install its authority's, or mend the URL"
_QUOTA = "a quota is used up: raise it, or remove what is no longer needed"
_SERVER = "the server refuses this request: mend the URL or what the server allows"

_PASSES = None
"""What the next try may not meet: too many requests, a token that it renews, a clock."""

# Of each remedy: codes of services and classes of their drivers, by name; HTTP statuses and errnos.
# `_signs` says which of them counts first.
_KNOWN: tuple[tuple[str | None, str, tuple[int, ...]], ...] = (
    (_NO_BUCKET, "NoSuchBucket ContainerNotFound FilesystemNotFound AccountNotFound", ()),
    (
        _CREDENTIALS,
        "AuthenticationFailed InvalidAccessKeyId InvalidAccountKey InvalidClientTokenId"
        " InvalidToken NoAuthenticationInformation SignatureDoesNotMatch"
        " UnrecognizedClientException AuthenticationException ClientAuthenticationError"
        " CredentialRetrievalError CredentialUnavailableError DefaultCredentialsError"
        " NoAuthTokenError NoCredentialsError PartialCredentialsError ProfileNotFound RefreshError"
        " SSOTokenLoadError TokenRetrievalError UnauthorizedSSOTokenError",
        (401,),
    ),
    (
        _RIGHTS,
        "AccessDenied AccessDeniedException AllAccessDisabled AuthorizationFailure"
        " AuthorizationPermissionMismatch",
        (403, errno.EACCES, errno.EPERM),
    ),
    (_QUOTA, "QuotaExceeded", ()),
    (_CERTIFICATE, "CertificateError ClientConnectorCertificateError SSLCertVerificationError", ()),
    (
        _PASSES,
        "ExpiredToken ExpiredTokenException InternalError OperationAborted RequestExpired"
        " RequestLimitExceeded RequestThrottled RequestTimeTooSkewed RequestTimeout ServerBusy"
        " ServiceUnavailable SlowDown Throttling ThrottlingException TokenRefreshRequired"
        " TooManyRequests TooManyRequestsException",
        (408, 409, 423, 425, 429),
    ),
    (_READ_ONLY, "", (errno.EROFS,)),
    (_NAME, "", (errno.ENAMETOOLONG,)),
    (_NO_FOLDER, "", (errno.ENOTDIR, errno.EEXIST)),
    ("a folder stands where a file should be: move it away", "", (errno.EISDIR,)),
    ("links on this path lead in a circle: mend them", "", (errno.ELOOP,)),
    ("a file is too large for this file system or its limits: use another one", "", (errno.EFBIG,)),
)
_REMEDIES: dict[str | int, str | None] = {
    **dict.fromkeys(range(300, 500), _SERVER),
    **dict.fromkeys(range(500, 600), _PASSES),
    **{name: remedy for remedy, names, _ in _KNOWN for name in names.split()},
    **{number: remedy for remedy, _, numbers in _KNOWN for number in numbers},
}
_NUMBERS = {
    PermissionError: errno.EACCES, NotADirectoryError: errno.ENOTDIR,
    FileExistsError: errno.EEXIST, IsADirectoryError: errno.EISDIR,
    FileNotFoundError: errno.ENOENT, TimeoutError: errno.ETIMEDOUT,
    ConnectionError: errno.ECONNRESET,
}  # fmt: skip
"""The errno of one that was made without."""
_FORBIDDEN = "Forbidden: "
"""How gcsfs begins an OSError of status 403: the path follows, then a line of the server's."""
_PASSING_SAID = re.compile(r"[Rr]ate ?[Ll]imit")
_QUOTA_SAID = re.compile(r"[Qq]uota")

# ---------------------------------------------------------------- full disks

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def asking(url: str) -> Iterator[None]:
    """Around calls to storage.

    Raises:
        StoreRefused: trying again cannot help; says what can.
        StoreUnavailable: for whatever else the driver raises save FileNotFoundError.
    """
    try:
        yield
    except FileNotFoundError as error:
        if remedy_for(error) == _NO_BUCKET:
            raise told(url, error) from error
        raise
    except Exception as error:
        if _is_driver_s(error):
            raise told(url, error) from error
        raise


def _is_driver_s(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_driver_s, error.exceptions))
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _DRIVERS


def told(where: str, error: Exception) -> SscdOpsError:
    """A driver's error as one of ours: a refusal with its remedy, or what may work again.

    A full disk counts as the latter: space comes back when other work ends or is removed.
    """
    kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
    remedy = remedy_for(error)
    if remedy is not None:
        return StoreRefused(f"{where}: {kind}{error}: {remedy}")
    if is_full(error):
        return StoreUnavailable(f"{where}: {error}: {_no_room(where, error)}")
    return StoreUnavailable(f"{where}: {kind}{error}")


def remedy_for(error: BaseException) -> str | None:
    """What to do about an error that trying again cannot help; None for one that it may.

    Of several at once one that cannot be helped is enough.
    """
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(remedy_for, error.exceptions)), None)
    found = next((_REMEDIES[sign] for sign in _signs(error) if sign in _REMEDIES), _PASSES)
    return None if found is None else found.format(who=_who())


def _signs(error: BaseException) -> Iterator[str | int]:
    """What an error is known by, the most specific first."""
    chain = list(_chain(error))
    for item in chain:
        yield from _codes(item)
    for item in chain:
        yield from (kind.__name__ for kind in type(item).__mro__)
    yield from [status for item in chain if (status := _status(item)) is not None]
    yield from [number for item in chain if (number := _number(item)) is not None][:1]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those it was made from."""
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        if seen and isinstance(at, FileNotFoundError):
            return  # a look that found nothing, before
        seen.append(at)
        yield at
        inner = getattr(at, "inner_exception", None)  # azure's
        at = at.__cause__ or at.__context__ or (inner if isinstance(inner, Exception) else None)


def _codes(error: BaseException) -> Iterator[str]:
    """What the service calls it; of Google, whose drivers hide that, what it says of a 403."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        yield str(response.get("Error", {}).get("Code"))
    code = getattr(error, "error_code", None)  # azure's, of an enum or not
    yield str(getattr(code, "value", code))
    said = str(error).partition("\n")[2] if _is_forbidden(error) else str(error)
    if _status(error) == 403 and (_is_forbidden(error) or type(error).__module__ == "gcsfs.retry"):
        if _PASSING_SAID.search(said):
            yield "SlowDown"
        elif _QUOTA_SAID.search(said):
            yield "QuotaExceeded"


def _is_forbidden(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno is None and str(error).startswith(_FORBIDDEN)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries."""
    response: Any = getattr(error, "response", None)
    meta = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    for found in (
        meta.get("HTTPStatusCode"),
        getattr(response, "status_code", None),
        getattr(error, "status_code", None),
        getattr(error, "status", None),
        getattr(error, "code", None),
    ):
        text = str(getattr(found, "value", found))
        if re.fullmatch(r"[3-5]\d\d", text):
            return int(text)
    return 403 if _is_forbidden(error) else None


def _number(error: BaseException) -> int | None:
    """The errno of an error of the system's; None where its class says none either."""
    if type(error).__module__ in ("ssl", "socket"):
        return errno.EIO  # OpenSSL and resolvers count their own
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    return next((number for kind, number in _NUMBERS.items() if isinstance(error, kind)), None)


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that a disk, or a quota, has no room left."""
    return isinstance(error, OSError) and error.errno in _FULL


def _no_room(where: str, error: BaseException) -> str:
    """Whose space ended, how much there is, and what to do."""
    named = getattr(error, "filename", None)
    place = Path(os.fsdecode(named) if named else where)
    free = ""
    for folder in (place, *place.parents):
        if folder.is_dir():
            free = f" ({shutil.disk_usage(folder).free:,} bytes are free in {folder})"
            break
    return (
        f"make room there{free} or raise the quota, or give storage.root or storage.cache another"
        " disk; then clear the task, or run the night again"
    )


def _who() -> str:
    import getpass  # DAG files import this module, and need no terminal

    try:
        return f"user {getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"
