"""The guard: what a batch must not look like without a person having seen it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal

from sscd_ops.model import Counts, Fault
from sscd_ops.options import GuardOptions

ENOUGH_BATCHES = 3
"""Fewer earlier batches than this say nothing about what is usual."""
ENOUGH_SAMPLES = 1000
"""A smaller night, or source, says little about odds of removal."""
ENOUGH_READ = 30
"""Fewer samples, or source shards, than this say little about odds of quarantine."""
A_FEW = 3
"""Fewer broken samples, or broken source shards, than this hold no batch by their share."""
RECENT = 3
"""Turns in which a source that kept samples is expected to keep some again."""
LEAST_ODDS = 0.05

Past = tuple[Counts, Mapping[str, Counts]]
"""An earlier batch: its counts, and by source."""
Unit = Literal["samples", "source shards"]
"""What is quarantined: a sample by its code, or a whole source shard by the code of its own."""

_OF_SHARD = frozenset(str(fault) for fault in Fault if fault.of_shard)


def check(
    now: Counts,
    by_source: Mapping[str, Counts],
    history: Sequence[Past],
    options: GuardOptions,
    *,
    supplement: bool = False,
    read_again: bool = False,
) -> list[str]:
    """Why the batch should be held; empty if it may pass.

    Removals are judged without the quarantined samples, on either side; what is quarantined is
    judged by itself (docs/decisions/0010-the-guard-watches-quarantine.md). What is withdrawn was
    asked for by people: it is left out everywhere.

    Args:
        now: the batch's counts.
        by_source: its counts by source; a source without samples has zeros.
        history: the batches of the highest earlier turns, at most 14, newest first.
        options: the dataset's.
        supplement: the batch reads what came late, so that a source without any file in it says
            nothing (docs/decisions/0006-supplements-and-silent-sources.md).
        read_again: it reads what was quarantined: that much of it stays so, or that a source keeps
            none of it, is what there was before (docs/decisions/0030-reading-again.md).
    """
    reasons = []
    if options.empty == "hold" and not read_again and not (supplement and _is_little(now)):
        expected = {
            s: c for s, c in by_source.items() if _read(c) or not (supplement or c.withdrawn)
        }
        reasons += _empty(now, expected, history)
    whole = [past for past, _ in history]
    reasons += _odds("the dataset", now, whole, options)
    reasons += [] if read_again else _quarantine("the dataset", now, whole, options)
    for source, counts in sorted(by_source.items()) if len(by_source) > 1 else ():
        past = [sources[source] for _, sources in history if source in sources]
        if _judged(counts) >= ENOUGH_SAMPLES:
            reasons += _odds(f"source {source!r}", counts, past, options, first_nights=False)
        reasons += [] if read_again else _quarantine(f"source {source!r}", counts, past, options)
    return reasons


def _read(counts: Counts) -> int:
    """What was read and nobody had withdrawn."""
    return counts.read - counts.withdrawn


# ---------------------------------------------------------------- what is removed


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


# ---------------------------------------------------------------- what is quarantined


def _quarantine(
    who: str, now: Counts, history: Sequence[Counts], options: GuardOptions
) -> list[str]:
    """A code at a time: a new fault shows beside a usual one that is larger."""
    reasons = []
    for unit in ("samples", "source shards"):
        codes = [code for code in now.codes if (code in _OF_SHARD) == (unit == "source shards")]
        said = [_unusual(who, now, history, options, unit, code) for code in sorted(codes)]
        reasons += list(filter(None, said)) or list(
            filter(None, [_unusual(who, now, history, options, unit, None)])
        )
    return reasons


def _lost(counts: Counts, unit: Unit, code: str | None) -> tuple[int, int]:
    """How many are quarantined by a code (None: by any), of how many."""
    if unit == "samples":
        lost = counts.quarantined if code is None else counts.codes.get(code, 0)
        return lost, _read(counts)
    codes = _OF_SHARD if code is None else {code}
    return sum(counts.codes.get(name, 0) for name in codes), counts.source_shards


def _unusual(
    who: str,
    now: Counts,
    history: Sequence[Counts],
    options: GuardOptions,
    unit: Unit,
    code: str | None,
) -> str:
    """Why what a code (None: all codes together) quarantines should be seen; empty if it may pass.

    What is usual, only batches say that read enough; without enough of them, or of what was read,
    the share of all codes together decides.
    """
    lost, whole = _lost(now, unit, code)
    if lost < A_FEW:
        return ""
    what = f"{who} quarantines {lost} of {whole} {unit}" + (f" as {code}" if code else "")
    usual = [_lost(past, unit, code) for past in history]
    known = [(bad + 1) / (of - bad + 1) for bad, of in usual if of >= ENOUGH_READ]
    too_much = code is None and lost / whole > options.first_nights_max
    if len(known) >= ENOUGH_BATCHES and whole >= ENOUGH_READ:
        odds, often = (lost + 1) / (whole - lost + 1), max(LEAST_ODDS, median(known))
        if odds > options.max_quarantined_odds * often:
            return (
                f"{what}, odds {odds:.2f}, more than {options.max_quarantined_odds:g} times the"
                f" usual {often:.2f} (guard.max_quarantined_odds)"
            )
        # a share that grows night by night makes itself usual
        too_much = too_much and often / (1 + often) <= options.first_nights_max
    if too_much:
        return (
            f"{what}, a share of {lost / whole:.2f} above {options.first_nights_max:g}"
            " (guard.first_nights_max)"
        )
    return ""


# ---------------------------------------------------------------- what is missing


def _is_little(now: Counts) -> bool:
    """Whether a broken sample or two, or a broken source shard or two, are all that came."""
    broken = now.quarantined + _lost(now, "source shards", None)[0]
    return now.quarantined == _read(now) and 0 < broken < A_FEW


def _empty(now: Counts, by_source: Mapping[str, Counts], history: Sequence[Past]) -> list[str]:
    if now.read == 0 and now.known:
        return [
            f"the batch has no new sample: all {now.known} have a verdict already"
            ' (guard.empty = "allow" lets it pass)'
        ]
    if now.read == 0:
        return ['the batch has no sample (guard.empty = "allow" lets empty nights pass)']
    reasons = []
    for source, counts in sorted(by_source.items()):
        recent = [sources[source] for _, sources in history[:RECENT] if source in sources]
        kept = sum(past.kept for past in recent)
        is_new = not any(source in sources for _, sources in history)
        if counts.kept == 0 and (kept or is_new):
            before = f"but kept {kept} in the last {RECENT} turns" if kept else "in its first night"
            reasons.append(
                f"source {source!r} keeps none of {_read(counts)} samples, {before}"
                ' (guard.empty = "allow" lets it pass)'
            )
    return reasons
