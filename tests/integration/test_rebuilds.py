"""`index rebuild` beside nights and beside itself: nobody's search codes are lost."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from sscd_ops.catalog import decisions
from sscd_ops.core import segment_file
from sscd_ops.steps import rebuilding
from sscd_ops.steps.rebuilding import rebuild_index
from sscd_ops.steps.verify import verify_index
from tests.integration.test_nights import DAYS, fill, planted_nights
from tests.integration.test_races import side_by_side
from tests.integration.world import DATASET, World, assert_promises


@pytest.fixture(autouse=True)
def _two_backends(world: World) -> None:
    """Two nights, each searched with a backend of its own: the first lacks codes of the second."""
    fill(world, planted_nights())
    world.change(duplicates={"search": "flat"})
    world.night(DAYS[0])
    world.change(duplicates={"search": "exact"})
    world.night(DAYS[1])


def before_codes_are_made(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen when a rebuild has read which segments lack codes."""
    real = segment_file.rebuild_codes

    def rebuild_codes(*given: Any) -> Any:
        monkeypatch.setattr(segment_file, "rebuild_codes", real)
        happens()
        return real(*given)

    monkeypatch.setattr(segment_file, "rebuild_codes", rebuild_codes)


def test_a_night_during_a_rebuild_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_codes_are_made(monkeypatch, lambda: world.night(DAYS[2]))

    with world.parts() as parts:
        first = rebuild_index(parts, DATASET)
        second = rebuild_index(parts, DATASET)

    assert [done.partition(":")[0] for done in first] == ["segment 1"]
    assert second == []
    assert_promises(world)


def test_a_rebuild_for_another_backend_beside_a_rebuild_loses_no_codes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night under sketch is decided while codes for exact are made; its rebuild is quicker."""

    def quicker() -> None:
        world.change(duplicates={"search": "sketch"})
        world.night(DAYS[2])
        with world.parts() as other:
            assert len(rebuild_index(other, DATASET)) == 2

    before_codes_are_made(monkeypatch, quicker)
    with world.parts() as parts:
        rebuild_index(parts, DATASET)
        assert verify_index(parts, DATASET) == []

    for segment in world.ask("SELECT segment_id, files FROM sscd_ops.segments"):
        assert any(role.startswith("sketch") for role in segment["files"]), segment
    assert_promises(world)


def test_two_rebuilds_of_damaged_files_at_once_leave_a_sound_index(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(world.base / "root" / DATASET / "index")
    both = threading.Barrier(2)
    real = rebuilding.nights_of

    def work_of(*given: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        return real(*given)

    monkeypatch.setattr(rebuilding, "nights_of", work_of)
    said = side_by_side(world, [lambda parts: rebuild_index(parts, DATASET)] * 2)

    assert [type(answer) for answer in said] == [list] * 2, said
    with world.parts() as parts:
        assert verify_index(parts, DATASET) == []
        assert rebuild_index(parts, DATASET) == []
    world.night(DAYS[2])
    assert_promises(world)


def test_a_rebuild_beside_a_decision_forgets_no_file_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor file is lost when the decision has been worked out from it."""
    folder = world.base / "root" / DATASET / "descriptors"
    before = set(folder.iterdir())
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[2])
    lost = min(set(folder.iterdir()) - before)
    real = decisions.put_in_force
    rebuilding: list[Future[list[str]]] = []

    def rebuild() -> list[str]:
        with world.parts() as parts:
            return rebuild_index(parts, DATASET)

    with ThreadPoolExecutor(1) as pool:

        def put_in_force(*given: Any, **named: Any) -> None:
            lost.unlink()
            rebuilding.append(pool.submit(rebuild))
            wait(rebuilding, 1)
            real(*given, **named)

        monkeypatch.setattr(decisions, "put_in_force", put_in_force)
        with world.parts() as parts:
            world.from_resolve(parts, batch)
        said = rebuilding[0].result()

    assert "run this again" in said[0]
    with world.parts() as parts:
        assert "wrote the descriptors" in rebuild_index(parts, DATASET)[0]
        assert verify_index(parts, DATASET) == []
    assert_promises(world)
