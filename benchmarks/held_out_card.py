"""The tables of the bundled model's card, from what ``benchmarks.held_out`` ranked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.__main__ import ROOT, machine
from sscd_ops.core.canonical import pair_similarities
from sscd_ops.evaluation.cascade import CascadePoint, combine, joined
from sscd_ops.evaluation.lookalikes import HardResult
from sscd_ops.evaluation.metrics import (
    ConfidenceInterval,
    Curve,
    Scored,
    Weights,
    bootstrap,
    micro_ap,
    operating_point,
    precision_recall,
    summarise,
    true_ranks,
    weighted_curve,
)
from sscd_ops.evaluation.transformations import TRANSFORMATIONS

if TYPE_CHECKING:
    from benchmarks.held_out import Held, Measure

PAGE = ROOT / "docs" / "models" / "sscd_small.md"
BEGIN = "<!-- last result: written by `python -m benchmarks.held_out --write` -->"
END = "<!-- end of last result -->"
GAIN = 0.25
"""The bar: uAP on unseen edits beyond PDQ's."""
WANTED = 0.99

Ranked = Mapping[tuple[str, str, str], Scored]
"""(``different`` or ``all`` pictures, ``unseen``, ``like`` or ``both`` edits, measure)."""


def tables(
    held: Held, found: Sequence[Measure], ranked: Ranked, hard: Sequence[HardResult]
) -> tuple[str, bool]:
    """All tables as markdown, and whether the bars are met."""
    ours, pdq = found[0].name, found[1].name
    names = [measure.name for measure in found]
    parts = [_counts(held), _ranking(names, ranked)]
    one, other = (ranked["different", "unseen", name] for name in (ours, pdq))
    gain = micro_ap(_plain(one)) - micro_ap(_plain(other))
    low, high = _gain_interval(one, other)
    met = gain >= GAIN
    parts.append(
        f"uAP of `{ours}` less uAP of PDQ: **{gain:.3f}** [{low:.3f}, {high:.3f}];"
        f" the aim is {GAIN}: {_said(met)}."
    )
    for among in ("different", "all"):
        pair = (ranked[among, "both", ours], ranked[among, "both", pdq])
        own = (found[0].threshold, found[1].threshold)
        cascade = combine((ours, pdq), pair, own)
        parts.append(_cascade(among, ours, cascade.points))
        if among == "different":
            text, kept = _edits(
                held, found, pair, next(p for p in cascade.points if p.wanted == WANTED)
            )
            met &= kept
            parts.append(text)
    parts += [_own_thresholds(found, ranked), _strangers(held, found[0]), _hard(hard, found[0])]
    return "\n\n".join(parts), met


def keep(text: str) -> None:
    """Put the tables between the card's marks."""
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    stamp = f"{datetime.now(UTC):%Y-%m-%d}, {machine()}"
    PAGE.write_text(f"{head}{BEGIN}\n\n{stamp}\n\n{text}\n\n{END}{tail}", encoding="utf-8")


def _said(met: bool) -> str:
    return "met" if met else "**missed**"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _counts(held: Held) -> str:
    different = held.different()
    copies = held.groups(different)
    bursts = sum(map(len, held.bursts.values()))
    twins = sum(len(rows) - 1 for rows in held.twins.values())
    of_like = len(set(held.copy_of[copies["like"]].tolist()))
    return (
        f"References: {int(different.sum()):,} held-out pictures that are different from each"
        f" other; of {len(different):,}, {bursts} shots of {len(held.bursts)} bursts and {twins}"
        f" second versions of a picture are left out. Queries: {int(copies['unseen'].sum()):,}"
        f" copies of the {int(different[: held.tests].sum()):,} test pictures among them by unseen"
        f" edits, and {int(copies['like'].sum()):,} of {of_like} of those by edits like those"
        " trained on."
    )


# ---------------------------------------------------------------- rankings


def _ranking(names: Sequence[str], ranked: Ranked) -> str:
    def row(label: str, cell: Callable[[Scored], str], among: str, edits: str) -> list[str]:
        return [label, *(cell(ranked[among, edits, name]) for name in names)]

    rows = [
        row("uAP", _uap, "different", "unseen"),
        row("right one first (R@1)", _first, "different", "unseen"),
        *(
            row(f"recall at {wanted:.4g}% precision", _recall(wanted / 100), "different", "unseen")
            for wanted in (90, 99, 99.9)
        ),
        row("edits like those trained on: uAP", _uap, "different", "like"),
        row("edits like those trained on: R@1", _first, "different", "like"),
        row("among all, look-alikes too: uAP", _uap, "all", "unseen"),
        row("among all, look-alikes too: recall at 99%", _recall(0.99), "all", "unseen"),
    ]
    return _table(["", *(f"`{n}`" if n != "PDQ" else n for n in names)], rows)


def _uap(scored: Scored) -> str:
    summary = summarise(scored)
    return _between(summary.micro_ap, summary.micro_ap_interval)


def _first(scored: Scored) -> str:
    summary = summarise(scored, replicates=0)
    return f"{summary.accuracy_at_1:.3f}"


def _recall(wanted: float) -> Callable[[Scored], str]:
    def cell(scored: Scored) -> str:
        point = operating_point(_plain(scored), wanted)
        curve = weighted_curve(scored)

        def recall(drawn: Weights) -> float:
            drawn_point = operating_point(curve(drawn), wanted)
            return drawn_point.recall if drawn_point else 0.0

        interval = bootstrap(recall, int(scored.picture.max()) + 1)
        return _between(point.recall if point else 0.0, interval)

    return cell


def _between(value: float, interval: ConfidenceInterval | None) -> str:
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _plain(scored: Scored) -> Curve:
    return precision_recall(scored.score, scored.positive, len(scored.truth))


def _gain_interval(one: Scored, other: Scored) -> ConfidenceInterval:
    """Of the difference of two uAPs on the same draws."""
    ours, theirs = weighted_curve(one), weighted_curve(other)
    return bootstrap(
        lambda drawn: micro_ap(ours(drawn)) - micro_ap(theirs(drawn)), int(one.picture.max()) + 1
    )


# ---------------------------------------------------------------- two measures together


def _cascade(among: str, ours: str, points: Sequence[CascadePoint]) -> str:
    rows = [
        [
            f"{point.wanted:.1%}",
            *(
                "never" if value is None else f"{value:.3f}"
                for value in (point.recall, point.first_alone, point.second_alone)
            ),
        ]
        for point in points
    ]
    said = "different pictures" if among == "different" else "all, look-alikes too"
    head = [f"precision, all copies ({said})", "either", f"`{ours}` alone", "PDQ alone"]
    return _table(head, rows)


def beside_second(
    scored: tuple[Scored, Scored], second_threshold: float, wanted: float
) -> float | None:
    """The least threshold of the first measure beside a fixed one of the second.

    With it the union finds everything the second measure finds at its threshold.

    Args:
        scored: predictions of both, in the same task's rows.
        second_threshold: of the second measure.
        wanted: precision of the union.

    Returns:
        None where the union is less precise with any threshold, or gains nothing.
    """
    first, second, positive = joined(*scored)
    there = second >= second_threshold
    rest = ~there & np.isfinite(first)
    order = np.argsort(-first[rest], kind="stable")
    score = first[rest][order]
    hits = int((there & positive).sum()) + np.cumsum(positive[rest][order])
    shown = int(there.sum()) + np.arange(1, len(score) + 1)
    ends = np.r_[score[1:] < score[:-1], True][: len(score)]  # a threshold takes all equals
    good = np.flatnonzero(ends & (hits >= wanted * shown))
    return float(score[good[-1]]) if len(good) else None


def _edits(
    held: Held, found: Sequence[Measure], pair: tuple[Scored, Scored], point: CascadePoint
) -> tuple[str, bool]:
    """Recall by edit at 99% precision of all copies, and whether PDQ is nowhere better (mild)."""
    truth = pair[0].truth
    ours, pdq = (_true_similarities(measure, truth) for measure in found[:2])
    alone = [operating_point(_plain(scored), WANTED) for scored in pair]
    at = [math.inf if p is None else p.threshold for p in alone]
    kept = beside_second(pair, at[1], WANTED)
    kept_at = math.inf if kept is None else kept
    best = [
        math.inf if value is None else value
        for value in (point.first_threshold, point.second_threshold)
    ]
    ranked_first = _firsts(pair[0])
    columns = {
        "either": (ours >= best[0]) | (pdq >= best[1]),
        "either, PDQ's threshold kept": (ours >= kept_at) | (pdq >= at[1]),
        f"`{found[0].name}`": ours >= at[0],
        "PDQ": pdq >= at[1],
        f"R@1 of `{found[0].name}`": ranked_first,
    }
    kinds = [held.kind[query] for query in truth[:, 0]]
    rows: list[list[str]] = []
    worse: dict[str, list[str]] = {"either": [], "either, PDQ's threshold kept": []}
    for transformation in TRANSFORMATIONS:
        severities = sorted({k.severity for k in kinds if k.transformation == transformation.name})
        cells: dict[str, list[float]] = {name: [] for name in columns}
        for severity in severities:
            mine = np.array(
                [k.transformation == transformation.name and k.severity == severity for k in kinds]
            )
            for name, hit in columns.items():
                cells[name].append(float(hit[mine].mean()))
            for name, found_less in worse.items():
                if severity == 1 and cells[name][0] < cells["PDQ"][0]:
                    found_less.append(
                        f"{transformation.name} ({cells[name][0]:.3f}, PDQ {cells['PDQ'][0]:.3f})"
                    )
        if severities:
            star = "\\*" if transformation.unseen else ""
            values = (" / ".join(f"{v:.2f}" for v in cells[name]) for name in columns)
            rows.append([f"{transformation.name}{star}", *values])
    total = ["all", *(f"{hit.mean():.3f}" for hit in columns.values())]
    table = _table(["edit, severity 1 / 2 / 3", *columns], [*rows, total])
    bits = [_bits(best[1]), _bits(at[1])]
    said = (
        f"Recall by edit where all copies together reach 99% precision (unseen edits have a star)."
        f" Either: a similarity of {best[0]:.3f} or {bits[0]} bits, the pair that finds most;"
        f" with PDQ's own {bits[1]} bits kept, {kept_at:.3f}. Alone: {at[0]:.3f}; {bits[1]} bits."
    )
    best_pair, kept_pair = worse.values()
    less = f"finds less than PDQ in {', '.join(best_pair)}" if best_pair else "does so too"
    met = not kept_pair and kept is not None
    verdict = (
        "The aim that at 99% precision the two together find no less than PDQ in any edit of"
        f" severity 1 is {_said(met)} with PDQ's threshold kept; the pair that finds most {less}."
    )
    return f"{said}\n\n{table}\n\n{verdict}", met


def _bits(similarity: float) -> str:
    """PDQ's similarity as its distance."""
    return f"{(1 - similarity) * 128:.0f}" if math.isfinite(similarity) else "no"


def _true_similarities(measure: Measure, truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each true pair; -inf where one has no descriptor."""
    answer = np.full(len(truth), -np.inf)
    places = []
    for described, rows in ((measure.copies, truth[:, 0]), (measure.pictures, truth[:, 1])):
        at = np.minimum(np.searchsorted(described.rows, rows), len(described.rows) - 1)
        places.append(np.where(described.rows[at] == rows, at, -1))
    both = (places[0] >= 0) & (places[1] >= 0)
    answer[both] = pair_similarities(
        measure.copies.descriptors, measure.pictures.descriptors, places[0][both], places[1][both]
    )
    return answer


def _firsts(scored: Scored) -> NDArray[np.bool_]:
    """Whether each true pair comes first among its copy's predictions."""
    return true_ranks(scored.query, scored.reference, scored.score, scored.truth) == 0


# ---------------------------------------------------------------- thresholds


def _own_thresholds(found: Sequence[Measure], ranked: Ranked) -> str:
    ours, pdq = found[:2]
    rows = []
    for among, said in (("different", "different"), ("all", "look-alikes too")):
        for edits, of in (("unseen", "unseen"), ("like", "like those trained on")):
            pair = (ranked[among, edits, ours.name], ranked[among, edits, pdq.name])
            cells = []
            for own in ((ours.threshold, math.inf), (ours.threshold, pdq.threshold)):
                cascade = combine((ours.name, pdq.name), pair, own)
                cells += [f"{cascade.recall:.1%}", f"{cascade.precision or 0:.2%}"]
            rows.append([f"{said}; {of}", *cells])
    head = ["pictures; edits", "found", "precision", "with PDQ: found", "precision"]
    said = (
        f"At the thresholds that nights use, {ours.threshold:.2f} alone and with PDQ at"
        f" {_bits(pdq.threshold)} bits:"
    )
    return f"{said}\n\n{_table(head, rows)}"


def _strangers(held: Held, measure: Measure) -> str:
    """The greatest similarity of two different pictures, and how many have one above."""
    different = held.different()
    rows = measure.pictures.rows
    parts = []
    for name, inside in (
        ("validation", different & (np.arange(len(different)) >= held.tests)),
        ("test", different & (np.arange(len(different)) < held.tests)),
    ):
        mine = measure.pictures.descriptors[inside[rows]].astype(np.float32)
        similarity = mine @ mine.T
        np.fill_diagonal(similarity, -1)
        at = similarity.max(axis=1)
        above = int((at >= measure.threshold).sum())
        parts.append(
            f"{name} {float(at.max()):.3f} ({above} of {len(at)} have another one at or above"
            f" {measure.threshold:.2f})"
        )
    return f"Greatest similarity of two different pictures: {', '.join(parts)}."


def _hard(hard: Sequence[HardResult], measure: Measure) -> str:
    rows = [
        [
            result.name,
            str(result.pictures),
            f"{result.merged} of {result.could}",
            f"{result.share:.0%} [{result.interval[0]:.0%}, {result.interval[1]:.0%}]",
        ]
        for result in hard
    ]
    head = ["look-alikes that are no copies", "pictures", "merged", "share"]
    return f"At {measure.threshold:.2f}, by `{measure.name}` alone:\n\n{_table(head, rows)}"
