"""``order``: what people decided or drafted, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    who_options,
)
from sscd_ops.cli.output import print_fields, print_rows, say
from sscd_ops.plurals import counted

if TYPE_CHECKING:
    from sscd_ops.catalog.orders import Draft, Order
    from sscd_ops.model import Person
    from sscd_ops.steps.orders.applying import Applied, Drafted
    from sscd_ops.steps.orders.forgetting import Forgotten
    from sscd_ops.steps.orders.purging import Purged
    from sscd_ops.wiring import Wiring


@click.group(cls=CommandGroup)
def order() -> None:
    """Orders of people: list, show, apply, approve or refuse one, revert one."""


@order.command("list")
@config_option
@click.option("--dataset", help="Only this dataset.")
@limit_option(30, "the newest")
@format_option
@guarded
def order_list(config: str | None, dataset: str | None, limit: int, form: str) -> None:
    """List the newest orders."""
    from sscd_ops.catalog import orders

    with open_wiring(config) as parts:
        check_dataset(parts, dataset)
        with parts.catalog.begin() as conn:
            found = orders.list_orders(conn, dataset, limit)
            rows = [_row(each, orders.newest_draft(conn, each.order_id)) for each in found]
    print_rows(rows, form)


def _row(each: Order, draft: Draft | None) -> dict[str, Any]:
    return {
        "order_id": each.order_id,
        "dataset": each.dataset,
        "verb": each.verb,
        "scope": each.request.get("scope"),
        "of_order": each.of_order,
        "state": str(each.state),
        "changed": None if draft is None else draft.counts["changed"],
        "turn": each.turn,
        "turn_to": each.turn_to,
        "who": each.actor,
        "why": each.why,
    }


@order.command("show")
@click.argument("order_id", type=int)
@config_option
@format_option
@guarded
def order_show(order_id: int, config: str | None, form: str) -> None:
    """Show an order: what it names, and what it changes, by source."""
    from sscd_ops.catalog import orders
    from sscd_ops.steps.orders.finishing import to_do

    with open_wiring(config) as parts, parts.catalog.begin() as conn:
        found = orders.read_order(conn, order_id)
        draft = orders.newest_draft(conn, order_id)
        named = orders.subjects_of(conn, order_id)
    told = {**_row(found, draft), "message": found.message or None}
    told |= {"drafted_by": _who(found.drafted_by), "applied_by": _who(found.applied_by)}
    told |= {
        "approved_by": _who(found.approved_by),
        "effect": None if draft is None else draft.effect,
    }
    if beside := to_do(found):
        done = "not done yet" if found.finished_at is None else f"done {found.finished_at}"
        told |= {"beside": f"{', '.join(beside)}: {done}"}
    subjects = [{"kind": s.kind, "subject": s.value or s.digest.hex()} for s in named]
    changes = [] if draft is None else _changes(draft)
    if form == "json":
        print_rows([{**told, "subjects": subjects, "changes": changes}], form)
        return
    print_fields(told, form)
    for some in (subjects, changes):
        if form == "table" and some:
            click.echo()
            print_rows(some, form)


def _who(known: Mapping[str, str] | None) -> str | None:
    return None if known is None else ", ".join(f"{name} {text}" for name, text in known.items())


def _changes(draft: Draft) -> list[dict[str, Any]]:
    return [
        {"source": source, "change": change, "samples": count}
        for source, changes in draft.counts["by_source"].items()
        for change, count in changes.items()
    ]


@order.command("apply")
@click.argument("order_id", type=int)
@config_option
@click.option("--who", default=user, help="Who applies it; default: you.")
@click.option("--effect", default="", help="The digest of what you looked at, or its beginning.")
@click.option("--later", is_flag=True, help="Leave publishing to the next snapshot.")
@click.option("--and-tagged", is_flag=True, help="Where it purges: snapshots too that a tag keeps.")
@guarded
def order_apply(
    order_id: int, config: str | None, who: str, effect: str, later: bool, and_tagged: bool
) -> None:
    """Carry out an order that was drafted, and publish; a retry answers with what was done.

    Where it would change something else than its draft said, nothing is done and the new draft is
    stored.

    Example: sscd-ops order apply 31
    """
    from sscd_ops.steps.orders import applying

    with open_wiring(config, progress=True) as parts:
        by = applying.this_person(parts, who)
        carry_out(parts, order_id, by, later=later, effect=effect, and_tagged=and_tagged)


@order.command("approve")
@click.argument("order_id", type=int)
@config_option
@click.option("--who", default=user, help="Who approves it; default: you.")
@click.option("--effect", default="", help="The digest of what you looked at, or its beginning.")
@click.option("--later", is_flag=True, help="Leave publishing to the next snapshot.")
@click.option("--and-tagged", is_flag=True, help="Where it purges: snapshots too that a tag keeps.")
@guarded
def order_approve(
    order_id: int, config: str | None, who: str, effect: str, later: bool, and_tagged: bool
) -> None:
    """Let an order pass that changes too much for one person, and carry it out.

    By another person than drafted or applied it: another login role of Postgres.

    Example: sscd-ops order approve 31
    """
    from sscd_ops.steps.orders import applying

    with open_wiring(config, progress=True) as parts:
        by = applying.this_person(parts, who)
        done = applying.approve(
            parts, order_id, by=by, effect=effect, later=later, and_tagged=and_tagged
        )
    _say_applied(done)


@order.command("refuse")
@click.argument("order_id", type=int)
@config_option
@who_options
@guarded
def order_refuse(order_id: int, config: str | None, who: str, why: str) -> None:
    """Turn down an order that was drafted or is held; it changes nothing.

    Example: sscd-ops order refuse 31 --why "the whole of example.com was not asked for"
    """
    from sscd_ops.steps.orders import applying

    with open_wiring(config) as parts:
        by = applying.this_person(parts, who)
        applying.refuse(parts, order_id, by=by, why=why)
        say(f"order {order_id} is turned down: nothing was changed")


@order.command("erase")
@click.argument("order_id", type=int)
@config_option
@click.option("--who", default=user, help="Who erases it; default: you.")
@guarded
def order_erase(order_id: int, config: str | None, who: str) -> None:
    """Erase what an order says of people: its reason, and the URLs and file names it named.

    Digests stay, so that its rules go on working; those by domain need the domain, which stays.

    Example: sscd-ops order erase 31
    """
    from sscd_ops.steps.orders import applying
    from sscd_ops.steps.orders.finishing import erase_text_of

    with open_wiring(config) as parts:
        say(erase_text_of(parts, order_id, by=applying.this_person(parts, who)))


@order.command("revert")
@click.argument("order_id", type=int)
@config_option
@who_options
@click.option("--apply", "is_applied", is_flag=True, help="Carry it out now.")
@click.option("--later", is_flag=True, help="With --apply: leave publishing to the next snapshot.")
@format_option
@guarded
def order_revert(
    order_id: int,
    config: str | None,
    who: str,
    why: str,
    is_applied: bool,
    later: bool,
    form: str,
) -> None:
    """Draft the end of an order in force; --apply carries it out.

    Its rules end, and its samples speak for themselves again: with no decision since then as
    before, behind one like newcomers to all that is kept now.

    Example: sscd-ops order revert 31 --why "the owner took the opt-out back" --apply
    """
    from sscd_ops.steps.orders import applying

    with open_wiring(config, progress=True) as parts:
        by = applying.this_person(parts, who)
        drafted = applying.revert(parts, order_id, who=by, why=why)
        show_draft(parts, drafted, form)
        if is_applied:
            carry_out(parts, drafted.order.order_id, by, later=later)


# ---------------------------------------------------------------- shared with the verbs


SHOWN = 20
"""Samples that a draft lists; what there are more of is counted."""


def show_draft(parts: Wiring, drafted: Drafted, form: str, sheet: Path | None = None) -> None:
    """Print what an order would change, and say how it goes on."""
    from sscd_ops.catalog import orders
    from sscd_ops.model import OrderState

    found, draft = drafted.order, drafted.draft
    with parts.catalog.begin() as conn:
        samples = orders.changed_samples(conn, draft, SHOWN)
    if form == "json":
        print_rows(
            [{"order_id": found.order_id, "changes": _changes(draft), "samples": samples}], form
        )
    else:
        print_rows(samples, form)
        if draft.counts["changed"] > len(samples):
            say(f"the first {len(samples)} of {draft.counts['changed']}; by source:")
            print_rows(_changes(draft), form)
    if sheet is not None:
        _draw(parts, samples, sheet)
        say(f"wrote {sheet}")
    counts = draft.counts
    kept = (
        "again, or by another sample" if found.verb == "revert" else "by another sample, or instead"
    )
    for count, one, many in (
        (
            counts["kept_instead"],
            f"picture is kept {kept}",
            f"pictures are kept {kept}",
        ),
        (
            counts["removed_again"],
            "picture goes for another one than before",
            "pictures go for another one than before",
        ),
        (
            counts["freed"],
            "picture is nobody's from then on",
            "pictures are nobody's from then on",
        ),
        (
            counts["source_gone"],
            "sample that could be kept instead is gone from its source",
            "samples that could be kept instead are gone from their source",
        ),
        (
            counts.get("pictures", 0),
            "picture is withdrawn with its copies, now and later",
            "pictures are withdrawn with their copies, now and later",
        ),
        (
            counts.get("pictures", 0) - counts.get("compared", 0),
            "of them has nothing to compare: of it equal bytes alone go",
            "of them have nothing to compare: of these equal bytes alone go",
        ),
        (
            counts.get("near", {}).get("images", 0),
            "image goes because it is near to one of them",
            "images go because they are near to one of them",
        ),
        (
            counts.get("near_withdrawn", 0),
            "image that went for one of all these is quarantined",
            "images that went for one of all these are quarantined",
        ),
        (
            counts.get("near_waits", 0),
            "sample near to them waits for another person's approval",
            "samples near to them wait for another person's approval",
        ),
    ):
        if count:
            say(counted(count, one, many))
    for source, count in counts.get("unsearched", {}).items():
        one = f"sample of source {source} says no URL: it could not be searched"
        many = f"samples of source {source} say no URL: they could not be searched"
        say(counted(count, one, many))
    _warn(found, counts)
    if found.state is OrderState.APPLIED:
        say(f"order {found.order_id} was applied in turn {found.turn}")
    elif found.state is OrderState.HELD:
        say(found.message)
    else:
        number = found.order_id
        say(
            f"order {number} is drafted: {counted(counts['named'], 'sample')} named, the verdicts"
            f" of {counts['changed']} change (effect {draft.effect[:12]}); to carry it out:"
            f" sscd-ops order apply {number}"
        )


def _warn(found: Order, counts: Mapping[str, Any]) -> None:
    """Say of a withdrawal that it names nothing, and what it does that nothing takes back."""
    from sscd_ops.steps.orders.finishing import to_do

    if found.verb == "withdraw" and not counts["named"]:
        say(
            "nothing that is in the dataset is named: look at the spelling (URLs, domains and"
            " sources stop what comes from there later)"
        )
    if found.finished_at is None and (beside := to_do(found)):
        say(f"carried out it also does {' and '.join(beside)}, which cannot be taken back")
        if "forget" in beside:
            say("what is forgotten stops equal bytes alone: near copies that come later pass")


def _draw(parts: Wiring, samples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A contact sheet of samples that a draft changes; one withdrawn before is not among them."""
    from sscd_ops.errors import SscdOpsError
    from sscd_ops.images.sheets import Pair, contact_sheet
    from sscd_ops.steps.sample_image import sample_image

    sections: dict[str, list[Pair]] = {}
    for sample in samples:
        try:
            data = sample_image(parts, str(sample["sample_id"]))
        except SscdOpsError as error:
            data = b""
            say(f"{sample['key']} is not shown: {error}")
        sections.setdefault(sample["change"], []).append((data, b"", sample["key"] or ""))
    contact_sheet(list(sections.items())).save(path)


def carry_out(
    parts: Wiring,
    order_id: int,
    by: Person,
    *,
    later: bool = False,
    effect: str = "",
    and_tagged: bool = False,
) -> None:
    """Apply an order and say what came of it."""
    from sscd_ops.steps.orders import applying

    _say_applied(
        applying.apply(parts, order_id, by=by, later=later, effect=effect, and_tagged=and_tagged)
    )


def _say_applied(done: Applied) -> None:
    found = done.order
    was = "was applied before, in" if done.answered else "is in force from"
    published = (
        f"snapshot {done.snapshot} of {found.dataset} is the first that follows it"
        if done.snapshot is not None
        else "the next snapshot follows it"
    )
    say(f"order {found.order_id} {was} turn {found.turn} on; {published}")
    if done.second is not None and done.second.message:
        say(done.second.message)
    _say_forgotten(done.finished.forgotten)
    _say_purged(done.finished.purged)


def _say_forgotten(done: Forgotten | None) -> None:
    if done is None:
        return
    say(
        f"forgotten: descriptors and hashes of {counted(done.images, 'picture')}, and what"
        f" {counted(done.samples, 'sample says', 'samples say')}"
    )
    for where in done.left:
        say(f"  {where}")


def _say_purged(done: Purged | None) -> None:
    if done is None:
        return
    expired = ", ".join(map(str, done.expired)) or "none"
    say(
        f"purged: {counted(done.samples, 'sample')}; {counted(len(done.removed), 'file')} removed"
        f" ({sum(done.removed.values())} bytes); snapshots that held them, expired: {expired}."
        " Where their bytes or text are, or may be:"
    )
    for where in done.left:
        say(f"  {where}")
