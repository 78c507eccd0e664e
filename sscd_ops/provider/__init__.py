"""Airflow around the steps: hook, operators, sensors, triggers, DAG factory.

Everything is imported on first use, so that Airflow's provider discovery, which runs while Airflow
itself is still being imported, loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "asset": "sscd_ops.provider.assets",
    "corrections": "sscd_ops.provider.assets",
    "curation_dags": "sscd_ops.provider.factory",
    "SscdOpsHook": "sscd_ops.provider.hooks",
    "SscdPlanOperator": "sscd_ops.provider.operators",
    "SscdIngestOperator": "sscd_ops.provider.operators",
    "SscdSurveyOperator": "sscd_ops.provider.operators",
    "SscdEmbedOperator": "sscd_ops.provider.operators",
    "SscdMatchOperator": "sscd_ops.provider.operators",
    "SscdResolveOperator": "sscd_ops.provider.operators",
    "SscdPublishOperator": "sscd_ops.provider.operators",
    "SscdCommitOperator": "sscd_ops.provider.operators",
    "SscdMaintenanceListOperator": "sscd_ops.provider.maintenance",
    "SscdMaintenanceOperator": "sscd_ops.provider.maintenance",
    "SscdCompactOperator": "sscd_ops.provider.maintenance",
    "SscdOrderApplyOperator": "sscd_ops.provider.orders",
    "SscdOrderPublishOperator": "sscd_ops.provider.orders",
    "SscdOrderCommitOperator": "sscd_ops.provider.orders",
    "SscdOrderReceiptOperator": "sscd_ops.provider.orders",
    "SscdOrderPurgeOperator": "sscd_ops.provider.orders",
    "SscdReadySensor": "sscd_ops.provider.sensors",
    "SscdPublishedSensor": "sscd_ops.provider.sensors",
    "ReadyTrigger": "sscd_ops.provider.triggers",
    "TurnTrigger": "sscd_ops.provider.triggers",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
