"""What commands print: results on stdout as a table, csv or json; everything else on stderr."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import click

FORMATS = click.Choice(["table", "csv", "json"])


def plain(value: Any) -> Any:
    """A catalog value as JSON holds it."""
    if isinstance(value, (memoryview, bytes)):
        return bytes(value).hex()
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if value is None or isinstance(value, (bool, int, float, str, dict, list)):
        return value
    return str(value)


def print_rows(rows: Iterable[Mapping[str, Any]], form: str, columns: Sequence[str] = ()) -> None:
    """Print rows; ``columns`` says which there are where there is no row."""
    plain_rows = [{name: plain(value) for name, value in row.items()} for row in rows]
    names = list(plain_rows[0]) if plain_rows else list(columns)
    if form == "json":
        click.echo(json.dumps(plain_rows, indent=1, ensure_ascii=False))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(plain_rows)
    else:
        _table(plain_rows, names)


def _table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not rows:
        say("nothing there")
        return
    if not sys.stdout.isatty():
        _aligned(rows, names)
        return
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
    text = str(value).replace("\n", " ")
    return text if len(text) <= 80 else text[:79] + "…"


def print_fields(fields: Mapping[str, Any], form: str) -> None:
    """Print one thing: a line a field, or JSON."""
    shown = {name: plain(value) for name, value in fields.items()}
    if form == "json":
        click.echo(json.dumps([shown], indent=1, ensure_ascii=False))
        return
    if form == "csv":
        print_rows([fields], form)
        return
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        if value not in (None, ""):
            click.echo(f"{name:<{width}}  {value}")


def say(message: str) -> None:
    """A sentence for the person at the terminal, on stderr."""
    click.echo(message, err=True)
