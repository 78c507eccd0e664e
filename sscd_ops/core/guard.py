"""The guard: what a batch must not look like without a person having seen it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from sscd_ops.model import Counts
from sscd_ops.options import GuardOptions

ENOUGH_BATCHES = 3
"""Fewer earlier batches than this say nothing about what is usual."""
ENOUGH_SAMPLES = 1000
"""A smaller night, or source, says little about odds."""
RECENT = 3
"""Turns in which a source that kept samples is expected to keep some again."""
LEAST_ODDS = 0.05

Past = tuple[Counts, Mapping[str, Counts]]
"""An earlier batch: its counts, and by source."""


def check(
    now: Counts,
    by_source: Mapping[str, Counts],
    history: Sequence[Past],
    options: GuardOptions,
    *,
    supplement: bool = False,
) -> list[str]:
    """Why the batch should be held; empty if it may pass.

    Quarantined samples are left out on either side.

    Args:
        now: the batch's counts.
        by_source: its counts by source; a source without samples has zeros.
        history: the batches of the highest earlier turns, at most 14, newest first.
        options: the dataset's.
        supplement: the batch reads what came late, so that a source without any file in it says
            nothing (docs/decisions/0006-supplements-and-silent-sources.md).
    """
    reasons = []
    if options.empty == "hold":
        expected = {s: c for s, c in by_source.items() if c.read or not supplement}
        reasons += _empty(now, expected, history)
    reasons += _odds("the dataset", now, [past for past, _ in history], options)
    for source, counts in sorted(by_source.items()):
        if _judged(counts) >= ENOUGH_SAMPLES and len(by_source) > 1:
            past = [sources[source] for _, sources in history if source in sources]
            reasons += _odds(f"source {source!r}", counts, past, options, first_nights=False)
    return reasons


def _judged(counts: Counts) -> int:
    return counts.kept + counts.removed


def _odds_of(counts: Counts) -> float:
    return (counts.removed + 1) / (counts.kept + 1)


def _odds(
    who: str,
    now: Counts,
    history: Sequence[Counts],
    options: GuardOptions,
    *,
    first_nights: bool = True,
) -> list[str]:
    known = len(history) >= ENOUGH_BATCHES and _judged(now) >= ENOUGH_SAMPLES
    if known:
        usual = max(LEAST_ODDS, median(_odds_of(past) for past in history))
        if _odds_of(now) > options.max_removed_odds * usual:
            return [
                f"{who} removes {now.removed} and keeps {now.kept}, odds {_odds_of(now):.2f},"
                f" more than {options.max_removed_odds:g} times the usual {usual:.2f}"
                f" (guard.max_removed_odds)"
            ]
        return []
    judged = _judged(now)
    if first_nights and judged and now.removed / judged > options.first_nights_max:
        return [
            f"{who} removes {now.removed} of {judged}, a share of {now.removed / judged:.2f} above"
            f" {options.first_nights_max:g} (guard.first_nights_max)"
        ]
    return []


def _empty(now: Counts, by_source: Mapping[str, Counts], history: Sequence[Past]) -> list[str]:
    if now.read == 0:
        return ['the batch has no sample (guard.empty = "allow" lets empty nights pass)']
    reasons = []
    for source, counts in sorted(by_source.items()):
        kept = sum(sources[source].kept for _, sources in history[:RECENT] if source in sources)
        if counts.kept == 0 and kept:
            reasons.append(
                f"source {source!r} keeps none of {counts.read} samples, but kept {kept} in the"
                f' last {RECENT} turns (guard.empty = "allow" lets it pass)'
            )
    return reasons
