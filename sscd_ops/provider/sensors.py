"""Sensors for DAGs beside the nightly one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowSensorTimeout

from sscd_ops.provider.errors import as_airflow
from sscd_ops.provider.info import DEFAULT_CONN_ID
from sscd_ops.provider.triggers import ReadyTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class SscdReadySensor(BaseSensorOperator):
    """Waits until a URL exists, in the triggerer unless ``deferrable`` is off.

    Args:
        url: any fsspec URL or path, e.g. a source's ``ready`` with its placeholders filled in.
        deferrable: wait in the triggerer; else as an ordinary sensor (use ``mode="reschedule"``).
    """

    template_fields: Sequence[str] = ("url",)

    def __init__(self, *, url: str, deferrable: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.url = url
        self.deferrable = deferrable

    def execute(self, context: Context) -> Any:
        """Wait."""
        if not self.deferrable:
            return super().execute(context)
        if not self.poke(context):
            until = time.time() + float(self.timeout)
            trigger = ReadyTrigger(url=self.url, poll=float(self.poke_interval), until=until)
            self.defer(trigger=trigger, method_name="resume")
        return None

    def resume(self, context: Context, event: dict[str, Any] | None = None) -> None:
        """End, or fail where only the time ran out."""
        from sscd_ops.errors import DataError

        with as_airflow():
            if not (event or {}).get("over"):
                raise DataError(
                    f"{self.url} is still missing after {float(self.timeout):.0f} s (`timeout`):"
                    " clear this task once it is there, or give it a longer `timeout`"
                )

    def poke(self, context: Context) -> bool:
        """Whether the URL exists."""
        from sscd_ops.provider.triggers import exists

        return exists(self.url)


class SscdPublishedSensor(BaseSensorOperator):
    """Waits until the night of a dataset that starts on a day is published.

    For consumers that need one certain night; those that want every new snapshot are scheduled by
    ``asset(dataset)`` instead. Asks the catalog, so it is rescheduled, never deferred.

    Args:
        dataset: a dataset of the config file.
        date: the local day the night starts, or an instant in it.
        config: path of the TOML file; empty: the connection's, else SSCD_OPS_CONFIG.
        conn_id: a connection of type ``sscd_ops``; the default one may be missing.
    """

    template_fields: Sequence[str] = ("dataset", "date", "config", "conn_id")

    def __init__(
        self,
        *,
        dataset: str,
        date: str,
        config: str = "",
        conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("mode", "reschedule")
        super().__init__(**kwargs)
        self.dataset = dataset
        self.date = date
        self.config = config
        self.conn_id = conn_id

    def execute(self, context: Context) -> Any:
        """Wait; a wait in vain says where to look."""
        try:
            return super().execute(context)
        except AirflowSensorTimeout as error:
            raise AirflowSensorTimeout(
                f"night {self.date} of {self.dataset} is not published after"
                f" {float(self.timeout):.0f} s (`timeout`): `sscd-ops batch list --dataset"
                f" {self.dataset}` says what became of it; clear this task once it is published"
            ) from error

    def poke(self, context: Context) -> bool:
        """Whether every batch of the night is published (and there is one)."""
        from sscd_ops.catalog import batches, datasets
        from sscd_ops.core.schedule import interval_of
        from sscd_ops.model import BatchState
        from sscd_ops.provider.hooks import SscdOpsHook
        from sscd_ops.provider.nights import options_of

        with as_airflow(), SscdOpsHook(self.conn_id, self.config).wiring() as parts:
            options = options_of(parts.settings, self.dataset)
            night = interval_of(options.schedule, options.timezone, self.date)
            with parts.catalog.begin() as conn:
                dataset = datasets.read(conn, self.dataset)
                if dataset is None:
                    return False
                found = batches.batches_of_interval(conn, dataset.dataset_id, night)
        return bool(found) and all(batch.state is BatchState.PUBLISHED for batch in found)
