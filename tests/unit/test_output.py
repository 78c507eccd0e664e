"""What commands print of what strangers wrote."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

import pytest

from sscd_ops.cli.output import print_fields, print_rows, say

HOSTILE = [
    '=HYPERLINK("http://x","y")',
    "+1+1",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "  =1+1",
    "\x00=1+1",
    "\uff1d1+1",
    "-5",
]
MOVING = "a\x1b[2J\x1b]0;title\x07b\r\nc\x9bd\u202ee"


def cells(capsys) -> list[list[str]]:
    return list(csv.reader(io.StringIO(capsys.readouterr().out)))


@pytest.mark.parametrize("text", HOSTILE)
def test_no_cell_of_a_csv_file_is_a_formula(capsys, text):
    print_rows([{"key": text, "meta": {"x": text}, "list": [text]}], "csv")
    rows = cells(capsys)
    print_fields({"key": text}, "csv")

    for row in (rows[1], cells(capsys)[1]):
        assert row[0].startswith("'"), "an apostrophe: text, to every spreadsheet"
        assert row[0].strip("' ") == " ".join(text.replace("\x00", " ").split())
    assert rows[1][1][0] == "{"
    assert rows[1][2][0] == "["


def test_numbers_stay_numbers_and_plain_text_stays_itself(capsys):
    print_rows(
        [{"a": -0.5, "b": -3, "c": Decimal(-2), "d": "it's = 1", "e": None, "f": True}], "csv"
    )

    assert cells(capsys)[1] == ["-0.5", "-3", "-2", "it's = 1", "", "True"]


@pytest.mark.parametrize("form", ["csv", "table"])
def test_nothing_moves_the_cursor(capsys, form):
    print_rows([{"key": MOVING, "meta": {"caption": MOVING}}], form)
    print_fields({"key": MOVING, "meta": [MOVING]}, form)
    say(f"late: {MOVING}")

    out, err = capsys.readouterr()
    assert not set("\x1b\x07\r\x9b\u202e") & set(out + err)
    assert err.startswith("late: a [2J ]0;title b \nc d e")


@pytest.mark.parametrize("text", [*HOSTILE, MOVING])
def test_json_is_exact(capsys, text):
    print_rows([{"key": text}], "json")

    assert json.loads(capsys.readouterr().out) == [{"key": text}]
