"""Operators of ``correct_<dataset>``: each is hook -> wiring -> one function of ``correcting``.

Which order, and the digest of what was looked at, come with the run; whoever triggered it decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sscd_ops.provider.assets import corrections, corrections_alias
from sscd_ops.provider.operators import SscdStepOperator, is_retry

if TYPE_CHECKING:
    from airflow.sdk import Context

ORDER = "{{ params.order }}"
EFFECT = "{{ params.effect }}"


class _OrderOperator(SscdStepOperator):
    """What they share.

    Args:
        order: the order's number.
    """

    template_fields: Sequence[str] = (*SscdStepOperator.template_fields, "order")

    def __init__(self, *, order: int | str = ORDER, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.order = order

    def tell(self, context: Context, report: dict[str, Any]) -> None:
        """Store what was done, and end the log with it."""
        context["ti"].xcom_push(key="report", value=report)
        self.log.info(" ".join(f"{name}={figure}" for name, figure in report.items()))


class SscdOrderApplyOperator(_OrderOperator):
    """Puts an order in force in its turn, or approves one that is held; publishes nothing.

    Args:
        dataset: whose order it has to be.
        effect: the digest of what was looked at, or its beginning.
    """

    template_fields: Sequence[str] = (*_OrderOperator.template_fields, "dataset", "effect")

    def __init__(self, *, dataset: str, effect: str = EFFECT, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.effect = effect

    def execute(self, context: Context) -> None:
        """Apply it, as whoever triggered the run."""
        from sscd_ops.provider.nights import user_of
        from sscd_ops.steps.orders import applying, correcting

        with self.parts() as parts:
            user = user_of(context)
            done = correcting.apply(
                parts,
                self.dataset,
                int(self.order),
                effect=self.effect,
                by=applying.this_person(parts, user, airflow_user=user),
            )
        order = done.order
        report = {"order": order.order_id, "turn": order.turn, "answered": done.answered}
        if done.second is not None:
            report["near_waits_as_order"] = done.second.order_id
        self.tell(context, report)


class SscdOrderPublishOperator(_OrderOperator):
    """Writes the output shards of what an order in force keeps instead."""

    def execute(self, context: Context) -> None:
        """Write them. What the order took away is no matter of its own shards, but of commit."""
        from sscd_ops.steps.orders import correcting

        with self.parts() as parts:
            report = correcting.write(parts, int(self.order))
        self.tell(context, {"order": int(self.order), **report})


class SscdOrderCommitOperator(_OrderOperator):
    """Makes the snapshot that follows an order; an event of the asset ``corrections`` tells of it.

    Args:
        dataset: whose asset it is.
    """

    template_fields: Sequence[str] = (*_OrderOperator.template_fields, "dataset")

    def __init__(self, *, dataset: str, **kwargs: Any) -> None:
        outlets = [*(kwargs.pop("outlets", None) or ()), corrections_alias(dataset)]
        super().__init__(outlets=outlets, **kwargs)
        self.dataset = dataset

    def execute(self, context: Context) -> None:
        """Publish, and announce once whoever made the snapshot; a retry announces again."""
        from sscd_ops.steps.orders import applying, correcting

        number = int(self.order)
        with self.parts() as parts:
            applying.publish(parts, number)
            made = correcting.made(parts, number)
            self.tell(context, made or {"order": number, "snapshot": None})
            # Airflow drops the event of a try that does not end well, and the mark is no proof
            is_told = correcting.is_announced(parts, number) and not is_retry(context, self.retries)
            if made and not is_told:
                told = context["outlet_events"][corrections_alias(self.dataset)]
                told.add(corrections(self.dataset), extra={"kind": "order", **made})
                correcting.mark_announced(parts, number)


class SscdOrderReceiptOperator(_OrderOperator):
    """Writes the receipt of an order, unless it has one."""

    def execute(self, context: Context) -> None:
        """Write it, with any other of the dataset that is due."""
        from sscd_ops.steps.orders import correcting

        number = int(self.order)
        with self.parts() as parts:
            written = correcting.receipt(parts, number)
        self.tell(context, {"order": number, "written": number in written})


class SscdOrderPurgeOperator(_OrderOperator):
    """Forgets and purges what an order covers, where it asks for that."""

    def execute(self, context: Context) -> None:
        """Do it, as whoever triggered the run. Snapshots that a tag keeps are left to a command."""
        from sscd_ops.provider.nights import user_of
        from sscd_ops.steps.orders import applying, finishing

        number = int(self.order)
        with self.parts() as parts:
            user = user_of(context)
            by = applying.this_person(parts, user, airflow_user=user)
            done = finishing.finish(parts, number, by=by)
        forgotten, purged = done.forgotten is not None, done.purged is not None
        self.tell(context, {"order": number, "forgotten": forgotten, "purged": purged})
