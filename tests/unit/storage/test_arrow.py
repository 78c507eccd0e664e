"""pyarrow goes without pandas, and whoever wants both has both."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import pyarrow as pa
from sscd_ops.storage.arrow import keep_pandas_out

finders = list(sys.meta_path)
keep_pandas_out()
assert sys.meta_path == finders
assert pa.array(["a", None]).to_pylist() == ["a", None]
assert "pandas" not in sys.modules

import pandas as pd

frame = pd.DataFrame({"a": [1.5, None], "b": ["x", "y"]})
assert pa.table(frame).to_pandas().equals(frame)
assert pa.array(frame["a"], from_pandas=True).null_count == 1
keep_pandas_out()
assert pa.Table.from_pandas(frame).num_rows == 2
"""


def test_pandas_is_kept_out_only_where_nobody_asks_for_it() -> None:
    pytest.importorskip("pandas")

    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
