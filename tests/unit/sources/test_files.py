"""Storage behind URLs: what is said where its driver is missing."""

from __future__ import annotations

from collections.abc import Callable

import fsspec
import pytest

from sscd_ops.errors import ConfigError
from sscd_ops.sources.files import canonical, filesystem


@pytest.mark.parametrize("look", [canonical, filesystem])
@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("s3://bucket/a.tar", "no driver: pip install s3fs"),
        ("gs://bucket/a.tar", "no driver: pip install gcsfs"),
        ("abfss://box@account/a.tar", "no driver: pip install adlfs"),
        ("https://127.0.0.1/a.tar", "no driver: pip install aiohttp requests"),
        ("other://place/a.tar", "no driver. Storage behind URLs needs its fsspec driver: s3fs"),
    ],
)
def test_a_missing_driver_is_named(
    look: Callable[[str], object], url: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("no driver")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)

    with pytest.raises(ConfigError) as raised:
        look(url)

    assert str(raised.value).startswith(f"url '{url}': {remedy}")
