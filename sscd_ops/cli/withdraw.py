"""``withdraw``: samples, or pictures with all their copies, that must go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sscd_ops.cli.context import config_option, format_option, guarded, open_wiring, who_options

if TYPE_CHECKING:
    from sscd_ops.steps.orders.asked import Scope


@click.command()
@click.argument("ids", nargs=-1, metavar="[SAMPLE_ID]...")
@config_option
@click.option("--dataset", required=True, help="A dataset.")
@click.option("--sha256", multiple=True, metavar="HEX", help="All samples with an image's bytes.")
@click.option(
    "--url-list",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of URLs: one a line, or a csv with a column url.",
)
@click.option("--domain", multiple=True, help="Whatever came from a domain, and from below it.")
@click.option("--source", multiple=True, help="All samples of a source.")
@click.option(
    "--picture",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="All samples with a picture file's bytes; with --and-copies all that is near to it.",
)
@click.option("--only-these", "scope", flag_value="only-these", help="These samples go.")
@click.option(
    "--and-copies",
    "scope",
    flag_value="and-copies",
    help="Their pictures go, and all copies of them, now and later.",
)
@who_options
@click.option("--key", default="", help="The order's own name; default: from what is asked.")
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="Draw the pictures whose verdicts change.",
)
@click.option("--apply", "is_applied", is_flag=True, help="Carry it out now.")
@click.option("--later", is_flag=True, help="With --apply: leave publishing to the next snapshot.")
@click.option("--purge", is_flag=True, help="Remove all files that hold them, and their text.")
@click.option(
    "--forget", is_flag=True, help="Drop descriptors and hashes too: near copies pass then."
)
@click.option("--and-tagged", is_flag=True, help="With --purge: snapshots too that a tag keeps.")
@format_option
@guarded
def withdraw(
    ids: Sequence[str],
    config: str | None,
    dataset: str,
    sha256: Sequence[str],
    url_list: Path | None,
    domain: Sequence[str],
    source: Sequence[str],
    picture: Sequence[Path],
    scope: Scope | None,
    who: str,
    why: str,
    key: str,
    sheet: Path | None,
    is_applied: bool,
    later: bool,
    purge: bool,
    forget: bool,
    and_tagged: bool,
    form: str,
) -> None:
    """Draft the withdrawal of samples, and show what would change; --apply carries it out.

    With --only-these the samples go that are named, and copies from elsewhere are decided anew.
    With --and-copies their pictures go with all that the dataset's threshold calls a copy of them,
    and no later night keeps one; a picture file need not be in the dataset.
    URLs, domains and sources are standing rules: no later night brings the thing back. One that
    changes more than orders.max_changed is held until another person approves it (`order
    approve`). With --purge every snapshot that held them is expired, and their files, captions and
    URLs are removed; --forget drops what is known of the pictures too, save their digests.

    Example: sscd-ops withdraw --dataset web --url-list optout.csv --domain example.org
    --only-these --why "opt-out 412"
    """
    from sscd_ops.cli.order import carry_out, show_draft
    from sscd_ops.errors import UsageError
    from sscd_ops.steps.orders import applying
    from sscd_ops.steps.orders.asked import read_url_list, withdrawal
    from sscd_ops.steps.parts import configured

    if scope is None:
        raise UsageError("say what goes: --only-these samples, or --and-copies of them too")
    if later and not is_applied:
        raise UsageError("--later goes with --apply: a draft publishes nothing")
    if later and (purge or forget):
        raise UsageError("--purge and --forget publish first: leave --later away")
    with open_wiring(config, progress=True) as parts:
        asked = withdrawal(
            configured(parts, dataset),
            scope=scope,
            who=applying.this_person(parts, who),
            why=why,
            ids=ids,
            sha256=sha256,
            url_list=[] if url_list is None else read_url_list(url_list),
            domains=domain,
            sources=source,
            pictures=[(path.name, path.read_bytes()) for path in picture],
            key=key,
            flags=[name for name, given in (("purge", purge), ("forget", forget)) if given],
        )
        drafted = applying.draft(parts, asked)
        show_draft(parts, drafted, form, sheet)
        if is_applied:
            number = drafted.order.order_id
            carry_out(parts, number, asked.who, later=later, and_tagged=and_tagged)
