"""What history says about images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import text

from sscd_ops.catalog import lookups
from sscd_ops.catalog.database import Catalog
from tests.integration.ledger import Ledger, sha


def digests(numbers: list[int]) -> np.ndarray:
    return np.frombuffer(b"".join(sha(n) for n in numbers), np.uint8).reshape(-1, 32)


@pytest.fixture
def history(catalog: Catalog) -> Catalog:
    """Nights of turns 1 and 2 gave images 1, 11, ... and 2, 12, ... a verdict; 9 never counted."""
    ledger = Ledger(catalog)
    month = date(2026, 11, 1)
    tries = [ledger.night(ledger.batch(month.replace(day=n)), month, n) for n in (1, 2)]
    tries.append(ledger.night(ledger.batch(month.replace(day=9)), month, None, decided=False))
    with catalog.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO sscd_ops.images (dataset_id, sha256, decision_id, verdict, sample_id,"
                " shard_id, position, rank) SELECT :d, sha256(i::text::bytea), x, 'kept',"
                " gen_random_uuid(), 1, 0, 0 FROM unnest(CAST(:x AS bigint[]), ARRAY[1, 2, 9])"
                " AS t(x, f), generate_series(f, 50000, 10) i"
            ),
            {"d": ledger.web, "x": tries},
        )
    return catalog


@pytest.mark.parametrize("count", [100, 20_000])
def test_only_decided_verdicts_up_to_the_turn_are_seen(history: Catalog, count: int) -> None:
    numbers = list(range(1, count + 1))
    asked = digests(numbers)

    for turn, endings in ((0, ()), (1, (1,)), (2, (1, 2))):
        with history.begin() as conn:
            found = lookups.known_images(conn, 1, asked, turn)

        assert sorted(numbers[row] for row in found.row) == [
            n for n in numbers if n % 10 in endings
        ]


def test_another_dataset_knows_nothing_of_it(history: Catalog) -> None:
    with history.begin() as conn:
        assert len(lookups.known_images(conn, 2, digests([1, 2]), 9)) == 0
        assert len(lookups.known_images(conn, 1, digests([]).reshape(0, 32), 9)) == 0


def test_two_large_look_ups_in_one_transaction_do_not_mix(history: Catalog) -> None:
    with history.begin() as conn:
        first = lookups.known_images(conn, 1, digests(list(range(1, 5001))), 9)
        second = lookups.known_images(conn, 1, digests(list(range(5001, 10001))), 9)

    assert len(first) == len(second) == 1000


def test_a_large_look_up_may_take_longer_than_a_transaction_may_stand_idle(
    history: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose answers are many: what else would be asked in vain, again and again."""
    first, *rest = lookups._ARRAYS

    def slow(values: Sequence[Any]) -> NDArray[Any]:
        time.sleep(0.8)
        return first(values)

    monkeypatch.setattr(lookups, "_ARRAYS", (slow, *rest))
    impatient = Catalog(history.url, idle_timeout=1.0)
    with impatient.begin() as conn:
        assert len(lookups.known_images(conn, 1, digests(list(range(1, 5001))), 9)) == 1000
    with impatient.begin() as conn:
        said = conn.execute(text("SHOW idle_in_transaction_session_timeout")).scalar()
    assert said == "1s", "the next transaction is as short as any"
