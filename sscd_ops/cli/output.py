"""What commands print: results on stdout as a table, csv or json; everything else on stderr."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import click

from sscd_ops.masking import harmless, one_line

FORMATS = click.Choice(["table", "csv", "json"])
# Captions and keys come from strangers: nothing in them may move a terminal's cursor or colours,
# nor be a formula to the program that opens a csv file.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_WIDEST = 80


def plain(value: Any) -> Any:
    """A catalog value as JSON holds it."""
    if isinstance(value, (memoryview, bytes)):
        return bytes(value).hex()
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if value is None or isinstance(value, (bool, int, float, str, dict, list)):
        return value
    if isinstance(value, Decimal):  # a sum of counts
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON holds it."""
    return {name: plain(value) for name, value in row.items()}


def print_rows(rows: Iterable[Mapping[str, Any]], form: str, columns: Sequence[str] = ()) -> None:
    """Print rows: csv and json with all they have, a table with ``columns``, if given."""
    plain_rows = [plain_row(row) for row in rows]
    if form == "json":
        _json(plain_rows)
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        names = list(plain_rows[0]) if plain_rows else columns
        if names:
            writer.writerow(names)
        writer.writerows([_csv(value) for value in row.values()] for row in plain_rows)
    elif not plain_rows:
        say("nothing there")
    else:
        _table(plain_rows, columns or list(plain_rows[0]))


def _json(rows: Sequence[Mapping[str, Any]]) -> None:
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    click.echo(json.dumps(rows, indent=1, ensure_ascii=not unicode))


def _csv(value: Any) -> Any:
    """A cell that no spreadsheet runs: text that begins like a formula gets an apostrophe."""
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if _FORMULA.match(text) else text


def _table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    if not sys.stdout.isatty():
        _aligned(rows, names)
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        number = all(isinstance(row[name], (int, float, type(None))) for row in rows)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in names))
    console.print(table)


def _aligned(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Columns two spaces apart, nothing folded: what a pipe or a log wants."""
    cells = [list(names), *([_text(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _cell(value: Any) -> str:
    from rich.markup import escape

    return escape(_text(value))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    text = one_line(str(value))
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def print_fields(fields: Mapping[str, Any], form: str) -> None:
    """Print one thing: a line a field, or JSON."""
    shown = {name: plain(value) for name, value in fields.items()}
    if form == "json":
        _json([shown])
        return
    if form == "csv":
        print_rows([fields], form)
        return
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        if value not in (None, ""):
            text = one_line(value) if isinstance(value, str) else _text(value)
            click.echo(f"{name:<{width}}  {text}")


def print_line(text: str) -> None:
    """A line of the result that is words for people, on stdout."""
    click.echo(harmless(text))


def say(message: str) -> None:
    """A sentence for the person at the terminal, on stderr."""
    click.echo(harmless(message), err=True)
