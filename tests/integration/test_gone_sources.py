"""Source files that are gone or changed when the night is to be decided: nothing is decided."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sscd_ops.errors import SourceChanged
from sscd_ops.options import SourceKind, SourceOptions
from sscd_ops.steps import manage, resolve
from sscd_ops.testing import picture
from tests.integration.test_crashes import Killed
from tests.integration.world import World, assert_promises, pair

DAY = "2026-11-01"


def die_before_resolve(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the night until it is killed after match."""

    def killed(*given: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(resolve, "run", killed)
        world.night(DAY)


def three_tars(world: World) -> Path:
    """The second holds the preferred copies of the first's pictures; its path."""
    world.put(DAY, "a.tar", [pair(f"a{n}", picture(n, quality=60)) for n in range(4)])
    gone = world.put(
        DAY, "b.tar", [pair(f"b{n}", picture(n), f"a long caption of b{n}") for n in range(6)]
    )
    world.put(DAY, "c.tar", [pair(f"c{n}", picture(20 + n)) for n in range(3)])
    return gone


def undecided(world: World) -> bool:
    return world.ask("SELECT turn FROM curation.runs") == [{"turn": None}]


def refused(world: World, words: str) -> str:
    with pytest.raises(SourceChanged, match=words) as error:
        world.night(DAY)
    assert undecided(world)
    return str(error.value)


@pytest.mark.parametrize("restored", ["moved back", "copied back"])
def test_a_tar_that_is_gone_is_put_back_and_the_night_run_again(
    world: World, monkeypatch: pytest.MonkeyPatch, restored: str
) -> None:
    gone = three_tars(world)
    away = world.base / "away.tar"
    die_before_resolve(world, monkeypatch)
    gone.rename(away)

    said = refused(world, r"of the 3 source shards of batch 1 \(2026-11-01\) .*b.tar is gone")
    assert "put the original back and run the night again" in said
    if restored == "moved back":
        away.rename(gone)
    else:
        shutil.copyfile(away, gone)  # with another time

    assert world.night(DAY).counts.kept == 9
    assert_promises(world, read=13)


def test_or_the_night_is_abandoned_and_run_without_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = three_tars(world)
    die_before_resolve(world, monkeypatch)
    gone.unlink()

    assert "sscd-ops batch abandon 1" in refused(world, "is gone")
    with world.parts() as parts:
        manage.abandon(parts, 1, actor="ann", why="the crawler took it back")

    assert world.night(DAY).counts.kept == 7
    assert_promises(world, read=7)


def test_a_tar_that_changes_while_the_decision_is_worked_out_is_not_decided_about(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = three_tars(world)
    real = resolve.work_out

    def meanwhile(*given: Any) -> Any:
        world.put(DAY, changed.name, [pair("other", picture(50))])
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(resolve, "work_out", meanwhile)
        refused(world, "b.tar has changed since plan listed")

    assert world.night(DAY).counts.kept == 8
    assert_promises(world, read=8)


def in_a_folder(day: Path) -> Path:
    for n in range(3):
        (day / f"{n}.jpg").write_bytes(picture(n))
        (day / f"{n}.txt").write_text(f"caption {n}")
    return day / "1.jpg"


def of_img2dataset(day: Path) -> Path:
    from sscd_ops.testing import make_tar

    pq.write_table(pa.table({"status": ["success"] * 3}), day / "00000.parquet")
    return make_tar(day / "00000.tar", [pair(f"{n}", picture(n)) for n in range(3)])


def in_parquet(day: Path) -> Path:
    rows = {"image": [picture(n) for n in range(3)], "caption": ["x"] * 3}
    pq.write_table(pa.table(rows), day / "a.parquet")
    return day / "a.parquet"


@pytest.mark.parametrize(
    ("kind", "urls", "made"),
    [
        ("folder", "", in_a_folder),
        ("img2dataset", "/*.tar", of_img2dataset),
        ("parquet", "/*.parquet", in_parquet),
    ],
)
def test_every_kind_of_source_is_looked_at(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    kind: SourceKind,
    urls: str,
    made: Callable[[Path], Path],
) -> None:
    url = f"{world.incoming}/{{date}}{urls}"
    world.change(sources=(SourceOptions("crawl", kind, urls=(url,), caption=("txt",)),))
    day = world.incoming / DAY
    day.mkdir(parents=True)
    gone = made(day)
    die_before_resolve(world, monkeypatch)
    data = gone.read_bytes()
    gone.unlink()

    with world.parts() as parts, pytest.raises(SourceChanged, match=r"is gone|has changed"):
        resolve.run(parts, 1)
    assert undecided(world)
    gone.write_bytes(data)

    assert world.night(DAY).counts.kept == 3


def test_a_night_whose_files_stay_is_decided_as_ever(world: World) -> None:
    three_tars(world)
    with world.parts() as parts:
        batch = world.until_match(parts, DAY)
        assert isinstance(resolve.run(parts, batch), resolve.ResolveReport)
    assert world.night(DAY).state == "published"
