"""The command line as people and scripts use it: exit codes, formats, errors, pipes."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from PIL import Image

from sscd_ops.catalog.audit import AUDITS
from sscd_ops.catalog.embedded import stop
from sscd_ops.catalog.partitions import ensure_month
from sscd_ops.cli.main import main
from sscd_ops.cli.snapshot import LISTED
from sscd_ops.config import load_settings
from sscd_ops.core.schedule import interval_of
from sscd_ops.machine import cores
from sscd_ops.model import Runner
from sscd_ops.options import STEPS
from sscd_ops.steps import embed, ingest, match, plan, resolve, survey
from sscd_ops.testing import make_tar, picture, plant
from sscd_ops.wiring import Wiring
from tests.databases import fresh_database, role_of, superuser
from tests.integration.world import pair

FIRST, SECOND, EMPTY = "2026-11-01", "2026-11-02", "2026-11-03"
HOSTILE = "caf\u00e9 [bold]x[/bold] \x1b[31mred\x1b[2J\r\n\u202eback"
SSCD_OPS = Path(sys.executable).with_name("sscd-ops")

CONFIG = """
[storage]
root = "root"
[datasets.web]
schedule = "0 0 * * *"
start = 2026-11-01
late_days = 0
[[datasets.web.sources]]
name = "crawl"
urls = ["in/{date}/crawl*.tar"]
columns = ["url"]
[[datasets.web.sources]]
name = "partner"
urls = ["in/{date}/partner*.tar"]
[datasets.web.fingerprint]
model = "dct"
workers = 1
[datasets.web.duplicates]
search = "flat"
[datasets.web.guard]
first_nights_max = 1.0
[datasets.other]
[[datasets.other.sources]]
urls = ["other/{date}/*.tar"]
"""


@dataclass(frozen=True)
class Site:
    """A config file, what it names, and a database."""

    folder: Path
    url: str

    @property
    def config(self) -> Path:
        return self.folder / "curation.toml"

    @property
    def env(self) -> dict[str, str | None]:
        return {"SSCD_OPS_CONFIG": str(self.config), "SSCD_OPS_DATABASE_URL": self.url}

    def __call__(
        self,
        *arguments: object,
        exit_code: int = 0,
        shows_traceback: bool = False,
        **env: str | None,
    ) -> Result:
        """A command in this process; an exception that leaves it fails the test."""
        called = CliRunner().invoke(main, [str(a) for a in arguments], env={**self.env, **env})
        if not isinstance(called.exception, (SystemExit, type(None))):
            raise called.exception
        assert called.exit_code == exit_code, called.output
        assert ("Traceback" in called.output) is shows_traceback
        return called

    def json(self, *arguments: object) -> list[dict[str, Any]]:
        """What a command prints as JSON, which is all it prints on stdout."""
        found = json.loads(self(*arguments, "--format", "json").stdout)
        assert isinstance(found, list)
        return found

    def popen(self, *arguments: object, **env: str) -> subprocess.Popen[bytes]:
        """The installed command in a process of its own, without a terminal."""
        return subprocess.Popen(
            [str(SSCD_OPS), *(str(a) for a in arguments)],
            env=environment(self.env) | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def environment(changed: dict[str, str | None]) -> dict[str, str]:
    """This process's environment, changed; None leaves a name out."""
    both = {**os.environ, **changed}
    return {name: value for name, value in both.items() if value is not None}


def make_site(folder: Path, url: str) -> Site:
    """Two nights of two sources, and one without a file."""
    with_url = {"json": b'{"url": "http://x/1"}'}
    make_tar(
        folder / "in" / FIRST / "crawl.tar",
        [
            pair("one", picture(1)),
            ("two", {"jpg": picture(2), "txt": HOSTILE.encode(), **with_url}),
            pair("again", picture(1), "the same picture"),
            pair("near", plant(picture(1), "jpeg_40")),
            pair("cut", picture(4)[:1500]),
            pair("odd#key", picture(7)),
        ],
    )
    partner = make_tar(folder / "in" / FIRST / "partner.tar", [pair("three", picture(3))])
    with tarfile.open(partner, "a") as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type = tarfile.SYMTYPE
        link.linkname = "elsewhere/three.jpg"
        tar.addfile(link)
    make_tar(
        folder / "in" / SECOND / "crawl.tar",
        [pair("four", picture(5)), pair("small", plant(picture(2), "half_size"))],
    )
    make_tar(folder / "in" / SECOND / "partner.tar", [pair("five", picture(6))])
    make_tar(folder / "other" / SECOND / "a.tar", [pair("six", picture(8))])
    (folder / "curation.toml").write_text(CONFIG)
    return Site(folder, url)


@pytest.fixture
def fresh(tmp_path: Path, catalog_url: str) -> Site:
    """A site whose nights have not run."""
    return make_site(tmp_path, catalog_url)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, postgres_home: Path, catalog_template: str
) -> Iterator[Site]:
    """A site with two published nights and one that the guard holds. Tests only read it."""
    for url in fresh_database(postgres_home, catalog_template.rpartition("/")[2]):
        made = make_site(tmp_path_factory.mktemp("site"), url)
        made("run", "--dataset", "web", "--date", FIRST)
        made("run", "--dataset", "web", "--date", SECOND)
        made("run", "--dataset", "web", "--date", EMPTY, exit_code=1)
        yield made


# ---------------------------------------------------------------- reading what is printed


def cell(value: Any) -> str:
    """A JSON value as a table shows it, said again from what is promised of tables."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+", " ", str(value))
    return text if len(text) <= 80 else text[:79] + "\u2026"


def table(text: str) -> list[dict[str, str]]:
    """The rows of a table on a pipe: columns begin where their names do."""
    header, *lines = text.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", header)]
    ends = [*starts[1:], None]
    spans = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
    return [{header[s].strip(): line[s].strip() for s in spans} for line in lines]


def fields(text: str) -> dict[str, str]:
    """A line a field."""
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in text.splitlines())


def csv_rows(called: Result) -> list[dict[str, str]]:
    """Rows of csv, with each line end as it was printed."""
    return list(csv.DictReader(io.StringIO(called.stdout_bytes.decode(), newline="")))


def told(ran: subprocess.Popen[bytes]) -> tuple[str, str]:
    """What a process printed, byte for byte, after its end."""
    out, err = ran.communicate(timeout=180)
    return out.decode(), err.decode()


def csv_cell(value: Any) -> str:
    """A JSON value as csv shows it, said again from what is promised of csv."""
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+", " ", value)
    return "'" + text if text.strip()[:1] in set("=+-@") else text


def assert_formats_agree(
    site: Site, *arguments: object, columns: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Table, csv and json of a command that prints rows say the same; its rows."""
    rows = site.json(*arguments)
    assert rows
    read = csv_rows(site(*arguments, "--format", "csv"))
    assert read == [{name: csv_cell(value) for name, value in row.items()} for row in rows]
    names = columns or list(rows[0])
    assert table(site(*arguments).stdout) == [
        {name: cell(row[name]).strip() for name in names} for row in rows
    ]
    return rows


# ---------------------------------------------------------------- run


def test_run_says_what_became_of_the_night(fresh: Site) -> None:
    night = ("run", "--dataset", "web", "--date", FIRST)

    [ran] = fresh.json(*night)

    counts = {
        "read": 7, "quarantined": 1, "removed_exact": 1, "removed_near": 1, "kept": 4, "known": 0,
        "not_delivered": 0, "source_shards": 2, "faulty_shards": 0, "skipped_shards": 0,
        "shards": 1, "snapshot": 1,
    }  # fmt: skip
    assert {name: ran[name] for name in counts} == counts
    assert ran["state"] == "published"
    assert [(row["source"], row["read"]) for row in ran["by_source"]] == [
        ("crawl", 6),
        ("partner", 1),
    ]
    assert set(ran["steps"]) >= set(STEPS)


def test_a_published_night_answers_in_every_format(site: Site) -> None:
    night = ("run", "--dataset", "web", "--date", f"{FIRST}T15:30")

    printed = site(*night)
    [as_json] = site.json(*night)
    [as_csv] = csv_rows(site(*night, "--format", "csv"))

    assert "nothing to do" in printed.stderr
    above, below = printed.stdout.split("\n\n")
    by_source, _ = as_json.pop("by_source"), as_json.pop("steps")
    for form in (as_csv, as_json):
        form.pop("seconds")
    assert fields(above).keys() - {"seconds"} == as_json.keys()
    assert {n: v for n, v in fields(above).items() if n != "seconds"} == {
        name: cell(value) for name, value in as_json.items()
    }
    assert as_csv == {name: csv_cell(value) for name, value in as_json.items()}
    assert table(below) == [{n: cell(v) for n, v in row.items()} for row in by_source]


def test_a_dry_run_decides_and_publishes_nothing(fresh: Site) -> None:
    ran = fresh("run", "--dataset", "web", "--date", FIRST, "--dry-run")

    assert fields(ran.stdout.partition("\n\n")[0])["kept"] == "4"
    assert "nothing was decided or published" in ran.stderr
    assert fresh("batch", "list").stdout == ""
    assert not list(fresh.folder.glob("root/web/shards/*/*"))


def test_a_supplement_reads_what_came_late(fresh: Site) -> None:
    night = ("run", "--dataset", "web", "--date", FIRST)
    fresh(*night, "--supplement", exit_code=2)
    fresh(*night)
    for number, source in enumerate(("crawl", "partner")):
        late = fresh.folder / "in" / FIRST / f"{source}-late.tar"
        make_tar(late, [pair("late", picture(50 + number))])

    [ran] = fresh.json(*night, "--supplement")

    assert (ran["read"], ran["kept"], ran["snapshot"]) == (2, 2, 2)
    assert [row["supplement"] for row in fresh.json("batch", "list")] == [1, 0]


def test_verbose_talks_on_stderr_alone(site: Site) -> None:
    quiet = site("batch", "list", "--format", "json")

    talking = site("-v", "batch", "list", "--format", "json")

    assert talking.stdout == quiet.stdout


# ---------------------------------------------------------------- audit


@pytest.mark.parametrize("what", AUDITS)
def test_audits_say_the_same_in_every_format(site: Site, what: str) -> None:
    rows = assert_formats_agree(site, "audit", what, "--dataset", "web", columns=AUDITS[what])

    many = {"runs": 3, "removed": 3, "kept": 6, "quarantined": 1, "events": 5}
    assert len(rows) == many[what]


def test_captions_are_whole_in_json_and_harmless_in_csv_and_a_table(site: Site) -> None:
    rows = {row["key"]: row for row in site.json("audit", "kept")}

    assert rows["two"]["caption"] == HOSTILE
    assert rows["two"]["meta"] == {"url": "http://x/1"}
    as_csv = site("audit", "kept", "--format", "csv").stdout
    assert "caf\u00e9 [bold]x[/bold]  [31mred [2J back" in as_csv
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", as_csv)
    printed = site("audit", "kept").stdout
    assert "caf\u00e9 [bold]x[/bold]  [31mred [2J back" in printed
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", printed)


def test_limits_days_and_datasets_narrow_an_audit(site: Site) -> None:
    newest = site("audit", "kept", "--limit", 3, "--format", "json")
    assert [row["batch_id"] for row in json.loads(newest.stdout)] == [2, 2, 1]
    assert "--limit shows more" in newest.stderr
    assert len(site.json("audit", "kept", "--limit", 10**30)) == 6

    for day in (SECOND, f"{SECOND}T23:59"):
        kept = site.json("audit", "kept", "--dataset", "web", "--date", day)
        assert [row["key"] for row in kept] == ["four", "five"]
    events = site.json("audit", "events", "--dataset", "web", "--date", FIRST)
    assert [row["kind"] for row in events] == ["published", "decided"]
    assert site.json("audit", "runs", "--dataset", "web", "--date", "2027-01-01") == []
    assert site.json("audit", "kept", "--dataset", "other") == []


def test_an_audit_of_nothing_says_so(site: Site) -> None:
    arguments = ("audit", "removed", "--dataset", "other")

    assert site(*arguments).stderr == "nothing there\n"
    assert site(*arguments, "--format", "json").stdout == "[]\n"
    assert site(*arguments, "--format", "csv").stdout == ",".join(AUDITS["removed"]) + "\n"
    assert site("batch", "list", "--dataset", "other", "--format", "csv").stdout == ""


# ---------------------------------------------------------------- explain


@pytest.mark.parametrize(
    ("name", "sentence", "panels"),
    [
        (f"{FIRST}/crawl.tar#near", r"Removed: its image is 0\.99\d\d similar to .*#again", 2),
        (f"{FIRST}/crawl.tar#one", r"Removed: .* same bytes as .*crawl\.tar#again", 2),
        (f"{FIRST}/crawl.tar#cut", r"Quarantined as undecodable: .*truncated", 1),
        (f"{FIRST}/crawl.tar#odd#key", r"Kept: no image kept before it", 1),
        (f"{SECOND}/crawl.tar#small", r"Removed: .* similar to .*crawl\.tar#two", 2),
    ],
)
def test_explain_says_why_and_shows_the_pictures(
    site: Site, tmp_path: Path, name: str, sentence: str, panels: int
) -> None:
    file = tmp_path / "why.png"

    printed = site("explain", name, "--picture", file)

    above, said = printed.stdout.rstrip("\n").split("\n\n")
    assert re.match(sentence, said)
    assert f"wrote {file}" in printed.stderr
    with Image.open(file) as image:
        assert (image.format, image.width) == ("PNG", panels * 400 + 10)
    [found] = site.json("explain", name)
    assert found["sentence"] == said
    assert f"{found['source_shard']}#{found['key']}" == name
    shown = fields(above)
    # A field is shown whole, where a table's cell is cut.
    assert {n: v[:79] for n, v in shown.items()} == {n: cell(found[n]).strip()[:79] for n in shown}
    assert {"verdict", "sample_id", "dataset", "batch_id"} <= set(shown)
    [row] = csv_rows(site("explain", name, "--format", "csv"))
    assert row == {n: csv_cell(value) for n, value in found.items()}


def test_explain_takes_a_sample_id_and_a_published_key(site: Site) -> None:
    [row] = [row for row in site.json("audit", "kept") if row["key"] == "two"]

    for name in (row["sample_id"], row["sample_id"].upper(), row["shard_key"]):
        [found] = site.json("explain", name)
        assert (found["key"], found["sample_id"]) == ("two", row["sample_id"])
    assert UUID(row["shard_key"]) == UUID(row["sample_id"])


@pytest.mark.parametrize("name", ["why.foo", "why", "nowhere/why.png"])
def test_a_picture_that_cannot_be_written_is_refused_first(
    site: Site, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name

    called = site("explain", f"{FIRST}/crawl.tar#one", "--picture", file, exit_code=2)

    assert called.stdout == ""
    assert str(file) in called.stderr
    assert re.search(r"must end in one of \.png|make it first", called.stderr)


# ---------------------------------------------------------------- batch


def test_batches_are_listed_and_shown(site: Site) -> None:
    listed = assert_formats_agree(site, "batch", "list", "--dataset", "web")
    assert [row["state"] for row in listed] == ["held", "published", "published"]
    assert len(site.json("batch", "list", "--limit", 1)) == 1

    [shown] = site.json("batch", "show", 1)
    above, below = site("batch", "show", 1).stdout.split("\n\n")
    sources = shown.pop("sources")
    assert fields(above) == {n: cell(v) for n, v in shown.items() if v not in (None, "")}
    assert table(below) == [{n: cell(v) for n, v in row.items()} for row in sources]
    [row] = csv_rows(site("batch", "show", 1, "--format", "csv"))
    assert row == {n: csv_cell(v) for n, v in shown.items()}
    assert (shown["read"], shown["kept"], shown["ignored"]) == (7, 4, "1 link")


def test_a_held_batch_runs_on_once_it_is_released(fresh: Site) -> None:
    night = ("run", "--dataset", "web", "--date", EMPTY)
    held = fresh(*night, exit_code=1)
    assert held.stdout == ""
    assert re.search(r"sscd-ops batch release 1 --why .*sscd-ops batch abandon 1", held.stderr)

    fresh("batch", "release", 1, "--who", "ann", "--why", "a holiday")
    assert [row["state"] for row in fresh.json("batch", "list")] == ["matched"]
    ran = fresh(*night)

    assert fields(ran.stdout.partition("\n\n")[0])["state"] == "published"
    [event] = [row for row in fresh.json("audit", "events") if row["kind"] == "released"]
    assert (event["actor"], event["why"], event["batch_id"]) == ("ann", "a holiday", 1)


def test_a_night_whose_source_is_lost_is_published_without_it(fresh: Site) -> None:
    """By the command that the message prints; what it lists is said before anything is done."""
    settings = load_settings(fresh.config)
    options = settings.datasets["web"]
    night = interval_of(options.schedule, options.timezone, FIRST)
    with Wiring(settings, database_url=fresh.url) as parts:
        planned = plan.run(parts, "web", night, runner=Runner("cli"))
        ingest.run(parts, planned.batch_id, planned.groups)
        surveyed = survey.run(parts, planned.batch_id)
        embed.run(parts, planned.batch_id, planned.groups)
        match.run(parts, planned.batch_id, surveyed.parts)
        resolve.run(parts, planned.batch_id)
    (fresh.folder / "in" / FIRST / "partner.tar").unlink()
    failed = fresh("run", "--dataset", "web", "--date", FIRST, exit_code=1)
    [shown] = fresh.json("batch", "show", 1)
    remedy = re.search(r"sscd-ops (batch repair 1) --why '...'", failed.stderr)
    assert remedy
    assert remedy[0] in shown["message"]
    repair = (*remedy[1].split(), "--who", "ann", "--why", "the partner left")

    dry = fresh.json(*repair, "--dry-run")
    assert [row["state"] for row in fresh.json("batch", "list")] == ["unpublishable"]
    done = fresh(*repair)
    again = fresh(*repair)

    assert [(row["becomes"], row["key"]) for row in dry] == [("source_gone", "three")]
    assert [row["key"] for row in table(done.stdout)] == ["three"]
    assert "turn 2; snapshot 1 of web has all that is left" in done.stderr
    assert again.stdout == ""
    assert "nothing that batch 1 (2026-11-01) is to publish is lost" in again.stderr
    [event] = [row for row in fresh.json("audit", "events") if row["turn"] == 2]
    assert (event["actor"], event["why"]) == ("ann", "the partner left")


def test_a_batch_whose_command_died_is_shown_as_failed(fresh: Site) -> None:
    settings = load_settings(fresh.config)
    options = settings.datasets["web"]
    night = interval_of(options.schedule, options.timezone, FIRST)
    with Wiring(settings, database_url=fresh.url) as parts:
        # a command holds the batch's lock while it runs; this one is gone
        plan.run(parts, "web", night, runner=Runner("cli"))

    [shown] = fresh.json("batch", "list")
    [again] = fresh.json("batch", "show", 1)
    fresh("run", "--dataset", "web", "--date", FIRST)

    assert shown["state"] == again["state"] == "failed"
    assert [row["state"] for row in fresh.json("batch", "list")] == ["published"]


def test_vacuum_lists_before_it_acts_and_says_what_it_did(fresh: Site) -> None:
    fresh("run", "--dataset", "web", "--date", FIRST)
    root = fresh.folder / "root"
    left = root / "web" / "manifests" / f"{'0' * 64}.parquet"
    left.write_bytes(b"left")
    (root / "web" / "manifests" / "notes.txt").write_text("somebody's")

    listed = fresh("vacuum", "--dry-run", "--grace", 0, "--format", "csv")
    young = fresh("vacuum", "--grace", "1h")
    gone = fresh.json("vacuum", "--dataset", "web", "--grace", "0s")
    again = fresh("vacuum", "--grace", 0)

    assert f"web,remove,4,web/manifests/{left.name}" in listed.stdout.splitlines()
    assert "left alone, not written by sscd-ops: web/manifests/notes.txt" in listed.stderr
    assert "web: 0 files (0 bytes) condemned, 0 files (0 bytes) removed\n" in young.stderr
    told = {row["folder"]: row for row in gone}
    assert told["manifests"] == {
        "dataset": "web",
        "folder": "manifests",
        "condemned": 1,
        "condemned_bytes": 4,
        "removed": 1,
        "removed_bytes": 4,
    }
    assert not left.exists()
    assert sum(row["removed"] for row in gone) == len(listed.stdout.splitlines()) - 1
    assert "0 files (0 bytes) condemned, 0 files (0 bytes) removed" in again.stderr
    (event,) = [row for row in fresh.json("audit", "events") if row["kind"] == "vacuumed"]
    assert event["details"]["removed"]["manifests"] == {"files": 1, "bytes": 4}
    assert '"grace": 0' in fresh("audit", "events").stdout, "a table says what was done, too"
    for wrong in ("-1", "2w", "nan"):
        assert "grace" in fresh("vacuum", "--grace", wrong, exit_code=2).stderr


def test_an_abandoned_batch_is_planned_anew(fresh: Site) -> None:
    night = ("run", "--dataset", "web", "--date", EMPTY)
    fresh(*night, exit_code=1)

    fresh("batch", "abandon", 1, "--why", "the files were late")
    for number, name in enumerate(("crawl.tar", "partner.tar")):
        make_tar(fresh.folder / "in" / EMPTY / name, [pair("late", picture(9 + number))])
    [ran] = fresh.json(*night)

    assert (ran["read"], ran["kept"]) == (2, 2)
    [event] = [row for row in fresh.json("audit", "events") if row["kind"] == "abandoned"]
    assert event["why"] == "the files were late"
    assert event["actor"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("release", 1, "--why", "x"), 1, "batch 1 is published, not held"),
        (
            ("abandon", 1, "--why", "x"),
            1,
            "batch 1 is published: what is decided.*; run its night again",
        ),
        (
            ("repair", 1, "--why", "x"),
            1,
            "batch 1 .* is published, not unpublishable: .*`sscd-ops batch list`",
        ),
        (("repair", 3, "--why", "x"), 1, "batch 3 .* is held, not unpublishable"),
        (("repair", 10**25, "--why", "x"), 2, "no batch 1000.*`sscd-ops batch list`"),
        (("repair", 3, "--why", ""), 2, "say who and why"),
        (("release", 99, "--why", "x"), 2, "no batch 99: `sscd-ops batch list`"),
        (("abandon", 10**25, "--why", "x"), 2, "no batch 1000.*`sscd-ops batch list`"),
        (("show", 99), 2, "no batch 99: `sscd-ops batch list`"),
        (("show", 10**25), 2, "no batch 1000.*`sscd-ops batch list`"),
        (("show", "first"), 2, "'first' is not a valid integer"),
        (("release", 3), 2, "Missing option '--why'"),
        (("release", 3, "--why", " "), 2, "say who and why"),
        (("abandon", 3, "--who", "", "--why", "x"), 2, "say who and why"),
        (("list", "--limit", 0), 2, "0 is not in the range"),
    ],
)
def test_what_cannot_be_done_to_a_batch_is_said(
    site: Site, arguments: tuple[object, ...], exit_code: int, said: str
) -> None:
    called = site("batch", *arguments, exit_code=exit_code)

    assert called.stdout == ""
    assert re.search(said, called.stderr)


# ---------------------------------------------------------------- snapshot and index


def test_snapshots_are_listed_and_shown(site: Site) -> None:
    listed = assert_formats_agree(site, "snapshot", "list", "--dataset", "web", columns=LISTED)
    assert [(row["snapshot"], row["samples"]) for row in listed] == [(2, 6), (1, 4)]
    assert site.json("snapshot", "list", "--limit", 1) == listed[:1]

    for number in (1, 2):
        asked = ("snapshot", "show", "--dataset", "web", "--snapshot", number)
        [shown] = site.json(*asked)
        above, below = site(*asked).stdout.split("\n\n")
        shards = shown.pop("shardlist")
        assert shown == listed[2 - number]
        assert fields(above) == {n: cell(v) for n, v in shown.items() if v is not None}
        assert table(below) == [{n: cell(v) for n, v in row.items()} for row in shards]
        assert sum(row["samples"] for row in shards) == shown["samples"]
    assert site("snapshot", "show", "--dataset", "web").stdout.count("\n") > 10


def test_urls_lead_to_the_tars_of_a_snapshot(site: Site) -> None:
    asked = ("snapshot", "urls", "--dataset", "web")
    urls = site(*asked).stdout.splitlines()

    keys = set()
    for url in urls:
        with tarfile.open(url) as tar:
            keys |= {name.partition(".")[0] for name in tar.getnames()}
    assert keys == {row["shard_key"] for row in site.json("audit", "kept")}
    assert site(*asked, "--snapshot", 1).stdout.splitlines() == urls[:-1]
    assert site(*asked, "--form", "jpg+txt+json").stdout.splitlines() == urls


def test_a_snapshot_is_verified_against_its_files(fresh: Site) -> None:
    fresh("run", "--dataset", "web", "--date", FIRST)
    asked = ("snapshot", "verify", "--dataset", "web")
    assert "every file is there" in fresh(*asked).stderr

    tar = Path(fresh("snapshot", "urls", "--dataset", "web").stdout.splitlines()[0])
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.chmod(0o644)
    tar.write_bytes(data)
    called = fresh(*asked, exit_code=1)

    assert len(called.stdout.splitlines()) == 1
    assert tar.name in called.stdout
    assert "every file" not in called.stderr
    assert "`sscd-ops snapshot verify --dataset web --repair`" in called.stdout
    repaired = fresh(*asked, "--repair")
    assert f"{tar.name}: wrote tar anew" in repaired.stderr
    assert "every file is there" in repaired.stderr


def test_what_cannot_be_repaired_is_named(fresh: Site) -> None:
    fresh("run", "--dataset", "web", "--date", FIRST)
    Path(fresh("snapshot", "urls", "--dataset", "web").stdout.splitlines()[0]).unlink()
    for source in fresh.folder.glob(f"in/{FIRST}/*.tar"):
        source.unlink()

    called = fresh("snapshot", "verify", "--dataset", "web", "--repair", exit_code=1)

    assert "put the original back and run this command again, or restore" in called.stdout
    assert "is missing" in called.stdout


def test_the_index_is_verified_and_rebuilt(fresh: Site) -> None:
    fresh("run", "--dataset", "web", "--date", FIRST)
    [segment] = assert_formats_agree(fresh, "index", "info", "--dataset", "web")
    assert (segment["rows"], segment["kept"]) == (5, 4)
    assert "every segment" in fresh("index", "verify", "--dataset", "web").stderr
    assert "nothing was missing" in fresh("index", "rebuild", "--dataset", "web").stderr
    file, _ = sorted(fresh.folder.glob("root/web/index/segments/*"))
    before = file.read_bytes()

    file.unlink()
    found = fresh("index", "verify", "--dataset", "web", exit_code=1)
    rebuilt = fresh("index", "rebuild", "--dataset", "web")

    assert "sscd-ops index rebuild --dataset web" in found.stdout
    assert re.fullmatch(r"segment 1: wrote (descriptors|ids) anew\n", rebuilt.stdout)
    assert file.read_bytes() == before
    fresh("index", "verify", "--dataset", "web")


# ---------------------------------------------------------------- one faulty dataset


FAULTY = {
    "an unknown key": '[datasets.bad]\nschedul = "@daily"\n',
    "a source": '[datasets.bad]\n[[datasets.bad.sources]]\nkind = "tars"\n',
    "no sources": "[datasets.bad]\n",
    "airflow": '[datasets.bad]\n[[datasets.bad.sources]]\nurls = ["x"]\n'
    "[datasets.bad.airflow]\nmax_active_run = 1\n",
    "a home that is nobody's": "[datasets.bad]\n[[datasets.bad.sources]]\n"
    'urls = ["~nobody_such/x"]\n',
    "a number beyond all": '[datasets.bad]\n[[datasets.bad.sources]]\nurls = ["x"]\n'
    f"[datasets.bad.duplicates]\nmargin = 1{400 * '0'}\n",
    "a start before all": "[datasets.bad]\nstart = 0001-01-01\n"
    '[[datasets.bad.sources]]\nurls = ["x"]\n',
    "a name": '[datasets.Bad]\n[[datasets.Bad.sources]]\nurls = ["x"]\n',
}


@pytest.mark.parametrize("kind", FAULTY)
def test_a_faulty_dataset_stops_its_own_commands_alone(fresh: Site, kind: str) -> None:
    with fresh.config.open("a") as file:
        file.write(FAULTY[kind])
    bad = "Bad" if kind == "a name" else "bad"

    listed = fresh("batch", "list", "--dataset", "web")
    of_none = fresh("db", "status")
    commands = (("run", "--date", FIRST), ("audit", "removed"), ("snapshot", "list"))
    own = [fresh(*command, "--dataset", bad, exit_code=2) for command in commands]
    of_all = fresh("audit", "removed", exit_code=2)
    looked = fresh("doctor", exit_code=1)

    assert listed.stderr.count("warning: ") == of_none.stderr.count("warning: ") == 1
    assert "curation.toml: datasets." in listed.stderr
    assert len({called.stderr for called in own}) == 1
    assert own[0].stderr.startswith("error: ")
    assert own[0].stderr.count("\n") == 1, "the error is said once"
    reason = own[0].stderr.removeprefix("error: ").strip()
    assert reason in listed.stderr
    assert reason in of_all.stderr
    assert "give --dataset" in of_all.stderr
    assert reason.partition(": ")[2] in looked.stdout
    assert "dataset web" in looked.stdout


def test_a_healthy_dataset_runs_beside_faulty_ones_of_nearly_its_name(fresh: Site) -> None:
    with fresh.config.open("a") as file:
        file.write('[datasets."w b"]\n[datasets."w?b"]\n')
    fresh.config.write_text(fresh.config.read_text().replace("datasets.other", "datasets.w_b"))

    ran = fresh("run", "--dataset", "web", "--date", FIRST)
    healthy = fresh("batch", "list", "--dataset", "w_b")

    for called in (ran, healthy):
        assert called.stderr.count("warning: ") == 2
    assert "published" in ran.stdout


def test_what_is_wrong_with_storage_or_catalog_stops_every_dataset(fresh: Site) -> None:
    text = fresh.config.read_text()
    for wrong in ("[storage]\nroot = 1\n", "[storage]\nroot = ''\n", "[catalog]\nurll = 'x'\n"):
        kept = text if "catalog" in wrong else text.partition("[datasets.web]")[2]
        fresh.config.write_text(wrong + (kept if "catalog" in wrong else "[datasets.web]" + kept))

        called = fresh("batch", "list", "--dataset", "web", exit_code=2)

        assert wrong[1:8] in called.stderr


# ---------------------------------------------------------------- db and doctor


def test_an_empty_database_is_upgraded_when_told(tmp_path: Path, empty_url: str) -> None:
    empty = make_site(tmp_path, empty_url)
    told = empty("db", "status", exit_code=1)
    assert told.stdout.startswith("catalog empty, this release ")
    assert "sscd-ops db upgrade" in told.stderr
    refused = empty("batch", "list", exit_code=2)
    assert "sscd-ops db upgrade" in refused.stderr

    first, second = empty("db", "upgrade"), empty("db", "upgrade")

    assert first.stdout.rstrip().endswith("(was empty)")
    assert second.stdout == first.stdout.replace(" (was empty)", "")
    assert empty("db", "status").stderr == ""
    empty("batch", "list")


def test_doctor_finds_all_well(site: Site) -> None:
    printed = site("doctor").stdout

    assert {line[:5] for line in printed.splitlines()} == {"ok   "}
    for what in ("python", "config", "dataset web", "dataset other", "database", "storage"):
        assert f"ok   {what}" in printed
    number, why = cores()
    assert f"{number}: {why}" in printed
    assert "decoders, at most 3.5 GiB each (limits.decode_memory)" in printed
    assert site.url.rpartition("@")[0].rpartition(":")[2] not in printed


def test_every_command_says_whose_the_catalog_is_and_what_to_do(site: Site) -> None:
    with role_of(site.url) as url:
        for command in (["run", "--dataset", "web", "--date", FIRST], ["audit", "runs"]):
            said = site(*command, exit_code=2, SSCD_OPS_DATABASE_URL=url).stderr
            assert "the catalog's tables belong to curator" in said
            assert "GRANT" in said
        doctor = site("doctor", exit_code=1, SSCD_OPS_DATABASE_URL=url).stdout
        assert "BAD  database" in doctor
        assert "the catalog's tables belong to curator" in doctor
        mistyped = f"{url}?sslmod=require"
        said = site("db", "status", exit_code=2, SSCD_OPS_DATABASE_URL=mistyped).stderr
        assert "no parameter 'sslmod'" in said


def test_doctor_and_db_status_miss_the_auditor_and_an_upgrade_mends_it(site: Site) -> None:
    superuser(site.url, "REVOKE ALL ON curation.runs FROM sscd_ops_auditor")

    assert "BAD  auditor" in site("doctor", exit_code=1).stdout
    assert "sscd_ops_auditor" in site("db", "status").stderr
    assert "sscd_ops_auditor" not in site("db", "upgrade").stderr
    assert "ok   auditor" in site("doctor").stdout


def test_doctor_names_each_problem_and_goes_on(site: Site, tmp_path: Path) -> None:
    config = site.folder / f"{tmp_path.name}.toml"  # beside its data
    config.write_text(
        CONFIG.replace('"root"', '"s3://bucket/x"').replace('search = "flat"', 'search = "flatt"')
    )
    nowhere = "postgresql+psycopg2://ann:geheim@127.0.0.1:1/x"

    printed = site("doctor", "--config", config, exit_code=1, SSCD_OPS_DATABASE_URL=nowhere).stdout

    bad = [line for line in printed.splitlines() if line.startswith("BAD")]
    assert [line.split()[1] for line in bad] == ["dataset", "database", "storage"]
    assert "datasets.web.duplicates.search" in bad[0]
    assert "did you mean 'flat'" in bad[0]
    assert "127.0.0.1" in bad[1]
    assert "storage.cache" in bad[2]
    assert "geheim" not in printed


@pytest.mark.parametrize("device", ["cuda:99", "cuda:first", "cpu,cuda:99"])
def test_doctor_says_what_the_next_night_would_stop_at(
    site: Site, tmp_path: Path, device: str
) -> None:
    config = tmp_path / "bad.toml"
    model = f'model = "sscd_small"\nweights = "nowhere.safetensors"\ndevice = "{device}"'
    model += '\npostprocessing = "white.safetensors"'
    config.write_text(
        CONFIG.replace('model = "dct"', model).replace("urls = [", 'urls = ["nosuch://bucket/x", ')
    )

    printed = site("doctor", "--config", config, exit_code=1).stdout

    bad = [line for line in printed.splitlines() if line.startswith("BAD")]
    assert any("url 'nosuch://bucket/x'" in line and "s3fs (s3://)" in line for line in bad)
    assert any("fingerprint.weights: no file" in line for line in bad)
    assert any("fingerprint.postprocessing: no file" in line for line in bad)
    assert any("duplicates.threshold is missing" in line for line in bad)
    assert any(f"fingerprint.device is '{device}': there is no such device" in line for line in bad)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("in/{date}/partner*", "in/{date}/partnr*", "source partner: urls: nothing is at {}/in/"),
        ("in/{date}/partner*", "in/{date:%Y%m%d}/partner*", "source partner: urls: nothing is at"),
        (
            '"in/{date}/crawl*.tar"',
            '"in/{date}/crawl*.tar", "x/*.tar"',
            "source crawl: urls: .*/x/",
        ),
        ('name = "partner"', 'name = "partner"\nready = "in/{date}/_DONE"', "ready: .*_DONE"),
    ],
    ids=["a slip", "another format of the date", "one URL of two", "a marker"],
)
def test_doctor_names_what_no_night_would_find(
    site: Site, tmp_path: Path, old: str, new: str, said: str
) -> None:
    config = site.folder / f"{tmp_path.name}.toml"  # paths are relative to it
    config.write_text(changed(old, new))

    printed = site("doctor", "--config", config, exit_code=1).stdout

    (bad,) = [line for line in printed.splitlines() if line.startswith("BAD")]
    assert re.search(said.format(site.folder), bad)


def test_doctor_names_a_captions_file_that_is_not_there(site: Site) -> None:
    config = site.folder / "folders.toml"
    config.write_text(
        f'''[storage]\nroot = "root"\n[[datasets.web.sources]]\nkind = "folder"
urls = ["in/{{date}}"]\ncaptions_file = "{site.folder}/captoins.csv"\n'''
    )

    printed = site("doctor", "--config", config, exit_code=1).stdout

    (bad,) = [line for line in printed.splitlines() if line.startswith("BAD")]
    assert f"source web: captions_file: nothing is at {site.folder}/captoins.csv" in bad


def test_a_dry_run_ends_with_1_where_urls_name_nothing(fresh: Site) -> None:
    fresh.config.write_text(changed("partner*", "partnr*"))
    night = ("run", "--dataset", "web", "--date", FIRST)

    said = fresh(*night, "--dry-run", exit_code=1).stderr

    assert f"source partner: nothing is at {fresh.folder}/in/{FIRST}/partnr*.tar" in said
    assert "the guard would hold it: source 'partner' keeps none of 0 samples" in said
    assert f"batch 2 ({FIRST})" in fresh(*night, exit_code=1).stderr
    fresh.config.write_text(CONFIG)
    fresh("batch", "abandon", 2, "--why", "a slip")
    assert fresh.json(*night)[0]["night"] == FIRST
    [listed] = fresh.json("batch", "list")
    assert listed["night"] == FIRST
    assert "other batches have read all that is there" in fresh(*night, "--dry-run").stderr


def test_doctor_tests_a_connection_of_airflow(site: Site, tmp_path: Path) -> None:
    where = site.url.partition("://")[2]
    airflow = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW_CONN_CATALOG": f"sscd-ops://{where}",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        # what is tested is the connection, not what everything else uses
        "SSCD_OPS_DATABASE_URL": "postgresql+psycopg2://127.0.0.1:1/nowhere",
    }

    asked = site.popen("doctor", "--conn-id", "catalog", **airflow)
    missing = site.popen("doctor", "--conn-id", "nowhere", **airflow)

    out, err = told(asked)
    assert "ok   conn catalog" in out, out + err
    assert asked.returncode == 0
    out, err = told(missing)
    assert "BAD  conn nowhere" in out, out + err
    assert missing.returncode == 1


# ---------------------------------------------------------------- wrong use


def changed(old: str, new: str) -> str:
    assert old in CONFIG
    return CONFIG.replace(old, new)


BAD = {
    "no TOML": ("x = [", "is not TOML"),
    "no root": (changed('root = "root"', ""), r"storage\.root: is missing: a folder or fsspec URL"),
    "unknown section": (
        changed("[storage]", "[storge]"),
        r"storge: unknown key; did you mean 'sto",
    ),
    "unknown key": (
        changed('search = "flat"', 'serch = "flat"'),
        r"datasets\.web\.duplicates\.serch: unknown key; did you mean 'search'",
    ),
    "unknown model": (
        changed('model = "dct"', 'model = "sscd_disc_mixpu"'),
        r"datasets\.web\.fingerprint\.model: .*did you mean 'sscd_disc_mixup'",
    ),
    "unknown preprocessing": (
        changed('model = "dct"', 'preprocessing = "skew"'),
        r"datasets\.web\.fingerprint\.preprocessing: expected one of .*'skew-320'",
    ),
    "wrong kind": (
        changed("first_nights_max = 1.0", 'first_nights_max = "a"'),
        r"datasets\.web\.guard\.first_nights_max: expected a number, not 'a'",
    ),
    "out of range": (
        changed("workers = 1", "workers = -1"),
        r"datasets\.web\.fingerprint\.workers: expected 0 to 1024, not -1",
    ),
    "no cron line": (
        changed('"0 0 * * *"', '"nightly"'),
        r"datasets\.web\.schedule: expected a cron line .*, not 'nightly'",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_config_is_an_error_with_file_key_and_remedy(
    site: Site, tmp_path: Path, fault: str
) -> None:
    text, said = BAD[fault]
    config = tmp_path / "bad.toml"
    config.write_text(text)

    for command in (("batch", "list"), ("run", "--dataset", "web", "--date", FIRST)):
        called = site(*command, "--config", config, exit_code=2)

        assert called.stdout == ""
        assert len(called.stderr.splitlines()) == 1
        assert re.match(f"error: {re.escape(str(config))}: {said}", called.stderr)


def test_a_month_is_detached_once_it_is_over(fresh: Site) -> None:
    with Wiring(load_settings(fresh.config), database_url=fresh.url) as parts:
        for name in ("samples", "matches"):
            ensure_month(parts.catalog, date(2020, 1, 1), name)
    today = datetime.now(UTC).strftime("%Y-%m")

    detached = fresh("db", "detach-month", "2020-01")
    again = fresh("db", "detach-month", "2020-01")
    early = fresh("db", "detach-month", today, exit_code=2)
    odd = fresh("db", "detach-month", "January", exit_code=2)

    assert detached.stdout == "sscd_ops.samples_2020_01\nsscd_ops.matches_2020_01\n"
    assert (again.stdout, again.stderr) == ("", "2020-01 has no partition attached\n")
    assert f"{today} cannot be detached before" in early.stderr
    assert "'January' does not match the format '%Y-%m'" in odd.stderr


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name)


WORDS = {
    "run": ("--dataset", "web", "--date", FIRST),
    "audit": ("runs",),
    "explain": ("a.tar#b",),
    "db detach-month": ("2020-01",),
    **{f"db {name}": ("/nowhere/catalog.dump",) for name in ("dump", "restore")},
    **dict.fromkeys(("catalog verify", "maintain"), ("--dataset", "web")),
    "batch show": ("1",),
    "batch release": ("1", "--why", "x"),
    "batch abandon": ("1", "--why", "x"),
    "batch repair": ("1", "--why", "x"),
    **{f"snapshot {name}": ("--dataset", "web") for name in ("show", "urls", "verify", "compact")},
    "snapshot diff": ("1", "2", "--dataset", "web"),
    "snapshot users": ("1", "--dataset", "web"),
    "snapshot tag": ("1", "v1", "--dataset", "web", "--why", "x"),
    "snapshot reproduce": ("1", "--dataset", "web", "--root", "/nowhere/again"),
    "snapshot expire": ("1", "--dataset", "web", "--why", "x"),
    **{f"index {name}": ("--dataset", "web") for name in ("info", "verify", "rebuild", "compact")},
    "withdraw": ("--dataset", "web", "--source", "crawl", "--only-these", "--why", "x"),
    **{f"order {name}": ("1",) for name in ("show", "apply", "approve", "erase")},
    **{f"order {name}": ("1", "--why", "x") for name in ("refuse", "revert")},
    **{f"receipt {name}": ("1",) for name in ("show", "erase")},
    "receipt verify": ("--dataset", "web"),
}
"""What a command cannot do without."""
ALONE = ("evaluate", "try", "train")
"""Commands that need no config file and no database."""
COMMANDS = [name for path in leaves(main) if (name := " ".join(path)) not in ALONE]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_that_its_config_is_missing(site: Site, command: str) -> None:
    arguments = (*command.split(), *WORDS.get(command, ()))
    # doctor reports it among what it finds
    code = 1 if command == "doctor" else 2

    unnamed = site(*arguments, exit_code=code, SSCD_OPS_CONFIG=None)
    absent = site(*arguments, "--config", "/nowhere/c.toml", exit_code=code)

    assert "give --config FILE, or set SSCD_OPS_CONFIG" in unnamed.output
    assert "/nowhere/c.toml: cannot be read (No such file or directory)" in absent.output


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "db stop"])
def test_every_command_says_that_the_database_does_not_answer(site: Site, command: str) -> None:
    nowhere = "postgresql+psycopg2://ann:geheim@127.0.0.1:1/x"
    arguments = (*command.split(), *WORDS.get(command, ()))

    called = site(*arguments, exit_code=1, SSCD_OPS_DATABASE_URL=nowhere)

    assert "127.0.0.1" in called.output
    assert "refused" in called.output
    assert "geheim" not in called.output


@pytest.mark.parametrize(
    "command",
    [
        "run --date 2026-11-01",
        "audit kept",
        "audit kept --date 2026-11-01",
        "audit events",
        "batch list",
        "snapshot list",
        "snapshot show",
        "snapshot urls",
        "snapshot verify",
        "snapshot compact",
        "index info",
        "index verify",
        "index rebuild",
        "index compact",
        "vacuum",
        "withdraw --source crawl --only-these --why x",
        "order list",
        "receipt list",
        "receipt verify",
        f"explain {FIRST}/crawl.tar#one",
    ],
)
def test_an_unknown_dataset_is_wrong_use(site: Site, command: str) -> None:
    called = site(*command.split(), "--dataset", "webb", exit_code=2)

    assert called.stdout == ""
    assert "'webb'" in called.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run --dataset web --date yesterday", "'yesterday' is not a date: give a day such as"),
        ("run --dataset web --date 2026-02-30", "'2026-02-30' is not a date"),
        ("run --dataset web", "Missing option '--date'"),
        ("run --date 2026-11-01", "Missing option '--dataset'"),
        ("run --dataset web --date 2026-11-09 --supplement", "run it without --supplement first"),
        ("audit kept --date 2026-11-01", "--date needs --dataset NAME"),
        ("audit kept --dataset web --date 1.11.", "'1.11.' is not a date"),
        ("audit everything", "'everything' is not one of"),
        ("audit kept --format xml", "'xml' is not one of 'table', 'csv', 'json'"),
        ("explain nothing", "'nothing' is neither a sample_id"),
        ("explain crawl.tar#nothing", "no sample has this key .*`sscd-ops audit` prints both"),
        ("explain #", "no sample has this key"),
        ("explain \udcff#a", "is not UTF-8"),
        ("explain 00000000-0000-0000-0000-000000000000", "there is no sample 0000"),
        (f"explain {FIRST}/crawl.tar#one --dataset other", "no sample has this key"),
        ("snapshot show --dataset other", "there is no snapshot of 'other'"),
        ("snapshot show --dataset web --snapshot 9", "no snapshot 9 of 'web': `sscd-ops snapshot"),
        ("snapshot urls --dataset web --snapshot 9", "no snapshot 9 of 'web'"),
        (f"snapshot urls --dataset web --snapshot {10**25}", "no snapshot 1000"),
        ("snapshot urls --dataset web --form png", r"no shard of form 'png'; it has: jpg\+txt\+js"),
        ("snapshot verify --dataset web --snapshot 9", "no snapshot 9 of 'web'"),
        (f"snapshot verify --dataset web --snapshot {10**25}", "no snapshot 1000"),
        ("index info --dataset other", "'other' has no batch yet: `sscd-ops batch list`"),
        ("batches", "No such command 'batches'"),
    ],
)
def test_wrong_use_is_said_with_a_remedy(site: Site, command: str, said: str) -> None:
    called = site(*command.split(), exit_code=2)

    assert called.stdout == ""
    assert re.search(said, called.stderr)


def test_an_ambiguous_day_lists_its_intervals(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "twice.toml"
    config.write_text(changed('"0 0 * * *"', '"0 2,14 * * *"'))

    called = site("run", "--config", config, "--dataset", "web", "--date", FIRST, exit_code=2)

    assert "2026-11-01T02:00:00+00:00, 2026-11-01T14:00:00+00:00" in called.stderr


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_traceback_is_shown_with_debug_alone(site: Site, place: str) -> None:
    command = ["run", "--dataset", "webb", "--date", FIRST]
    command.insert(0 if place == "before" else len(command), "--debug")

    ran = site.popen(*command)

    _, err = told(ran)
    assert "Traceback" in err
    assert "UsageError: no dataset 'webb'" in err
    assert ran.returncode == 1


def test_help_answers_without_a_config_or_heavy_imports(site: Site) -> None:
    code = (
        "import sys; from sscd_ops.cli.main import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print({'torch', 'faiss', 'airflow', 'sqlalchemy', 'numpy', 'PIL'} & set(sys.modules))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment({"SSCD_OPS_CONFIG": None}),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )

    assert "Exit codes: 0 done, 1 a finding" in done.stdout
    assert done.stdout.endswith("set()\n")
    for path in leaves(main):
        assert site(*path, "--help", SSCD_OPS_CONFIG=None).stdout.startswith("Usage: ")


# ---------------------------------------------------------------- pipes and terminals


def test_a_pipe_gets_no_terminal_codes(fresh: Site) -> None:
    env = {"TERM": "xterm-256color", "FORCE_COLOR": "1", "COLUMNS": "60"}
    for command in (
        ("run", "--dataset", "web", "--date", FIRST),
        ("audit", "kept"),
        ("explain", f"{FIRST}/crawl.tar#two"),
        ("snapshot", "verify", "--dataset", "web"),
        ("batch", "lost"),
    ):
        ran = fresh.popen(*command, **env)
        out, err = told(ran)

        assert "\x1b" not in out + err
        assert "\r" not in out + err
        assert ran.returncode == (2 if "lost" in command else 0), err


def at_a_terminal(site: Site, *arguments: str, stream: str) -> tuple[subprocess.Popen[bytes], str]:
    """A command with one of its streams on a terminal, the other a pipe; what the terminal got."""
    ours, theirs = pty.openpty()
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: theirs}
    ran = subprocess.Popen(
        [str(SSCD_OPS), *arguments],
        env=environment(site.env) | {"TERM": "xterm-256color", "COLUMNS": "300"},
        stdin=subprocess.DEVNULL,
        **streams,
    )
    os.close(theirs)
    printed = b""
    try:
        while block := os.read(ours, 65536):
            printed += block
    except OSError:  # the end of a terminal whose other side is closed
        pass
    os.close(ours)
    return ran, printed.decode()


def test_progress_goes_to_the_terminal_and_leaves_the_answer_alone(fresh: Site) -> None:
    ran, shown = at_a_terminal(
        fresh,
        *("run", "--dataset", "web", "--date", FIRST, "--format", "json"),
        stream="stderr",
    )
    assert ran.stdout is not None
    answer = ran.stdout.read()

    assert ran.wait(60) == 0, shown
    assert [night["state"] for night in json.loads(answer)] == ["published"]
    for step in ("ingest web", "embed web", "publish web"):
        assert step in shown
    assert "\x1b[" in shown, "bars are drawn in place"


def test_a_terminal_is_not_moved_by_a_caption(site: Site) -> None:
    ran, text = at_a_terminal(site, "audit", "kept", stream="stdout")
    assert ran.stderr is not None
    err = ran.stderr.read().decode()

    assert ran.wait(60) == 0, err
    assert "[bold]x[/bold]" in text
    assert re.sub(r"\x1b\[[\d;]*m", "", text).count("\x1b") == 0
    assert "\x1b[31m" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_pipe_closed_early_ends_a_command_quietly(site: Site, form: str) -> None:
    ran = site.popen("audit", "kept", "--format", form)
    assert ran.stdout is not None
    assert ran.stderr is not None
    ran.stdout.close()

    err = ran.stderr.read()

    assert ran.wait(60) == 1
    assert err == b""


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_narrow_locale_loses_no_row(site: Site, form: str) -> None:
    ran = site.popen("audit", "kept", "--format", form, PYTHONIOENCODING="ascii")

    out, err = told(ran)

    assert ran.returncode == 0, err
    assert len(re.findall(r"\b(one|two|again|three|four|odd#key)\b", out)) >= 5
    if form == "json":
        [row] = [row for row in json.loads(out) if row["key"] == "two"]
        assert row["caption"] == HOSTILE


# ---------------------------------------------------------------- at once, and with no database


@pytest.fixture
def homeless() -> Iterator[Site]:
    """A site without a database URL. As root its Postgres runs as another user, who must get in."""
    folder = Path(tempfile.mkdtemp(prefix="sscd-ops-cli-"))
    folder.chmod(0o755)
    try:
        yield make_site(folder, "")
    finally:
        stop(folder / "root" / ".sscd-ops" / "postgres")
        shutil.rmtree(folder)


def test_commands_at_once_share_the_embedded_postgres_and_say_so(homeless: Site) -> None:
    first = homeless.popen("run", "--dataset", "web", "--date", FIRST, "--format", "json")
    second = homeless.popen("run", "--dataset", "other", "--date", FIRST, "--format", "json")
    third = homeless.popen("doctor")

    said = [told(ran) for ran in (first, second, third)]

    home = homeless.folder / "root" / ".sscd-ops" / "postgres"
    for _, err in said:
        assert f"no database URL is set: using the embedded Postgres in {home}" in err
    assert [ran.returncode for ran in (first, second, third)] == [0, 1, 0], said
    assert json.loads(said[0][0])[0]["kept"] == 4
    assert "the guard holds batch" in said[1][1]  # it has no file
    assert "ok   database" in said[2][0]
    assert "password" not in "".join(out + err for out, err in said)
    assert homeless("db", "stop").stderr.endswith(f"stopped the Postgres in {home}\n")
    assert "none was running" in homeless("db", "stop").stderr


def test_faulty_source_shards_are_counted_and_told(fresh: Site) -> None:
    folder = fresh.folder / "in" / FIRST
    (folder / "crawl-empty.tar").write_bytes(b"")
    (folder / "partner-cut.tar").write_bytes((folder / "partner.tar").read_bytes()[:1024])

    ran = fresh("run", "--dataset", "web", "--date", FIRST)

    assert fields(ran.stdout.partition("\n\n")[0])["faulty_shards"] == "2"
    assert "2 source shards are faulty" in ran.stderr
    assert "audit quarantined" in ran.stderr


def test_the_same_night_twice_at_once_is_one_night(fresh: Site) -> None:
    night = ("run", "--dataset", "web", "--date", FIRST, "--format", "json")

    runs = [fresh.popen(*night) for _ in range(2)]
    said = [told(ran) for ran in runs]

    # The other one finds the night running, or just done.
    assert min(ran.returncode for ran in runs) == 0
    for ran, (out, err) in zip(runs, said, strict=True):
        if ran.returncode:
            assert ran.returncode == 1
            assert re.fullmatch(r"error: .*(still running|right now).*\n", err)
        else:
            assert json.loads(out)[0]["kept"] == 4
    assert len(fresh.json("audit", "runs")) == 1
    fresh("snapshot", "verify", "--dataset", "web")


# ---------------------------------------------------------------- secrets


SECRET = "hunter2x7"
SECRETS = {
    "a token in urls": ("urls", f'["https://h/in/a.tar?token={SECRET}"]'),
    "a signature in urls": ("urls", f'["https://h/a.tar?X-Amz-Signature={SECRET}&x=1"]'),
    "a user in ready": ("ready", f'"https://ann:{SECRET}@h/done"'),
    "a token in ready": ("ready", f'"https://h/{{date}}/done#access_token={SECRET}"'),
    "a token in root": ("root", f'"https://{SECRET}@h/in"'),
    "a token in captions_file": ("captions_file", f'"https://h/c.csv?sig={SECRET}"'),
}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_a_secret_in_a_source_is_refused_and_never_shown(
    fresh: Site, kind: str, debug: tuple[str, ...]
) -> None:
    name, value = SECRETS[kind]
    folder = 'kind = "folder"\n' if name == "captions_file" else ""
    fresh.config.write_text(
        CONFIG
        + f"[datasets.leaky]\n[[datasets.leaky.sources]]\n{folder}{name} = {value}\n"
        + ("" if name == "urls" else 'urls = ["https://h/in/*"]\n')
    )

    run = ("run", "--dataset", "leaky", "--date", FIRST)
    called = [
        fresh(*debug, *run, exit_code=1 if debug else 2, shows_traceback=bool(debug)),
        fresh(*debug, "batch", "list", "--dataset", "web"),
        fresh(*debug, "doctor", exit_code=1),
    ]

    assert f"datasets.leaky.sources[0].{name}: holds credentials" in called[0].stderr
    assert [SECRET in each.output for each in called] == [False] * 3


def test_the_database_s_password_is_in_no_view_and_no_file(site: Site) -> None:
    engine = sa.create_engine(site.url)
    password = str(engine.url.password)
    with engine.connect() as conn:
        found = conn.execute(sa.text("SELECT viewname FROM pg_views WHERE schemaname = 'curation'"))
        views = list(found.scalars())
        rows = [str(conn.execute(sa.text(f"SELECT * FROM curation.{v}")).all()) for v in views]
    engine.dispose()
    files = [path for path in (site.folder / "root").rglob("*") if path.is_file()]

    assert len(views) > 5
    assert len(files) > 5
    assert password not in "".join(rows)
    assert [path for path in files if password.encode() in path.read_bytes()] == []


def test_an_argument_is_shown_without_its_secret(site: Site) -> None:
    url = f"https://ann:{SECRET}@h/in?token={SECRET}"

    for command in (
        ("explain", url),
        ("explain", f"{url}#one"),
        ("run", "--dataset", "web", "--date", url),
        ("run", "--dataset", url, "--date", FIRST),
        ("batch", "show", url),
        ("audit", url),
        ("try", url),
        ("evaluate", url),
    ):
        called = site(*command, exit_code=2)

        assert "error" in called.stderr.lower()
        assert SECRET not in called.output


@pytest.mark.parametrize("key", ["weights", "postprocessing"])
def test_a_secret_of_a_model_s_file_is_refused_and_never_shown(fresh: Site, key: str) -> None:
    fresh.config.write_text(
        changed('model = "dct"', f'model = "dct"\n{key} = "https://h/w?token={SECRET}"')
    )

    called = fresh("run", "--dataset", "web", "--date", FIRST, exit_code=2)

    assert f"datasets.web.fingerprint.{key}: holds credentials" in called.stderr
    assert SECRET not in called.output


@pytest.mark.parametrize("query", ["password", "sslpassword", "nonsense"])
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_a_password_of_the_database_never_leaves(
    fresh: Site, query: str, debug: tuple[str, ...]
) -> None:
    """As a user's, in the query, and as an option that libpq does not know."""
    nowhere = f"postgresql://ann:{SECRET}@127.0.0.1:1/c?{query}={SECRET}"
    code = 1 if debug or query != "nonsense" else 2

    called = [
        fresh(*debug, "batch", "list", exit_code=code, SSCD_OPS_DATABASE_URL=nowhere,
              shows_traceback=bool(debug)),
        fresh(*debug, "doctor", exit_code=1, SSCD_OPS_DATABASE_URL=nowhere),
    ]  # fmt: skip

    assert SECRET not in "".join(each.output for each in called)
    assert ("no parameter 'nonsense'" if query == "nonsense" else "127.0.0.1") in called[0].output
