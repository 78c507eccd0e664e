"""Settings that are wrong were frozen when the night was planned: the error says how to go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sscd_ops.errors import ConfigError, FingerprintMismatch, SscdOpsError, WeightsUnavailable
from sscd_ops.model import Runner
from sscd_ops.sources.webdataset import WebDatasetSource
from sscd_ops.steps import embed, ingest, manage, match, plan, resolve, survey
from sscd_ops.testing import picture
from sscd_ops.wiring import Wiring
from tests.integration.world import DATASET, World, interval, pair

DAY = "2026-11-01"


def abandoned(world: World, error: SscdOpsError) -> None:
    """Do what the error says."""
    assert "Batch 1 (2026-11-01) keeps the configuration that it was planned with" in str(error)
    assert "sscd-ops batch abandon 1 --why" in str(error)
    with world.parts() as parts:
        manage.abandon(parts, 1, actor="ann", why="the settings are mended")


def test_wrong_weights_of_a_first_night(world: World, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"no tensors")
    world.put(DAY, "a.tar", [pair("one", picture(1))])
    world.change(fingerprint={"model": "sscd_small", "weights": str(wrong)})
    with pytest.raises(ConfigError, match=r"wrong\.safetensors") as raised:
        world.night(DAY)
    world.change(fingerprint={"model": "dct", "weights": ""})
    with pytest.raises(ConfigError):
        world.night(DAY)

    abandoned(world, raised.value)

    assert world.night(DAY).counts.kept == 1


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda file: file.unlink(), WeightsUnavailable),
        (lambda file: file.write_bytes(file.read_bytes() + b"x"), FingerprintMismatch),
    ],
    ids=["gone", "other"],
)
def test_weights_that_went_after_plan(
    world: World,
    tmp_path: Path,
    spoil: Callable[[Path], object],
    error: type[SscdOpsError],
) -> None:
    import sscd_ops

    here = Path(sscd_ops.__file__).parent / "descriptors" / "weights" / "sscd_small.safetensors"
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(here.read_bytes())
    world.put(DAY, "a.tar", [pair("one", picture(1))])
    world.change(fingerprint={"model": "sscd_small", "weights": str(weights)})
    with world.parts() as parts:
        plan.run(parts, DATASET, interval(DAY), runner=Runner("cli"))
        ingest.run(parts, 1, 0)
        survey.run(parts, 1)
        spoil(weights)
        with pytest.raises((error, ConfigError)) as raised:
            embed.run(parts, 1, 0)

    world.change(fingerprint={"model": "dct", "weights": ""})
    abandoned(world, raised.value)

    assert world.night(DAY).counts.kept == 1


@pytest.mark.parametrize(
    ("where", "what"),
    [("read", "ingest"), ("find", "plan"), ("fetch", "embed"), ("version", "resolve")],
)
def test_a_source_setting_that_a_step_stops_at(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str, what: str
) -> None:
    world.put(DAY, "a.tar", [pair("one", picture(1))])
    with world.parts() as parts:
        plan.run(parts, DATASET, interval(DAY), runner=Runner("cli"))

    def refused(*given: object) -> object:
        raise ConfigError("source 'crawl': no such thing")

    with monkeypatch.context() as patch:
        patch.setattr(WebDatasetSource, where, refused)
        with pytest.raises(ConfigError, match="no such thing") as raised:
            world.night(DAY)

    assert str(raised.value).count("batch abandon") == 1, what
    abandoned(world, raised.value)
    assert world.night(DAY).counts.kept == 1


def test_a_backend_that_is_not_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put(DAY, "a.tar", [pair("one", picture(1))])
    with world.parts() as parts:
        batch = world.until_match(parts, DAY)

        def refused(*given: object) -> object:
            raise ConfigError("duplicates.search: no such backend")

        monkeypatch.setattr(Wiring, "backend", refused)
        with pytest.raises(ConfigError) as raised:
            resolve.run(parts, batch)
        monkeypatch.undo()

    abandoned(world, raised.value)
    assert world.night(DAY).counts.kept == 1


def test_the_catalog_s_own_settings_are_not_frozen(world: World) -> None:
    world.put(DAY, "a.tar", [pair("one", picture(1))])
    with world.parts() as parts:
        batch = world.until_match(parts, DAY)
    world.url = world.url.rpartition("/")[0] + "/nowhere"

    with world.parts() as parts, pytest.raises(SscdOpsError) as raised:
        match.run(parts, batch, 0)

    assert "abandon" not in str(raised.value)


def test_a_batch_that_an_older_release_planned_goes_on_without_what_it_did_not_know(
    world: World,
) -> None:
    world.change(duplicates={"perceptual": True})
    world.put(DAY, "a.tar", [pair("one", picture(1)), pair("two", picture(1, quality=60))])
    with world.parts() as parts:
        plan.run(parts, DATASET, interval(DAY), runner=Runner("cli"))
        with parts.catalog.begin() as conn:
            conn.exec_driver_sql(
                "UPDATE sscd_ops.attempts SET config = config #- '{limits}' #- '{guard,empty}'"
                " #- '{duplicates,perceptual}' #- '{sources,0,columns}'"
            )

    counts = world.night(DAY).counts

    assert counts.kept + counts.removed_near == 2
    assert counts.removed_perceptual == 0


def test_a_frozen_configuration_that_is_broken_is_named(world: World) -> None:
    world.put(DAY, "a.tar", [pair("one", picture(1))])
    with world.parts() as parts:
        plan.run(parts, DATASET, interval(DAY), runner=Runner("cli"))
        with parts.catalog.begin() as conn:
            conn.exec_driver_sql("UPDATE sscd_ops.attempts SET config = config - 'name'")
        with pytest.raises(ConfigError, match=r"batch 1 \(2026-11-01\) has no name, ") as raised:
            ingest.run(parts, 1, 0)

    abandoned(world, raised.value)
    assert world.night(DAY).counts.kept == 1
