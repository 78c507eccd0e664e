"""Lives of a dataset made by chance (``machine.py``): a few short ones here, long ones in a soak."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.integration.machine import Life
from tests.soak import SEED


def live(home: Path, template: str, number: int, *, lives: int, steps: int) -> None:
    """Lives by a seed. A failure is printed as it was: a step takes seconds, shrinking hours."""

    class Here(Life):
        pass

    Here.home, Here.template = home, template.rpartition("/")[2]
    run_state_machine_as_test(
        seed(number)(Here),
        settings=settings(
            max_examples=lives,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("number", [1, 2])
def test_short_lives_keep_every_promise(
    postgres_home: Path, catalog_template: str, number: int
) -> None:
    live(postgres_home, catalog_template, number, lives=2, steps=10)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(8))
def test_long_lives_keep_every_promise(
    postgres_home: Path, catalog_template: str, number: int
) -> None:
    print(f"seed {SEED + number}")
    live(postgres_home, catalog_template, SEED + number, lives=6, steps=40)
