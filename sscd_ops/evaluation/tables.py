"""An evaluation as rows for a terminal and as JSON."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sscd_ops import __version__
from sscd_ops.evaluation.cascade import Cascade, combine
from sscd_ops.evaluation.metrics import ConfidenceInterval
from sscd_ops.evaluation.results import ModelResult
from sscd_ops.evaluation.tail import FalseMatches
from sscd_ops.evaluation.tasks import Task
from sscd_ops.evaluation.transformations import Kind

Row = dict[str, Any]

_SIZE_NAMES = {10**k: f"10^{k}" for k in range(1, 13)}


# ---------------------------------------------------------------- tables


def variant_rows(results: Sequence[ModelResult]) -> list[Row]:
    """uAP, R@P90, accuracy@1 and the thresholds, a row for each model and way of scoring."""
    rows = []
    for result in results:
        for variant in result.variants:
            summary = variant.summary
            row: Row = {
                "model": result.model,
                "scored": variant.name,
                "uAP": _share(summary.micro_ap, summary.micro_ap_interval),
                "R@P90": _share(summary.recall_at_p90, summary.recall_at_p90_interval),
                "acc@1": _share(summary.accuracy_at_1, summary.accuracy_at_1_interval),
            }
            for precision, point in summary.points.items():
                name = f"{float(precision) * 100:g}%"
                row[f"threshold for {name}"] = None if point is None else f"{point.threshold:.3f}"
            rows.append(row)
    return rows


def threshold_rows(results: Sequence[ModelResult]) -> list[Row]:
    """What each model's own threshold gives."""
    return [
        {
            "model": result.model,
            "threshold": f"{found.threshold:.3f}",
            "recall": _share(found.recall, found.recall_interval),
            "precision": "" if found.precision is None else f"{found.precision:.4f}",
            "false_matches": f"{found.false_matches} by {found.queries} queries",
            "images_per_s": round(result.images_per_second),
        }
        for result in results
        for found in [result.at_threshold]
    ]


def kind_rows(results: Sequence[ModelResult]) -> list[Row]:
    """Recall by transformation and severity, a column for each model."""
    rows: dict[Kind, Row] = {}
    several = len(results) > 1
    for result in results:
        for item in result.kinds:
            row = rows.setdefault(
                item.kind,
                {
                    "transformation": item.kind.transformation + ("*" if item.unseen else ""),
                    "severity": item.kind.severity,
                    "copies": item.queries,
                },
            )
            name = f"{result.model} " if several else ""
            row[f"{name}recall"] = f"{item.recall:.2f}"
            low, high = item.interval
            row[f"{name}95%"] = f"{low:.2f}-{high:.2f}"
            for precision, share in item.at_precision.items():
                if precision != "0.9":
                    label = f"{name}at {float(precision) * 100:g}% precision"
                    row[label] = "" if share is None else f"{share:.2f}"
            row[f"{name}similarity"] = f"{item.median:.3f}" if item.median > -1 else ""
            if item.mean_ap is not None:
                row[f"{name}mAP"] = f"{item.mean_ap:.4f}"
    return list(rows.values())


def grid_rows(results: Sequence[ModelResult]) -> list[Row]:
    """Recall at the model's threshold, a row for each transformation, a column for a severity."""
    several = len(results) > 1
    rows: dict[str, Row] = {}
    for result in results:
        severities = sorted({item.kind.severity for item in result.kinds})
        for item in result.kinds:
            name = item.kind.transformation
            row = rows.setdefault(
                name,
                {"transformation": name + ("*" if item.unseen else ""), "copies": item.queries},
            )
            for severity in severities:
                row.setdefault(_severity(result, severity, several=several), "")
            row[_severity(result, item.kind.severity, several=several)] = f"{item.recall:.2f}"
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return [{name: row.get(name, "") for name in names} for row in rows.values()]


def _severity(result: ModelResult, severity: int, *, several: bool) -> str:
    return f"{result.model} {severity}" if several else f"severity {severity}"


def hard_rows(results: Sequence[ModelResult]) -> list[Row]:
    """Look-alikes that the model would wrongly merge."""
    any_hashed = any(item.merged_by_night is not None for r in results for item in r.hard)
    return [
        {
            "model": result.model,
            "set": item.name,
            "from": "made" if item.made else "given",
            "pictures": item.pictures,
            "could_merge": item.could,
            "wrongly_merged": item.merged,
            "share": _share(item.share, item.interval),
            **({"with_hashes": item.merged_by_night} if any_hashed else {}),
        }
        for result in results
        for item in result.hard
    ]


def tail_rows(results: Sequence[ModelResult]) -> list[Row]:
    """Expected false matches a new picture, by size of history."""
    rows = []
    for result in results:
        for item in result.false_matches:
            row: Row = {
                "model": result.model,
                "threshold": f"{item.threshold:.3f}",
                # only so many of the most similar pairs are kept
                "seen": f"{'over ' if item.measured else ''}{item.observed} of {item.pairs} pairs",
            }
            for size, middle, low, high in item.by_size:
                row[_SIZE_NAMES[size]] = _few(middle)
                if low is not None and high is not None:
                    row[_SIZE_NAMES[size]] += f" ({_few(low)}-{_few(high)})"
            rows.append(row)
    return rows


def cascades(results: Sequence[ModelResult]) -> list[Cascade]:
    """Each two models of a run, as one measure that calls a copy what either of them does."""
    return [
        combine(
            (one.model, other.model),
            (one.plain, other.plain),
            (one.at_threshold.threshold, other.at_threshold.threshold),
        )
        for one, other in itertools.combinations(results, 2)
        if one.plain is not None and other.plain is not None
    ]


def cascade_rows(found: Sequence[Cascade]) -> list[Row]:
    """What two models find together, beside what each finds alone, at equal precision."""
    rows: list[Row] = []
    for item in found:
        name = f"{item.first} or {item.second}"
        rows += [
            {
                "measures": name,
                "precision": f"{point.wanted * 100:g}%",
                "recall": _maybe(point.recall),
                f"{item.first} alone": _maybe(point.first_alone),
                f"{item.second} alone": _maybe(point.second_alone),
                "thresholds": f"{_maybe(point.first_threshold, 3) or 'none'},"
                f" {_maybe(point.second_threshold, 3) or 'none'}",
            }
            for point in item.points
        ]
        rows.append(
            {
                "measures": f"{name}, own thresholds",
                "precision": _maybe(item.precision),
                "recall": _maybe(item.recall),
            }
        )
    names = dict.fromkeys(name for row in rows for name in row if name != "thresholds")
    names["thresholds"] = None  # behind what every model finds alone
    return [{name: row.get(name, "") for name in names} for row in rows]


def _maybe(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _few(value: float) -> str:
    """Two significant digits: more would be a boast."""
    if value >= 100:
        digits = len(str(int(value))) - 2
        return f"{round(value, -digits):,.0f}"
    return f"{value:.2g}"


def notes(results: Sequence[ModelResult]) -> list[str]:
    """What a reader should know, each once."""
    said = [
        note if all(note in other.notes for other in results) else f"{result.model}: {note}"
        for result in results
        for note in result.notes
    ]
    said += [
        f"{result.model}: {no_tail(item)}"
        for result in results
        for item in result.false_matches
        if not item.by_size
    ]
    return list(dict.fromkeys(said))


def no_tail(item: FalseMatches) -> str:
    """Why nothing is foretold at a threshold."""
    if item.measured:
        return (
            f"at {item.threshold:.3f} over {item.observed} of {item.pairs} pairs of different"
            " pictures match: too many to speak of a tail"
        )
    few = f"{item.pairs} pairs of different pictures are too few to fit a tail"
    if item.too_few:
        few += (
            f": its {item.peaks} peaks would be {item.peaks / item.pairs:.1%} of them; give"
            f" {item.pictures_needed} pictures or more"
        )
    return few


def _share(value: float, interval: ConfidenceInterval | None) -> str:
    if interval is None:
        return f"{value:.4f}"
    return f"{value:.4f} ({interval[0]:.3f}-{interval[1]:.3f})"


# ---------------------------------------------------------------- JSON


def to_json(task: Task, results: Sequence[ModelResult]) -> str:
    """Every number, in full precision."""
    document = {
        "sscd_ops": __version__,
        "protocol": task.protocol,
        "facts": task.facts,
        "queries": len(task.queries),
        "references": len(task.references),
        "true_pairs": len(task.truth),
        "models": [_model_json(result) for result in results],
        "cascades": [dataclasses.asdict(item) for item in cascades(results)],
    }
    return json.dumps(document, indent=1, allow_nan=False)


def _model_json(result: ModelResult) -> Row:
    answer = dataclasses.asdict(dataclasses.replace(result, plain=None))
    del answer["plain"]
    answer["false_matches"] = [
        {
            **dataclasses.asdict(item),
            "by_size": [
                {"history": size, "expected": middle, "low": low, "high": high}
                for size, middle, low, high in item.by_size
            ],
            "extrapolation": True,
        }
        for item in result.false_matches
    ]
    for item, written in zip(result.hard, answer["hard"], strict=True):
        written["share"] = item.share
    finite: Row = _finite(answer)
    return finite


def _finite(value: Any) -> Any:
    """The value with None for what JSON has no number for."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
