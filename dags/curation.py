"""The nightly curation: one Airflow DAG per dataset of the config file.

The file is ``curation.toml`` beside this one (so that it is versioned with the bundle), or what
SSCD_OPS_CONFIG names.
"""

from __future__ import annotations

import os
from pathlib import Path

from sscd_ops.errors import ConfigError
from sscd_ops.provider.factory import curation_dags

beside = Path(__file__).parent / "curation.toml"
config = str(beside) if beside.exists() else os.environ.get("SSCD_OPS_CONFIG", "")
if not config:
    raise ConfigError(
        f"no config file: put {beside.name} beside {__file__}, or set SSCD_OPS_CONFIG"
    )
globals().update(curation_dags(config))
