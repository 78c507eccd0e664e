"""What leaves: without secrets, without what moves a terminal."""

from __future__ import annotations

import logging

import pytest

from sscd_ops.errors import DataError, StoreUnavailable
from sscd_ops.masking import MaskingFormatter, harmless, holds_secret, masked, secrets_in

S = "hunter2"

URLS = [
    f"postgresql+psycopg2://ann:{S}@db/catalog",
    f"postgresql://ann:p@ss/{S}@db:5432/catalog?sslmode=require",
    f"postgresql://:{S}@/catalog",
    f"postgresql://ann@db/catalog?password={S}",
    f"postgresql://db/catalog?user=ann&sslpassword={S}&sslmode=require",
    f"https://{S}@host/x",
    f"https://host/x.tar?token={S}",
    f"https://host/x.tar?a=1&access_token={S}&b=2",
    f"https://host/x.tar?sv=2024&SIG={S}",
    f"https://b.s3.amazonaws.com/x?AWSAccessKeyId={S}&Signature={S}&Expires=1",
    f"https://b.s3.amazonaws.com/x?X-Amz-Credential={S}&X-Amz-Signature={S}",
    f"https://b.s3.amazonaws.com/x?X-Amz-Security-Token={S}",
    f"https://storage.googleapis.com/b/x?X-Goog-Signature={S}&GoogleAccessId={S}",
    f"https://maps.example/x?key={S}",
    f"https://host/x#access_token={S}",
    f"s3://KEY:{S}@bucket/x",
    f"ftp://ann:{S}@host/in/*.tar",
    f"https://host/x?p%61ssword={S}",
    f"https://host/x?a=1&%74oken={S}&b=2",
    f"https://host/x?\uff54oken={S}",
    f"https://host/x?sas={S}",
    f"https://host/x?subscription-key={S}",
    f"https://host/x?private_key={S}",
    f"https://host/x;jsessionid={S}",
    f"https://host/x?a=1&amp;token={S}",
    f"https://host/x?hdnts=exp=1~hmac={S}",
    f"https://host/get?url=https%3A%2F%2Fh%2Fx%3Ftoken%3D{S}%26b%3D1",
    f"HTTPS://{S}@host/x",
    f"POSTGRESQL://ann:{S}@db/catalog",
    f"postgresql://ann:p'{S}@db/catalog",
    f"postgresql+psycopg2://ann:1234/{S}@db/catalog",
]


@pytest.mark.parametrize("url", URLS)
def test_no_secret_of_a_url_is_left(url):
    text = f"{url}: HTTP 403 for '{url}', tried {url!r}."

    assert S not in masked(text)
    assert masked(text).endswith(".")
    assert masked(masked(text)) == masked(text)
    assert holds_secret(url)
    assert any(S in secret for secret in secrets_in(url))


@pytest.mark.parametrize(
    "text",
    [
        f'connection failed: "host=db user=ann password={S} dbname=x"',
        f"could not parse dsn password='{S} x{S}' host=db",
        f"{{'account_name': 'a', 'sas_token': '{S}', 'n': 1}}",
        f'{{"secret": "{S}", "aws_secret_access_key": "{S}"}}',
        f"headers: Authorization: Bearer {S}",
        f"'Authorization': 'Basic {S}'",
        f"PGPASSWORD={S} psql",
        f"AccountName=a;AccountKey={S}==;EndpointSuffix=x",
        f"BlobEndpoint=https://a/;SharedAccessSignature=sv=1&sig={S}",
        f"account_key='{S}'",
        f"{{'secret': b'{S}'}}",
        f"https://host/x?token='{S}'",
        f"X-Api-Key: {S}",
        f"{{'Cookie': 'session={S}'}}",
        f'{{"private_key": "-----BEGIN PRIVATE KEY-----\\n{S}"}}',
        f"-----BEGIN RSA PRIVATE KEY-----\n{S}\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_no_secret_of_a_driver_s_text_is_left(text):
    assert S not in masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "abfs://container@account.dfs.core.windows.net/x/{date}/*.tar",
        "sftp://ann@host/in/2026-11-01/a.tar",
        "http://127.0.0.1:8080/in/a@b.tar",
        "http://[::1]:8080/in/a@b.tar",
        "s3://bucket/keys/token/x.tar#000123",
        "password authentication failed for user ann: Check catalog.url",
        "unexpected token: 3 at line 1",
        "samples with key=one caption=two: see 'audit'",
        "/in/2026-11-01/shard-??.tar",
        "C\u00e9zanne = peintre; a=b&c",
        "postgresql://db:5432/catalog?sslmode=require, asked by ann@host",
        "['http://host:80', 's3://bucket/a@b']",
        "https://host/x?page=2&lang=de&monkey=1#top",
        "",
    ],
)
def test_what_is_no_secret_stays(text):
    assert masked(text) == text
    assert not holds_secret(text)


def test_errors_of_this_package_never_hold_one():
    assert str(StoreUnavailable(URLS[0])) == "postgresql+psycopg2://***@db/catalog"
    assert S not in repr(DataError("x", URLS[6]))


def test_a_message_keeps_its_lines_and_moves_nothing():
    assert harmless("a\x1b[2Jb\r\nc\u202ed\te\x9b") == "a [2Jb \nc d\te "


def test_log_lines_are_masked_with_their_tracebacks():
    try:
        raise OSError(f"refused {URLS[7]}")
    except OSError as error:
        record = logging.LogRecord(
            "x", logging.WARNING, "f", 1, "at %s\x1b[1m", (URLS[3],), (OSError, error, None)
        )

    line = MaskingFormatter("%(levelname)s %(message)s").format(record)

    assert S not in line
    assert "\x1b" not in line
    assert "OSError: refused https://host/x.tar?a=1&access_token=***&b=2" in line


def test_a_name_of_several_lines_is_no_line_of_a_log():
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "left out: %s", ("a\nERROR b",), None)

    line = MaskingFormatter("%(levelname)s %(message)s").format(record)

    assert line == "WARNING left out: a ERROR b"


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "token",
        "://",
        "://a:",
        "@",
        "?token=",
        "password='",
        '"secret": "',
        "a.b-c_",
        "&",
        "?a",
        "%26a",
        "://a:'b",
        "-----BEGIN PRIVATE KEY-----",
        "cookie: ",
        "postgresql://a:",
    ],
)
def test_no_text_takes_long(piece):
    text = piece * (50_000 // len(piece))

    assert harmless(text)
