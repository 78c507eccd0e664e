"""What moves a dataset's numbers stands in one room: ``steps.turns``, and its SQL in two."""

from __future__ import annotations

import re
from pathlib import Path

import sscd_ops

ROOT = Path(sscd_ops.__file__).parent
CODE = {str(path.relative_to(ROOT)): path.read_text() for path in ROOT.rglob("*.py")}


def rooms_with(pattern: str) -> set[str]:
    return {name for name, text in CODE.items() if re.search(pattern, text)}


def test_only_turns_puts_decisions_in_force_and_moves_the_numbers() -> None:
    assert rooms_with(r"\bdatasets\.advance\(") == {"steps/turns.py"}
    assert rooms_with(r"\bdecisions\.put_in_force\(") == {"steps/turns.py"}


def test_no_other_statement_writes_them() -> None:
    assert rooms_with(r"\bSET next_turn\b") == {"catalog/datasets.py"}
    assert rooms_with(r"INSERT INTO sscd_ops\.generations\b") == {"catalog/datasets.py"}
    assert rooms_with(r"UPDATE sscd_ops\.decisions\s+SET turn\b") == {"catalog/decisions.py"}


def test_what_a_decision_said_first_is_never_written_again() -> None:
    """Later verdicts are rows of ``changes``; a try that was given up is deleted.

    Save what people had forgotten: texts, and where a descriptor was.
    """
    assert rooms_with(r"UPDATE sscd_ops\.(images|samples|matches)\b") == {"catalog/forgotten.py"}
    assert rooms_with(r"UPDATE sscd_ops\.\w+[^\"]* SET [^\"]*\bverdict =") == set()
    assert rooms_with(r"UPDATE sscd_ops\.changes\b") == {"catalog/decisions.py"}
