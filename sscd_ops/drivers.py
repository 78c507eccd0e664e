"""What storage drivers raise, sorted into errors of ours. Standard library only.

The drivers of clouds are not imported here, nor need they be there: what they raise is known by
class name, HTTP status and code, which may stand on the error or on the one it was made from.
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

_BY_ERRNO = {
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _READ_ONLY,
    errno.ENAMETOOLONG: _NAME,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: _NO_FOLDER,
    errno.EISDIR: "a folder stands where a file should be: move it away",
    errno.ELOOP: "links on this path lead in a circle: mend them",
    errno.EFBIG: "a file is too large for this file system or its limits: use another one",
}
_BY_CLASS = {
    PermissionError: _RIGHTS,
    NotADirectoryError: _NO_FOLDER,
    FileExistsError: _NO_FOLDER,
    IsADirectoryError: _BY_ERRNO[errno.EISDIR],
}
# Of errors whose classes are not here, searched for in class names, codes and messages.
_NO_BUCKET_SAID = re.compile(
    r"NoSuchBucket|ContainerNotFound|AccountNotFound|bucket does not exist|container does not exist"
)
_CREDENTIALS_SAID = re.compile(
    r"NoCredentials|PartialCredentials|CredentialRetrieval|NoAuthToken|TokenRetrieval|SSOToken"
    r"|ProfileNotFound|ClientAuthentication|DefaultCredentials|CredentialUnavailable|RefreshError"
    r"|AuthenticationException|AuthenticationFailed|InvalidAccessKeyId|SignatureDoesNotMatch"
    r"|InvalidToken|InvalidAccountKey|[Uu]nable to locate credentials"
)
_SAID = (
    (_NO_BUCKET_SAID, _NO_BUCKET),
    (_CREDENTIALS_SAID, _CREDENTIALS),
    (re.compile(r"CertVerification|CertificateError|certificate verify failed"), _CERTIFICATE),
    (re.compile(r"[Qq]uota"), _QUOTA),
    (re.compile(r"AccessDenied|AuthorizationPermission|AllAccessDisabled|Access Denied"), _RIGHTS),
)
# These pass, whatever the status: too many requests, a token that the next try renews, a clock.
_PASSING_SAID = re.compile(
    r"[Rr]ate ?[Ll]imit|SlowDown|[Tt]hrottl|TooManyRequests|RequestLimitExceeded|ExpiredToken"
    r"|RequestTime|ServerBusy|ServiceUnavailable|InternalError|OperationAborted|TokenRefreshRequired"
)
_PASSING_STATUS = (408, 409, 423, 425, 429)

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
        if _NO_BUCKET_SAID.search(_said(error)):
            raise told(url, error) from error
        raise
    except Exception as error:
        if isinstance(error, OSError) or _is_driver_s(error):
            raise told(url, error) from error
        raise


def _is_driver_s(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in _DRIVERS


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
    """What to do about an error that trying again cannot help; None for one that it may."""
    said = _said(error)
    if _PASSING_SAID.search(said) or is_full(error):
        return None
    found = next((remedy for pattern, remedy in _SAID if pattern.search(said)), None)
    if found is None:
        status = _status(error)
        found = _by_kind(error) if status is None else _by_status(status)
    return None if found is None else found.format(who=_who())


def _by_kind(error: BaseException) -> str | None:
    number = getattr(error, "errno", None)
    if number in _BY_ERRNO:
        return _BY_ERRNO[number]
    return next((remedy for kind, remedy in _BY_CLASS.items() if isinstance(error, kind)), None)


def _by_status(status: int) -> str | None:
    if status in _PASSING_STATUS or not 300 <= status < 500:
        return None
    if status == 401:
        return _CREDENTIALS
    return _RIGHTS if status == 403 else _SERVER


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those it was made from."""
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        seen.append(at)
        yield at
        at = at.__cause__ or at.__context__


def _said(error: BaseException) -> str:
    """Class names, codes and messages of a driver's error and of those it was made from."""
    parts: list[str] = []
    for item in _chain(error):
        if isinstance(item, FileNotFoundError) and item is not error:
            break  # a look that found nothing, before
        response = getattr(item, "response", None)
        code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
        parts += [type(item).__name__, str(code), str(getattr(item, "error_code", "")), str(item)]
    return " ".join(parts)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, or one that it was made from."""
    for item in _chain(error):
        response: Any = getattr(item, "response", None)
        meta = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        for found in (
            meta.get("HTTPStatusCode"),
            getattr(response, "status_code", None),
            getattr(item, "status_code", None),
            getattr(item, "status", None),
            getattr(item, "code", None),
        ):
            text = str(getattr(found, "value", found))
            if re.fullmatch(r"[1-5]\d\d", text):
                return int(text)
    return None


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
