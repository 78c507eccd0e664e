"""``receipt``: what became of orders, for whoever asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from sscd_ops.cli.context import (
    CommandGroup,
    check_dataset,
    config_option,
    format_option,
    guarded,
    limit_option,
    open_wiring,
    user,
)
from sscd_ops.cli.output import print_line, print_rows, say


@click.group(cls=CommandGroup)
def receipt() -> None:
    """Receipts of orders: list, show one, verify the chain, erase what is personal in one."""


@receipt.command("list")
@config_option
@click.option("--dataset", help="Only this dataset.")
@limit_option(30, "the newest")
@format_option
@guarded
def receipt_list(config: str | None, dataset: str | None, limit: int, form: str) -> None:
    """List the newest receipts."""
    from sscd_ops.catalog import receipts

    with open_wiring(config) as parts:
        check_dataset(parts, dataset)
        with parts.catalog.begin() as conn:
            found = receipts.list_receipts(conn, dataset, limit)
    told = [
        {
            "receipt_id": each.receipt_id,
            "dataset": each.dataset,
            "number": each.number,
            "kind": each.kind,
            "order_id": each.order_id,
            "at": each.at,
            "why": None if each.attachment is None else each.attachment["why"],
            "sha256": each.sha256,
        }
        for each in found
    ]
    print_rows(told, form)


@receipt.command("show")
@click.argument("receipt_id", type=int)
@config_option
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it here.")
@click.option("--without-attachment", is_flag=True, help="Leave out what is personal.")
@guarded
def receipt_show(
    receipt_id: int, config: str | None, out: Path | None, without_attachment: bool
) -> None:
    """Show a receipt as JSON: what was found, what became of it, and where bytes may be left.

    Example: sscd-ops receipt show 5 --out case412.json
    """
    from sscd_ops.catalog import receipts

    with open_wiring(config) as parts, parts.catalog.begin() as conn:
        found = receipts.read_receipt(conn, receipt_id)
    told = {
        "receipt_id": found.receipt_id,
        "written_at": found.at.isoformat(),
        "sha256": found.sha256,
        "body": json.loads(found.body),
    }
    if not without_attachment:
        told["attachment"] = found.attachment
    text = json.dumps(told, indent=2, ensure_ascii=False)
    if out is None:
        print_line(text)
    else:
        out.write_text(text + "\n")
        say(f"receipt {receipt_id} is in {out}")


@receipt.command("verify")
@config_option
@click.option("--dataset", required=True, help="A dataset.")
@guarded
def receipt_verify(config: str | None, dataset: str) -> None:
    """Check that no receipt was changed, taken out or put in; exit 1 where one was."""
    from sscd_ops.steps.orders import receipts

    with open_wiring(config) as parts:
        found = receipts.verify(parts, dataset)
    for each in found:
        print_line(str(each))
    if found:
        sys.exit(1)
    say("the chain of receipts is whole")


@receipt.command("erase")
@click.argument("receipt_id", type=int)
@config_option
@click.option("--who", default=user, help="Who erases it; default: you.")
@guarded
def receipt_erase(receipt_id: int, config: str | None, who: str) -> None:
    """Erase what is personal of a receipt's order, as `order erase` does: ids and digests stay.

    Example: sscd-ops receipt erase 5
    """
    from sscd_ops.catalog import receipts
    from sscd_ops.steps.orders import applying
    from sscd_ops.steps.orders.finishing import erase_text_of

    with open_wiring(config) as parts:
        with parts.catalog.begin() as conn:
            order_id = receipts.read_receipt(conn, receipt_id).order_id
        say(erase_text_of(parts, order_id, by=applying.this_person(parts, who)))
