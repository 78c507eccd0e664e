"""What is evaluated: queries, references and the true pairs between them.

Here are any pictures with a csv of pairs, and copies made of a user's own; ``layouts`` has the
known test sets.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sscd_ops.core.interpret import is_image_extension
from sscd_ops.errors import DataError, UsageError
from sscd_ops.evaluation.picture_sets import (
    Joined,
    PictureSet,
    SourceSet,
    Spool,
    Subset,
    numbered,
    open_set,
)
from sscd_ops.evaluation.transformations import BY_NAME, Kind, kinds, make_copy
from sscd_ops.ports import Rooms

MOST_PICTURES = 2000
"""Taken of a user's own, where neither a number nor a list is given."""
NEIGHBOURS = 10
"""References predicted for each query, as SSCD's evaluation does (500,000 of 50,000 queries)."""


@dataclass
class Task:
    """Queries against references.

    Attributes:
        protocol: ``disc21``, ``copydays``, ``pairs`` or ``make-copies``.
        queries, references: the two sides.
        truth: int64 (g, 2), rows of the true (query, reference) pairs.
        picture: int64 (q,), which picture each query shows: what the bootstrap draws.
        kind: each query's transformation and severity, or None.
        training: pictures that are no copies of the others, for whitening and score normalisation.
        strangers: pictures none of which is a copy of another, for the tail; None: the references.
        neighbours: references predicted for a query.
        facts: what a reader of the report should know about how it was made.
    """

    protocol: str
    queries: PictureSet
    references: PictureSet
    truth: NDArray[np.int64]
    picture: NDArray[np.int64]
    kind: list[Kind | None] = field(default_factory=list)
    training: PictureSet | None = None
    strangers: PictureSet | None = None
    neighbours: int = NEIGHBOURS
    facts: dict[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------- pairs


@dataclass(frozen=True)
class Pairs:
    """A ground truth file: true pairs by name, and queries it lists without a reference."""

    pairs: list[tuple[str, str]]
    without: list[str]


def read_pairs(path: Path) -> Pairs:
    """Read a csv of ``query_id,reference_id``, with or without that header.

    An empty reference says that the query has none (it is a distractor).

    Raises:
        UsageError: the file is not there, or a row has no two columns.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    pairs, without = [], []
    for number, row in enumerate(csv.reader(text.splitlines()), 1):
        if not row or (number == 1 and _is_header(row)):
            continue
        if len(row) < 2:
            raise UsageError(f"{path}, line {number}: expected query,reference, not {row!r}")
        query, reference = (_name(cell) for cell in row[:2])
        if reference:
            pairs.append((query, reference))
        else:
            without.append(query)
    if not pairs:
        raise UsageError(f"{path}: no pair in it; expected lines of query,reference")
    return Pairs(pairs, without)


def _is_header(row: Sequence[str]) -> bool:
    return row[0].strip().lower() in ("query_id", "query", "query_image_id")


def _name(cell: str) -> str:
    """A picture's name as a set has it: without a picture's extension."""
    text = cell.strip()
    stem, dot, extension = text.rpartition(".")
    return stem if dot and is_image_extension(extension) else text


def truth_rows(
    pairs: Pairs, queries: PictureSet, references: PictureSet, path: Path
) -> NDArray[np.int64]:
    """Rows of the true pairs.

    Raises:
        UsageError: a pair names a picture that is not there.
    """
    of_query = numbered(queries.names, "queries")
    of_reference = numbered(references.names, "references")
    for what, table, names in (
        ("query", of_query, [q for q, _ in pairs.pairs]),
        ("reference", of_reference, [r for _, r in pairs.pairs]),
    ):
        missing = [name for name in names if name not in table]
        if missing:
            raise UsageError(
                f"{path}: {what} {missing[0]!r} is no readable picture ({len(missing)} such):"
                " names are keys, or paths below the folder without the extension"
            )
    rows = sorted({(of_query[q], of_reference[r]) for q, r in pairs.pairs})
    return np.array(rows, np.int64)


def pairs_task(
    rooms: Rooms,
    queries: Sequence[str],
    references: Sequence[str],
    pairs: Path,
    training: Sequence[str] = (),
) -> Task:
    """Any pictures with a csv of true pairs.

    Raises:
        UsageError: files are missing, or the csv names a picture that is not there.
    """
    listed = read_pairs(pairs)
    ask = open_set(rooms, queries)
    answer = open_set(rooms, references)
    return Task(
        "pairs",
        ask,
        answer,
        truth_rows(listed, ask, answer, pairs),
        np.arange(len(ask)),
        [None] * len(ask),
        open_set(rooms, training) if training else None,
        facts={"pairs": str(pairs), **facts_of(queries=ask, references=answer)},
    )


def facts_of(**sets: PictureSet) -> dict[str, Any]:
    """How many pictures the sets hold, and what their sources quarantined."""
    facts: dict[str, Any] = {name: len(pictures) for name, pictures in sets.items()}
    left_out: Counter[str] = Counter()
    for pictures in sets.values():
        left_out += _left_out(pictures)
    if left_out:
        facts["left_out"] = dict(left_out)
    return facts


def _left_out(pictures: PictureSet) -> Counter[str]:
    """What the sources of a set quarantined."""
    if isinstance(pictures, SourceSet):
        return pictures.left_out
    if isinstance(pictures, Subset):
        return _left_out(pictures.whole)
    if isinstance(pictures, Joined):
        return sum((_left_out(one) for one in pictures.sets), Counter())
    return Counter()


# ---------------------------------------------------------------- made copies


@dataclass(frozen=True)
class Making:
    """How copies are made.

    Attributes:
        each: copies of references, and as many of outsiders, for every transformation and severity.
        outsiders: share of the pictures that are no references: their copies match nothing.
        pictures: taken of the user's, at most, 0: all; None: all that ``only`` names, else some.
        names: only these transformations; empty: all.
        only: names of the pictures taken; None: all.
        seed: of the draws.
    """

    each: int = 40
    outsiders: float = 0.3
    pictures: int | None = None
    names: tuple[str, ...] = ()
    seed: int = 0
    only: frozenset[str] | None = None

    @property
    def limit(self) -> int:
        """Pictures taken at most; 0: all. A list means all of its pictures."""
        if self.pictures is not None:
            return self.pictures
        return MOST_PICTURES if self.only is None else 0


def read_names(path: Path) -> frozenset[str]:
    """Names of pictures, one a line (of a csv: its first column), with or without extension.

    A first line that begins with ``key`` is a header.

    Raises:
        UsageError: the file is not there, no text, or empty.
    """
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected UTF-8 text, one name a line ({error})") from error
    if rows and rows[0][0].strip() == "key":
        del rows[0]
    names = frozenset(_name(row[0]) for row in rows) - {""}
    if not names:
        raise UsageError(f"{path}: no name in it; expected one picture a line")
    return names


def made_task(
    rooms: Rooms,
    urls: Sequence[str],
    making: Making,
    training: Sequence[str] = (),
    distractors: Sequence[str] = (),
) -> Task:
    """Copies made of a user's own pictures.

    The pictures (equal bytes once) are split, by their bytes and the seed, into references and
    outsiders. Every transformation in every severity is done to some references (the true pairs)
    and to as many outsiders, whose copies match nothing: so a false match is met under the same
    edits as a true one. Distractors are more references that nothing was made of.

    Raises:
        UsageError: an unknown transformation, or too few pictures.
    """
    unknown = [name for name in making.names if name not in BY_NAME]
    if unknown:
        raise UsageError(f"no transformation {unknown[0]!r}; there are: {', '.join(BY_NAME)}")
    originals, facts = _originals(rooms, urls, making)
    outside = np.array([_draw(originals.get(row), making) for row in range(len(originals))])
    inside = np.flatnonzero(~outside)
    others = np.flatnonzero(outside)
    if len(inside) < 2 or not len(others):
        raise UsageError(
            f"{len(originals)} different pictures are too few: at least two references and one"
            " outsider must be among them, which 20 or so give"
        )
    at = {int(row): number for number, row in enumerate(inside)}
    chance = np.random.default_rng(making.seed)
    copies = Spool()
    truth, picture = [], []
    kind: list[Kind | None] = []
    wanted = kinds(making.names)
    rooms.progress.start("making copies", len(wanted))
    failed = 0
    for one in wanted:
        for group in (inside, others):
            for row in sorted(chance.permutation(group)[: making.each].tolist()):
                try:
                    data = make_copy(originals.get(row), one, making.seed)
                except DataError:
                    failed += 1
                    continue
                if row in at:
                    truth.append((len(copies), at[row]))
                picture.append(row)
                kind.append(one)
                copies.add(f"{originals.names[row]}-{one.transformation}-{one.severity}", data)
        rooms.progress.advance()
    rooms.progress.done()
    facts |= {
        "references": len(inside),
        "outsiders": len(others),
        "copies": len(copies),
        "copies_of_references": len(truth),
        "transformations": len({one.transformation for one in wanted}),
        "seed": making.seed,
    }
    if failed:
        facts["could_not_be_copied"] = failed
    references: PictureSet = Subset(originals, inside.tolist())
    if distractors:
        more = open_set(rooms, distractors)
        references = Joined([references, more])
        facts["distractors"] = len(more)
    return Task(
        "make-copies",
        copies,
        references,
        np.array(truth, np.int64).reshape(-1, 2),
        np.array(picture, np.int64),
        kind,
        open_set(rooms, training) if training else None,
        originals,
        facts=facts,
    )


def _originals(rooms: Rooms, urls: Sequence[str], making: Making) -> tuple[Spool, dict[str, Any]]:
    """The user's pictures, equal bytes once."""
    source = open_set(rooms, urls, limit=making.limit, only=making.only, seed=making.seed)
    spool = Spool()
    seen: set[bytes] = set()
    for name, data in zip(source.names, source, strict=True):
        digest = hashlib.sha256(data).digest()
        if digest not in seen:
            seen.add(digest)
            spool.add(name, data)
    facts: dict[str, Any] = {"pictures": len(spool)}
    if making.only is not None:
        facts["names_listed"] = len(making.only)
    if source.unknown:
        facts["names_of_no_picture"] = len(source.unknown)
        facts["such_as"] = source.unknown[0]
    if len(source) > len(spool):
        facts["equal_bytes"] = len(source) - len(spool)
    if source.left_out:
        facts["left_out"] = dict(source.left_out)
    return spool, facts


def _draw(data: bytes, making: Making) -> bool:
    """Whether a picture is an outsider: by its bytes, so that more pictures move no other."""
    digest = hashlib.sha256(f"outsider|{making.seed}|".encode() + data).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < making.outsiders
