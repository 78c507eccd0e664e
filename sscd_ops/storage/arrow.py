"""Arrow without pandas.

pyarrow imports pandas, where it is installed, as soon as the first array is made, only to ask
whether what it was given is pandas' own: 0.2 s and 40 MiB a process, for nothing here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _NoPandas(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "pandas":
            raise ModuleNotFoundError(f"no {name} for pyarrow", name=name)
        return None


def keep_pandas_out() -> None:
    """Have pyarrow look for pandas now, once, and find none; nothing where pandas is loaded.

    Whoever needs pandas in this process has it: ``import pandas``, ``to_pandas`` and
    ``from_pandas`` work as ever, for pyarrow looks again where it is asked for pandas itself.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(finder)
