"""A dataset in a folder, its nights, and the promises of the product as questions to what is there.

The promises are checked from the public views, the files and the sources alone, with `tarfile` and
numpy: none of the product's own judgement is used to judge it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq

from sscd_ops.catalog.sql import files_of, need_file, rows
from sscd_ops.core.segment_file import read_mask
from sscd_ops.model import Interval, Runner
from sscd_ops.options import (
    DatasetOptions,
    DuplicatesOptions,
    FingerprintOptions,
    GuardOptions,
    Settings,
    SourceOptions,
    StorageOptions,
)
from sscd_ops.steps import commit, embed, ingest, match, night, plan, publish, resolve, survey
from sscd_ops.steps.verify import verify_catalog, verify_index, verify_snapshot
from sscd_ops.testing import Sample, make_tar
from sscd_ops.wiring import Wiring

DATASET = "web"
VIEWS = (
    "runs", "run_sources", "samples", "removed", "kept", "quarantined", "shards", "snapshots",
    "decisions", "verdicts",
)  # fmt: skip
ASIDE = {
    "started_at", "finished_at", "seconds", "decided_at", "created_at", "published_at", "actor",
    "runner", "run_id", "batch_id", "witness_batch_id", "decision_id", "config_sha256",
    "source_seen_at",
}  # fmt: skip


def pair(key: str, image: bytes, caption: str | None = None) -> Sample:
    """A sample of jpg and txt."""
    return key, {"jpg": image, "txt": (caption or f"caption of {key}").encode()}


def interval(day: str) -> Interval:
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return Interval(start, start + timedelta(days=1))


class World:
    """One dataset over one storage root and one database."""

    def __init__(self, base: Path, url: str, incoming: Path | None = None) -> None:
        self.base = base
        self.url = url
        self.incoming = incoming or base / "incoming"
        self.storage = StorageOptions(root=str(base / "root"))
        self.wiring: type[Wiring] = Wiring
        self.options = DatasetOptions(
            DATASET,
            schedule="0 0 * * *",
            start=date(2026, 11, 1),
            late_days=0,
            sources=(SourceOptions("crawl", urls=(f"{self.incoming}/{{date}}/*.tar",)),),
            fingerprint=FingerprintOptions(model="dct", workers=2),
            duplicates=DuplicatesOptions(search="flat"),
            guard=GuardOptions(first_nights_max=1.0, empty="allow"),
        )

    def change(self, **sections: Any) -> None:
        """Change settings; a section given as a dict is changed key by key."""
        values = {
            name: dataclasses.replace(getattr(self.options, name), **value)
            if isinstance(value, dict)
            else value
            for name, value in sections.items()
        }
        self.options = dataclasses.replace(self.options, **values)

    def change_source(self, **values: Any) -> None:
        self.change(sources=(dataclasses.replace(self.options.sources[0], **values),))

    def put(self, day: str, name: str, samples: Sequence[Sample]) -> Path:
        return make_tar(self.incoming / day / name, samples)

    @contextmanager
    def parts(self) -> Iterator[Wiring]:
        settings = Settings(
            "test.toml",
            self.storage,
            datasets={DATASET: self.options},
        )
        with self.wiring(settings, database_url=self.url) as opened:
            yield opened

    def night(self, day: str, **options: Any) -> night.NightReport:
        with self.parts() as parts:
            return night.run(parts, DATASET, interval(day), poll_seconds=0.05, **options)

    # ------------------------------------------------------------ a night step by step

    def until_match(self, parts: Wiring, day: str) -> int:
        """Run a night up to match, as an Airflow run would; its batch."""
        runner = Runner("airflow", "curate_web", f"run-{day}")
        planned = plan.run(parts, DATASET, interval(day), runner=runner)
        for group in planned.groups:
            ingest.run(parts, planned.batch_id, group)
        surveyed = survey.run(parts, planned.batch_id)
        for group in planned.groups:
            embed.run(parts, planned.batch_id, group)
        for part in surveyed.parts:
            match.run(parts, planned.batch_id, part)
        return planned.batch_id

    def from_resolve(self, parts: Wiring, batch_id: int) -> resolve.ResolveReport:
        decided = resolve.run(parts, batch_id)
        for group in decided.groups:
            publish.run(parts, batch_id, group)
        commit.run(parts, batch_id)
        return decided

    # ------------------------------------------------------------ questions

    def ask(self, sql: str, **given: Any) -> list[dict[str, Any]]:
        with self.parts() as parts, parts.catalog.begin() as conn:
            return [dict(row) for row in rows(conn, sql, **given)]

    def verdicts(self) -> dict[str, str]:
        """Key -> verdict and reason."""
        return {
            row["key"]: " ".join(filter(None, (row["verdict"], row["reason"])))
            for row in self.ask("SELECT * FROM curation.samples")
        }

    def witnesses(self) -> dict[str, str]:
        """Key of a removed sample -> key of its witness."""
        return {
            row["key"]: row["witness_key"] for row in self.ask("SELECT * FROM curation.removed")
        }

    def views(self, aside: set[str] = ASIDE) -> dict[str, list[str]]:
        """Every public view's rows as text, sorted, without what may differ."""
        return {
            view: sorted(
                repr({k: plain(v) for k, v in row.items() if k not in aside})
                for row in self.ask(f"SELECT * FROM curation.{view}")
            )
            for view in VIEWS
        }

    def published(self) -> dict[str, str]:
        """Name -> sha256 of every published file there is.

        What a killed writer left under a hidden name is none.
        """
        fs, root = fsspec.core.url_to_fs(self.storage.root)
        names = [path[len(root) + 1 :] for path in fs.glob(f"{root}/{DATASET}/shards/*/*")]
        names = [name for name in names if not name.rpartition("/")[2].startswith(".")]
        return {name: hashlib.sha256(self.stored(name)).hexdigest() for name in sorted(names)}

    def stored(self, name: str) -> bytes:
        """The bytes of a file below the root, wherever that is."""
        with fsspec.open(f"{self.storage.root}/{name}", "rb") as stream:
            return bytes(stream.read())


def plain(value: Any) -> Any:
    return bytes(value).hex() if isinstance(value, (bytes, memoryview)) else value


# ---------------------------------------------------------------- the promises


def assert_promises(world: World, *, read: int | None = None) -> None:
    """I1-I4 and I8, from the outside.

    Args:
        world: whose nights have all been published.
        read: how many samples the sources hold, where the test knows.
    """
    assert_one_verdict_each(world, read)
    assert_newest_verdicts(world)
    assert_witnesses_are_kept(world)
    assert_no_kept_copies(world)
    assert_published_bytes(world)
    assert_catalog_and_files_agree(world)
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET, only_rows=True) == []


READ_AGAIN = (
    "SELECT s.sample_id, d.batch_id, s.plain IS TRUE AS plain FROM sscd_ops.read_again_now r"
    " JOIN sscd_ops.samples s ON s.decision_id = r.of_decision AND s.shard_id = r.shard_id"
    " AND s.position = r.position JOIN sscd_ops.decisions d ON d.decision_id = s.decision_id"
    " WHERE s.sample_id IS NOT NULL"
)
"""Samples of nights that a supplement has read again: they are its own now."""


def assert_one_verdict_each(world: World, read: int | None) -> None:
    """One verdict a sample; what a night counted is what it said of its own samples."""
    samples = world.ask("SELECT * FROM curation.samples")
    ids = [row["sample_id"] for row in samples]
    assert len(ids) == len(set(ids))
    said = {
        (row["sample_id"], row["turn"]): row for row in world.ask("SELECT * FROM curation.verdicts")
    }
    before = world.ask(READ_AGAIN)
    for run in world.ask("SELECT * FROM curation.runs WHERE turn IS NOT NULL"):
        mine = [
            said[row["sample_id"], run["turn"]] | {"plain": row["plain"]}
            for row in samples + before
            if row["batch_id"] == run["batch_id"]
        ]
        tally = {
            "kept": sum(row["verdict"] == "kept" for row in mine),
            "removed_exact": sum(row["reason"] == "exact" for row in mine),
            "removed_near": sum(row["reason"] in ("near", "perceptual") for row in mine),
            "quarantined": sum(row["verdict"] == "quarantined" for row in mine),
            "withdrawn": sum(row["verdict"] == "withdrawn" for row in mine),
        }
        assert run["read"] == len(mine) == sum(tally.values())
        tally["removed_perceptual"] = sum(row["reason"] == "perceptual" for row in mine)
        tally["kept_plain"] = sum(row["plain"] for row in mine)
        assert all(row["verdict"] == "kept" for row in mine if row["plain"])
        assert {name: run[name] for name in tally} == tally
        sources = world.ask(
            "SELECT * FROM curation.run_sources WHERE batch_id = :b", b=run["batch_id"]
        )
        for name in ("read", *tally):
            assert run[name] == sum(row[name] for row in sources)
    if read is not None:
        assert len(samples) == read


def assert_newest_verdicts(world: World) -> None:
    """One verdict a sample and turn, and that of the greatest turn is what holds now.

    Save the witness of a removal, who may have lost its image to another carrier since.
    """
    said = world.ask("SELECT * FROM curation.verdicts ORDER BY turn")
    assert len({(row["sample_id"], row["turn"]) for row in said}) == len(said)
    newest = {row["sample_id"]: row for row in said}
    samples = world.ask("SELECT * FROM curation.samples")
    assert len(samples) == len(newest)
    for row in samples:
        for column in ("turn", "verdict", "reason", "similarity", "threshold", "decided_at"):
            assert row[column] == newest[row["sample_id"]][column], column


def assert_witnesses_are_kept(world: World) -> None:
    verdicts = {row["sample_id"]: row for row in world.ask("SELECT * FROM curation.samples")}
    for row in world.ask("SELECT * FROM curation.removed"):
        witness = verdicts[row["witness_sample_id"]]
        assert witness["verdict"] == "kept"
        assert row["witness_shard"] is not None
        if row["reason"] == "exact":
            assert plain(row["image_sha256"]) == plain(witness["image_sha256"])
        else:
            assert row["similarity"] >= row["threshold"]


def assert_no_kept_copies(world: World) -> None:
    """Every pair of kept images, by brute force in float64, is below the later one's threshold.

    By hash likewise, where both have one and the later one was decided by it. All kept ones are
    compared, save those that are said to be plain.
    """
    hashes: list[tuple[int, int]] = []
    with world.parts() as parts, parts.catalog.begin() as conn:
        segments = rows(
            conn,
            "SELECT s.files, s.rows, m.mask, a.threshold, a.config FROM sscd_ops.segments s"
            " JOIN sscd_ops.segment_masks m USING (segment_id)"
            " JOIN sscd_ops.decisions d ON d.decision_id = s.decision_id"
            " JOIN sscd_ops.attempts a ON a.attempt_id = d.attempt_id"
            " WHERE m.generation_to IS NULL ORDER BY d.turn",
        )
        vectors, thresholds = [], []
        for segment in segments:
            files = files_of(segment["files"])
            matrix = np.load(parts.store.local(files["descriptors"])).astype(np.float64)
            kept = read_mask(parts.store, need_file(segment["mask"]), segment["rows"])
            vectors.append(matrix[kept])
            thresholds += [segment["threshold"]] * int(kept.sum())
            if "pdq-1" in files:
                farthest = segment["config"]["duplicates"]["perceptual_distance"]
                hashes += [
                    (int.from_bytes(row[:32].tobytes()), farthest)
                    for row in np.load(parts.store.local(files["pdq-1"]))[kept]
                    if row[32] >= 50
                ]
    compared = sum(not row["plain"] for row in world.ask("SELECT plain FROM curation.kept"))
    assert sum(map(len, vectors)) == compared
    if not vectors:
        return
    matrix = np.concatenate(vectors)
    norms = np.sqrt((matrix**2).sum(axis=1))
    similarity = matrix @ matrix.T / np.outer(norms, norms)
    later = np.tril(similarity, -1)
    assert (later.max(axis=1, initial=-1) < np.array(thresholds) + 1e-12).all()
    for number, (code, farthest) in enumerate(hashes):
        assert all((code ^ other).bit_count() > farthest for other, _ in hashes[:number])


def assert_published_bytes(world: World, replaced: bool = False) -> None:
    """The newest snapshot holds what is kept, byte for byte; older ones are those it grew from.

    Args:
        world: whose.
        replaced: whether shards took the place of others, without what was withdrawn or merged, or
            were added by a decision without a batch.
    """
    kept = {row["shard_key"]: row for row in world.ask("SELECT * FROM curation.kept")}
    snapshots = world.ask("SELECT * FROM curation.snapshots ORDER BY snapshot")
    if not snapshots:
        assert not kept
        return
    listed: list[dict[str, Any]] = []
    for row in snapshots:
        document, before = read_snapshot(world, row), listed
        listed = document["shardlist"]
        made_by = {shard["batch"] for shard in listed if shard not in before}
        if replaced:
            made_by = {maker for maker in made_by if not maker.startswith("turn-")}
            made_by |= {document["batch"]}
        else:
            assert [shard for shard in listed if shard in before] == before
        assert made_by == {document["batch"]}
    # URLs are relative to the snapshot's file
    folder = posixpath.dirname(snapshots[-1]["file"])
    sources = _SourceBytes(world)
    seen = []
    for shard in listed:
        name = posixpath.normpath(posixpath.join(folder, shard["url"]))
        members: dict[str, dict[str, bytes]] = {}
        with tarfile.open(fileobj=io.BytesIO(world.stored(name))) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                stream = tar.extractfile(member)
                assert stream is not None
                members.setdefault(key, {})[extension] = stream.read()
        assert len(members) == shard["nsamples"]
        for key, found in members.items():
            assert kept[key]["shard"] == name
            original = sources.members(kept[key])
            for extension, data in original.items():
                assert found[extension] == data
            assert set(found) == set(original) | {"txt", "json"}
            seen.append(key)
        assert {tuple(sorted(found)) for found in members.values()} == {
            tuple(sorted(shard["form"].split("+")))
        }
        assert_described(world, name, shard, [kept[key] for key in members])
    assert sorted(seen) == sorted(kept)


PUBLISHED_COLUMNS = [
    "key", "sample_id", "source", "source_shard", "source_key", "sha256", "width", "height",
    "caption", "bytes", "offset",
]  # fmt: skip


def read_snapshot(world: World, row: Mapping[str, Any]) -> dict[str, Any]:
    """A snapshot's file, after a look at what it says of itself and of its shards."""
    data = world.stored(row["file"])
    document: dict[str, Any] = json.loads(data)
    runs = world.ask("SELECT fingerprint FROM curation.runs WHERE turn IS NOT NULL")
    listed = document["shardlist"]
    digest = hashlib.sha256(data).hexdigest()
    assert row["file"] == f"{DATASET}/snapshots/{row['snapshot']:06d}-{digest[:8]}.json"
    assert row["sha256"] == digest
    assert (document["__kind__"], document["wids_version"]) == ("wids-shard-index-v1", 1)
    assert (document["name"], document["snapshot"]) == (DATASET, row["snapshot"])
    assert document["parent"] == row["parent"]
    assert {document["fingerprint"]} == {run["fingerprint"] for run in runs}
    assert document["samples"] == sum(shard["nsamples"] for shard in listed) == row["samples"]
    return document


def assert_described(
    world: World, tar: str, shard: Mapping[str, Any], kept: Sequence[Mapping[str, Any]]
) -> None:
    """What the snapshot, the parquet and the stats say of a tar is true.

    Args:
        world: whose.
        tar: name of the published tar.
        shard: its entry in the snapshot.
        kept: its samples' rows in the catalog, in the tar's order.
    """
    data, stem = world.stored(tar), tar.removesuffix(".tar")
    digest = hashlib.sha256(data).hexdigest()
    assert (shard["sha256"], shard["filesize"]) == (digest, len(data))
    assert tar.split("/")[-2].rpartition("-")[0] == shard["batch"]
    assert json.loads(world.stored(f"{stem}_stats.json")) == {
        "count": len(kept),
        "successes": len(kept),
        "form": shard["form"],
        "bytes": len(data),
        "sha256": digest,
    }
    table = pq.read_table(io.BytesIO(world.stored(f"{stem}.parquet")))
    metas = sorted({name for source in world.options.sources for name in source.columns})
    assert table.column_names == PUBLISHED_COLUMNS + metas
    for found, row in zip(table.to_pylist(), kept, strict=True):
        image = data[found["offset"] : found["offset"] + found["bytes"]]
        assert hashlib.sha256(image).hexdigest() == found["sha256"] == plain(row["image_sha256"])
        assert found["bytes"] == row["bytes"]
        assert found["key"] == row["shard_key"] == row["sample_id"].hex
        assert found["sample_id"] == str(row["sample_id"])
        assert found["source_key"] == row["key"]
        for name in ("source", "source_shard", "width", "height", "caption"):
            assert found[name] == row[name]
        for name in metas:
            value = (row["meta"] or {}).get(name)
            said = found[name]
            assert said == value or json.loads(said) == value


class _SourceBytes:
    """Members of source samples, read with `tarfile`."""

    def __init__(self, world: World) -> None:
        self._root = world.incoming
        self._read: dict[str, dict[str, dict[str, bytes]]] = {}

    def members(self, row: Mapping[str, Any]) -> dict[str, bytes]:
        shard = row["source_shard"]
        if shard not in self._read:
            found: dict[str, dict[str, bytes]] = {}
            with tarfile.open(self._root / shard) as tar:
                for member in tar:
                    folder, slash, base = member.name.rpartition("/")
                    key, _, extension = base.partition(".")
                    stream = tar.extractfile(member) if member.isreg() or member.islnk() else None
                    if stream is not None and extension:
                        name = {"jpeg": "jpg", "tif": "tiff"}.get(
                            extension.lower(), extension.lower()
                        )
                        found.setdefault(folder + slash + key, {})[name] = stream.read()
            self._read[shard] = found
        return self._read[shard][row["key"]]


def assert_catalog_and_files_agree(world: World) -> None:
    with world.parts() as parts:
        assert verify_snapshot(parts, DATASET) == []
        assert verify_index(parts, DATASET) == []
        with parts.catalog.begin() as conn:
            named = rows(
                conn,
                "WITH given_up AS (SELECT a.attempt_id FROM sscd_ops.attempts a"
                " JOIN sscd_ops.batches b USING (batch_id)"
                " WHERE a.attempt_id <> b.attempt_id OR b.state = 'abandoned')"
                " SELECT file FROM (SELECT attempt_id, manifest AS file FROM sscd_ops.source_shards"
                " UNION ALL SELECT attempt_id, descriptors FROM sscd_ops.source_shards"
                " UNION ALL SELECT attempt_id, file FROM sscd_ops.searches) f"
                " WHERE file IS NOT NULL AND attempt_id NOT IN (SELECT attempt_id FROM given_up)"
                " UNION ALL SELECT file FROM sscd_ops.snapshots WHERE expired_at IS NULL",
            )
        for row in named:
            parts.store.verify(need_file(row["file"]))
        newest = world.ask("SELECT * FROM curation.snapshots ORDER BY snapshot DESC LIMIT 1")
        if newest:
            latest = world.stored(f"{DATASET}/snapshots/latest.json")
            assert latest == world.stored(newest[0]["file"])
