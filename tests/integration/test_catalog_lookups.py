"""What history says about images."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import text

from sscd_ops.catalog import lookups
from sscd_ops.catalog.database import Catalog


def sha(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def digests(numbers: list[int]) -> np.ndarray:
    return np.frombuffer(b"".join(sha(n) for n in numbers), np.uint8).reshape(-1, 32)


@pytest.fixture
def history(catalog: Catalog) -> Catalog:
    """Batches of turns 1 and 2 gave images 1, 11, ... and 2, 12, ... a verdict; 9 never counted."""
    with catalog.begin() as conn:
        conn.execute(text("INSERT INTO sscd_ops.datasets (name) VALUES ('web'), ('other')"))
        for turn in (1, 2):
            conn.execute(
                text(
                    "INSERT INTO sscd_ops.batches (dataset_id, interval_start, interval_end, state,"
                    " label, turn, decision_id) VALUES (1, :s, :s, 'published', 'x', :t, :t)"
                ),
                {"s": datetime(2026, 11, turn, tzinfo=UTC), "t": turn},
            )
        conn.execute(
            text(
                "INSERT INTO sscd_ops.images (dataset_id, sha256, decision_id, verdict, sample_id,"
                " month) SELECT 1, sha256(i::text::bytea), d, 'kept', gen_random_uuid(),"
                " '2026-11-01' FROM unnest(ARRAY[1, 2, 9]) d, generate_series(d, 50000, 10) i"
            )
        )
    return catalog


@pytest.mark.parametrize("count", [100, 20_000])
def test_only_decided_verdicts_up_to_the_turn_are_seen(history: Catalog, count: int) -> None:
    numbers = list(range(1, count + 1))
    asked = digests(numbers)

    for turn, endings in ((0, ()), (1, (1,)), (2, (1, 2))):
        with history.begin() as conn:
            found = lookups.known_images(conn, 1, asked, turn)

        assert sorted(numbers[row["i"]] for row in found) == [
            n for n in numbers if n % 10 in endings
        ]


def test_another_dataset_knows_nothing_of_it(history: Catalog) -> None:
    with history.begin() as conn:
        assert lookups.known_images(conn, 2, digests([1, 2]), 9) == []
        assert lookups.known_images(conn, 1, digests([]).reshape(0, 32), 9) == []


def test_two_large_look_ups_in_one_transaction_do_not_mix(history: Catalog) -> None:
    with history.begin() as conn:
        first = lookups.known_images(conn, 1, digests(list(range(1, 5001))), 9)
        second = lookups.known_images(conn, 1, digests(list(range(5001, 10001))), 9)

    assert len(first) == len(second) == 1000
