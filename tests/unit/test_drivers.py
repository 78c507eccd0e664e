"""What storage refuses is told with its remedy and not tried again; what may pass is."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import uuid
from enum import Enum
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sscd_ops.drivers import asking
from sscd_ops.errors import DataError, StoreRefused, StoreUnavailable, TransientError
from sscd_ops.model import FoundShard
from sscd_ops.options import StorageOptions
from sscd_ops.sources import files
from sscd_ops.storage.store import open_store


def driver_s(name: str, module: str, *bases: type[Exception], **attributes: Any) -> Exception:
    """An error as a driver that is not installed here raises it."""
    kind = type(name, bases or (Exception,), {"__module__": module})
    error = kind(attributes.pop("said", "it says so"))
    vars(error).update(attributes)
    return error


def boto(code: str, status: int) -> Exception:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return driver_s("ClientError", "botocore.exceptions", response=response)


def made_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class Response:
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


def number(code: int, path: str = "/some/where") -> OSError:
    return OSError(code, os.strerror(code), path)


class Code(str, Enum):  # noqa: UP042 - whose str() is not its value
    """Azure's codes are of an enum like this."""

    NO_CONTAINER = "ContainerNotFound"


REFUSED = {
    "no right": (number(errno.EACCES), "may not do this"),
    "not permitted": (number(errno.EPERM), "may not do this"),
    "read-only": (number(errno.EROFS), "mounted read-only"),
    "a long name": (number(errno.ENAMETOOLONG), "shorter"),
    "no folder": (number(errno.ENOTDIR), "is a file: move it away"),
    "a folder": (number(errno.EISDIR), "move it away"),
    "a circle": (number(errno.ELOOP), "in a circle"),
    "too large": (number(errno.EFBIG), "too large for this file system"),
    "s3fs: access": (PermissionError("Access Denied"), "may not do this"),
    "s3fs: its cause": (
        made_from(PermissionError(errno.EACCES, "Forbidden"), boto("403", 403)),
        "may not do this",
    ),
    "s3fs: wrong key": (
        made_from(PermissionError("Forbidden"), boto("InvalidAccessKeyId", 403)),
        "credentials",
    ),
    "s3fs: no bucket": (
        made_from(FileNotFoundError("The bucket does not exist"), boto("NoSuchBucket", 404)),
        "no such bucket",
    ),
    "s3fs: a wrong region": (
        made_from(OSError(errno.EIO, "moved"), boto("PermanentRedirect", 301)),
        "the server refuses",
    ),
    "boto: no credentials": (
        driver_s("NoCredentialsError", "botocore.exceptions", said="Unable to locate credentials"),
        "credentials",
    ),
    "gcsfs: 401": (driver_s("HttpError", "gcsfs.retry", code=401), "credentials"),
    "gcsfs: 403": (driver_s("HttpError", "gcsfs.retry", code="403"), "may not do this"),
    "gcsfs: quota": (
        driver_s("HttpError", "gcsfs.retry", code=403, said="quotaExceeded"),
        "a quota is used up",
    ),
    "google: none": (
        driver_s("DefaultCredentialsError", "google.auth.exceptions"),
        "credentials",
    ),
    "azure: login": (
        driver_s("ClientAuthenticationError", "azure.core.exceptions", status_code=403),
        "credentials",
    ),
    "azure: container": (
        driver_s("ResourceNotFoundError", "azure.core.exceptions", status_code=404,
                 error_code="ContainerNotFound"),
        "no such bucket or container",
    ),
    "aiohttp: 403": (
        driver_s("ClientResponseError", "aiohttp.client_exceptions", status=403),
        "may not do this",
    ),
    "requests: 410": (
        driver_s("HTTPError", "requests.exceptions", OSError, response=Response(410)),
        "the server refuses",
    ),
    "a certificate": (ssl.SSLCertVerificationError("certificate verify failed"), "not trusted"),
    "paramiko": (driver_s("AuthenticationException", "paramiko.ssh_exception"), "credentials"),
    # a path is no word of the driver's
    "in a folder that is named as what passes": (
        number(errno.EACCES, "/SlowDown/ratelimit/throttled"),
        "may not do this",
    ),
    "in a folder that is named as another refusal": (
        number(errno.EROFS, "/quota/NoSuchBucket/AccessDenied"),
        "mounted read-only",
    ),
    "gcsfs: 403 without a number": (
        OSError("Forbidden: b/o/ratelimit.tar\nann has no storage.objects.get access"),
        "may not do this",
    ),
    "gcsfs: quota without a number": (
        OSError("Forbidden: b/o/x.tar\nQuota exceeded for quota metric"),
        "a quota is used up",
    ),
    "azure: a code of its enum": (
        driver_s("ResourceNotFoundError", "azure.core.exceptions", status_code=404,
                 error_code=Code.NO_CONTAINER),
        "no such bucket or container",
    ),
    "azure: a certificate, kept as an attribute": (
        driver_s("ServiceRequestError", "azure.core.exceptions",
                 inner_exception=ssl.SSLCertVerificationError("a bad one")),
        "not trusted",
    ),
    "azure: a right, though its class says login": (
        driver_s("ClientAuthenticationError", "azure.core.exceptions", status_code=403,
                 error_code="AuthorizationPermissionMismatch"),
        "may not do this",
    ),
    "boto: the cause of a cause": (
        made_from(OSError("x"), made_from(OSError("y"), boto("InvalidAccessKeyId", 403))),
        "credentials",
    ),
    "no right, as the cause of an error without a number": (
        made_from(OSError("can't write"), number(errno.EACCES)),
        "may not do this",
    ),
    "several at once": (
        ExceptionGroup("two parts", [TimeoutError("late"), number(errno.EACCES)]),
        "may not do this",
    ),
}  # fmt: skip

PASSING = {
    "a time-out": TimeoutError("timed out"),
    "a reset": ConnectionResetError(errno.ECONNRESET, "reset by peer"),
    "refused, as when it restarts": ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    "a disk error": number(errno.EIO),
    "a stale handle": number(errno.ESTALE),
    "too many files": number(errno.EMFILE),
    "a bare OSError": OSError("the line is dead"),
    "slow down": made_from(OSError(errno.EBUSY, "SlowDown"), boto("SlowDown", 503)),
    "an old token": made_from(PermissionError("expired"), boto("ExpiredToken", 400)),
    "a clock": made_from(PermissionError("skew"), boto("RequestTimeTooSkewed", 403)),
    "a rate limit": driver_s("HttpError", "gcsfs.retry", code=403, said="rateLimitExceeded"),
    "429": driver_s("ClientResponseError", "aiohttp.client_exceptions", status=429),
    "500": driver_s("HttpResponseError", "azure.core.exceptions", status_code=500),
    "503 of requests": driver_s(
        "HTTPError", "requests.exceptions", OSError, response=Response(503)
    ),
    "no endpoint": driver_s("EndpointConnectionError", "botocore.exceptions"),
    "a rate limit, without a number": OSError("Forbidden: b/o/x.tar\nUser Rate Limit Exceeded"),
    "no TLS there": ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"),
    "no such host": socket.herror(1, "Unknown host"),
    "throttled, by a 400": boto("ThrottlingException", 400),
    "a time-out in a folder named as a refusal": number(errno.ETIMEDOUT, "/quota/AccessDenied"),
    "a time-out, after a refused look": made_from(TimeoutError("late"), number(errno.EACCES)),
    "several at once": ExceptionGroup("two parts", [TimeoutError("late"), boto("SlowDown", 503)]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_says_what_to_do_and_is_not_tried_again(kind):
    error, remedy = REFUSED[kind]

    with pytest.raises(StoreRefused, match=remedy) as refused, asking("s3://bucket/x"):
        raise error

    assert isinstance(refused.value, DataError), "Airflow does not retry it"
    assert str(refused.value).startswith("s3://bucket/x: ")


@pytest.mark.parametrize("kind", PASSING)
def test_what_may_pass_is_tried_again(kind):
    with pytest.raises(StoreUnavailable, match=r"\As3://bucket/x: "), asking("s3://bucket/x"):
        raise PASSING[kind]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_where_and_how_much_is_free(tmp_path, code):
    """It is tried again: space comes back when other work ends."""
    place = tmp_path / "root" / "x"

    with (
        pytest.raises(TransientError, match=rf"bytes are free in {tmp_path}\).*storage\.root"),
        asking(str(place)),
    ):
        raise OSError(code, os.strerror(code))


def test_what_is_not_there_and_what_is_no_driver_s_go_on_as_they_are():
    for error in (
        FileNotFoundError("x"),
        FileNotFoundError(errno.ENOENT, "no such file", "/NoSuchBucket/x.tar"),
        KeyError("x"),
        StoreUnavailable("x"),
        ExceptionGroup("one is no driver's", [TimeoutError("late"), KeyError("x")]),
    ):
        with pytest.raises(type(error)), asking("s3://bucket/x"):
            raise error


# ---------------------------------------------------------------- through store and sources


class Refusing(MemoryFileSystem):
    """A driver whose every call is refused."""

    protocol = "refusing"

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise made_from(PermissionError("Access Denied"), boto("AccessDenied", 403))

    exists = info = glob = put_file = pipe_file = cat_file = get_file = find = _refuse
    rm_file = open = _refuse


fsspec.register_implementation("refusing", Refusing, clobber=True)


def test_every_call_of_a_store_and_a_source_is_told_alike(tmp_path):
    url = f"refusing://{uuid.uuid4().hex}"
    store = open_store(StorageOptions(url, str(tmp_path / "cache"), 10**6))
    shard = FoundShard("s", f"{url}/a.tar", "a.tar", 1, "1")

    def opened() -> None:
        with files.opened(shard):
            pass

    for call in (
        lambda: store.replace("a", b"x"),
        lambda: store.read_small("a"),
        lambda: store.put("a", ".x", lambda stream: None),
        lambda: store.put_named("a/b", lambda stream: None),
        lambda: store.delete("a"),
        lambda: files.listing(f"{url}/*.tar", is_pattern=True),
        lambda: files.file(f"{url}/a.tar"),
        lambda: files.below(url),
        lambda: files.is_there(url, is_pattern=False),
        lambda: files.content(f"{url}/a.tar"),
        opened,
    ):
        with pytest.raises(StoreRefused, match=f"{url}.*may not do this"):
            call()


def test_a_root_below_a_file_and_a_name_that_is_too_long(tmp_path):
    (tmp_path / "file").touch()
    below = open_store(StorageOptions(str(tmp_path / "file" / "root")))
    at = open_store(StorageOptions(str(tmp_path / "file")))
    long = open_store(StorageOptions(str(tmp_path / ("x" * 300))))

    for store, remedy in ((below, "is a file: move"), (at, "is a file: move"), (long, "shorter")):
        with pytest.raises(StoreRefused, match=remedy):
            store.replace("probe", b"x")
        with pytest.raises(StoreRefused, match=remedy):
            store.put("a", ".x", lambda stream: None)


def test_a_writer_on_a_full_disk(tmp_path):
    store = open_store(StorageOptions(str(tmp_path)))

    def full(_: Any) -> None:
        with Path("/dev/full").open("wb", buffering=0) as stream:
            stream.write(b"x")

    with pytest.raises(StoreUnavailable, match=r"No space left.*bytes are free.*clear the task"):
        store.put("a", ".x", full)
