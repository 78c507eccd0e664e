"""Which samples of a source shard are decided where quarantined ones are read again."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.core.read_again import ANEW, KNOWN, Listed, find_again
from sscd_ops.model import Quarantined


def ident(number: int) -> bytes:
    return number.to_bytes(16)


def row(position: int, number: int | None, key: str | None = None) -> Quarantined:
    """A quarantined row; without a number the fault of a shard."""
    sample_id = None if number is None else ident(number)
    return Quarantined(1, 1, position, sample_id, key, "crawl", "a.tar", "too_small", False)


def manifest(*samples: tuple[int, int | None, str | None]) -> pa.Table:
    """Of (position, number of its id, key)."""
    positions, numbers, keys = zip(*samples, strict=True) if samples else ((), (), ())
    ids = [None if number is None else ident(number) for number in numbers]
    return pa.table(
        {
            "position": pa.array(positions, pa.int32()),
            "sample_id": pa.array(ids, pa.binary(16)),
            "key": pa.array(keys, pa.string()),
        }
    )


def found(listed: Listed, *samples: tuple[int, int | None, str | None]) -> list[int]:
    return find_again(listed, manifest(*samples)).tolist()


def test_a_sample_is_found_by_its_id_wherever_it_is_now() -> None:
    listed = Listed([row(5, 7, "a")], {ident(7), ident(8)}, has_fault=False)

    assert found(listed, (0, 8, "b"), (1, 7, "a"), (5, 9, "c")) == [KNOWN, 0, KNOWN]


def test_one_with_another_id_is_found_by_place_and_key() -> None:
    listed = Listed([row(1, 7, "a")], {ident(7), ident(8)}, has_fault=False)

    assert found(listed, (0, 8, "b"), (1, 9, "a")) == [KNOWN, 0]
    assert found(listed, (0, 8, "b"), (1, 9, "c")) == [KNOWN, KNOWN]
    assert found(listed, (0, 9, "b"), (1, 8, "a")) == [KNOWN, KNOWN], "it has a verdict"


def test_of_a_shard_whose_own_fault_is_read_again_all_that_is_new_is_decided() -> None:
    listed = Listed([row(-1, None)], {ident(8)}, has_fault=False)

    assert found(listed, (0, 8, "b"), (1, 9, "a")) == [KNOWN, ANEW]
    assert found(listed, (0, 8, "b"), (-1, None, None)) == [KNOWN, ANEW]


def test_a_shard_has_one_fault() -> None:
    listed = Listed([row(0, 7, "a")], {ident(7)}, has_fault=True)

    assert found(listed, (0, 7, "a"), (-1, None, None)) == [0, KNOWN]


@given(
    st.lists(st.integers(0, 9), unique=True),
    st.lists(st.integers(0, 9), unique=True),
    st.permutations(range(10)),
    st.booleans(),
)
def test_no_row_is_replaced_twice_and_no_known_sample_decided_but_the_listed(
    quarantined: list[int], there: list[int], order: list[int], is_opened: bool
) -> None:
    rows = [row(order[number], number, str(number % 3)) for number in quarantined]
    rows += [row(-1, None)] * is_opened
    known = {ident(number) for number in range(8)}
    samples = [(place, number, str(number % 3)) for place, number in enumerate(there)]

    answer = found(Listed(rows, known, has_fault=False), *samples)

    taken = [at for at in answer if at >= 0]
    assert len(taken) == len(set(taken))
    for at, (_, number, _) in zip(answer, samples, strict=True):
        if number in quarantined:
            assert at == quarantined.index(number)
        elif number < 8:
            assert at == KNOWN
        elif is_opened:
            assert at != KNOWN
