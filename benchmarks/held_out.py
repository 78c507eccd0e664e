"""The bundled model's card: measured on pictures it was never shown, PDQ and `dct` beside it.

Held-out pictures are those of ``docs/models/sscd_small_heldout.csv``. Queries are copies of the
test pictures: every unseen transformation in three severities, and of some pictures the kind of
transformations trained on. References are all held-out pictures. One run, equal copies for all.

``docs/models/sscd_small_lookalikes.csv`` names those that are not different from each other: shots
of one object in one place (``burst``, whole folders of their repositories), one picture in two
frames or editions (``same_picture``), and two shots of one scene (``one_scene``). The main columns
are without bursts and with the first of each other group; rankings, the two measures together and
the thresholds of nights are given with all of them too. Bursts are a set of hard negatives.

Run: ``SSCD_OPS_TEST_DATA=FOLDER python -m benchmarks.held_out [--weights FILE] [--write]`` where
FOLDER has ``train/*.tar`` and ``train/index.csv.gz``; about five minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import held_out_card as card
from sscd_ops.core.perceptual import CODE, are_fit
from sscd_ops.descriptors.embedder import open_embedder
from sscd_ops.descriptors.models import MODELS
from sscd_ops.evaluation.describing import Described, describe, nearest
from sscd_ops.evaluation.lookalikes import HardResult, HardSet, judge, made
from sscd_ops.evaluation.metrics import Scored
from sscd_ops.evaluation.pdq import PDQ
from sscd_ops.evaluation.picture_sets import Spool
from sscd_ops.evaluation.tasks import NEIGHBOURS
from sscd_ops.evaluation.transformations import TRANSFORMATIONS, Kind, kinds, make_copy
from sscd_ops.index.backends import open_backend
from sscd_ops.machine import cores
from sscd_ops.options import FingerprintOptions
from sscd_ops.ports import Silence

UNSEEN = [item.name for item in TRANSFORMATIONS if item.unseen]
LIKE_TRAINED = [t.name for t in TRANSFORMATIONS if not t.unseen and t.name != "byte_copy"]
"""A byte copy would be found by its bytes."""


@dataclass
class Held:
    """The held-out pictures, test before validation, and their copies.

    ``copy_of``: int64 (q,), the picture each copy was made of. ``bursts``, ``twins``: a group's
    name -> its pictures.
    """

    pictures: Spool
    tests: int
    copies: Spool
    copy_of: NDArray[np.int64]
    kind: list[Kind]
    bursts: dict[str, list[int]] = field(default_factory=dict)
    twins: dict[str, list[int]] = field(default_factory=dict)

    def different(self) -> NDArray[np.bool_]:
        """Pictures that are different from all others: no bursts, one of each group."""
        keep = np.ones(len(self.pictures), bool)
        for rows in self.bursts.values():
            keep[rows] = False
        for rows in self.twins.values():
            keep[rows[1:]] = False
        return keep

    def everything(self) -> NDArray[np.bool_]:
        """All pictures."""
        return np.ones(len(self.pictures), bool)

    def groups(self, pictures: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
        """Copies of some pictures: of unseen edits, of edits like those trained on, and both."""
        unseen = np.array([one.transformation in UNSEEN for one in self.kind])
        of_these = pictures[self.copy_of]
        return {"unseen": unseen & of_these, "like": ~unseen & of_these, "both": of_these}


def load(data: Path, lists: Path, limit: int, trained_like: int) -> Held:
    """Read the pictures and make the copies, in a process a core."""
    with (lists / "sscd_small_heldout.csv").open(newline="") as stream:
        split = {row["git_blob"]: row["split"] for row in csv.DictReader(stream)}
    with gzip.open(data / "train" / "index.csv.gz", "rt", newline="") as stream:
        blob = {row["key"]: row["git_blob"] for row in csv.DictReader(stream)}
    found: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
    for key, data_of in _members(data / "train"):
        if blob[key] in split:
            found[split[blob[key]]].append((key, data_of))
    pictures = Spool()
    for name in ("test", "validation"):
        for key, data_of in found[name][: limit or None]:
            pictures.add(key, data_of)
    tests = len(found["test"][: limit or None])
    of_blob = {blob[key]: row for row, key in enumerate(pictures.names)}
    held = Held(pictures, tests, Spool(), np.empty(0, np.int64), [])
    with (lists / "sscd_small_lookalikes.csv").open(newline="") as stream:
        for line in csv.DictReader(stream):
            groups = held.bursts if line["kind"] == "burst" else held.twins
            if line["git_blob"] in of_blob:
                groups.setdefault(line["group"], []).append(of_blob[line["git_blob"]])
    # the few pictures with all transformations are different ones, drawn once
    fair = np.flatnonzero(held.different()[:tests])
    chosen = set(np.random.default_rng(0).permutation(fair)[:trained_like].tolist())
    jobs = [(pictures.get(row), row in chosen) for row in range(tests)]
    copy_of = []
    with ProcessPoolExecutor(cores().number) as pool:
        for row, answers in enumerate(pool.map(_copies, jobs, chunksize=8)):
            for one, copy in answers:
                held.copies.add(f"{row}-{one.transformation}-{one.severity}", copy)
                held.kind.append(one)
                copy_of.append(row)
    held.copy_of = np.array(copy_of, np.int64)
    return held


def _members(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                assert stream is not None
                yield member.name.partition(".")[0], stream.read()


def _copies(job: tuple[bytes, bool]) -> list[tuple[Kind, bytes]]:
    data, every = job
    wanted = kinds(UNSEEN) + (kinds(LIKE_TRAINED) if every else [])
    return [(one, make_copy(data, one)) for one in wanted]


# ---------------------------------------------------------------- measures


@dataclass
class Measure:
    """One model's descriptors of everything, float16, and its own threshold."""

    name: str
    pictures: Described
    copies: Described
    threshold: float


def measures(
    held: Held, options: FingerprintOptions, threshold: float, cache: Path
) -> list[Measure]:
    """The model, PDQ (made in the same pass, as nights make it) and `dct`."""
    answer = []
    dct = FingerprintOptions(model="dct")
    for model, own in ((options, threshold), (dct, MODELS["dct"].threshold)):
        hashed = model is options
        with open_embedder(model, cache, perceptual=hashed) as embedder:
            pictures = describe(embedder, held.pictures, Silence(), "pictures")
            copies = describe(embedder, held.copies, Silence(), "copies")
        answer.append(Measure(model.model, pictures, copies, own))
        if hashed:
            answer.append(Measure("PDQ", _of_hashes(pictures), _of_hashes(copies), PDQ.threshold))
    return answer


def _of_hashes(described: Described) -> Described:
    """Hashes as vectors whose cosine is 1 - distance / 128; a picture too plain has none."""
    hashes = described.hashes
    assert hashes is not None
    fit = are_fit(hashes)
    bits = np.unpackbits(hashes[fit][:, :CODE], axis=1).astype(np.float16)
    return Described(described.rows[fit], (bits * 2 - 1) / np.float16(16))


@dataclass(frozen=True)
class Asked:
    """Which copies are asked for among which pictures: bool (q,), bool (n,)."""

    copies: NDArray[np.bool_]
    pictures: NDArray[np.bool_]


def score(held: Held, measure: Measure, asked: Asked) -> Scored:
    """The ten nearest of each copy, in the rows of all copies and all pictures."""
    queries = asked.copies[measure.copies.rows]
    references = asked.pictures[measure.pictures.rows]
    found = nearest(
        measure.copies.descriptors[queries], measure.pictures.descriptors[references], NEIGHBOURS
    )
    rows = np.flatnonzero(asked.copies)
    return Scored(
        measure.copies.rows[queries][found.query],
        measure.pictures.rows[references][found.reference],
        found.similarity,
        np.stack([rows, held.copy_of[rows]], axis=1),
        held.copy_of,
    )


def hard_sets(held: Held) -> list[HardSet]:
    """The bursts among the held-out pictures, and the sets made of them."""
    spool, group = Spool(), []
    for number, rows in enumerate(held.bursts.values()):
        for row in rows:
            spool.add(held.pictures.names[row], held.pictures.get(row))
            group.append(number)
    bursts = HardSet("bursts as found", False, spool, np.array(group, np.int64))
    return [bursts, *made(held.pictures)]


def judged(
    sets: list[HardSet], options: FingerprintOptions, threshold: float, cache: Path
) -> list[HardResult]:
    """What leader would merge of each set at the model's threshold."""
    with open_embedder(options, cache) as embedder:
        backend = open_backend(
            "flat",
            fingerprint_digest=embedder.fingerprint.digest,
            dimensions=embedder.dimensions,
            threshold=threshold,
        )
        return [
            judge(one, describe(embedder, one.pictures, Silence(), one.name), threshold, backend)
            for one in sets
            if len(one.pictures)
        ]


def main() -> int:
    """Print the card's tables; 0 if its bars are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="")
    parser.add_argument("--preprocessing", default="")
    parser.add_argument("--threshold", type=float, default=MODELS["sscd_small"].threshold)
    parser.add_argument("--limit", type=int, default=0, help="pictures of each split; 0: all")
    parser.add_argument("--trained-like", type=int, default=400)
    parser.add_argument("--write", action="store_true", help="keep the tables in the card")
    arguments = parser.parse_args()
    base = os.environ.get("SSCD_OPS_TEST_DATA")
    if not base:
        print("set SSCD_OPS_TEST_DATA to a folder with train")
        return 2
    options = FingerprintOptions(
        model="sscd_small", weights=arguments.weights, preprocessing=arguments.preprocessing
    )
    held = load(Path(base), card.PAGE.parent, arguments.limit, arguments.trained_like)
    with tempfile.TemporaryDirectory() as folder:
        found = measures(held, options, arguments.threshold, Path(folder))
        hard = judged(hard_sets(held), options, arguments.threshold, Path(folder))
    ranked = {
        (among, copies, measure.name): score(held, measure, Asked(chosen, pictures))
        for among, pictures in (("different", held.different()), ("all", held.everything()))
        for copies, chosen in held.groups(pictures).items()
        for measure in found
    }
    text, met = card.tables(held, found, ranked, hard)
    print(text)
    if arguments.write:
        card.keep(text)
    return 0 if met else 3


if __name__ == "__main__":
    sys.exit(main())
