"""The config file is read strictly, and says what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.config import load_settings
from sscd_ops.errors import ConfigError
from sscd_ops.options import (
    DatasetOptions,
    LimitsOptions,
    SourceOptions,
    dataset_from_json,
    to_json,
)
from sscd_ops.wiring import Wiring

ROOT = Path(__file__).parents[2]

SMALL = """
[storage]
root = "curation"
[datasets.web]
{dataset}
[[datasets.web.sources]]
urls = ["incoming/{{date}}/*.tar"]
{source}
{rest}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "curation.toml"
    path.write_text(text, encoding="utf-8")
    return path


def small(folder: Path, dataset: str = "", source: str = "", rest: str = "") -> Path:
    return written(folder, SMALL.format(dataset=dataset, source=source, rest=rest))


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said.removeprefix(f"{path}: ")


# ---------------------------------------------------------------- what is read


def test_the_smallest_file_takes_every_default(tmp_path: Path) -> None:
    web = load_settings(small(tmp_path)).datasets["web"]

    source = dataclasses.replace(
        DatasetOptions("web"), sources=web.sources, start=DatasetOptions("web").start
    )
    assert web == source
    assert web.sources[0].name == "web"


def test_relative_paths_start_at_the_files_folder_and_urls_stay(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [storage]
        root = "out/../curation"
        cache = "/var/cache/x"
        [datasets.web.fingerprint]
        weights = "weights/sscd.pt"
        [[datasets.web.sources]]
        root = "."
        urls = ["incoming/{date:%Y/%m}/*.tar", "../other/*.tar"]
        ready = "incoming/{date}/_SUCCESS"
        [[datasets.web.sources]]
        name = "bought"
        urls = ["s3://bucket/{start}-{end}/*.tar", "abfs://box@account.example/x/*.tar"]
        """,
    )

    settings = load_settings(path)

    first, second = settings.datasets["web"].sources
    assert settings.storage.root == str(tmp_path / "curation")
    assert settings.storage.cache == "/var/cache/x"
    assert settings.datasets["web"].fingerprint.weights == str(tmp_path / "weights/sscd.pt")
    assert first.root == str(tmp_path)
    assert first.urls == (
        str(tmp_path / "incoming/{date:%Y/%m}/*.tar"),
        str(tmp_path.parent / "other/*.tar"),
    )
    assert first.ready == str(tmp_path / "incoming/{date}/_SUCCESS")
    assert second.urls[0] == "s3://bucket/{start}-{end}/*.tar"
    assert second.root == ""


def test_durations_sizes_and_dates_have_units(tmp_path: Path) -> None:
    web = load_settings(
        small(
            tmp_path,
            dataset="start = 2026-11-01",
            rest="""
            [datasets.web.turn]
            max_wait = "90m"
            [datasets.web.publish]
            max_bytes = "1.5GB"
            [datasets.web.limits]
            max_member_bytes = "64MiB"
            max_caption_bytes = 5000
            [datasets.web.airflow]
            run_timeout = 3600
            [datasets.web.airflow.embed]
            queue = "gpu"
            retry_delay = "30s"
            execution_timeout = "2h"
            """,
        )
    ).datasets["web"]

    assert web.start == date(2026, 11, 1)
    assert web.turn.max_wait == 5400
    assert web.publish.max_bytes == 1_500_000_000
    assert web.limits.max_member_bytes == 64 * 2**20
    assert web.limits.max_caption_bytes == 5000
    assert web.airflow.run_timeout == 3600
    assert (web.airflow.embed.queue, web.airflow.embed.retry_delay) == ("gpu", 30)
    assert web.airflow.embed.execution_timeout == 7200
    assert web.airflow.match.retries is None


def test_what_is_read_survives_being_frozen(tmp_path: Path) -> None:
    web = load_settings(ROOT / "examples" / "full.toml").datasets["web"]

    assert dataset_from_json(to_json(web)) == web


def _frozen() -> dict[str, Any]:
    """What a batch of the full example freezes, with every setting other than its default."""
    web = load_settings(ROOT / "examples" / "full.toml").datasets["web"]
    tables: dict[str, Any] = json.loads(to_json(web))
    tables["guard"]["empty"] = "allow"
    tables["limits"]["min_side"] = 99
    tables["turn"]["max_wait"] = 1.0
    tables["airflow"]["match"]["retries"] = 7
    return tables


def _paths(raw: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every section and key of nested JSON."""
    items = raw.items() if isinstance(raw, dict) else enumerate(raw)
    for name, value in items:
        if isinstance(raw, dict):
            yield (*here, name)
        if isinstance(value, dict) or (isinstance(value, list) and name == "sources"):
            yield from _paths(value, (*here, name))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        value = value[part] if isinstance(part, int) else getattr(value, part)
    return value


@pytest.mark.parametrize("path", list(_paths(_frozen())), ids=lambda path: ".".join(map(str, path)))
def test_what_a_frozen_configuration_lacks_has_its_default(path: tuple[Any, ...]) -> None:
    """As a newer release, which knows more settings, reads the batches that are under way."""
    whole = dataset_from_json(json.dumps(_frozen()))
    raw = _frozen()
    table: Any = raw
    for part in path[:-1]:
        table = table[part]
    del table[path[-1]]

    if path[-1] == "name":
        key = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, path)))
        with pytest.raises(ConfigError) as caught:
            dataset_from_json(json.dumps(raw), "batch 3 (2026-11-01)")
        assert f"batch 3 (2026-11-01) has no {key}, which" in str(caught.value)
        assert "restore it from a backup" in str(caught.value)
        return
    read = dataset_from_json(json.dumps(raw))

    default: Any = (
        SourceOptions("x") if path[0] == "sources" and len(path) > 1 else DatasetOptions("x")
    )
    below = path[2:] if isinstance(default, SourceOptions) else path
    assert _at(read, path) == _at(default, below)
    for other in _paths(_frozen()):
        if other[: len(path)] != path and path[: len(other)] != other:
            assert _at(read, other) == _at(whole, other)


def test_what_a_newer_release_froze_beside_is_left_out() -> None:
    raw = _frozen()
    for table in (raw, raw["limits"], raw["airflow"]["embed"], raw["sources"][0]):
        table["later"] = {"deep": [1]}

    assert dataset_from_json(json.dumps(raw)) == dataset_from_json(json.dumps(_frozen()))


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSCD_OPS_CONFIG", str(small(tmp_path)))

    assert list(load_settings().datasets) == ["web"]


def test_the_examples_are_read() -> None:
    for name in ("curation.toml", "full.toml"):
        assert load_settings(ROOT / "examples" / name).datasets


@pytest.mark.parametrize(("said", "read"), [("true", True), ("false", False), ("'auto'", "auto")])
def test_a_second_measure_is_on_off_or_left_to_the_model(
    tmp_path: Path, said: str, read: object
) -> None:
    path = small(tmp_path)
    path.write_text(path.read_text() + f"[datasets.web.duplicates]\nperceptual = {said}\n")

    web = load_settings(path).datasets["web"]

    assert web.duplicates.perceptual is read or web.duplicates.perceptual == read
    assert dataset_from_json(to_json(web)) == web


# ---------------------------------------------------------------- what is refused


def test_no_file_at_all_names_both_ways_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSCD_OPS_CONFIG", raising=False)

    with pytest.raises(ConfigError, match=r"--config FILE.*SSCD_OPS_CONFIG"):
        load_settings()


def test_a_missing_file_and_broken_toml_are_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.toml")
    assert "line 1" in refusal(written(tmp_path, "x = = 1"))
    (tmp_path / "curation.toml").write_bytes(b"\xff\xfe")
    assert "is not TOML" in refusal(tmp_path / "curation.toml")


@pytest.mark.parametrize(
    ("where", "text", "said"),
    [
        # an unknown key, with what was meant
        (
            "dataset",
            "schedul = '0 2 * * *'",
            "datasets.web.schedul: unknown key; did you mean 'schedule'?",
        ),
        ("source", "nmae = 'x'", "datasets.web.sources[0].nmae: unknown key; did you mean 'name'?"),
        (
            "source",
            "Kind = 'folder'",
            "datasets.web.sources[0].Kind: unknown key; did you mean 'kind'?",
        ),
        (
            "rest",
            "[datasets.web.duplicates]\nthreshhold = 0.7",
            "datasets.web.duplicates.threshhold: unknown key; did you mean 'threshold'?",
        ),
        (
            "rest",
            "[datasets.web.airflow.embedd]\nqueue = 'gpu'",
            "datasets.web.airflow.embedd: unknown key; did you mean 'embed'?",
        ),
        # a key that there was once
        (
            "rest",
            "[datasets.web.airflow]\nmatch_tasks = 4",
            "datasets.web.airflow.match_tasks: is no setting any more: the step survey works out"
            " how many tasks match has, up to max_tasks. Take the line out",
        ),
        ("rest", "[x]\nlevel = ''", "x: unknown key; there are catalog, datasets, storage"),
        ("dataset", "name = 'web'", "datasets.web.name: unknown key"),
        # the wrong kind of value
        ("dataset", "late_days = '3'", "datasets.web.late_days: expected a whole number, not '3'"),
        ("dataset", "late_days = true", "expected a whole number, not True"),
        (
            "dataset",
            "start = 2026-11-01T00:00:00",
            "datasets.web.start: expected a date such as 2026-11-01",
        ),
        ("dataset", "start = 'soon'", "expected a date such as 2026-11-01, not 'soon'"),
        ("source", "priority = 1.5", "expected a whole number, not 1.5"),
        (
            "source",
            "columns = 'url'",
            "datasets.web.sources[0].columns: expected a list, not 'url'",
        ),
        ("source", "columns = ['url', 'url']", "'url' is there twice"),
        ("source", "columns = [1]", "expected a string, not 1"),
        (
            "source",
            "columns = ['url', 'width']",
            "datasets.web.sources[0].columns: 'width' is a column the published parquet has itself"
            " (key, sample_id, source, source_shard, source_key, sha256, width, height, caption,"
            " bytes, offset): leave it out",
        ),
        ("rest", "[datasets.web]", "is not TOML"),
        ("rest", "[datasets.web.airflow]\ndeferrable = 'no'", "expected true or false, not 'no'"),
        (
            "rest",
            "[datasets.web.turn]\nmax_wait = '6 hours'",
            "expected seconds or a duration such as",
        ),
        ("rest", "[datasets.web.turn]\nmax_wait = -1", "expected seconds or a duration such as"),
        ("rest", "[datasets.web.turn]\nmax_wait = inf", "expected seconds or a duration such as"),
        ("rest", "[datasets.web.publish]\nmax_bytes = '1 gig'", "expected bytes or a size such as"),
        (
            "rest",
            "[datasets.web.publish]\nmax_bytes = '0.1B'",
            "datasets.web.publish.max_bytes: expected 1 to",
        ),
        (
            "rest",
            "[datasets.web.guard]\nempty = 'hodl'",
            "expected one of 'hold', 'allow', not 'hodl'; did you mean 'hold'?",
        ),
        *(
            (
                "rest",
                f"[datasets.web.duplicates]\nperceptual = {value}",
                f"perceptual: expected one of 'auto', true, false, not {value}",
            )
            for value in ("1", "'on'", "0.0")
        ),
        (
            "rest",
            "[datasets.web.duplicates]\nperceptual_distance = 128",
            "datasets.web.duplicates.perceptual_distance: expected 0 to 100, not 128",
        ),
        (
            "rest",
            "[datasets.web.duplicates]\nperceptual_distance = 80\nperceptual_margin = 30",
            "perceptual_margin: expected perceptual_distance + perceptual_margin to be at most 100",
        ),
        # out of range
        (
            "rest",
            "[datasets.web.duplicates]\nthreshold = 1.01",
            "datasets.web.duplicates.threshold: expected a cosine",
        ),
        ("rest", "[datasets.web.duplicates]\nthreshold = 0", "above 0 and at most 1, not 0"),
        ("rest", "[datasets.web.duplicates]\nthreshold = nan", "expected a number, not nan"),
        (
            "rest",
            "[datasets.web.airflow]\nmax_tasks = 1025",
            "datasets.web.airflow.max_tasks: expected 1 to 1024, not 1025",
        ),
        ("rest", "[datasets.web.airflow]\nmax_tasks = 0", "expected 1 to 1024, not 0"),
        (
            "rest",
            "[datasets.web.airflow.embed]\nretries = -1",
            "datasets.web.airflow.embed.retries: expected 0 to 1000",
        ),
        (
            "rest",
            "[datasets.web.limits]\nmin_side = 0",
            "datasets.web.limits.min_side: expected 1 to",
        ),
        # schedule and time zone
        (
            "dataset",
            "schedule = '0 2 * *'",
            "datasets.web.schedule: expected a cron line of 5 fields",
        ),
        (
            "dataset",
            "schedule = '0 0 2 * * *'",
            "datasets.web.schedule: expected a cron line of 5 fields",
        ),
        (
            "dataset",
            "schedule = '0 25 * * *'",
            "datasets.web.schedule: '0 25 * * *' is no cron line",
        ),
        ("dataset", "schedule = '@nightly'", "'@nightly' is no cron line"),
        ("dataset", "schedule = '0 0 30 2 *'", "'0 0 30 2 *' never comes"),
        ("dataset", "schedule = 'R 2 * * *'", "expected fixed times, not 'R 2 * * *'"),
        ("dataset", "airflow.maintain = '0 6 * *'", "web.airflow.maintain: expected a cron"),
        (
            "dataset",
            "timezone = 'Europe/Berln'",
            "no time zone 'Europe/Berln'; did you mean 'Europe/Berlin'?",
        ),
        ("dataset", "timezone = '../etc'", "datasets.web.timezone: no time zone '../etc'"),
        ("dataset", "timezone = ''", "datasets.web.timezone: no time zone ''"),
        # sources
        ("source", "kind = 'webdatasets'", "did you mean 'webdataset'?"),
        ("source", "name = '../x'", "datasets.web.sources[0].name: expected 1-64 letters"),
        ("source", "[[datasets.web.sources]]\nurls = ['x']", "two sources are named 'web'"),
        (
            "source",
            "[[datasets.web.sources]]\nname = 'other'",
            "datasets.web.sources[1].urls: is empty",
        ),
        (
            "source",
            "ready = '{day}/_SUCCESS'",
            "datasets.web.sources[0].ready: unknown placeholder {day}",
        ),
        ("source", "caption = ['jsn:caption']", 'expected an extension, "json:field"'),
        ("source", "url = 'url'", 'url: expected "json:field" or "column:name"'),
        ("source", "caption = ['.txt']", "caption: write 'txt', without the dot"),
        ("source", "caption = []", "caption: is empty, and missing_caption is 'quarantine'"),
        ("source", "image = '.0.jpg'", "image: write '0.jpg', without the dot"),
        (
            "source",
            "captions_file = 'x.csv'",
            "captions_file: is for kind = 'folder', and this is 'webdataset'",
        ),
        ("source", "key_column = 'id'", "key_column: is for kind = 'parquet'"),
    ],
)
def test_a_fault_names_its_key_and_what_was_expected(
    tmp_path: Path, where: str, text: str, said: str
) -> None:
    assert said in refusal(small(tmp_path, **{where: text}))


def test_what_a_decoder_may_take_is_set_or_follows_the_most_pixels(tmp_path: Path) -> None:
    def limits(text: str) -> LimitsOptions:
        path = small(tmp_path)
        path.write_text(f"{path.read_text()}[datasets.web.limits]\n{text}\n")
        return load_settings(path).datasets["web"].limits

    assert limits("").decoder_memory == 512 * 2**20 + 32 * 100_000_000
    assert limits("decode_memory = 0").decoder_memory == limits("").decoder_memory
    assert limits("max_pixels = 1_000_000").decoder_memory == 512 * 2**20 + 32_000_000
    assert limits('decode_memory = "2GiB"').decoder_memory == 2 * 2**30
    assert limits('decode_seconds = "30s"').decode_seconds == 30
    with pytest.raises(ConfigError, match=r"limits\.decode_memory: expected 0 or at least"):
        limits('decode_memory = "1MB"')
    with pytest.raises(ConfigError, match=r"limits\.decode_seconds: expected"):
        limits("decode_seconds = 0")


@pytest.mark.parametrize("name", ["Web", "-web", "w" * 65, "my web", ""])
def test_a_dataset_name_has_an_alphabet(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, f'[storage]\nroot = "x"\n[datasets."{name}"]\n')

    assert "a dataset's name is 1-64 of a-z" in refusal(path)


@pytest.mark.parametrize("text", ["", "sources = []", "[datasets.web.sources]\nurls = ['x']"])
def test_a_dataset_needs_a_source(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, f"[storage]\nroot = 'x'\n[datasets.web]\n{text}")

    assert refusal(path) == (
        "datasets.web.sources: needs at least one [[datasets.web.sources]] table"
    )


@pytest.mark.parametrize("url", ["file:///data/x/", "file:///data/x"])
def test_a_root_given_as_a_local_url_is_a_folder(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSCD_OPS_HOME", raising=False)

    settings = load_settings(written(tmp_path, f'[storage]\nroot = "{url}"\ncache = "{url}"'))

    assert settings.storage.root == settings.storage.cache == "/data/x"
    assert Wiring(settings).home == Path("/data/x/.sscd-ops")


def test_the_storage_root_is_needed(tmp_path: Path) -> None:
    assert refusal(written(tmp_path, "")).startswith("storage.root: is missing")


def test_sections_must_be_tables(tmp_path: Path) -> None:
    assert "storage: expected a table" in refusal(written(tmp_path, "storage = 1"))
    assert "datasets: expected a table" in refusal(
        written(tmp_path, "datasets = 1\n[storage]\nroot = 'x'")
    )
    assert "datasets.web: expected a table" in refusal(
        written(tmp_path, "[storage]\nroot = 'x'\n[datasets]\nweb = 1")
    )


# ---------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    "text",
    [
        "[storage]\nroot = 's3://id:hunter2@bucket/x'",
        "[storage]\nroot = 'x'\n[catalog]\nurl = ['postgresql://u:hunter2@h/d']",
        "[storage]\nroot = 'x'\n[catalog]\nurl = {password = 'hunter2'}",
        "[storage]\nroot = ['https://hunter2@host/x']",
        "[storage]\nroot = 'x'\n[[datasets.web.sources]]\nurls = ['ftp://u:hunter2@h/{date}']",
        "[storage]\nroot = 'x'\n[[datasets.web.sources]]\nurls = 'ftp://u:hunter2@h/{date}'",
        "[storage]\nroot = 'x'\n[datasets.web.fingerprint]\nweights = 'https://hunter2@h/w.pt'",
    ],
)
def test_no_message_shows_a_password(tmp_path: Path, text: str) -> None:
    assert "hunter2" not in refusal(written(tmp_path, text))


def test_settings_do_not_show_the_database_url(tmp_path: Path) -> None:
    settings = load_settings(
        small(tmp_path, rest="[catalog]\nurl = 'postgresql+psycopg2://u:hunter2@h/d'")
    )

    assert settings.catalog.url.endswith("@h/d")
    assert "hunter2" not in repr(settings)


# ---------------------------------------------------------------- tolerant


def test_a_tolerant_reading_sets_the_faulty_datasets_aside(tmp_path: Path) -> None:
    path = small(
        tmp_path,
        rest='[datasets.bad]\nschedul = ""\n[datasets."My Web/2"]\n[datasets.odd]\nsources = 1',
    )

    settings = load_settings(path, tolerant=True)

    assert list(settings.datasets) == ["web"]
    assert set(settings.faulty) == {"bad", "My_Web_2", "odd"}
    assert "datasets.bad.schedul: unknown key" in settings.faulty["bad"]


def test_a_tolerant_reading_still_needs_the_rest_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"storage\.root"):
        load_settings(written(tmp_path, "[datasets.web]"), tolerant=True)


# ---------------------------------------------------------------- every key, any text


def _leaves(kind: typing.Any, key: str) -> list[str]:
    found = []
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found += _leaves(hint, f"{key}.{name}")
        elif name not in ("name", "sources"):
            found.append(f"{key}.{name}")
    return found


@pytest.mark.parametrize("key", _leaves(DatasetOptions, "datasets.web"))
def test_every_key_of_a_dataset_refuses_a_table(tmp_path: Path, key: str) -> None:
    path = written(tmp_path, f"[storage]\nroot = 'x'\n[{key}]\nx = 1")

    assert refusal(path).startswith(f"{key}: expected ")


toml_values = st.one_of(
    st.booleans().map(lambda value: str(value).lower()),
    st.integers(-(2**60), 2**60).map(str),
    st.floats(allow_nan=True).map(lambda value: repr(value).replace("e+", "e")),
    st.text(st.characters(codec="ascii", exclude_categories=("Cc",), exclude_characters="'")).map(
        lambda value: f"'{value}'"
    ),
    st.just("[]"),
    st.just("{}"),
    st.just("2026-11-01"),
)


@given(st.sampled_from(_leaves(DatasetOptions, "datasets.web")), toml_values)
def test_whatever_a_value_is_it_is_read_or_refused_by_its_key(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = written(
        folder,
        f"{key} = {value}\n[storage]\nroot = 'x'\n[[datasets.web.sources]]\nurls = ['x']\n",
    )

    try:
        load_settings(path)
        said = key
    except ConfigError as error:
        said = str(error)

    assert key in said


def test_reading_the_config_needs_nothing_heavy() -> None:
    code = (
        "import sys; from sscd_ops.config import load_settings;"
        f"load_settings({str(ROOT / 'examples' / 'full.toml')!r});"
        "print([name for name in ('numpy', 'pydantic', 'torch', 'faiss', 'pyarrow', 'sqlalchemy',"
        " 'airflow', 'sscd_ops.catalog', 'sscd_ops.wiring') if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert done.stdout.strip() == "[]"


def test_loading_the_steps_loads_no_pandas() -> None:
    """A third of the time that an answered night takes; pyarrow imports it where it is there."""
    code = (
        "import sys, sscd_ops.steps.night, sscd_ops.wiring;"
        "print([name for name in ('pandas', 'torch', 'faiss') if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert done.stdout.strip() == "[]"


def test_a_faulty_dataset_never_takes_the_name_of_another(tmp_path: Path) -> None:
    path = small(tmp_path, rest='[datasets."we b"]\n[datasets."we?b"]\n[datasets.we_b_]\nx = 1')

    settings = load_settings(path, tolerant=True)

    assert set(settings.faulty) == {"we_b", "we_b__", "we_b_"}
