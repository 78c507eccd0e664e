"""What a withdrawal's rules stop never comes back, and nothing else is stopped."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
import pytest

from sscd_ops.catalog import datasets, partitions, rules, sql
from sscd_ops.catalog.rules import WithoutUrl
from sscd_ops.core.urls import digest
from sscd_ops.options import SourceOptions
from sscd_ops.steps import ruling, survey
from sscd_ops.steps.verify import verify_catalog
from sscd_ops.testing import picture
from tests.integration.ruled import crawled, end, rule
from tests.integration.test_crashes import Killed, die_at
from tests.integration.test_free_images import assert_what_holds
from tests.integration.test_nights import DAYS
from tests.integration.world import DATASET, World, assert_one_verdict_each

URL, OTHER = "https://www.example.org/a.jpg", "https://elsewhere.net/b.jpg"


@pytest.fixture
def begun(world: World) -> World:
    """A dataset whose samples say their URLs, and its first night."""
    world.change_source(url="json:url")
    world.put(DAYS[0], "a.tar", [crawled("a0", picture(1), URL), crawled("b0", picture(2), OTHER)])
    world.night(DAYS[0])
    return world


def assert_sound(world: World, read: int | None = None) -> None:
    """The promises; of a month that was taken out only what its rows do not say."""
    if read is not None:
        assert_one_verdict_each(world, read)
        assert_what_holds(world)
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET, only_rows=True) == []


def said(world: World, key: str) -> Mapping[str, Any]:
    """The base row of a sample."""
    (row,) = world.ask("SELECT * FROM sscd_ops.samples WHERE key = :k", k=key)
    return row


def work_list(world: World) -> int:
    """How many pictures the newest night had described."""
    (row,) = world.ask(
        "SELECT coalesce(sum(CAST(counts ->> 'embedded' AS int)), 0) AS n"
        " FROM sscd_ops.source_shards WHERE attempt_id = (SELECT max(attempt_id)"
        " FROM sscd_ops.attempts)"
    )
    return int(row["n"])


def detach_as_of(world: World, month: date) -> None:
    """Take out all there is, as if it had been decided in an earlier month."""
    with world.parts() as parts:
        for table in partitions.MONTHLY:
            partitions.ensure_month(parts.catalog, month, table)
        with parts.catalog.begin() as conn:
            for table in (*partitions.MONTHLY, "decisions"):
                sql.run(conn, f"UPDATE sscd_ops.{table} SET month = :m", m=month)
        assert len(partitions.detach_month(parts.catalog, month)) == 2


def test_a_url_that_was_withdrawn_never_comes_back(begun: World) -> None:
    """Under another shard, with other bytes, in another spelling, also past the month's end."""
    order = rule(begun, url=URL)
    again = "http://ann:pw@WWW.example.org:80/%61.jpg#x"
    begun.put(
        DAYS[1], "other.tar", [crawled("a1", picture(3), again), crawled("c1", picture(4), None)]
    )
    begun.night(DAYS[1])
    row = said(begun, "a1")
    assert (row["verdict"], row["reason"], row["own_fault"]) == ("withdrawn", "withdrawn", True)
    assert row["message"] == f"order {order}: url"
    assert (row["width"], row["host"]) == (160, "org.example.www.")
    assert work_list(begun) == 1
    # the same bytes from elsewhere are decided as usual, whoever stands first
    begun.put(
        DAYS[2],
        "x.tar",
        [
            crawled("a2", picture(3), URL),
            crawled("d2", picture(3), OTHER + "?d"),
            crawled("e2", picture(1), OTHER + "?e"),
        ],
    )
    begun.night(DAYS[2])
    assert begun.verdicts() == {
        "a0": "withdrawn withdrawn",
        "b0": "kept",
        "a1": "withdrawn withdrawn",
        "c1": "kept",
        "a2": "withdrawn withdrawn",
        "d2": "kept",
        "e2": "kept",
    }
    runs = begun.ask("SELECT withdrawn, read, kept FROM curation.runs ORDER BY turn")
    assert runs == [
        {"withdrawn": 0, "read": 2, "kept": 2},
        {"withdrawn": 1, "read": 2, "kept": 1},
        {"withdrawn": 1, "read": 3, "kept": 2},
    ]
    assert_sound(begun, read=7)

    detach_as_of(begun, date(2026, 10, 1))
    begun.put(DAYS[3], "x.tar", [crawled("a3", picture(5), URL), crawled("f3", picture(6), None)])
    begun.night(DAYS[3])

    assert begun.verdicts() == {"a3": "withdrawn withdrawn", "f3": "kept"}
    assert_sound(begun)
    stopped = begun.ask("SELECT ruled, host FROM sscd_ops.detached_samples WHERE ruled")
    assert stopped == [{"ruled": True, "host": "org.example.www."}] * 2


def test_rules_by_domain_and_source_stop_what_they_name(begun: World) -> None:
    crawl = begun.options.sources[0]
    bought = SourceOptions("bought", urls=(f"{begun.incoming}/bought/{{date}}/*.tar",))
    begun.change(sources=(crawl, bought))
    first = rule(begun, domain="example.org")
    second = rule(begun, source="bought", domain="www.example.org")
    begun.put(
        DAYS[1],
        "a.tar",
        [
            crawled("below", picture(3), URL),
            crawled("itself", picture(4), "http://example.org/4"),
            crawled("neighbour", picture(5), "http://notexample.org/5"),
            crawled("above", picture(6), "http://example.org.uk/6"),
            # withdrawn whatever else is wrong with it, as long as it says its URL
            ("broken", {**crawled("broken", b"no picture", URL)[1]}),
            ("bare", {"txt": b"no picture", "json": crawled("bare", b"", URL)[1]["json"]}),
            ("none", {"jpg": picture(7)}),
        ],
    )
    begun.put(
        f"bought/{DAYS[1]}",
        "b.tar",
        [crawled("first", picture(5, quality=95), URL), crawled("more", picture(8), None)],
    )

    begun.night(DAYS[1])

    ruled = {
        row["key"]: row["message"]
        for row in begun.ask("SELECT * FROM sscd_ops.samples WHERE verdict = 'withdrawn'")
    }
    assert ruled == {
        "below": f"order {first}: domain",
        "itself": f"order {first}: domain",
        "broken": f"order {first}: domain",
        "bare": f"order {first}: domain",
        "first": f"order {second}: source",
        "more": f"order {second}: source",
    }
    verdicts = begun.verdicts()
    assert {verdicts[key] for key in ("neighbour", "above")} == {"kept"}
    assert verdicts["none"] == "quarantined missing_caption"
    assert said(begun, "bare")["image_sha256"] is None
    assert_sound(begun, read=11)


def test_a_rule_holds_from_its_turn_on_and_not_after_its_end(begun: World) -> None:
    order = rule(begun, url=URL)
    begun.put(DAYS[1], "a.tar", [crawled("a1", picture(3), URL), crawled("b1", picture(4), None)])
    begun.night(DAYS[1])
    end(begun, order)
    begun.put(DAYS[2], "a.tar", [crawled("a2", picture(3), URL)])
    begun.night(DAYS[2])

    assert begun.verdicts() == {
        "a0": "kept",
        "b0": "kept",
        "a1": "quarantined rule_ended",
        "b1": "kept",
        "a2": "kept",
    }
    assert_sound(begun, read=5)


@pytest.mark.parametrize("dies", ["", "turns.copy_table", "turns._swap"])
def test_a_night_planned_before_a_rule_is_decided_by_it(
    begun: World, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    """What carried its image does not, and its descriptor is kept by none."""
    begun.put(
        DAYS[1],
        "a.tar",
        [
            crawled("a1", picture(3, quality=95), URL),
            crawled("b1", picture(3, quality=95), OTHER),
            crawled("c1", picture(4), URL),
            crawled("d1", picture(3), None),
        ],
    )
    with begun.parts() as parts:
        batch_id = begun.until_match(parts, DAYS[1])
    assert work_list(begun) == 3
    order = rule(begun, url=URL)

    if dies:
        with begun.parts() as parts, monkeypatch.context() as patch, pytest.raises(Killed):
            die_at(patch, "after", dies)
            begun.from_resolve(parts, batch_id)
    with begun.parts() as parts:
        begun.from_resolve(parts, batch_id)

    assert begun.verdicts() == {
        "a0": "withdrawn withdrawn",
        "b0": "kept",
        "a1": "withdrawn withdrawn",
        "b1": "kept",
        "c1": "withdrawn withdrawn",
        "d1": "removed near",
    }
    assert said(begun, "c1")["message"] == f"order {order}: url"
    assert_sound(begun, read=6)


def test_a_lost_work_list_is_made_again_as_of_the_plan(begun: World) -> None:
    begun.put(DAYS[1], "a.tar", [crawled("a1", picture(3), URL), crawled("b1", picture(4), None)])
    listed = "SELECT work_list AS list FROM sscd_ops.attempts ORDER BY attempt_id DESC LIMIT 1"
    with begun.parts() as parts:
        batch_id = begun.until_match(parts, DAYS[1])
        (before,) = begun.ask(listed)
        rule(begun, url=URL)
        (begun.base / "root" / before["list"]["name"]).unlink()
        survey.run(parts, batch_id)
        begun.from_resolve(parts, batch_id)

    (after,) = begun.ask(listed)
    assert after["list"]["sha256"] == before["list"]["sha256"]
    assert begun.verdicts()["a1"] == "withdrawn withdrawn"


def test_what_nobody_described_for_a_rule_that_ended_is_quarantined(begun: World) -> None:
    order = rule(begun, domain="example.org")
    begun.put(
        DAYS[1],
        "a.tar",
        [
            crawled("gone", picture(3), URL),
            crawled("gone2", picture(3), URL + "?2"),
            crawled("known", picture(2), URL + "?3"),
            crawled("shared", picture(4), URL + "?4"),
            crawled("unruled", picture(4), OTHER),
        ],
    )
    with begun.parts() as parts:
        batch_id = begun.until_match(parts, DAYS[1])
    assert work_list(begun) == 1
    end(begun, order)

    with begun.parts() as parts:
        begun.from_resolve(parts, batch_id)

    assert begun.verdicts() == {
        "a0": "kept",
        "b0": "kept",
        "gone": "quarantined rule_ended",
        "gone2": "quarantined rule_ended",
        "known": "removed exact",
        "shared": "removed exact",
        "unruled": "kept",
    }
    row = said(begun, "gone")
    assert row["own_fault"] is True
    assert row["message"] == f"order {order}: domain, a rule that ended after the night's plan"
    assert_sound(begun, read=7)


@pytest.mark.parametrize("named", ["url", "id"])
def test_what_several_orders_stopped_ends_with_the_last(begun: World, named: str) -> None:
    """It has no verdict to go back to, whether the last one is a rule or names it alone."""
    first = rule(begun, domain="example.org")
    begun.put(DAYS[1], "a.tar", [crawled("a1", picture(3), URL)])
    begun.night(DAYS[1])
    sample = str(said(begun, "a1")["sample_id"])
    last = rule(begun, url=URL) if named == "url" else rule(begun, sample=sample)

    end(begun, first)
    assert begun.verdicts()["a1"] == "withdrawn withdrawn"
    end(begun, last)
    assert begun.verdicts() == {"a0": "kept", "b0": "kept", "a1": "quarantined rule_ended"}
    assert_sound(begun, read=3)


def test_a_dry_run_and_a_supplement_are_ruled_likewise(begun: World) -> None:
    rule(begun, url=URL)
    begun.put(
        DAYS[0], "late.tar", [crawled("a1", picture(3), URL), crawled("b1", picture(4), None)]
    )

    dry = begun.night(DAYS[0], supplement=True, dry_run=True)
    done = begun.night(DAYS[0], supplement=True)

    assert [report.counts.withdrawn for report in (dry, done)] == [1, 1]
    assert begun.verdicts()["a1"] == "withdrawn withdrawn"
    assert_sound(begun, read=4)


# ---------------------------------------------------------------- what an end asks


def test_samples_tell_which_orders_stop_them_and_which_end_with_one(begun: World) -> None:
    """Also those of a month that was detached."""
    narrow = rule(begun, url=URL)
    wide = rule(begun, domain="example.org")
    whole = rule(begun, source="crawl")
    begun.put(
        DAYS[1],
        "a.tar",
        [
            crawled("a1", picture(3), URL),
            crawled("b1", picture(4), URL + "?b"),
            crawled("c1", picture(5), None),
        ],
    )
    begun.night(DAYS[1])
    end(begun, whole)
    keys = {row["sample_id"]: row["key"] for row in begun.ask("SELECT * FROM curation.samples")}

    def told() -> dict[str, Any]:
        with begun.parts() as parts, parts.catalog.begin() as conn:
            dataset = datasets.need(conn, DATASET)
            given = (conn, dataset.dataset_id)

            def stopping(turn: int, without: int = 0) -> dict[str, int]:
                found = ruling.orders_of_samples(*given, list(keys), turn, without=without)
                return {keys[sample]: order for sample, order in found.items()}

            return {
                "now": stopping(dataset.turn),
                "without": stopping(dataset.turn, narrow),
                "before": stopping(dataset.turn - 1),
                "at first": stopping(1),
                "ruled": {
                    order: sorted(keys[sample] for sample in rules.ruled_samples(*given, order))
                    for order in (narrow, wide, whole)
                },
            }

    before = told()
    assert before == {
        "now": {"a0": narrow, "a1": narrow, "b1": wide},
        "without": {"a0": wide, "a1": wide, "b1": wide},
        "before": {"a0": narrow, "a1": narrow, "b0": whole, "b1": wide, "c1": whole},
        "at first": {},
        "ruled": {narrow: ["a1"], wide: ["a1", "b1"], whole: ["a1", "b1", "c1"]},
    }
    detach_as_of(begun, date(2026, 10, 1))
    assert told() == before


def test_sources_that_say_no_urls_are_told(begun: World) -> None:
    crawl = begun.options.sources[0]
    mute = SourceOptions("mute", urls=(f"{begun.incoming}/mute/{{date}}/*.tar",))
    begun.change(sources=(crawl, mute))
    begun.put(DAYS[1], "a.tar", [crawled("a1", picture(3), URL), crawled("b1", picture(4), None)])
    begun.put(f"mute/{DAYS[1]}", "a.tar", [crawled("m1", picture(5), URL)])
    begun.night(DAYS[1])

    with begun.parts() as parts, parts.catalog.begin() as conn:
        found = rules.without_urls(conn, datasets.need(conn, DATASET).dataset_id)

    assert found == [WithoutUrl("crawl", 4, 1), WithoutUrl("mute", 1, 1)]


def test_many_urls_are_asked_for_in_blocks(begun: World) -> None:
    rule(begun, url=URL)
    digests = np.array(
        [list(digest(URL if row % 1000 == 7 else str(row))) for row in range(5000)], np.uint8
    )

    with begun.parts() as parts, parts.catalog.begin() as conn:
        dataset = datasets.need(conn, DATASET)
        found = rules.orders_of_urls(conn, dataset.dataset_id, digests, dataset.turn)
        few = rules.orders_of_urls(conn, dataset.dataset_id, digests[:9], dataset.turn)
        early = rules.orders_of_urls(conn, dataset.dataset_id, digests, 1)

    assert np.flatnonzero(found).tolist() == [7, 1007, 2007, 3007, 4007]
    assert np.flatnonzero(few).tolist() == [7]
    assert not early.any()


@pytest.mark.parametrize(
    "subject",
    [{"url": URL}, {"domain": "example.org"}, {"domain": "www.example.org"}, {"source": "crawl"}],
)
def test_verify_finds_what_a_rule_should_have_stopped(
    begun: World, subject: dict[str, str]
) -> None:
    rule(begun, **subject)
    assert_sound(begun)
    with begun.parts() as parts, parts.catalog.begin() as conn:
        sql.run(conn, "UPDATE sscd_ops.orders SET turn = 0")

    with begun.parts() as parts:
        answer = verify_catalog(parts, DATASET, only_rows=True)

    (finding,) = answer
    assert "though a rule in force stopped them" in finding.what
    assert finding.what.startswith("2" if "source" in subject else "1")
