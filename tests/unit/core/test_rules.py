"""The order of the smallest number whose rule covers a sample stops it, and no other sample."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.core.rules import BY, joined, none_stopped, stopped
from sscd_ops.core.urls import covers, digest
from sscd_ops.model import Rules

NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(lambda ls: ".".join(ls) + ".")
ORDERS = st.integers(1, 9)
SAMPLES = st.lists(
    st.tuples(st.integers(0, 9), st.none() | NAMES, st.sampled_from(["crawl", "bought"]))
)


@given(
    st.dictionaries(NAMES, ORDERS),
    st.dictionaries(st.sampled_from(["crawl", "other"]), ORDERS),
    SAMPLES,
)
def test_samples_are_stopped_as_a_slow_reading_of_the_rules_says(
    domains: dict[str, int], sources: dict[str, int], samples: list[tuple[int, str | None, str]]
) -> None:
    rules = Rules(domains, {digest(name): order for name, order in sources.items()}, True)

    found = stopped(
        rules,
        np.array([url for url, *_ in samples], np.int64),
        [host for _, host, _ in samples],
        [source for *_, source in samples],
    )

    for row, (url, host, source) in enumerate(samples):
        asked = [(url, 1)] if url else []
        asked += [(o, 2) for domain, o in domains.items() if host and covers(domain, host)]
        asked += [(o, 3) for name, o in sources.items() if name == source]
        order, by = min(asked, default=(0, 0))
        assert (found.order[row], found.by[row]) == (order, by)
        if order:
            assert found.message(row) == f"order {order}: {BY[by]}"


def test_pieces_are_joined_in_order() -> None:
    one = none_stopped(2)
    one.order[1], one.by[1] = 7, 2

    both = joined([none_stopped(1), one])

    assert both.order.tolist() == [0, 0, 7]
    assert both.by.tolist() == [0, 0, 2]
    assert len(joined([]).order) == 0
