"""Registers the Airflow plugin where the package's entry point is not installed (a bare copy).

Where it is, this file registers nothing: the same plugin twice is an import error.
"""

from __future__ import annotations

from importlib.metadata import entry_points

if not any(point.name == "sscd_ops" for point in entry_points(group="airflow.plugins")):
    from sscd_ops.provider.plugin import SscdOpsPlugin  # noqa: F401
