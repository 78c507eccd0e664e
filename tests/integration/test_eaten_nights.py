"""Nights that lose what they read, or find nothing to read: held, and told with the way on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sscd_ops.errors import BatchHeld, DataError
from sscd_ops.options import GuardOptions, SourceOptions
from sscd_ops.steps import manage
from sscd_ops.testing import make_tar, picture
from tests.integration.world import World, assert_promises, pair

DAY, NEXT = "2026-11-01", "2026-11-02"


@pytest.fixture
def guarded(world: World) -> World:
    """A world with the guard as it comes."""
    world.change(guard=GuardOptions())
    return world


def plain(numbers: range) -> list[tuple[str, dict[str, bytes]]]:
    return [pair(f"k{n}", picture(n)) for n in numbers]


def cut(numbers: range) -> list[tuple[str, dict[str, bytes]]]:
    """Samples whose pictures end in the middle."""
    return [pair(f"cut{n}", picture(n)[:1500]) for n in numbers]


def abandon(world: World) -> None:
    with world.parts() as parts:
        manage.abandon(parts, 1, actor="ann", why="mended")


# ---------------------------------------------------------------- held, mended, run again


def test_a_mistyped_column_is_held_and_mended_by_abandoning(guarded: World) -> None:
    guarded.change_source(caption=("json:captoin",))
    said = json.dumps({"caption": "a cat"}).encode()
    samples = [(f"k{n}", {"jpg": picture(n), "json": said}) for n in range(19)]
    make_tar(guarded.incoming / DAY / "a.tar", samples)
    with pytest.raises(BatchHeld) as held:
        guarded.night(DAY)
    for words in (
        "batch 1 (2026-11-01)",
        "19 of 19 samples",
        "keeps none of 19 samples",
        "crawl has 19 missing_caption, e.g. 2026-11-01/a.tar#k0: none of these is there: json:capt",
        "sscd-ops batch release 1",
        "sscd-ops batch abandon 1",
    ):
        assert words in str(held.value)

    guarded.change_source(caption=("json:caption",))
    with pytest.raises(BatchHeld):
        guarded.night(DAY)
    abandon(guarded)
    report = guarded.night(DAY)

    assert (report.counts.kept, report.counts.quarantined) == (19, 0)
    assert_promises(guarded, read=19)


def test_most_pictures_cut_short_are_held(guarded: World) -> None:
    guarded.put(DAY, "a.tar", [*plain(range(3)), *cut(range(10, 37))])

    with pytest.raises(BatchHeld, match=r"quarantines 27 of 30 samples.*27 undecodable, e\.g\."):
        guarded.night(DAY)


def test_several_faults_that_eat_a_night_together_are_held(guarded: World) -> None:
    mute = [(f"mute{n}", {"jpg": picture(n)}) for n in range(9)]
    guarded.put(DAY, "a.tar", [*plain(range(20, 22)), *mute, *cut(range(30, 39))])

    with pytest.raises(BatchHeld, match=r"18 of 20 samples.*first_nights_max") as held:
        guarded.night(DAY)

    assert "9 missing_caption" in str(held.value)
    assert "9 undecodable" in str(held.value)


def broken_tars(world: World, broken: Callable[[bytes], bytes], many: int, of: int) -> None:
    for n in range(of):
        path = world.put(DAY, f"{n:02d}.tar", plain(range(3 * n, 3 * n + 3)))
        if n < many:
            path.write_bytes(broken(path.read_bytes()))


@pytest.mark.parametrize(
    ("broken", "code"),
    [(lambda data: data[: len(data) // 2], "truncated_shard"), (lambda _: b"?" * 2000, "shard")],
    ids=["truncated", "no tar"],
)
def test_most_source_shards_broken_are_held(
    guarded: World, broken: Callable[[bytes], bytes], code: str
) -> None:
    broken_tars(guarded, broken, 9, 10)

    with pytest.raises(BatchHeld, match=f"9 of 10 source shards.*{code}, e.g. 2026-11-01/00.tar: "):
        guarded.night(DAY)


def test_a_broken_file_or_two_among_good_ones_hold_nothing(guarded: World) -> None:
    broken_tars(guarded, lambda data: data[: len(data) // 2], 2, 3)

    report = guarded.night(DAY)

    assert (report.state, report.faulty_shards) == ("published", 2)


def test_a_late_broken_file_is_no_nuisance_and_a_late_broken_delivery_is_held(
    guarded: World,
) -> None:
    guarded.put(DAY, "a.tar", plain(range(5)))
    guarded.night(DAY)
    (guarded.incoming / DAY / "late.tar").write_bytes(b"?" * 2000)
    guarded.put(DAY, "later.tar", cut(range(50, 51)))

    report = guarded.night(DAY, supplement=True)

    assert (report.state, report.faulty_shards) == ("published", 1)
    for n in range(4):
        (guarded.incoming / DAY / f"latest{n}.tar").write_bytes(b"?" * 2000)
    with pytest.raises(BatchHeld, match="4 of 4 source shards"):
        guarded.night(DAY, supplement=True)


def test_one_source_of_two_that_keeps_none_in_its_first_night_is_held(guarded: World) -> None:
    sources = tuple(
        SourceOptions(
            name,
            root=str(guarded.incoming),
            urls=(f"{guarded.incoming}/{{date}}/{typed}*.tar",),
        )
        for name, typed in (("crawl", "crawl"), ("partner", "partnr"))
    )
    guarded.change(sources=sources)
    guarded.put(DAY, "crawl.tar", plain(range(30, 40)))
    guarded.put(DAY, "partner.tar", plain(range(50, 55)))

    with pytest.raises(BatchHeld) as held:
        guarded.night(DAY)

    assert "source 'partner' keeps none of 0 samples, in its first night" in str(held.value)
    assert f"under the urls of partner ({guarded.incoming}/2026-11-01/partnr*.tar)" in str(
        held.value
    )
    dry = guarded.night(NEXT, dry_run=True)
    assert [absent.source for absent in dry.absent] == ["crawl", "partner"]
    assert dry.absent[0].urls == [f"{guarded.incoming}/2026-11-02/crawl*.tar"]


def test_a_captions_file_that_is_not_there_is_named(guarded: World) -> None:
    folder = guarded.incoming / DAY
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(picture(1))
    source = SourceOptions(
        "crawl", "folder", urls=(f"{guarded.incoming}/{{date}}",), captions_file="captoins.jsonl"
    )
    guarded.change(sources=(source,))
    dry = guarded.night(DAY, dry_run=True)

    with pytest.raises(BatchHeld) as held:
        guarded.night(DAY)

    for said in (dry.message, str(held.value)):
        assert f"captions_file '{folder}/captoins.jsonl': it is not there" in said
    (folder / "captoins.jsonl").write_text('{"file_name": "a.jpg", "caption": "a cat"}\n')
    assert guarded.night(DAY).counts.kept == 1, "the folder has become another: planned anew"


def test_a_marker_that_is_missing_fails_a_dry_run_with_its_url(guarded: World) -> None:
    guarded.change_source(ready=f"{guarded.incoming}/{{date}}/_SUCESS")
    guarded.put(DAY, "a.tar", plain(range(2)))

    with pytest.raises(DataError, match=r"1 \(2026-11-01\) waits.*2026-11-01/_SUCESS is missing"):
        guarded.night(DAY, dry_run=True)


def test_nights_are_compared_with_those_before_code_by_code(guarded: World) -> None:
    """Three nights whose captions are missing as usual; then pictures are cut short as well."""
    guarded.change(guard={"first_nights_max": 1.0})
    for number in range(4):
        first = 100 * number
        mute = [(f"mute{n}", {"jpg": picture(n)}) for n in range(first, first + 15)]
        bad = cut(range(first + 20, first + 27)) if number == 3 else []
        samples = [*mute, *bad, *plain(range(first + 40, first + 63 - len(bad)))]
        guarded.put(f"2026-11-0{number + 1}", "a.tar", samples)
    for number in range(3):
        guarded.night(f"2026-11-0{number + 1}")

    with pytest.raises(BatchHeld) as held:
        guarded.night("2026-11-04")

    assert "quarantines 7 of 38 samples as undecodable, odds 0.25" in str(held.value)
    assert "as missing_caption" not in str(held.value)


# ---------------------------------------------------------------- read again after a decision


def read_again(world: World, path: Path, *, renamed: bool) -> None:
    if renamed:
        path.rename(path.with_name("again.tar"))
    else:
        path.touch()


def test_a_decided_night_is_read_again_by_touch_where_the_captions_come_out_others(
    world: World,
) -> None:
    world.change_source(caption=("json:captoin",))
    said = json.dumps({"caption": "a cat"}).encode()
    path = make_tar(
        world.incoming / DAY / "a.tar",
        [(f"k{n}", {"jpg": picture(n), "json": said}) for n in range(4)],
    )
    world.night(DAY)
    world.change_source(caption=("json:caption",))

    assert world.night(DAY, supplement=True).answered, "nothing is new yet"
    path.touch()
    report = world.night(DAY, supplement=True)

    assert (report.counts.read, report.counts.kept) == (4, 4)
    assert_promises(world, read=8)


@pytest.mark.parametrize("renamed", [False, True], ids=["touched", "under another name"])
def test_a_sample_of_equal_bytes_is_read_again_under_another_name_alone(
    world: World, renamed: bool
) -> None:
    """Its id is made of its bytes, so that a touched file brings what has a verdict already."""
    world.change(limits={"max_caption_bytes": 3})
    path = world.put(DAY, "a.tar", plain(range(4)))
    world.night(DAY)
    assert world.night(DAY).counts.quarantined == 4
    world.change(limits={"max_caption_bytes": 1000})

    read_again(world, path, renamed=renamed)
    report = world.night(DAY, supplement=True)

    assert (report.counts.kept, report.counts.known) == ((4, 0) if renamed else (0, 4))
    assert dataclasses.replace(report.counts, known=0).read == (4 if renamed else 0)


def test_a_touched_file_without_a_new_sample_says_so(guarded: World) -> None:
    path = guarded.put(DAY, "a.tar", plain(range(4)))
    guarded.night(DAY)
    path.touch()

    with pytest.raises(BatchHeld, match="no new sample: all 4 have a verdict already"):
        guarded.night(DAY, supplement=True)
