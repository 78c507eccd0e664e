"""Who may let an order pass that is held: nobody who drafted or applied it, under any name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from sscd_ops.catalog.orders import Order
from sscd_ops.errors import UsageError
from sscd_ops.model import OrderState, Person
from sscd_ops.steps.orders.applying import _need_another

DRAFTED = {"database_user": "ann", "os_user": "annika", "host": "eve"}
APPLIED = {"database_user": "tasks", "os_user": "worker", "airflow_user": "bob"}


def held() -> Order:
    given: dict[str, Any] = dict.fromkeys(field.name for field in fields(Order))
    named = {"order_id": 31, "dataset": "web", "verb": "withdraw", "state": OrderState.HELD}
    return Order(**{**given, **named, "drafted_by": DRAFTED, "applied_by": APPLIED})


def in_airflow(user: str) -> Person:
    return Person(user, "tasks", "worker", airflow_user=user)


@pytest.mark.parametrize(
    ("by", "said"),
    [
        (
            in_airflow("ann"),
            "drafted by ann too.*as another Airflow user, who triggers correct_web",
        ),
        (in_airflow("annika"), "drafted by annika too"),
        (in_airflow("bob"), "applied by bob too"),
        (Person("x", "ann"), "drafted by ann too.*CREATE ROLE ... LOGIN IN ROLE ann"),
        (Person("x", "bob"), "applied by bob too"),
    ],
)
def test_the_same_person_is_refused_by_a_command_and_in_airflow(by: Person, said: str) -> None:
    with pytest.raises(UsageError, match=f"order 31 was {said}"):
        _need_another(held(), by)


@pytest.mark.parametrize(
    "by", [in_airflow("eve"), in_airflow("tasks"), in_airflow("worker"), Person("ann", "eve")]
)
def test_another_one_may_and_the_tasks_own_role_is_nobody_s(by: Person) -> None:
    _need_another(held(), by)
