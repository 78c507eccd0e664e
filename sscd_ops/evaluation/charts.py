"""Charts as hand-written SVG: no plotting library, and they scale on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#e09f3e", "#6d597a", "#222222")
_WIDTH, _HEIGHT = 620, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 16, 46


@dataclass(frozen=True)
class Series:
    """A line: its name and (x, y) points."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """A vertical line at x with a word beside it."""

    at: float
    said: str


class _Axes:
    """Data to pixels."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x = x
        self.y = y

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x: tuple[float, float] = (0.0, 1.0),
    y: tuple[float, float] = (0.0, 1.0),
) -> str:
    """Lines over two linear axes."""
    axes = _Axes(x, y)
    parts = [*_frame(axes, x_label, y_label), *_legend([s.name for s in series])]
    for number, item in enumerate(series):
        places = [axes.place(*point) for point in item.points]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return _svg(parts)


def histogram(
    edges: Sequence[float],
    counts: Sequence[tuple[str, Sequence[int]]],
    *,
    x_label: str,
    marks: Sequence[Mark] = (),
) -> str:
    """Shares by bin, one over the other; each row of counts adds up to 1."""
    shares = [(name, [c / max(1, sum(row)) for c in row]) for name, row in counts]
    top = max((value for _, row in shares for value in row), default=0.0) or 1.0
    axes = _Axes((edges[0], edges[-1]), (0.0, top * 1.05))
    parts = [*_frame(axes, x_label, "share"), *_legend([name for name, _ in shares])]
    for number, (_, row) in enumerate(shares):
        colour = COLOURS[number % len(COLOURS)]
        for at, value in enumerate(row):
            if value:
                left, up = axes.place(edges[at], value)
                right, down = axes.place(edges[at + 1], 0.0)
                parts.append(
                    f'<rect x="{left:.1f}" y="{up:.1f}" width="{right - left:.1f}"'
                    f' height="{down - up:.1f}" fill="{colour}" fill-opacity="0.55"/>'
                )
    for mark in marks:
        if edges[0] <= mark.at <= edges[-1]:
            left, up = axes.place(mark.at, axes.y[1])
            _, down = axes.place(mark.at, 0.0)
            parts.append(
                f'<line x1="{left:.1f}" y1="{up:.1f}" x2="{left:.1f}" y2="{down:.1f}"'
                ' stroke="#222" stroke-dasharray="4 3"/>'
                f'<text x="{left + 4:.1f}" y="{up + 70:.1f}">{escape(mark.said)}</text>'
            )
    return _svg(parts)


def _frame(axes: _Axes, x_label: str, y_label: str) -> list[str]:
    parts = []
    for step in range(6):
        x = axes.x[0] + (axes.x[1] - axes.x[0]) * step / 5
        y = axes.y[0] + (axes.y[1] - axes.y[0]) * step / 5
        left, bottom = axes.place(x, axes.y[0])
        edge, top = axes.place(axes.x[0], y)
        right, _ = axes.place(axes.x[1], y)
        parts.append(
            f'<line x1="{edge:.1f}" y1="{top:.1f}" x2="{right:.1f}" y2="{top:.1f}"'
            ' stroke="#ddd"/>'
            f'<text x="{left:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{x:.3g}</text>'
            f'<text x="{edge - 6:.1f}" y="{top + 4:.1f}" text-anchor="end">{y:.3g}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(14 {_HEIGHT / 2}) rotate(-90)"'
        f' text-anchor="middle">{escape(y_label)}</text>'
    )
    return parts


def _legend(names: Sequence[str]) -> list[str]:
    return [
        f'<rect x="{_LEFT + 10}" y="{_TOP + 6 + 18 * number}" width="12" height="12"'
        f' fill="{COLOURS[number % len(COLOURS)]}"/>'
        f'<text x="{_LEFT + 28}" y="{_TOP + 16 + 18 * number}">{escape(name)}</text>'
        for number, name in enumerate(names)
    ]


def _svg(parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' width="{_WIDTH}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )
