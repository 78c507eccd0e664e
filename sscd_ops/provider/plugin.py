"""The Airflow plugin: a place for what the UI shows later; today it only says that we are here."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


class SscdOpsPlugin(AirflowPlugin):
    """Registered by the entry point ``airflow.plugins``, or by ``plugins/sscd_ops_plugin.py``."""

    name = "sscd_ops"
