"""The chain of receipts: whatever was changed, taken out, put in or swapped is found."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.catalog.receipts import Receipt, chained
from sscd_ops.steps.orders.receipts import _digest, broken, canonical

AT = datetime(2026, 11, 3, 4, 5, tzinfo=UTC)


def a_chain(grounds: list[str]) -> tuple[list[Receipt], dict[int, str]]:
    chain: list[Receipt] = []
    for number, why in enumerate(grounds, 1):
        attachment = {"why": why, "salt": f"{number}"}
        body = canonical(
            {
                "number": number,
                "kind": "withdrawal",
                "order": 10 + number,
                "written_at": AT,
                "attachment_sha256": _digest(attachment),
            }
        )
        sha256 = chained(chain[-1].sha256 if chain else "", body)
        whole = (number, "web", number, 10 + number, "withdrawal", body, sha256, attachment, AT)
        chain.append(Receipt(*whole))
    return chain, {each.number: each.sha256 for each in chain}


CHAINS = st.lists(st.text(max_size=5), min_size=1, max_size=6).map(a_chain)


@given(CHAINS, st.data())
def test_what_was_written_is_whole_and_so_it_is_once_erased(
    made: tuple[list[Receipt], dict[int, str]], data: st.DataObject
) -> None:
    chain, told = made
    assert broken(chain, told) == []
    erased = data.draw(st.sets(st.sampled_from(range(len(chain)))))
    left = [replace(r, attachment=None) if i in erased else r for i, r in enumerate(chain)]
    assert broken(left, told) == []


def spoilt(each: Receipt, column: str, text: str) -> Receipt:
    other: dict[str, Any] = {
        "order_id": each.order_id + 1,
        "kind": "refusal",
        "body": each.body + " ",
        "sha256": text,
        "attachment": {"why": "other", "salt": text},
        "at": datetime(2026, 11, 3, tzinfo=UTC),
    }
    return replace(each, **{column: other[column]})


@given(CHAINS, st.data())
def test_whatever_somebody_changed_is_found(
    made: tuple[list[Receipt], dict[int, str]], data: st.DataObject
) -> None:
    chain, told = made
    at = data.draw(st.integers(0, len(chain) - 1))
    columns = ["order_id", "kind", "body", "sha256", "attachment", "at"]
    changed = list(chain)
    changed[at] = spoilt(chain[at], data.draw(st.sampled_from(columns)), data.draw(st.text()))
    assert broken(changed, told)


@given(CHAINS, st.data())
def test_taken_out_or_put_in(
    made: tuple[list[Receipt], dict[int, str]], data: st.DataObject
) -> None:
    chain, told = made
    at = data.draw(st.integers(0, len(chain) - 1))
    assert broken([*chain[:at], *chain[at + 1 :]], told)
    longer, all_told = a_chain(["one more", *(["x"] * len(chain))])
    assert broken(longer, told), "a chain that somebody wrote anew"
    assert broken(longer[:at], all_told), "cut off"


@given(CHAINS, st.data())
def test_in_another_order(made: tuple[list[Receipt], dict[int, str]], data: st.DataObject) -> None:
    chain, told = made
    order = data.draw(st.permutations(range(len(chain))))
    mixed = [chain[i] for i in order]
    assert bool(broken(mixed, told)) is (mixed != chain)
    renumbered = [replace(r, number=n) for n, r in enumerate(mixed, 1)]
    assert bool(broken(renumbered, told)) is (mixed != chain)


def test_one_wrong_body_is_one_finding_and_none_that_is_no_json_stops_it() -> None:
    chain, told = a_chain(["a", "b", "c"])
    for body in ("no JSON", chain[1].body.replace("order", "Order")):
        changed = [chain[0], replace(chain[1], body=body), chain[2]]
        assert len(broken(changed, told)) == 1
