"""`make soak`: more of what `make test` asserts by a sample (marker `soak`).

A sweep over many cases runs a few of them in `make test` and the rest in a soak; a story made by
chance runs with fixed seeds there and with further ones here; a property is tried on more examples.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable
from typing import Any

import pytest
from hypothesis import settings

# A soak's own chance, as `make soak` prints it: the same number repeats it.
SEED = int(os.environ.get("SSCD_OPS_SOAK_SEED", "0"))


def sweep(cases: Iterable[Any], always: Container[Any]) -> list[Any]:
    """Values of a parameter: those of ``always`` run in `make test`, the others in a soak.

    Tuples are values of several parameters.
    """
    return [
        case
        if case in always
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.soak)
        for case in cases
    ]


def seeds(always: Iterable[int], more: int) -> list[Any]:
    """Seeds of a story: fixed ones, and ``more`` of a soak's own after them."""
    return [*always, *sweep(range(SEED + 1000, SEED + 1000 + more), ())]


def examples(number: int) -> int:
    """How often a property is tried: ``number`` times in `make test`, twentyfold in a soak.

    By hypothesis's profile in use (conftest.py), of which 100 is what `make test` has.
    """
    return number * settings.default.max_examples // 100
