"""An evaluation as one HTML file a person can read: no script, no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from sscd_ops import __version__
from sscd_ops.evaluation.charts import Mark, Series, histogram, line_chart
from sscd_ops.evaluation.results import KindResult, ModelResult, Shown
from sscd_ops.evaluation.tables import (
    Row,
    cascade_rows,
    cascades,
    hard_rows,
    kind_rows,
    notes,
    tail_rows,
    threshold_rows,
    variant_rows,
)
from sscd_ops.evaluation.tasks import Task
from sscd_ops.images.sheets import Pair, contact_sheet
from sscd_ops.masking import one_line

_STYLE = """
body { font: 15px/1.45 sans-serif; max-width: 1120px; margin: 2em auto; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2em }
table { border-collapse: collapse; margin: .6em 0 } td, th { padding: .2em .7em; text-align: left }
th { border-bottom: 2px solid #999; font-weight: 600 } td { border-bottom: 1px solid #e4e4e4 }
td.n { text-align: right; font-variant-numeric: tabular-nums }
p.note { color: #555; max-width: 55em } img { max-width: 100% }
"""


def to_html(task: Task, results: Sequence[ModelResult]) -> str:
    """The report as one file: tables, curves, and pairs of pictures to look at."""
    names = ", ".join(result.model for result in results)
    body = [
        f"<h1>How well {escape(names)} finds copies</h1>",
        _paragraph(_what(task)),
        _table(_facts(task)),
        "<h2>Ranking</h2>",
        _paragraph(
            "All predictions of all queries ranked together. uAP: micro average precision; R@P90:"
            " recall where the precision is still 90%; acc@1: true pairs that come first. In"
            " brackets: 95% intervals by resampling pictures. Thresholds: the lowest score at which"
            " so many of the predictions are right, on these pictures and this many distractors."
        ),
        _table(variant_rows(results)),
        line_chart(
            [
                Series(
                    f"{result.model}, {variant.name}",
                    [(recall, precision) for recall, precision, _ in variant.summary.curve],
                )
                for result in results
                for variant in result.variants
            ],
            x_label="recall",
            y_label="precision",
        ),
        "<h2>At the model's threshold</h2>",
        _table(threshold_rows(results)),
        *_cascade_html(results),
        *_histograms(results),
        *_kinds_html(results),
        *_tail_html(results),
        *_hard_html(results),
        *_pictures_html(task, results),
        "<h2>What was left out, and how it ran</h2>",
        "".join(_paragraph(note) for note in notes(results)),
        _table(
            [
                {
                    "model": result.fingerprint,
                    "images/s": round(result.images_per_second),
                    "left out": _listed(result.left_out) or "nothing",
                    **result.runtime,
                }
                for result in results
            ]
        ),
        _paragraph(f"sscd-ops {__version__}"),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>sscd-ops evaluate: {escape(names)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def _what(task: Task) -> str:
    return {
        "make-copies": (
            "Copies were made of the pictures given, by named transformations in up to three"
            " severities. Some pictures, the outsiders, are in no reference: their copies, made"
            " alike, must match nothing."
        ),
        "disc21": "DISC21: queries against references, most queries without a match.",
        "copydays": (
            "Copydays: every picture is a query against the originals and the distractors."
        ),
        "pairs": "Queries against references, with the true pairs of a csv file.",
    }[task.protocol]


def _facts(task: Task) -> list[Row]:
    facts = {name: _text(value) for name, value in task.facts.items()}
    return [
        {
            "queries": len(task.queries),
            "references": len(task.references),
            "true pairs": len(task.truth),
            **{name.replace("_", " "): value for name, value in facts.items()},
        }
    ]


def _cascade_html(results: Sequence[ModelResult]) -> Iterable[str]:
    rows = cascade_rows(cascades(results))
    if rows:
        yield "<h2>Two measures together</h2>"
        yield _paragraph(
            "A pair is a copy if either measure says so. At each precision: the thresholds under"
            " which both together find most, and what each finds alone."
        )
        yield _table(rows)


def _histograms(results: Sequence[ModelResult]) -> Iterable[str]:
    for result in results:
        yield f"<h2>Copies against strangers: {escape(result.model)}</h2>"
        yield _paragraph(
            "Similarity of each copy with its original, and of each query with the most similar"
            " picture that is not its original."
        )
        yield similarity_chart(result)


def similarity_chart(result: ModelResult) -> str:
    """Copies against strangers with the model's threshold, as SVG."""
    marks = [Mark(result.at_threshold.threshold, "threshold")]
    point = result.variants[0].summary.points.get("0.99")
    if point is not None:
        marks.append(Mark(point.threshold, "99%"))
    return histogram(
        result.histogram.edges,
        [("copies", result.histogram.copies), ("strangers", result.histogram.strangers)],
        x_label="similarity",
        marks=marks,
    )


def _kinds_html(results: Sequence[ModelResult]) -> Iterable[str]:
    if not any(result.kinds for result in results):
        return
    yield "<h2>Recall by transformation</h2>"
    yield _paragraph(
        "Share of copies with a similarity to their original at or above the model's threshold;"
        " severities from the mildest to the hardest. A star marks edits that sscd-ops train"
        " never shows to a model; other models may have seen them, or none at all."
    )
    for result in results:
        if len(results) > 1:
            yield f"<h3>{escape(result.model)}</h3>"
        yield _heat(result.kinds)
    yield "<details><summary>With intervals, and at fixed precisions</summary>"
    yield _table(kind_rows(results)) + "</details>"


def _heat(kinds: Sequence[KindResult]) -> str:
    """A coloured cell for each severity."""
    severities = sorted({item.kind.severity for item in kinds})
    by: dict[str, dict[int, KindResult]] = {}
    for item in kinds:
        by.setdefault(item.kind.transformation, {})[item.kind.severity] = item
    head = "".join(f"<th>{severity}</th>" for severity in severities)
    rows = []
    for name, cells in by.items():
        star = "*" if any(item.unseen for item in cells.values()) else ""
        row = [f"<td>{escape(name)}{star}</td>"]
        for severity in severities:
            found = cells.get(severity)
            row.append("<td></td>" if found is None else _heat_cell(found))
        rows.append(f"<tr>{''.join(row)}</tr>")
    return f"<table><tr><th>transformation</th>{head}</tr>{''.join(rows)}</table>"


def _heat_cell(item: KindResult) -> str:
    hue = round(item.recall * 120)  # red to green
    low, high = item.interval
    title = f"{item.queries} copies, 95%: {low:.2f} to {high:.2f}"
    style = f"background:hsl({hue} 60% 80%)"
    return f'<td class="n" title="{title}" style="{style}">{item.recall:.2f}</td>'


def _tail_html(results: Sequence[ModelResult]) -> Iterable[str]:
    yield "<h2>False matches at larger histories: an extrapolation</h2>"
    yield _paragraph(
        "How many strangers a new picture is expected to meet in a history of this many pictures. A"
        " tail was fitted to the most similar pairs of different pictures seen here and drawn out"
        " far beyond them; brackets are 95% intervals by resampling pictures. It holds for pictures"
        " like these; pages, products and screenshots of one template are worse."
    )
    yield _table(tail_rows(results))


def _hard_html(results: Sequence[ModelResult]) -> Iterable[str]:
    rows = hard_rows(results)
    if rows:
        yield "<h2>Look-alikes that are no copies</h2>"
        yield _paragraph(
            "Share that would wrongly be removed: of the pictures that had an earlier one of their"
            " group before them, those that the leader would drop at the model's threshold. With"
            " hashes: by both measures, as nights with the model decide by default."
        )
        yield _table(rows)


def _pictures_html(task: Task, results: Sequence[ModelResult]) -> Iterable[str]:
    for result in results:
        sections = [
            ("Missed: copy | original", _pairs(task, result.missed)),
            ("Most similar and no copies: query | reference", _pairs(task, result.look_alike)),
        ]
        out = io.BytesIO()
        contact_sheet(sections).save(out, "JPEG", quality=80)
        data = base64.b64encode(out.getvalue()).decode()
        yield f"<h2>To look at: {escape(result.model)}</h2>"
        yield _paragraph(
            "Pairs in the second part that are copies after all were counted as false: they came"
            " with the pictures."
        )
        yield f'<img alt="pairs of pictures" src="data:image/jpeg;base64,{data}"/>'


def _pairs(task: Task, shown: Sequence[Shown]) -> list[Pair]:
    return [
        (
            task.queries.get(item.query),
            task.references.get(item.reference),
            f"{item.similarity:.3f} {item.said}",
        )
        for item in shown
    ]


def _paragraph(text: str) -> str:
    return f'<p class="note">{escape(one_line(text))}</p>' if text else ""


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = []
    for row in rows:
        cells = []
        for name in names:
            text = _text(row.get(name))
            number = text[:1].isdigit() or text[:2].lstrip("-").isdigit()
            style = ' class="n"' if number else ""
            cells.append(f"<td{style}>{escape(one_line(text))}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return _listed(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _listed(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
