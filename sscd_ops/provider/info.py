"""What Airflow's provider manager is told. Standard library only: it is called very early."""

from __future__ import annotations

from typing import Any

CONNECTION_TYPE = "sscd_ops"
DEFAULT_CONN_ID = "sscd_ops_default"


def get_provider_info() -> dict[str, Any]:
    """Provider metadata; ``package-name`` must be the distribution's name."""
    from sscd_ops import __version__

    name = "SSCD curation"
    return {
        "package-name": "sscd-ops",
        "name": name,
        "description": "Nightly curation of image-text data: find copies, keep one, say why.",
        "versions": [__version__],
        "integrations": [{"integration-name": name, "external-doc-url": "", "tags": ["service"]}],
        "hooks": [{"integration-name": name, "python-modules": ["sscd_ops.provider.hooks"]}],
        "operators": [
            {
                "integration-name": name,
                "python-modules": [
                    "sscd_ops.provider.operators",
                    "sscd_ops.provider.maintenance",
                    "sscd_ops.provider.orders",
                ],
            }
        ],
        "sensors": [{"integration-name": name, "python-modules": ["sscd_ops.provider.sensors"]}],
        "triggers": [{"integration-name": name, "python-modules": ["sscd_ops.provider.triggers"]}],
        "connection-types": [
            {
                "connection-type": CONNECTION_TYPE,
                "hook-class-name": "sscd_ops.provider.hooks.SscdOpsHook",
                "hook-name": name,
                "ui-field-behaviour": {
                    "hidden-fields": [],
                    "relabeling": {
                        "host": "Catalog host (Postgres)",
                        "schema": "Catalog database",
                        "login": "Catalog user",
                        "password": "Catalog password",
                        "port": "Catalog port",
                    },
                    "placeholders": {"host": "db.example.org", "schema": "catalog", "port": "5432"},
                },
                "conn-fields": {
                    "config": {
                        "label": "Config file",
                        "description": "Path of the TOML file on the workers; empty: the DAG's own",
                        "schema": {"type": ["string", "null"], "default": None},
                    },
                    "sslmode": {
                        "label": "sslmode",
                        "description": "As libpq's: require, verify-full ...",
                        "schema": {"type": ["string", "null"], "default": None},
                    },
                },
            }
        ],
    }
