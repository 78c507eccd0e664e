"""An Airflow home of its own, set before Airflow is first imported: that is when it reads it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

HOME = Path(tempfile.mkdtemp(prefix="sscd-ops-airflow-"))
EXAMPLES = Path(__file__).parents[2] / "examples" / "dags"
for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
    del os.environ[name]
os.environ.update(
    {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
        "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        # Lineage goes to a file; by a thread, since a fork of a process with torch in it may hang.
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
            {"type": "file", "log_file_path": str(HOME / "lineage.jsonl"), "append": True}
        ),
        "AIRFLOW__OPENLINEAGE__EXECUTE_IN_THREAD": "True",
    }
)
