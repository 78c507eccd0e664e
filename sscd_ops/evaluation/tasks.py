"""What is evaluated: queries, references and the true pairs between them.

Layouts that are read: DISC21 as SSCD's evaluation lays it out, or as the challenge's repository;
Copydays (with distractors), any pictures with a csv of pairs; and copies made of a user's own.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sscd_ops.core.interpret import is_image_extension
from sscd_ops.errors import DataError, UsageError
from sscd_ops.evaluation.pictures import (
    Joined,
    PictureSet,
    SourceSet,
    Spool,
    Subset,
    numbered,
    open_set,
)
from sscd_ops.evaluation.rooms import Rooms
from sscd_ops.evaluation.transformations import BY_NAME, Kind, kinds, make_copy

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


def _truth(
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
        _truth(listed, ask, answer, pairs),
        np.arange(len(ask)),
        [None] * len(ask),
        open_set(rooms, training) if training else None,
        facts={"pairs": str(pairs), **_counts(queries=ask, references=answer)},
    )


def _counts(**sets: PictureSet) -> dict[str, Any]:
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
        return sum((_left_out(part) for part in pictures.parts), Counter())
    return Counter()


# ---------------------------------------------------------------- DISC21

_DISC21: Mapping[str, tuple[str, ...]] = {
    "queries": ("val_query", "images/queries", "queries", "dev_queries"),
    "references": ("val_ref", "images/references", "references"),
    "training": ("training", "images/train", "train"),
    "ground truth": (
        "val_groundtruth_matches.csv",
        "list_files/public_ground_truth.csv",
        "public_ground_truth.csv",
        "dev_ground_truth.csv",
    ),
}


def disc21_task(rooms: Rooms, root: Path, training: Sequence[str] = ()) -> Task:
    """DISC21: folders of queries, references and training pictures, and the ground truth csv.

    Both known layouts are taken: SSCD's (``val_query``, ``val_ref``, ``training``,
    ``val_groundtruth_matches.csv``) and the challenge's (``images/queries`` ...,
    ``list_files/public_ground_truth.csv``). Where the csv lists queries without a reference it is
    complete, and queries it does not list are left out.

    Raises:
        UsageError: a part is missing.
    """
    found = {what: _first(root, what) for what in ("queries", "references", "ground truth")}
    truth_file = found["ground truth"]
    listed = read_pairs(truth_file)
    everything = open_set(rooms, [str(found["queries"])])
    queries: PictureSet = everything
    facts: dict[str, Any] = {}
    if listed.without:
        wanted = {query for query, _ in listed.pairs} | set(listed.without)
        rows = [row for row, name in enumerate(everything.names) if name in wanted]
        if len(rows) < len(everything):
            facts["queries_not_listed"] = len(everything) - len(rows)
            queries = Subset(everything, rows)
    references = open_set(rooms, [str(found["references"])])
    background = list(training)
    if not background:
        at = next((root / name for name in _DISC21["training"] if (root / name).is_dir()), None)
        background = [str(at)] if at else []
    return Task(
        "disc21",
        queries,
        references,
        _truth(listed, queries, references, truth_file),
        np.arange(len(queries)),
        [None] * len(queries),
        open_set(rooms, background) if background else None,
        facts={**_counts(queries=queries, references=references), **facts},
    )


def _first(root: Path, what: str) -> Path:
    for name in _DISC21[what]:
        if (root / name).exists():
            return root / name
    raise UsageError(
        f"{root}: no DISC21 {what}: expected one of {', '.join(_DISC21[what])} below it"
    )


# ---------------------------------------------------------------- Copydays

COPYDAYS_NEIGHBOURS = 100


def copydays_task(
    rooms: Rooms, root: Path, distractors: Sequence[str] = (), training: Sequence[str] = ()
) -> Task:
    """Copydays (Douze et al., CIVR 2009): originals, strong edits, JPEG qualities, crops.

    The database is the originals and the distractors; every picture is a query, the originals too.
    In ``jpegqual`` and ``crops`` the i-th file shows the i-th original; a ``strong`` file shows the
    originals whose names share its first four characters.

    Raises:
        UsageError: a block is missing or has another number of files than there are originals.
    """
    blocks = _copydays_blocks(root)
    originals = open_set(rooms, [str(root / "original")])
    names = [name.rpartition("/")[2] for name in originals.names]
    sets: list[PictureSet] = [originals]
    kind: list[Kind | None] = [Kind("original", 0)] * len(originals)
    truth = [(row, row) for row in range(len(originals))]
    shows = list(range(len(originals)))
    for block, label in blocks:
        part = open_set(rooms, [str(block)])
        if label.transformation != "strong" and len(part) != len(originals):
            raise UsageError(
                f"{block} has {len(part)} readable pictures, and there are {len(originals)}"
                " originals: the i-th file is to show the i-th original"
            )
        start = len(kind)
        for row, name in enumerate(part.names):
            mine = [row]
            if label.transformation == "strong":
                head = name.rpartition("/")[2][:4]
                mine = [i for i, other in enumerate(names) if other[:4] == head]
            truth += [(start + row, reference) for reference in mine]
            shows.append(mine[0] if mine else len(originals))
        sets.append(part)
        kind += [label] * len(part)
    references: PictureSet = originals
    if distractors:
        references = Joined([originals, open_set(rooms, distractors)])
    queries = Joined(sets)
    return Task(
        "copydays",
        queries,
        references,
        np.array(truth, np.int64),
        np.array(shows, np.int64),
        kind,
        open_set(rooms, training) if training else None,
        neighbours=COPYDAYS_NEIGHBOURS,
        facts=_counts(queries=queries, references=references),
    )


def _copydays_blocks(root: Path) -> list[tuple[Path, Kind]]:
    if not (root / "original").is_dir():
        raise UsageError(
            f"{root}: no Copydays: expected folders original, strong, jpegqual/NN and crops/NN"
        )
    found = [(root / "strong", Kind("strong", 0))] if (root / "strong").is_dir() else []
    for name in ("jpegqual", "crops"):
        folder = root / name
        inside = [f for f in folder.iterdir() if f.name.isdigit()] if folder.is_dir() else []
        found += [(f, Kind(name, int(f.name))) for f in sorted(inside, key=lambda f: int(f.name))]
    return found


# ---------------------------------------------------------------- made copies


@dataclass(frozen=True)
class Making:
    """How copies are made.

    Attributes:
        each: copies of references, and as many of outsiders, for every transformation and severity.
        outsiders: share of the pictures that are no references: their copies match nothing.
        pictures: taken of the user's, at most; 0: all.
        names: only these transformations; empty: all.
        seed: of the draws.
    """

    each: int = 40
    outsiders: float = 0.3
    pictures: int = 2000
    names: tuple[str, ...] = ()
    seed: int = 0


def made_task(
    rooms: Rooms, urls: Sequence[str], making: Making, training: Sequence[str] = ()
) -> Task:
    """Copies made of a user's own pictures.

    The pictures (equal bytes once) are split, by their bytes and the seed, into references and
    outsiders. Every transformation in every severity is done to some references (the true pairs)
    and to as many outsiders, whose copies match nothing: so a false match is met under the same
    edits as a true one.

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
            f"{len(originals)} different pictures are too few: with 20 or more there are references"
            " and outsiders"
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
    return Task(
        "make-copies",
        copies,
        Subset(originals, inside.tolist()),
        np.array(truth, np.int64).reshape(-1, 2),
        np.array(picture, np.int64),
        kind,
        open_set(rooms, training) if training else None,
        originals,
        facts=facts,
    )


def _originals(rooms: Rooms, urls: Sequence[str], making: Making) -> tuple[Spool, dict[str, Any]]:
    """The user's pictures, equal bytes once."""
    source = open_set(rooms, urls, limit=making.pictures)
    spool = Spool()
    seen: set[bytes] = set()
    for name, data in zip(source.names, source, strict=True):
        digest = hashlib.sha256(data).digest()
        if digest not in seen:
            seen.add(digest)
            spool.add(name, data)
    facts: dict[str, Any] = {"pictures": len(spool)}
    if len(source) > len(spool):
        facts["equal_bytes"] = len(source) - len(spool)
    if source.left_out:
        facts["left_out"] = dict(source.left_out)
    return spool, facts


def _draw(data: bytes, making: Making) -> bool:
    """Whether a picture is an outsider: by its bytes, so that more pictures move no other."""
    digest = hashlib.sha256(f"outsider|{making.seed}|".encode() + data).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < making.outsiders
