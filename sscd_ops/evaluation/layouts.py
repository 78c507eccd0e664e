"""Known test sets as they lie on disk: DISC21 in two layouts, Copydays with distractors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscd_ops.errors import UsageError
from sscd_ops.evaluation.picture_sets import Joined, PictureSet, Subset, open_set
from sscd_ops.evaluation.tasks import Task, facts_of, read_pairs, truth_rows
from sscd_ops.evaluation.transformations import Kind
from sscd_ops.ports import Rooms

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
        UsageError: one of them is missing.
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
        truth_rows(listed, queries, references, truth_file),
        np.arange(len(queries)),
        [None] * len(queries),
        open_set(rooms, background) if background else None,
        facts={**facts_of(queries=queries, references=references), **facts},
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
        UsageError: a block is missing, has another number of files than there are originals, or
            has a file of an original's name in another place.
    """
    blocks = _copydays_blocks(root)
    originals = open_set(rooms, [str(root / "original")])
    names = [name.rpartition("/")[2] for name in originals.names]
    place = {_stem(name): row for row, name in enumerate(names)}
    sets: list[PictureSet] = [originals]
    kind: list[Kind | None] = [Kind("original", 0)] * len(originals)
    truth = [(row, row) for row in range(len(originals))]
    shows = list(range(len(originals)))
    for block, label in blocks:
        edited = open_set(rooms, [str(block)])
        if label.transformation != "strong" and len(edited) != len(originals):
            raise UsageError(
                f"{block} has {len(edited)} readable pictures, and there are {len(originals)}"
                " originals: the i-th file is to show the i-th original"
            )
        start = len(kind)
        for row, name in enumerate(edited.names):
            mine = [row]
            named = place.get(_stem(name), row)
            if label.transformation != "strong" and named != row:
                raise UsageError(
                    f"{block}: {name} is picture {row + 1} there and {named + 1} of the originals:"
                    " one of either is missing or can't be read"
                )
            if label.transformation == "strong":
                head = name.rpartition("/")[2][:4]
                mine = [i for i, other in enumerate(names) if other[:4] == head]
            truth += [(start + row, reference) for reference in mine]
            shows.append(mine[0] if mine else len(originals))
        sets.append(edited)
        kind += [label] * len(edited)
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
        facts=facts_of(queries=queries, references=references),
    )


def _stem(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]


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
