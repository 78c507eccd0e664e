"""Triggers: they wait in the triggerer, hold no secrets and never touch the catalog."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent

from sscd_ops.drivers import remedy_for
from sscd_ops.masking import harmless

log = logging.getLogger(__name__)


class Member(TypedDict):
    """A DAG run that is waited for until it ends, or until its task is in one of the states."""

    dag_id: str
    run_id: str
    task_id: str
    states: list[str]


class _TimedTrigger(BaseTrigger):
    """Asks every ``poll`` seconds whether the wait is over, and gives up at ``until``.

    Args:
        poll: seconds between two looks.
        until: seconds since the epoch; the task then looks for itself.
    """

    def __init__(self, *, poll: float, until: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.poll = poll
        self.until = until

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: ``over`` says whether the wait ended or only the time."""
        while True:
            over = await self.is_over()
            if over or time.time() >= self.until:
                yield TriggerEvent({"over": over})  # type: ignore[no-untyped-call]
                return
            await asyncio.sleep(max(0.1, min(self.poll, self.until - time.time())))

    async def is_over(self) -> bool:
        """Whether the wait is over."""
        raise NotImplementedError


class ReadyTrigger(_TimedTrigger):
    """Waits until a URL exists.

    Args:
        url: any fsspec URL or path; the triggerer must be able to see it.
        poll: seconds between two looks.
        until: seconds since the epoch.
    """

    def __init__(self, *, url: str, poll: float, until: float) -> None:
        super().__init__(poll=poll, until=until)
        self.url = url

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """As Airflow stores it."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"url": self.url, "poll": self.poll, "until": self.until},
        )

    async def is_over(self) -> bool:
        """Whether the URL exists; an unreachable storage counts as no."""
        try:
            return await asyncio.to_thread(exists, self.url)
        except Exception as error:  # noqa: BLE001 - fsspec's backends raise what they like
            said = f"{self.url}: {type(error).__name__}: {error}"
            if remedy := remedy_for(error):
                said += f": {remedy} (the triggerer looks, on its own machine)"
            log.warning("can't look for %s", harmless(said))
            return False


class TurnTrigger(_TimedTrigger):
    """Waits until every member's DAG run has ended or its task is in one of its states.

    A deleted run counts as ended. Batches run from the command line have no member: the task looks
    for itself when ``until`` has passed.

    Args:
        members: who is waited for.
        poll: seconds between two looks.
        until: seconds since the epoch.
    """

    def __init__(self, *, members: list[Member], poll: float, until: float) -> None:
        super().__init__(poll=poll, until=until)
        self.members = members

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """As Airflow stores it."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"members": self.members, "poll": self.poll, "until": self.until},
        )

    async def is_over(self) -> bool:
        """Whether nobody is left to wait for. Without members only the time ends the wait."""
        from asgiref.sync import sync_to_async

        for member in self.members:
            if not await sync_to_async(is_over)(member):
                return False
        return bool(self.members)


def is_running(dag_id: str, run_id: str) -> bool:
    """Whether a DAG run exists and is running. Works in a task and in the triggerer."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    # Not get_dagrun_state: it raises for a deleted run.
    count = RuntimeTaskInstance.get_dr_count(dag_id=dag_id, run_ids=[run_id], states=["running"])
    return count > 0


def is_over(member: Member) -> bool:
    """Whether a member needs no more waiting. Works in a task and in the triggerer."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    if not is_running(member["dag_id"], member["run_id"]):
        return True
    count = RuntimeTaskInstance.get_ti_count(
        dag_id=member["dag_id"],
        run_ids=[member["run_id"]],
        task_ids=[member["task_id"]],
        states=member["states"],
    )
    return count > 0


def exists(url: str) -> bool:
    """Whether a path or fsspec URL, or what a pattern names, exists now; as plan looks for it."""
    import fsspec

    from sscd_ops.sources.places import has_magic

    fs, path = fsspec.url_to_fs(url)
    fs.invalidate_cache()
    return bool(fs.glob(path) if has_magic(url) else fs.exists(path))
