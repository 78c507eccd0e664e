"""Whole nights of decisions against a slow oracle: exact stage, preference, leader, history.

The oracle is what the documentation says, word by word, in dicts and loops; the product's side is
everything between a batch's manifests and its catalog rows. Vectors lie on a
small grid, so ties abound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_ops.core import rows as core_rows
from sscd_ops.core import tally
from sscd_ops.core.canonical import block_similarities
from sscd_ops.core.decide import COLUMNS, NEW, decide, find_images, load_samples
from sscd_ops.core.exact import group_images
from sscd_ops.core.identities import sample_id
from sscd_ops.core.leader import Compared, lead
from sscd_ops.core.manifest import SCHEMA
from sscd_ops.core.measures import near, perceptual
from sscd_ops.core.preference import arrival_rank
from sscd_ops.core.withdrawn import Caught
from sscd_ops.core.witnesses import Earlier, find_witnesses
from sscd_ops.errors import BatchNotRunnable
from sscd_ops.index.backends import open_backend
from sscd_ops.index.hamming import Hamming
from sscd_ops.model import Fault, KnownImages
from tests.soak import examples

MONTH = date(2026, 11, 1)
PRIORITY = {"crawl": 0, "bought": 1}
DIMENSIONS = 3


class Picture(NamedTuple):
    """Its bytes decide all of this."""

    digest: bytes
    vector: np.ndarray
    hash: np.ndarray
    width: int
    height: int
    bytes: int
    fault: Fault | None
    plain: bool = False

    @property
    def pixels(self) -> int:
        return self.width * self.height


class Sample(NamedTuple):
    picture: Picture
    caption: str
    code: Fault | None
    source: str
    uri: str
    position: int

    @property
    def id(self) -> bytes:
        caption = self.caption.encode()
        where = (self.source, self.uri, f"k{self.position}")
        return sample_id("web", *where, 0, "jpg", self.picture.digest, caption)


Shard = list[Sample]
Night = list[Shard]


class Verdict(NamedTuple):
    verdict: str
    reason: str | None = None
    witness: bytes | None = None
    similarity: float | None = None
    threshold: float | None = None


class Rules(NamedTuple):
    threshold: float
    prefer: tuple[str, ...]
    block: int = 4096
    farthest: int | None = None
    """Greatest distance of a copy by hash; None: descriptors alone."""


# ---------------------------------------------------------------- the oracle


def similarity(one: Picture, other: Picture) -> float:
    a, b = one.vector.astype(float).tolist(), other.vector.astype(float).tolist()
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def hash_similarity(one: Picture, other: Picture) -> float:
    if min(one.hash[32], other.hash[32]) < 50:
        return -math.inf
    left, right = (int.from_bytes(p.hash[:32].tobytes()) for p in (one, other))
    return 1 - (left ^ right).bit_count() / 256


@dataclass
class Oracle:
    """A dataset's memory, as a person would keep it."""

    rules: Rules
    samples: dict[bytes, Verdict] = field(default_factory=dict)
    images: dict[bytes, Verdict] = field(default_factory=dict)
    kept: list[tuple[Picture, bytes]] = field(default_factory=list)
    """Kept pictures of earlier nights and their carrying samples, the earlier first."""

    def preferred(self, sample: Sample) -> tuple[Any, ...]:
        value = {
            "priority": PRIORITY[sample.source],
            "pixels": sample.picture.pixels,
            "caption_length": len(sample.caption),
            "bytes": sample.picture.bytes,
        }
        best = tuple(-value[name] for name in self.rules.prefer)
        return (*best, sample.source, sample.uri, sample.position)

    def night(self, shards: Night) -> dict[bytes, Verdict]:
        """Verdicts of the night's samples that had none."""
        listed = [sample for shard in shards for sample in shard if sample.id not in self.samples]
        around = {s.id for s in listed if s.code and not s.code.follows_bytes}
        said = {s.id: Verdict("quarantined", str(s.code)) for s in listed if s.id in around}
        pictured = sorted((s for s in listed if s.id not in around), key=self.preferred)
        lasting: dict[bytes, Verdict] = {}
        kept: list[tuple[Picture, bytes]] = []
        of_image: dict[bytes, Verdict] = {}
        for sample in pictured:
            picture = sample.picture
            fault = sample.code or picture.fault
            if picture.digest in self.images:
                said[sample.id] = self.follow(self.images[picture.digest])
            elif picture.digest in of_image:
                said[sample.id] = self.follow(of_image[picture.digest])
            else:
                verdict = self.judge(picture, fault, kept)
                said[sample.id] = verdict
                of_image[picture.digest] = verdict
                if verdict.verdict == "kept":
                    kept += [(picture, sample.id)] * (not picture.plain)
                    of_image[picture.digest] = Verdict("kept", witness=picture.digest)
                if fault is None or fault.follows_bytes:
                    lasting[picture.digest] = of_image[picture.digest]
        first = {s.picture.digest: i for i, s in reversed(list(enumerate(listed))) if not s.code}
        self.kept += sorted(kept, key=lambda item: first[item[0].digest])
        self.images |= lasting
        self.samples |= said
        return said

    @staticmethod
    def follow(image: Verdict) -> Verdict:
        """A further sample of an image that has a verdict."""
        if image.verdict == "kept":
            return Verdict("removed", "exact", image.witness, 1.0)
        return image

    def judge(
        self, picture: Picture, fault: Fault | None, kept: list[tuple[Picture, bytes]]
    ) -> Verdict:
        """A new picture against history's kept ones, then the batch's kept before it."""
        if fault:
            return Verdict("quarantined", str(fault))
        if picture.plain:
            return Verdict("kept")
        measures = [("near", similarity, self.rules.threshold)]
        if self.rules.farthest is not None:
            measures.append(("perceptual", hash_similarity, 1 - self.rules.farthest / 256))
        for reason, compare, threshold in measures:
            best, witness = -math.inf, b""
            for other, _ in [*self.kept, *kept]:
                found = compare(picture, other)
                if found > best:
                    best, witness = found, other.digest
            if best >= threshold:
                return Verdict("removed", reason, witness, best, threshold)
        return Verdict("kept")


# ---------------------------------------------------------------- the product


@dataclass
class Product:
    """The same through the product's code; the catalog is a dict, segments are arrays."""

    rules: Rules
    samples: dict[bytes, Verdict] = field(default_factory=dict)
    images: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    segments: list[tuple[np.ndarray, np.ndarray, list[bytes], np.ndarray]] = field(
        default_factory=list
    )

    def night(self, shards: Night) -> dict[bytes, Verdict]:
        manifests = [manifest(shard) for shard in shards]
        samples = load_samples(
            manifests,
            arrival_rank([s[0].source for s in shards], [s[0].uri for s in shards]),
            np.array([PRIORITY[s[0].source] for s in shards], np.int64),
            self.rules.prefer,
        ).with_known(set(self.samples))
        pictures = {s.picture.digest: s.picture for shard in shards for s in shard}
        ids, faults, plain = self.embed(samples, pictures)
        images = find_images(samples, self.lookup, ids, faults, plain)
        assert not len(images.undescribed)
        asked = [pictures[row.tobytes()] for row in ids]
        queries, hashes = vectors(asked), hash_rows(asked)
        history, where = self.search(queries)
        hash_history, hash_where = self.search_hashes(hashes)

        def lead_by(rows: np.ndarray) -> Any:
            return self.lead(queries[rows], history[rows], hashes[rows], hash_history[rows])

        decided = decide(samples, images, lead_by)
        gone = np.flatnonzero((images.standing == NEW) & ~decided.kept & (decided.witness < 0))
        found = [where, hash_where]
        earlier = self.kept(gone, [found[decided.measure[i]][images.query[i]] for i in gone])
        witness = find_witnesses(samples, images, decided, earlier, Caught.nothing())
        given = core_rows.DecisionRows(
            samples,
            images,
            decided,
            witness,
            shard_ids=np.arange(len(shards)),
            slot=np.where(decided.keeps, np.cumsum(decided.keeps) - 1, -1).astype(np.int32),
            dataset_id=1,
            decision_id=len(self.segments) + 1,
            turn=len(self.segments) + 1,
            month=MONTH,
        )
        self.register(given)
        kept = np.zeros(len(ids), bool)
        kept[images.query[decided.kept & (images.query >= 0)]] = True
        self.segments.append((queries, hashes, [row.tobytes() for row in ids], kept))
        whole = pa.concat_tables([SCHEMA.empty_table(), *manifests])
        blocks = [whole.slice(start, 3) for start in range(0, len(whole) + 1, 3)]
        table = pa.concat_tables(core_rows.sample_rows(given, blocks))
        said = {row["sample_id"]: verdict(row) for row in table.to_pylist()}
        for row in table.to_pylist():
            if row["verdict"] == "removed":
                witness_image = self.images[row["witness_sha256"]]
                carrier = row["witness_id"], row["witness_decision"]
                assert carrier == (witness_image["sample_id"], witness_image["decision_id"])
        for row in table.to_pylist():
            kept_plain = row["verdict"] == "kept" and pictures[row["image_sha256"]].plain
            assert row["plain"] is (True if kept_plain else None)
        assert len(said) == len(table)
        counts = tally.count(decided.outcome, 0)
        assert counts.read == len(said)
        assert counts.known == len(samples) - len(said)
        self.samples |= said
        return said

    def embed(
        self, samples: Any, pictures: dict[bytes, Picture]
    ) -> tuple[np.ndarray, Any, list[bytes]]:
        """The work list in first-place order, without pictures that history knows."""
        fine = samples.code < 0
        first = group_images(samples.digests, fine, np.arange(len(samples))).first
        new = [row.tobytes() for row in samples.digests[np.sort(first)]]
        new = [digest for digest in new if digest not in self.images]
        faults = {d: pictures[d].fault for d in new if pictures[d].fault}
        plain = [d for d in new if d not in faults and pictures[d].plain]
        good = b"".join(d for d in new if d not in faults and d not in plain)
        return (
            np.frombuffer(good, np.uint8).reshape(-1, 32),
            {digest: (fault, "why") for digest, fault in faults.items()},
            plain,
        )

    def lookup(self, digests: np.ndarray) -> KnownImages:
        keys = [row.tobytes() for row in digests]
        known = [i for i, key in enumerate(keys) if key in self.images]
        rows = [self.images[keys[i]] for i in known]

        def column(name: str, kind: Any, null: Any = None) -> np.ndarray:
            values = [null if row[name] is None else row[name] for row in rows]
            if isinstance(null, bytes):
                return np.frombuffer(b"".join(values), np.uint8).reshape(-1, kind)
            return np.array(values, kind)

        return KnownImages(
            row=np.array(known, np.int64),
            verdict=column("verdict", object),
            reason=column("reason", object),
            message=column("message", object),
            sample_id=column("sample_id", 16, bytes(16)),
            carrier_decision=column("decision_id", np.int64),
            witness_sha256=column("witness_sha256", 32, bytes(32)),
            is_witnessed=np.array([row["witness_sha256"] is not None for row in rows], bool),
            witness_id=column("witness_id", 16, bytes(16)),
            witness_decision=column("witness_decision", np.int64, -1),
            similarity=column("similarity", float, np.nan),
            threshold=column("threshold", float, np.nan),
            decision_id=column("decision_id", np.int64),
            segment_row=column("segment_row", np.int64, -1),
            turn=column("decision_id", np.int64),
        )

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, list[bytes]]:
        """Best similarity of each query among history's kept, and that picture; ties: earlier."""
        best = np.full(len(queries), -np.inf)
        where = [b""] * len(queries)
        for descriptors, _, ids, kept in self.segments:
            if not len(queries) or not len(ids):
                continue
            found = block_similarities(queries, descriptors)
            found[:, ~kept] = -np.inf
            for query, row in enumerate(found.argmax(axis=1)):
                if found[query, row] > best[query]:
                    best[query], where[query] = found[query, row], ids[row]
        best[best < self.rules.threshold - 0.05] = -np.inf
        return best, where

    def search_hashes(self, queries: np.ndarray) -> tuple[np.ndarray, list[bytes]]:
        """The same by hash, through the product's own search."""
        best = np.full(len(queries), -np.inf)
        where = [b""] * len(queries)
        floor = 1 - (self.rules.farthest or 0) / 256
        for _, hashes, ids, kept in self.segments:
            found = Hamming().search(queries, hashes, kept, floor, 1)
            for query, row, similar in zip(
                found.query, found.reference, found.similarity, strict=True
            ):
                if similar > best[query]:
                    best[query], where[query] = similar, ids[row]
        return best, where

    def lead(
        self,
        queries: np.ndarray,
        history: np.ndarray,
        hashes: np.ndarray,
        hash_history: np.ndarray,
    ) -> Any:
        backend = open_backend(
            "flat", fingerprint_digest="ab" * 32, dimensions=DIMENSIONS, threshold=0.75
        )
        threshold = self.rules.threshold
        measure = near(threshold, threshold - 0.05)
        batch = [Compared(measure, queries, history, backend.growing(DIMENSIONS))]
        if self.rules.farthest is not None:
            at = 1 - self.rules.farthest / 256
            second = perceptual(at, at - 8 / 256)
            batch.append(Compared(second, hashes, hash_history, Hamming().growing()))
        return lead(batch, 2, self.rules.block)

    def kept(self, gone: np.ndarray, digests: Sequence[bytes]) -> Earlier:
        rows = [self.images[digest] for digest in digests]
        assert all(row["verdict"] == "kept" for row in rows)
        return Earlier(
            gone,
            np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
            np.frombuffer(b"".join(r["sample_id"] for r in rows), np.uint8).reshape(-1, 16),
            np.array([row["decision_id"] for row in rows], np.int64),
        )

    def register(self, given: core_rows.DecisionRows) -> None:
        for row in (row for some in core_rows.image_rows(given) for row in some.to_pylist()):
            assert row["sha256"] not in self.images
            self.images[row["sha256"]] = row
        assert not len(core_rows.change_rows(given))


def manifest(shard: Shard) -> pa.Table:
    rows = [
        {
            "position": s.position,
            "sample_id": s.id,
            "key": f"k{s.position}",
            "occurrence": 0,
            "image_member": "jpg",
            "image_sha256": s.picture.digest,
            "image_bytes": s.picture.bytes,
            "width": s.picture.width,
            "height": s.picture.height,
            "caption": s.caption,
            "code": str(s.code) if s.code else None,
            "message": "why" if s.code else None,
        }
        for s in shard
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def vectors(pictures: Sequence[Picture]) -> np.ndarray:
    return np.array([p.vector for p in pictures], np.float16).reshape(-1, DIMENSIONS)


def hash_rows(pictures: Sequence[Picture]) -> np.ndarray:
    return np.array([p.hash for p in pictures], np.uint8).reshape(-1, 33)


def hashed(bits: int, quality: int = 100) -> np.ndarray:
    """A hash whose lowest bits are given, and its quality."""
    return np.frombuffer(bits.to_bytes(32) + bytes([quality]), np.uint8)


def verdict(row: dict[str, Any]) -> Verdict:
    assert (row["verdict"] == "quarantined") == (row["message"] is not None)
    names = ("verdict", "reason", "witness_sha256", "similarity", "threshold")
    return Verdict(*(row[name] for name in names))


# ---------------------------------------------------------------- nights made by chance


@st.composite
def pictures(draw: st.DrawFn) -> list[Picture]:
    """Directions of a small grid: equal ones, mirrored ones and near ones."""
    made = []
    cell = st.sampled_from([0, 0, 1, 1, -1, 2])
    bits = st.sampled_from([0, 1, 3, 7, 15, 0xFF00, 0xFF01, 0xFF07])
    for number in range(draw(st.integers(1, 12))):
        x, y, z = draw(st.tuples(cell, cell, cell).filter(any))
        length = math.sqrt(x * x + y * y + z * z)
        made.append(
            Picture(
                # digests with equal words, and equal bytes at the ends
                b"".join(bytes([0, (number >> bit) & 1, *bytes(6)]) for bit in range(4)),
                np.array([x / length, y / length, z / length], np.float16),
                hashed(draw(bits), draw(st.sampled_from([100, 100, 50, 49]))),
                draw(st.sampled_from([20, 40])),
                draw(st.sampled_from([20, 40])),
                draw(st.sampled_from([100, 200])),
                draw(st.sampled_from([None] * 8 + [Fault.UNDECODABLE, Fault.DECODER_DIED])),
                draw(st.sampled_from([False] * 5 + [True])),
            )
        )
    return made


@st.composite
def shards(draw: st.DrawFn, made: list[Picture], source: str, uri: str) -> Shard:
    one = st.tuples(
        st.sampled_from(made),
        st.sampled_from(["a", "bb", "b\u00e9", "\U0001f600"]),
        st.sampled_from([None] * 9 + [Fault.CAPTION_TOO_LONG]),
    )
    found = draw(st.lists(one, min_size=1, max_size=7))
    return [Sample(*given, source, uri, position) for position, given in enumerate(found)]


@st.composite
def histories(draw: st.DrawFn) -> list[Night]:
    """Nights of shards in any order; a shard may come again, with the same or other samples."""
    made = draw(pictures())
    place = st.tuples(st.sampled_from(sorted(PRIORITY)), st.sampled_from(["0.tar", "1.tar"]))
    nights = []
    for _ in range(draw(st.integers(1, 4))):
        places = draw(st.lists(place, max_size=3, unique=True))
        nights.append([draw(shards(made, source, uri)) for source, uri in places])
    return nights


@st.composite
def streams(draw: st.DrawFn) -> list[Shard]:
    """One source's shards in order of arrival."""
    made = draw(pictures())
    count = draw(st.integers(1, 8))
    return [draw(shards(made, "crawl", f"{number:03d}.tar")) for number in range(count)]


def limit(night: Night, min_side: int) -> None:
    """Look at the headers as ingest does: a small picture's fault comes before its caption's."""
    for shard in night:
        for i, sample in enumerate(shard):
            if min(sample.picture.width, sample.picture.height) < min_side:
                shard[i] = sample._replace(code=Fault.TOO_SMALL)


def heal(night: Night) -> None:
    """A decoder's death belongs to its night: later the same picture may be decoded well."""
    for shard in night:
        for i, sample in enumerate(shard):
            if sample.picture.fault is Fault.DECODER_DIED:
                shard[i] = sample._replace(picture=sample.picture._replace(fault=None))


THRESHOLDS = st.sampled_from([-0.5, 0.0, 0.5, 0.75, 0.9, 1.0])
FARTHEST = st.sampled_from([None, 0, 1, 2])
PREFERENCES = st.lists(
    st.sampled_from(["priority", "pixels", "caption_length", "bytes"]), unique=True
).map(tuple)


@settings(max_examples=examples(80))
@given(
    histories(),
    THRESHOLDS,
    FARTHEST,
    PREFERENCES,
    st.sampled_from([1, 2, 4096]),
    st.lists(st.sampled_from([0, 0, 30]), min_size=4, max_size=4),
)
def test_nights_are_decided_as_the_definition_says(
    nights: list[Night],
    threshold: float,
    farthest: int | None,
    prefer: tuple[str, ...],
    block: int,
    least_sides: list[int],
) -> None:
    rules = Rules(threshold, prefer, block, farthest)
    oracle, product = Oracle(rules), Product(rules)

    for number, night in enumerate(nights):
        if number % 2:
            heal(night)
        limit(night, least_sides[number])
        assert product.night(night) == oracle.night(night)

    samples = {s.id: s for night in nights for shard in night for s in shard}
    assert set(product.samples) == set(samples)
    for sample, said in product.samples.items():
        if said.verdict == "removed":
            assert said.witness is not None
            assert product.images[said.witness]["verdict"] == "kept"
            carrier = samples[product.images[said.witness]["sample_id"]]
            assert product.samples[carrier.id].verdict == "kept"
            one, other = samples[sample].picture, carrier.picture
            if said.reason == "exact":
                assert one.digest == other.digest
            elif said.reason == "near":
                assert said.similarity == similarity(one, other) >= threshold
            else:
                assert farthest is not None
                assert said.similarity == hash_similarity(one, other) >= 1 - farthest / 256
    kept = [samples[i].picture for i, said in product.samples.items() if said.verdict == "kept"]
    kept = [picture for picture in kept if not picture.plain]
    pairs = [(a, b) for i, a in enumerate(kept) for b in kept[:i]]
    assert all(similarity(a, b) < threshold for a, b in pairs)
    if farthest is not None:
        assert all(hash_similarity(a, b) < 1 - farthest / 256 for a, b in pairs)


@settings(max_examples=examples(40))
@given(streams(), THRESHOLDS, FARTHEST, st.data())
def test_in_order_of_arrival_one_night_or_many_decide_alike(
    stream: list[Shard], threshold: float, farthest: int | None, data: st.DataObject
) -> None:
    heal(stream)
    cuts = data.draw(st.sets(st.integers(0, len(stream)), max_size=len(stream)))
    edges = sorted({0, len(stream), *cuts})
    rules = Rules(threshold, (), farthest=farthest)
    single, many = Product(rules), Product(rules)

    single.night(stream)
    for start, stop in pairwise(edges):
        many.night(stream[start:stop])

    assert many.samples == single.samples


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_no_listing_order_decides(order: tuple[int, ...]) -> None:
    """Three shards of equal claims: the first by source name and URI wins, however listed."""
    vector = np.array([1, 0, 0], np.float16)
    listed = []
    for number, (source, uri) in enumerate(
        [("bought", "9.tar"), ("crawl", "10.tar"), ("crawl", "9.tar")]
    ):
        one = Picture(bytes([number]) * 32, vector, hashed(0), 20, 20, 100, None)
        listed.append([Sample(one, "a", None, source, uri, 0)])
    product = Product(Rules(0.75, ("pixels", "bytes")))

    said = product.night([listed[i] for i in order])

    winner = listed[0][0].id
    assert said[winner] == Verdict("kept")
    for shard in listed[1:]:
        witness = listed[0][0].picture.digest
        assert said[shard[0].id] == Verdict("removed", "near", witness, 1.0, 0.75)


def test_a_tie_goes_to_history_then_to_the_earlier() -> None:
    def at(number: int, uri: str, x: int, y: int) -> Shard:
        vector = (np.array([x, y, 0]) / math.hypot(x, y)).astype(np.float16)
        one = Picture(bytes([number]) * 32, vector, hashed(0), 20, 20, 100, None)
        return [Sample(one, "a", None, "crawl", uri, 0)]

    early, late, between = at(0, "c.tar", 1, 0), at(1, "b.tar", 0, 1), at(2, "d.tar", 1, 1)
    apart, together = Product(Rules(0.5, ())), Product(Rules(0.5, ()))

    apart.night([early])
    apart.night([late, between])
    together.night([early, late, between])

    assert apart.samples[between[0].id].witness == early[0].picture.digest
    assert together.samples[between[0].id].witness == late[0].picture.digest


def test_descriptors_speak_before_hashes_and_ties_by_hash_go_to_the_earlier() -> None:
    def at(number: int, x: int, y: int, bits: int, quality: int = 100) -> Shard:
        vector = (np.array([x, y, 0]) / math.hypot(x, y)).astype(np.float16)
        one = Picture(bytes([number]) * 32, vector, hashed(bits, quality), 20, 20, 100, None)
        return [Sample(one, "a", None, "crawl", f"{number}.tar", 0)]

    first, second = at(0, 1, 0, 0b0000), at(1, 0, 1, 0b1111)
    tied, by_both, plain = at(2, -1, 0, 0b0011), at(3, 0, 1, 0b0000), at(4, 0, -1, 0b0000, 49)
    product = Product(Rules(0.75, (), farthest=2))

    product.night([first, second])
    said = product.night([tied, by_both, plain])

    # as near to both: the earlier; its descriptor is near to none
    by_hash = Verdict("removed", "perceptual", first[0].picture.digest, 1 - 2 / 256, 1 - 2 / 256)
    assert said[tied[0].id] == by_hash
    # its hash is nearer to another one, but its descriptor says so first
    assert said[by_both[0].id] == Verdict("removed", "near", second[0].picture.digest, 1.0, 0.75)
    assert said[plain[0].id] == Verdict("kept")
    # whoever has the same bytes later goes with it, by the same measure
    again = [tied[0]._replace(uri="9.tar")]
    assert product.night([again])[again[0].id] == by_hash


def test_a_code_of_a_newer_release_is_told_with_a_way_on() -> None:
    row = dict.fromkeys(SCHEMA.names) | {"position": 0, "sample_id": b"i" * 16, "members": []}
    table = pa.Table.from_pylist([row | {"code": "of_tomorrow", "message": "?"}], schema=SCHEMA)
    nothing = np.zeros(1, np.int64)

    with pytest.raises(BatchNotRunnable, match=r"'of_tomorrow'.*batch abandon"):
        load_samples([table.select(COLUMNS)], nothing, nothing, ())
