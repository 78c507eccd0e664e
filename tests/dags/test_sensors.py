"""The sensors for DAGs beside the nightly one."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSensorTimeout,
    TaskDeferred,
)

from sscd_ops.config import load_settings
from sscd_ops.model import Interval, Runner
from sscd_ops.provider import ReadyTrigger, SscdPublishedSensor, SscdReadySensor
from sscd_ops.steps import night, plan
from sscd_ops.testing import make_tar, picture
from sscd_ops.wiring import Wiring


def test_a_url_that_is_there_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "_SUCCESS").touch()

    SscdReadySensor(task_id="ready", url=f"file://{tmp_path}/_SUCCESS").execute({})


def test_a_pattern_is_waited_for_until_it_names_something(tmp_path: Path) -> None:
    """Plan reads `ready` as a pattern; the triggerer waited for a file of that very name."""
    trigger = ReadyTrigger(url=f"{tmp_path}/*.done", poll=0.05, until=time.time() + 20)
    threading.Timer(0.2, (tmp_path / "crawl.done").touch).start()

    async def wait() -> Any:
        return await anext(trigger.run())

    assert asyncio.run(wait()).payload == {"over": True}


def test_a_missing_url_is_waited_for_in_the_triggerer(tmp_path: Path) -> None:
    sensor = SscdReadySensor(
        task_id="ready", url=str(tmp_path / "_SUCCESS"), poke_interval=7, timeout=100
    )

    with pytest.raises(TaskDeferred) as left:
        sensor.execute({})

    trigger = left.value.trigger
    assert isinstance(trigger, ReadyTrigger)
    assert (trigger.url, trigger.poll, left.value.method_name) == (sensor.url, 7, "resume")
    sensor.resume({}, {"over": True})
    with pytest.raises(
        AirflowFailException, match=r"_SUCCESS is still missing after 100 s.*[Cc]lear.*`timeout`"
    ):
        sensor.resume({}, {"over": False})


def test_without_deferring_it_pokes(tmp_path: Path) -> None:
    sensor = SscdReadySensor(
        task_id="ready",
        url=str(tmp_path / "_SUCCESS"),
        deferrable=False,
        poke_interval=0.05,
        timeout=20,
    )
    threading.Timer(0.2, (tmp_path / "_SUCCESS").touch).start()

    sensor.execute({})

    assert (tmp_path / "_SUCCESS").exists()


@pytest.fixture
def config(tmp_path: Path, catalog_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset with a night of pictures."""
    path = tmp_path / "curation.toml"
    path.write_text(f"""
        [storage]
        root = "{tmp_path}/root"
        [datasets.web]
        schedule = "0 0 * * *"
        start = 2026-11-01
        late_days = 0
        sources = [{{name = "crawl", urls = ["{tmp_path}/in/{{date}}/*.tar"]}}]
        fingerprint = {{model = "dct", workers = 1}}
        """)
    monkeypatch.setenv("SSCD_OPS_DATABASE_URL", catalog_url)
    put(tmp_path, "a.tar", 1)
    return path


def put(base: Path, name: str, seed: int) -> None:
    make_tar(base / "in" / "2026-11-01" / name, [("k", {"jpg": picture(seed), "txt": b"x"})])


def published(config: Path, **given: Any) -> SscdPublishedSensor:
    given = {"dataset": "web", "date": "2026-11-01", **given}
    return SscdPublishedSensor(task_id="published", config=str(config), **given)


def test_a_night_is_published_once_all_of_its_batches_are(config: Path) -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    interval = Interval(start, start + timedelta(days=1))
    sensor = published(config)

    assert not sensor.poke({}), "no night ever ran"
    with Wiring(load_settings(str(config))) as parts:
        night.run(parts, "web", interval)
        assert sensor.poke({})
        assert published(config, date="2026-11-01T12:00+00:00").poke({})
        assert not published(config, date="2026-11-02").poke({})
        put(config.parent, "late.tar", 2)
        plan.run(parts, "web", interval, runner=Runner("cli"), supplement=True)
        assert not sensor.poke({}), "its supplement is under way"
        night.run(parts, "web", interval, supplement=True)
    assert sensor.poke({})


def test_a_night_that_never_comes_is_said_with_what_to_do(config: Path) -> None:
    sensor = published(config, mode="poke", poke_interval=0.05, timeout=0.1)

    with pytest.raises(
        AirflowSensorTimeout, match=r"night 2026-11-01 of web is not published.*batch list.*clear"
    ):
        sensor.execute({})


def test_an_unknown_dataset_is_no_reason_to_wait(config: Path) -> None:
    with pytest.raises(AirflowFailException, match="there is no dataset 'wbe'; it has web"):
        published(config, dataset="wbe").poke({})
