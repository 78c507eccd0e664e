"""Which URLs of a source name nothing, in a night and in any."""

from __future__ import annotations

import fsspec
import pytest

from sscd_ops.options import LimitsOptions, SourceOptions
from sscd_ops.ports import Source
from sscd_ops.sources import open_source
from sscd_ops.sources.absent import any_night, nothing_at, nowhere
from sscd_ops.sources.files import canonical
from sscd_ops.storage.tar_read import read_tar
from tests.unit.sources.feeds import DAY, FEEDS

FEED = FEEDS["webdataset"]


def opened(options: SourceOptions) -> Source:
    return open_source(options, LimitsOptions(), read_tar)


def source(*urls: str, **values: str) -> SourceOptions:
    return SourceOptions("feed", urls=urls, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "pattern"),
    [
        ("/in/{date}/*.tar", "/in/[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]/*.tar"),
        ("/in/{date:%y/%b}/{end:%H}", "/in/[0-9][0-9]/*/[0-9][0-9]"),
        (
            "/in/{date:%-d.%_m.%Y}/{date:%^b}/{end:%-H%M}%",
            "/in/*.*.[0-9][0-9][0-9][0-9]/*/*[0-9][0-9]%",
        ),
        ("/in/x.tar", "/in/x.tar"),
    ],
)
def test_a_placeholder_becomes_what_it_may_stand_for(url: str, pattern: str) -> None:
    assert any_night(url) == pattern


def test_a_url_that_names_nothing_in_the_night_is_named_with_its_date(folder: str) -> None:
    FEED.write(f"{folder}/2026-11-01", "a")

    urls = (f"{folder}/{{date}}/*.tar", f"{folder}/{{date}}/b*.tar", f"{folder}/c/*.tar")
    said = nothing_at(source(*urls), opened, DAY, "UTC")

    assert said == [f"{folder}/2026-11-01/b*.tar", f"{folder}/c/*.tar"]


@pytest.mark.parametrize(
    ("form", "good"),
    [("{date}", True), ("{date:%Y-%m-%d}", True), ("{date:%Y%m%d}", False), ("{start:%d}", False)],
)
@pytest.mark.parametrize("day", ["2026-11-01", "2019-05-05"])
def test_what_is_there_in_some_night_is_no_problem(
    folder: str, day: str, form: str, good: bool
) -> None:
    FEED.write(f"{folder}/{day}", "a")

    said = nowhere(source(f"{folder}/{form}/*.tar"), opened, DAY, "UTC")

    assert said == ([] if good else [f"urls: nothing is at {folder}/{form}/*.tar"])


def test_a_marker_that_is_nowhere_is_named(folder: str) -> None:
    FEED.write(f"{folder}/2026-11-01", "a")
    marked = source(f"{folder}/{{date}}/*.tar", ready=f"{folder}/{{date}}/a.tar")
    never = source(f"{folder}/{{date}}/*.tar", ready=f"{folder}/{{date}}/_DONE")

    assert nowhere(marked, opened, DAY, "UTC") == []
    assert nowhere(never, opened, DAY, "UTC") == [
        f"ready: nothing is at {folder}/{{date}}/_DONE, so no night would begin"
    ]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_captions_file_that_is_nowhere_is_named(folder: str, elsewhere: bool) -> None:
    FEEDS["folder"].write(f"{folder}/2026-11-01", "a")
    name = f"{folder}/captoins.jsonl" if elsewhere else "captoins.jsonl"
    options = source(f"{folder}/{{date}}/a", kind="folder", captions_file=name)
    where = canonical(name if elsewhere else f"{folder}/2026-11-01/a/{name}")

    assert nowhere(options, opened, DAY, "UTC") == [f"captions_file: nothing is at {where}"]
    with fsspec.open(where, "w") as stream:
        stream.write("{}")
    assert nowhere(options, opened, DAY, "UTC") == []
