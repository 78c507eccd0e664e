"""A dataset's life as a state machine: any verb after any other, held against a slow model.

Verdicts, witnesses and what the newest snapshot holds are the model's (``slow_model.py``). What the
product said once it goes on saying: look-ups at past turns, bytes of snapshots, bytes by name.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import posixpath
import re
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from PIL import Image

from sscd_ops.catalog import datasets, lookups, orders
from sscd_ops.catalog.placements import samples_of_output
from sscd_ops.catalog.sql import need_file
from sscd_ops.errors import (
    BatchHeld,
    BatchNotRunnable,
    EffectChanged,
    FileMismatch,
    OrderHeld,
    OrderNotApplicable,
    SourceChanged,
    UsageError,
)
from sscd_ops.model import Person, StoredFile
from sscd_ops.options import GuardOptions, OrderOptions, RetentionOptions
from sscd_ops.steps import compacting_shards, maintaining, manage, repair
from sscd_ops.steps.compacting import compact
from sscd_ops.steps.maintaining import TASKS, Maintained
from sscd_ops.steps.next_snapshot import publish_others
from sscd_ops.steps.orders import applying
from sscd_ops.steps.orders.asked import withdrawal
from sscd_ops.steps.parts import configured
from sscd_ops.steps.rebuilding import rebuild_index, rebuild_snapshots
from sscd_ops.steps.reproduce import reproduce
from sscd_ops.steps.snapshot_diff import diff, diff_samples
from sscd_ops.steps.snapshot_tags import expire, untag
from sscd_ops.steps.snapshot_tags import tag as set_tag
from sscd_ops.steps.snapshots import repair_latest
from sscd_ops.steps.vacuum import vacuum
from sscd_ops.steps.verify import verify_catalog
from sscd_ops.testing import encode, make_tar, picture, plant
from sscd_ops.wiring import Wiring
from tests.databases import fresh_database
from tests.integration.slow_model import SOURCE, Batch, Id, Model, Order, Picture, Read
from tests.integration.test_crashes import DEATHS, Killed, die_at
from tests.integration.test_damage import DAMAGES, verify
from tests.integration.world import (
    DATASET,
    World,
    assert_newest_verdicts,
    assert_no_kept_copies,
    assert_witnesses_are_kept,
    interval,
)

DAYS = tuple(f"2026-11-{number:02d}" for number in range(1, 5))
SEEDS = range(6)
KINDS = ("same", "jpeg_40", "half_size", "padded", "sheet", "cut")
"""Of a picture: itself, near copies, the same pixels in other bytes, a plain sheet, no picture."""

VACUUM_DIES = tuple(
    f"{point} {when}"
    for point in ("_condemn", "_try_them", "condemned.mark_deleting", "condemned.mark_removed")
    for when in ("before", "after")
)
SNAPSHOT_DIES = tuple(
    f"next_snapshot.{point} {when}"
    for point in ("without_slots", "snapshots.add_snapshot", "output_shards.replace_shards")
    for when in ("before", "after")
)
REPAIR_DIES = tuple(
    f"{point} {when}"
    for point in ("repair.turns.take", "turns.decisions.put_in_force", "repair.commit.run")
    for when in ("before", "after")
)
ORDER_DIES = tuple(
    f"orders.{point} {when}"
    for point in (
        "applying.turns.take",
        "applying.publish_others",
        "applying.repair_latest",
        "turn.orders.mark_applied",
    )
    for when in ("before", "after")
)
DRAFT_DIES = tuple(f"orders.applying.orders.add_draft {when}" for when in ("before", "after"))
ANN, BOB = Person("ann", "ann"), Person("bob", "bob")
NO_LIMIT = OrderOptions(max_changed=10**6)
SEEN = {"recoverable", "source_seen_at"}
"""What whoever looks at sources writes down of them, dry runs too."""
COUNTS = ("read", "removed_exact", "removed_near", "kept", "quarantined", "withdrawn")


def _data(seed: int, kind: str) -> bytes:
    original = picture(seed)
    if kind in ("jpeg_40", "half_size"):
        return plant(original, kind)
    sheet = encode(Image.new("RGB", (80, 60 + seed), "white"), 90)
    other = {"padded": original + b"\0", "sheet": sheet, "cut": original[:1500]}
    return other.get(kind, original)


def look_at(parts: Wiring) -> dict[tuple[int, str], Picture]:
    """All pictures there are, described by the product's own model."""
    data = {(seed, kind): _data(seed, kind) for seed in SEEDS for kind in KINDS}
    options = parts.settings.datasets[DATASET].fingerprint
    vectors: list[np.ndarray] = []
    faults: dict[int, str] = {}
    sheets: set[int] = set()
    with parts.embedder(options) as embedder:
        for chunk in embedder.embed(data.values()):
            first = len(vectors)
            faults |= {first + i: str(code) for i, (code, _) in chunk.faults.items()}
            sheets |= {first + i for i in chunk.plain}
            vectors += list(chunk.descriptors.astype(np.float16).astype(np.float64))
    return {
        name: Picture(
            one,
            (160 * 120) if kind != "half_size" else 80 * 60,
            None if number in faults or number in sheets else vectors[number],
            faults.get(number),
            number in sheets,
        )
        for number, (name, one) in enumerate(data.items())
        for kind in [name[1]]
    }


days = st.sampled_from(DAYS)
contents = st.lists(
    st.tuples(st.sampled_from(SEEDS), st.sampled_from(("same", "same", *KINDS))),
    min_size=1,
    max_size=5,
)
some = st.integers(0, 1000)
"""Which of those there are."""


def url_of(seed: int, kind: str) -> str:
    """Where a picture is found, as URLs are compared."""
    return f"https://{'www.' * (seed % 2)}h{seed % 3}.example.org/{kind}"


def spelled(url: str, number: int) -> str:
    """The same URL as somebody or other writes it."""
    host, _, path = url.removeprefix("https://").partition("/")
    return (
        f"https://{host}/{path}",
        f"http://{host.upper()}:80/{path}#{number}",
        f"https://{host}.:443/%{ord(path[0]):x}{path[1:]}",
    )[number % 3]


def members_of(read: Read) -> dict[str, bytes]:
    """A sample's members in its source file."""
    url = None if read.url is None else spelled(read.url, read.position)
    texts = {"txt": read.caption.encode()} if read.caption else {}
    return {"jpg": read.picture.data, **texts, "json": json.dumps({"url": url}).encode()}


@contextmanager
def dying(when: str, point: str) -> Iterator[None]:
    """What is done here dies ``before`` or ``after`` a call, where it comes there; empty: never."""
    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        if when:
            die_at(patch, when, point)
        yield


class Life(RuleBasedStateMachine):
    """One dataset, from its first night on. ``home``, ``template``: of the tests' server."""

    home: ClassVar[Path]
    template: ClassVar[str]
    pictures: ClassVar[dict[tuple[int, str], Picture]] = {}
    bytes_of: ClassVar[dict[str, str]] = {}
    """sha256 of every published file of every life: equal decisions give equal names and bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.at_end = ExitStack()
        base = Path(self.at_end.enter_context(tempfile.TemporaryDirectory()))
        databases = contextmanager(fresh_database)(self.home, self.template)
        self.world = World(base, self.at_end.enter_context(databases))
        self.world.change(publish={"max_samples": 3}, orders=NO_LIMIT)
        self.world.change_source(url="json:url")
        if not self.pictures:
            with self.world.parts() as parts:
                self.pictures |= look_at(parts)
        by_digest = {one.digest: one for one in self.pictures.values()}
        self.model = Model(by_digest, threshold=0.5)
        self.numbers = itertools.count()
        self.said: dict[int, list[Any]] = {}
        """Turn -> what look-ups answered as of it."""
        self.documents: dict[int, bytes] = {}
        """Snapshot -> its file."""
        self.places: dict[int, dict[Id, str]] = {}
        """Snapshot -> its samples, each with its shard."""
        self.is_behind = False
        """A night died before it moved the pointer to the newest snapshot."""
        self.expired: set[int] = set()
        self.drafts: list[tuple[Order, dict[Id, tuple[str, str]]]] = []
        """Drafted and neither applied nor refused, with what they would change."""
        self.tags: dict[str, int] = {}

    @initialize()
    def two_nights(self) -> None:
        """What the first rules are about: a night with copies, and one without."""
        self.night(DAYS[0], [(0, "same"), (0, "jpeg_40"), (1, "same"), (2, "same")], strict=False)
        self.night(DAYS[1], [(1, "half_size"), (3, "same"), (0, "sheet")], strict=False)

    # ------------------------------------------------------------ source files

    def put(self, day: str, content: Sequence[tuple[int, str]], *, uri: str = "") -> None:
        """Write a file of a day, or another version of one."""
        number = next(self.numbers)
        uri = uri or f"{day}/{number:02d}.tar"
        samples = [
            (
                f"n{number}-{place}-{seed}-{kind}",
                self.pictures[seed, kind],
                self._caption(place),
                url_of(seed, kind) if place != 3 else None,
            )
            for place, (seed, kind) in enumerate(content)
        ]
        self.model.put(uri, samples)
        self.write(uri, -1)

    @staticmethod
    def _caption(place: int) -> str | None:
        return None if place == 4 else "a caption" + "!" * (place % 3)

    def write(self, uri: str, version: int) -> None:
        """Have a version of a source file be there, with the time of change it had."""
        versions = self.model.contents[uri]
        reads = versions[version]
        path = make_tar(self.world.incoming / uri, [(r.key, members_of(r)) for r in reads])
        moment = 1_700_000_000 + version % len(versions)
        os.utime(path, (moment, moment))

    # ------------------------------------------------------------ nights

    def run(self, day: str, *, supplement: bool = False, strict: bool = False) -> None:
        """Run a night as a command does, and have the model follow."""
        batch = self.model.plan(day, supplement=supplement, strict=strict)
        self.world.change(guard=GuardOptions(first_nights_max=float(not strict), empty="allow"))
        held = False
        if batch is not None and not batch.is_decided:
            decision = self.model.decide(batch)
            held = batch.is_strict and not batch.is_released
            held = held and decision.is_held_by_a_strict_guard
        died = self.is_behind = False
        try:
            report = self.world.night(day, supplement=supplement)
            assert not held
            assert report.state == "published"
        except BatchHeld:
            assert held
        except Killed:
            died = self.is_behind = True
        except SourceChanged:
            assert batch is not None
            assert self.model.away.intersection(uri for uri, _ in batch.files)
            self.follow(batch)
            assert batch.state == "unpublishable"
            return
        self.follow(batch)
        assert batch is None or died or held or batch.state == "published"

    def follow(self, batch: Batch | None) -> None:
        """See how far a batch came."""
        if batch is None:
            return
        found = self.world.ask(
            "SELECT state, turn FROM curation.runs WHERE interval_start = :s AND supplement = :n",
            s=interval(batch.day).start,
            n=batch.supplement,
        )
        (now,) = found
        if now["turn"] is not None and not batch.is_decided:
            self.model.put_in_force(batch, self.model.decide(batch))
            assert batch.turn == now["turn"]
        if now["state"] == "published" and batch.state != "published":
            self.model.publish(batch)
        decided = ("decided", "published", "unpublishable", "held")
        batch.state = now["state"] if now["state"] in decided else "open"

    @rule(day=days, content=contents, strict=st.booleans())
    def night(self, day: str, content: Sequence[tuple[int, str]], strict: bool) -> None:
        """The first night of a day, or one that died is gone on with, and there is a new file."""
        self.put(day, content)
        self.run(day, strict=strict)

    @rule(day=days, content=contents)
    def decided_alone(self, day: str, content: Sequence[tuple[int, str]]) -> None:
        """A night dies between its decision and its first shard: what comes now comes between."""
        self.put(day, content)
        with dying("before", "publish.output_shards.register_output"):
            self.run(day)

    def supplemented(self) -> list[str]:
        """Days whose next run may be a supplement."""
        last = {batch.day: batch for day in DAYS for batch in self.model.of_day(day)}
        return [day for day, batch in last.items() if batch.is_decided or batch.supplement]

    @precondition(lambda self: self.supplemented())
    @rule(pick=some, content=contents)
    def supplement(self, pick: int, content: Sequence[tuple[int, str]]) -> None:
        there = self.supplemented()
        day = there[pick % len(there)]
        self.put(day, content)
        self.run(day, supplement=True)

    def at_rest(self) -> list[str]:
        """Files that no batch has to read any more."""
        busy = {batch.day for batch in self.model.batches if batch.state != "published"}
        needed = self.to_be_published()
        return sorted(
            uri
            for uri in self.model.contents
            if uri.partition("/")[0] not in busy and uri not in needed
        )

    def to_be_published(self) -> set[str]:
        """Files of what orders keep that no snapshot has yet."""
        return {self.model.reads[each].uri for each in self.model.waiting}

    @precondition(lambda self: self.at_rest())
    @rule(pick=some, content=contents)
    def touched(self, pick: int, content: Sequence[tuple[int, str]]) -> None:
        """A file is delivered anew: what it begins with is known; a supplement reads the rest."""
        there = self.at_rest()
        uri = there[pick % len(there)]
        day = uri.partition("/")[0]
        before = self.model.contents[uri][-1]
        self.model.away.discard(uri)
        self.put(day, content, uri=uri)
        self.model.contents[uri][-1][:1] = before[:1]
        self.write(uri, -1)
        self.run(day, supplement=True)

    @rule(
        day=days,
        content=contents,
        death=st.sampled_from(sorted(DEATHS)),
        supplement=st.booleans(),
    )
    def killed(
        self, day: str, content: Sequence[tuple[int, str]], death: tuple[str, str], supplement: bool
    ) -> None:
        """A night dies at a write; whatever comes next, it is run again some time."""
        supplement = supplement and day in self.supplemented()
        self.put(day, content)
        when, point = death
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, when, point.removeprefix("sscd_ops.steps."))
            self.run(day, supplement=supplement)

    @precondition(lambda self: self.unfinished())
    @rule()
    def gone_on_with(self) -> None:
        """Everything that died is run again; files that came meanwhile may come before it."""
        for batch in [b for _ in range(2) for b in self.unfinished()]:
            if batch.state != "published":
                self.run(batch.day, supplement=batch.supplement > 0)

    @precondition(lambda self: any(b.state == "decided" for b in self.model.batches))
    @rule(picks=st.lists(some, min_size=1, max_size=3))
    def source_lost(self, picks: Sequence[int]) -> None:
        """A file goes before what is kept of it is published; perhaps others that were read."""
        batch = next(b for b in self.model.batches if b.state == "decided")
        decided = [uri for b in self.model.batches if b.is_decided for uri, _ in b.files]
        there = sorted({uri for uri in decided if not self.is_being_read(uri)})
        uri, _ = batch.files[picks[0] % len(batch.files)]
        chosen = {uri, *(there[pick % len(there)] for pick in picks[1:] if there)}
        for lost in chosen - self.to_be_published():
            self.model.away.add(lost)
            (self.world.incoming / lost).unlink(missing_ok=True)
        self.run(batch.day, supplement=batch.supplement > 0)

    def is_being_read(self, uri: str) -> bool:
        """Whether an undecided batch has claimed it."""
        return any(uri in dict(b.files) for b in self.model.batches if not b.is_decided)

    @precondition(lambda self: any(b.state == "unpublishable" for b in self.model.batches))
    @rule(dies=st.sampled_from(("", *REPAIR_DIES)))
    def repair(self, dies: str) -> None:
        """What is lost of a night is given up, and what is left is published."""
        batch = next(b for b in self.model.batches if b.state == "unpublishable")
        number = self.number_of(batch)
        lost = [each for each in self.unwritten(batch) if not self.can_be_had(each)]
        given = {"actor": "ann", "why": "by chance"}
        point, _, when = dies.partition(" ")
        before = self.world.views(SEEN)
        with self.world.parts() as parts:
            foreseen = repair.run(parts, number, dry_run=True, **given)
            assert before == self.world.views(SEEN)
            with dying(when, point):
                done = repair.run(parts, number, **given)
                assert foreseen.outcomes == done.outcomes
            with suppress(BatchNotRunnable):  # nothing is left to repair
                repair.run(parts, number, **given)
            after = self.world.views(SEEN)
            with suppress(BatchNotRunnable):
                assert repair.run(parts, number, **given).outcomes == []
            assert after == self.world.views(SEEN)
        if lost:
            self.model.repair((read.id for read in lost), self.can_be_had)
        self.is_behind = False
        self.follow(batch)
        assert batch.state == "published"
        self.model.publish(None)

    def unwritten(self, batch: Batch) -> list[Read]:
        """Samples of the shards of a batch that are to be written yet."""
        found = self.world.ask(
            "SELECT o.output_id FROM sscd_ops.output_shards o JOIN sscd_ops.decisions d"
            " USING (decision_id) WHERE d.batch_id = :b AND o.files IS NULL",
            b=self.number_of(batch),
        )
        with self.world.parts() as parts, parts.catalog.begin() as conn:
            return [
                self.model.reads[sample.sample_id.bytes]
                for row in found
                for sample in samples_of_output(conn, row["output_id"])
            ]

    def can_be_had(self, read: Read) -> bool:
        """Whether the bytes of a sample are where they were when it was read."""
        path = self.world.incoming / read.uri
        if read.uri in self.model.away:
            return False
        (version,) = (v for v in self.model.contents[read.uri] if any(r is read for r in v))
        data, at = path.read_bytes(), 0
        for each in version:
            for member in members_of(each).values():
                if each is read and data[at + 512 : at + 512 + len(member)] != member:
                    return False
                at += 512 + -len(member) % 512 + len(member)
        return True

    @precondition(lambda self: self.model.away)
    @rule()
    def source_put_back(self) -> None:
        for uri in self.model.away:
            self.write(uri, -1)
        self.model.away.clear()
        self.gone_on_with()

    def unfinished(self) -> list[Batch]:
        return [b for b in self.model.batches if b.state not in ("published", "held")]

    @precondition(lambda self: any(b.state == "published" for b in self.model.batches))
    @rule(pick=some, dry=st.booleans())
    def again(self, pick: int, dry: bool) -> None:
        """What is finished is run again, or a dry run of anything: nothing changes."""
        finished = [b for b in self.model.batches if b.state == "published"]
        batch = finished[pick % len(finished)]
        before = self.world.views(SEEN), self.world.published()
        if dry:
            self.world.change(guard=GuardOptions(first_nights_max=1.0, empty="allow"))
            self.world.night(batch.day, dry_run=True)
        elif not batch.supplement:
            assert self.world.night(batch.day).answered
        assert before == (self.world.views(SEEN), self.world.published())

    # ------------------------------------------------------------ what people do about a batch

    @precondition(lambda self: any(not b.is_decided for b in self.model.batches))
    @rule(run_again=st.booleans())
    def abandon(self, run_again: bool) -> None:
        batch = next(b for b in self.model.batches if not b.is_decided)
        with self.world.parts() as parts:
            manage.abandon(parts, self.number_of(batch), actor="ann", why="by chance")
        batch.state = "abandoned"
        if run_again:
            self.run(batch.day, supplement=batch.supplement > 0)

    @precondition(lambda self: any(b.state == "held" for b in self.model.batches))
    @rule(run_again=st.booleans())
    def release(self, run_again: bool) -> None:
        batch = next(b for b in self.model.batches if b.state == "held")
        with self.world.parts() as parts:
            manage.release(parts, self.number_of(batch), actor="ann", why="by chance")
        batch.is_released, batch.state = True, "open"
        if run_again:
            self.run(batch.day, supplement=batch.supplement > 0)

    @precondition(lambda self: any(b.is_decided for b in self.model.batches))
    @rule(verb=st.sampled_from(("abandon", "release")))
    def too_late(self, verb: str) -> None:
        """What is decided is neither abandoned nor released."""
        batch = next(b for b in self.model.batches if b.is_decided)
        with self.world.parts() as parts, pytest.raises(BatchNotRunnable):
            getattr(manage, verb)(parts, self.number_of(batch), actor="ann", why="by chance")

    def number_of(self, batch: Batch) -> int:
        (row,) = self.world.ask(
            "SELECT batch_id FROM curation.runs WHERE interval_start = :s AND supplement = :n",
            s=interval(batch.day).start,
            n=batch.supplement,
        )
        return int(row["batch_id"])

    # ------------------------------------------------------------ other turns, other generations

    @rule(
        kind=st.sampled_from(("id", "id", "sha256", "url", "url", "domain")),
        picks=st.lists(some, min_size=1, max_size=2),
        dies=st.sampled_from(("", "", *DRAFT_DIES, *ORDER_DIES)),
        later=st.booleans(),
    )
    def withdraw(self, kind: str, picks: Sequence[int], dies: str, later: bool) -> None:
        """Samples go, by whatever names them; the command is killed and repeated."""
        order = self.draft(kind, picks, dies if dies in DRAFT_DIES else "")
        self.carry_out(order, dies if dies in ORDER_DIES else "", later=later)

    @precondition(lambda self: self.in_force())
    @rule(pick=some, dies=st.sampled_from(("", "", *ORDER_DIES)), later=st.booleans())
    def revert(self, pick: int, dies: str, later: bool) -> None:
        """An order ends: what it covered comes back, or is decided like a newcomer."""
        self.carry_out(self.draft_revert(pick), dies, later=later)

    @rule(kind=st.sampled_from(("id", "url")), picks=st.lists(some, min_size=1, max_size=2))
    def drafted(self, kind: str, picks: Sequence[int]) -> None:
        """It is looked at for a while: other verbs come before it is applied."""
        self.keep_draft(self.draft(kind, picks, ""))

    @precondition(lambda self: self.in_force())
    @rule(pick=some)
    def revert_drafted(self, pick: int) -> None:
        self.keep_draft(self.draft_revert(pick))

    def keep_draft(self, order: Order) -> None:
        self.forget_draft(order)
        if not order.turn:
            self.drafts.append((order, self.foreseen(order)))

    def forget_draft(self, order: Order) -> None:
        self.drafts = [(each, shown) for each, shown in self.drafts if each is not order]

    @precondition(lambda self: self.drafts)
    @rule(pick=some, refused=st.booleans())
    def apply_a_draft(self, pick: int, refused: bool) -> None:
        """What was shown holds: one that would change something else by now changes nothing."""
        order, shown = self.drafts.pop(pick % len(self.drafts))
        if refused:
            with self.world.parts() as parts:
                for _ in range(2):
                    applying.refuse(parts, order.number, by=BOB, why="by chance")
                with pytest.raises(OrderNotApplicable):
                    applying.apply(parts, order.number, by=ANN)
            return
        if self.foreseen(order) != shown:
            before = self.world.views(SEEN)
            with self.world.parts() as parts, pytest.raises(EffectChanged):
                applying.apply(parts, order.number, by=ANN)
            assert self.world.views(SEEN) == before
            self.assert_foreseen(order)
        self.carry_out(order, "", later=False)

    @rule(
        kind=st.sampled_from(("id", "url", "source")),
        picks=st.lists(some, min_size=1, max_size=3),
        approved=st.booleans(),
    )
    def held(self, kind: str, picks: Sequence[int], approved: bool) -> None:
        """One that changes more than one person may decide waits for another one."""
        order = self.draft(kind, picks, "")
        if order.turn or not self.foreseen(order):
            return self.keep_draft(order)
        self.world.change(orders=OrderOptions(max_changed=0))
        before = self.world.views(SEEN)
        with self.world.parts() as parts:
            for _ in range(2):
                with pytest.raises(OrderHeld):
                    applying.apply(parts, order.number, by=ANN)
            with pytest.raises(UsageError):
                applying.approve(parts, order.number, by=ANN)
            assert self.world.views(SEEN) == before
            if approved:
                applying.approve(parts, order.number, by=BOB)
            else:
                applying.refuse(parts, order.number, by=BOB, why="by chance")
        self.world.change(orders=NO_LIMIT)
        self.forget_draft(order)
        if approved:
            self.applied(order, published=True)
        if approved and kind == "source":  # else every further night is stopped
            self.what_holds()
            self.night(DAYS[picks[0] % len(DAYS)], [(0, "same"), (5, "same")], strict=False)
            self.what_holds()
            self.carry_out(self.draft_revert(self.in_force().index(order)), "", later=True)
        return None

    def draft(self, kind: str, picks: Sequence[int], dies: str) -> Order:
        """Draft a withdrawal, or find the one that names the same."""
        subjects = frozenset(self.subject(kind, pick) for pick in picks)
        values = [value for _, value in sorted(subjects)]
        names: dict[str, Any] = {
            "id": lambda: {"ids": [str(UUID(bytes=value)) for value in values]},
            "sha256": lambda: {"sha256": [value.hex().upper() for value in values]},
            "url": lambda: {"url_list": [spelled(url, n) for n, url in enumerate(values)]},
            "domain": lambda: {"domains": values},
            "source": lambda: {"sources": values},
        }[kind]()
        point, _, when = dies.partition(" ")
        with self.world.parts() as parts:
            options = configured(parts, DATASET)
            asked = withdrawal(options, scope="only-these", who=ANN, why="by chance", **names)
            with dying(when, point):
                applying.draft(parts, asked)
            done = applying.draft(parts, asked)
            assert not applying.draft(parts, asked).is_new
        known = [*self.model.orders, *(order for order, _ in self.drafts)]
        same = [o for o in known if o.subjects == subjects and not o.of and not o.turn_to]
        order = same[0] if same else Order(done.order.order_id, subjects)
        assert done.order.order_id == order.number
        self.assert_foreseen(order)
        return order

    def subject(self, kind: str, pick: int) -> tuple[str, Any]:
        pictures = sorted(self.pictures)
        seed, form = pictures[pick % len(pictures)]
        known = sorted(self.model.reads)
        return kind, {
            "id": known[pick % len(known)],
            "sha256": self.pictures[seed, form].digest,
            "url": url_of(seed, form),
            "domain": f"h{pick % 3}.example.org",
            "source": SOURCE,
        }[kind]

    def in_force(self) -> list[Order]:
        """Withdrawals that can be reverted."""
        return [order for order in self.model.orders if order.is_in_force and not order.of]

    def draft_revert(self, pick: int) -> Order:
        """Draft the end of an order, or find that draft again."""
        there = self.in_force()
        target = there[pick % len(there)]
        with self.world.parts() as parts:
            for _ in range(2):
                done = applying.revert(parts, target.number, who=ANN, why="by chance")
        same = [order for order, _ in self.drafts if order.of is target]
        order = same[0] if same else Order(done.order.order_id, of=target)
        assert done.order.order_id == order.number
        self.assert_foreseen(order)
        return order

    def foreseen(self, order: Order) -> dict[Id, tuple[str, str]]:
        return self.model.effect(order, self.can_be_had)

    def assert_foreseen(self, order: Order) -> None:
        """Its newest draft says what the model would have it change."""
        if order.turn:
            return
        with self.world.parts() as parts, parts.catalog.begin() as conn:
            newest = orders.need_draft(conn, order.number)
            found = orders.effects_of(conn, order.number, newest.draft)
        assert self.by_key(found) == self.by_key(self.foreseen(order))
        assert newest.counts["changed"] == len(found)

    def by_key(self, effect: dict[Id, tuple[str, str]]) -> dict[str, str]:
        return {self.model.reads[i].key: " -> ".join(said) for i, said in sorted(effect.items())}

    def carry_out(self, order: Order, dies: str, *, later: bool) -> None:
        """Apply it, be killed, apply it again, and again."""
        point, _, when = dies.partition(" ")
        with self.world.parts() as parts:
            with dying(when, point):
                applying.apply(parts, order.number, by=ANN, later=later)
            done = applying.apply(parts, order.number, by=ANN, later=later)
            after = self.world.views(SEEN)
            again = applying.apply(parts, order.number, by=ANN, later=later)
        assert again.answered
        assert (again.order, after) == (done.order, self.world.views(SEEN))
        self.forget_draft(order)
        self.applied(order, published=not later)
        assert done.order.turn == order.turn

    def applied(self, order: Order, *, published: bool) -> None:
        """Have the model follow."""
        if not order.turn:
            self.model.carry_out(order, self.can_be_had)
            # what would revert the same one is nobody's any more
            self.drafts = [
                (each, shown) for each, shown in self.drafts if not each.of or each.of.is_in_force
            ]
        if published:
            self.is_behind = False
            self.model.publish(None)

    @precondition(lambda self: self.model.turn)
    @rule(dies=st.sampled_from(("", *SNAPSHOT_DIES)))
    def publish_orders(self, dies: str) -> None:
        """What people decided is published at once, without a night."""
        with self.world.parts() as parts, parts.catalog.begin() as conn:
            dataset_id = datasets.need(conn, DATASET).dataset_id
        point, _, when = dies.partition(" ")
        with self.world.parts() as parts:
            with dying(when, point):
                publish_others(parts, dataset_id)
            publish_others(parts, dataset_id)
            repair_latest(parts, DATASET)
        self.is_behind = False
        self.model.publish(None)

    @precondition(lambda self: len(self.model.batches) > 1)
    @rule(below=st.sampled_from((2, 8, 100)), dies=st.sampled_from(("", "before", "after")))
    def merge_segments(self, below: int, dies: str) -> None:
        with self.world.parts() as parts:
            with dying(dies, "compacting.segments.add_merged"):
                compact(parts, DATASET, below)
            compact(parts, DATASET, below)
            assert compact(parts, DATASET, below) == []

    # ------------------------------------------------------------ snapshots end

    @precondition(lambda self: self.documents)
    @rule(pick=some, name=st.sampled_from("ab"), until=st.booleans())
    def tag(self, pick: int, name: str, until: bool) -> None:
        """A snapshot is given a name, which another one may have; or a name is taken away."""
        number = 1 + pick % len(self.documents)
        day = datetime.now(UTC).date() if until else None
        other = self.tags.get(name, number) != number
        dead = name not in self.tags and number in self.expired
        with self.world.parts() as parts:
            if other and pick % 2:
                number = self.tags.pop(name)
                for _ in range(2):
                    untag(parts, DATASET, number, name, actor="ann", why="by chance")
                return
            with pytest.raises(UsageError) if other or dead else nullcontext():
                for _ in range(2):
                    given = {"keep_until": day, "used_by": f"run-{pick}"}
                    set_tag(parts, DATASET, number, name, actor="ann", why="by chance", **given)
                self.tags[name] = number

    @precondition(lambda self: self.documents)
    @rule(pick=some, keep_last=st.sampled_from((None, 1, 2, 3)))
    def expire(self, pick: int, keep_last: int | None) -> None:
        """Some are given up, or all but the last; not the newest one, nor what has a tag."""
        numbers = sorted(self.documents)
        tagged = set(self.tags.values())
        if keep_last is None:
            asked = {numbers[pick % len(numbers)]}
            refused = asked & {numbers[-1], *(tagged - self.expired)}
        else:
            there = [number for number in numbers if number not in self.expired]
            asked, refused = set(there[:-keep_last]) - tagged, set()
        given = {"keep_last": keep_last, "actor": "ann", "why": "by chance"}
        with self.world.parts() as parts:
            if refused:
                with pytest.raises(UsageError):
                    expire(parts, DATASET, sorted(asked), **given)
                return
            some = () if keep_last else sorted(asked)
            foreseen = expire(parts, DATASET, some, dry_run=True, **given)
            done = expire(parts, DATASET, some, **given)
            assert foreseen == done
            assert expire(parts, DATASET, some, **given).snapshots == []
        assert {snapshot.number for snapshot in done.snapshots} == asked - self.expired
        self.expired |= asked

    @precondition(lambda self: len(self.documents) > 1)
    @rule(first=some, second=some)
    def differ(self, first: int, second: int) -> None:
        """What is between two snapshots, also expired ones, is the difference of two sets."""
        one, other = (1 + number % len(self.documents) for number in (first, second))
        with self.world.parts() as parts:
            told = diff_samples(parts, DATASET, one, other)
            counted = diff(parts, DATASET, one, other)
        found = {
            change: [each.sample_id.bytes for each in told if each.change == change]
            for change in ("added", "removed", "moved")
        }
        before, after = self.places[one], self.places[other]
        wanted = {
            "added": after.keys() - before.keys(),
            "removed": before.keys() - after.keys(),
            "moved": {i for i in before.keys() & after.keys() if before[i] != after[i]},
        }
        for change, ids in found.items():
            assert sorted(ids) == sorted(wanted[change]), change
            assert len(ids) == sum(each.samples for each in counted if each.change == change)
        for each in told:
            shards = (places.get(each.sample_id.bytes) for places in (before, after))
            assert (each.from_shard, each.to_shard) == tuple(shards)

    @precondition(lambda self: self.documents)
    @rule(pick=some)
    def reproduced(self, pick: int) -> None:
        """A snapshot is written again elsewhere, where all that it was made from is there."""
        number = 1 + pick % len(self.documents)
        with tempfile.TemporaryDirectory() as other, self.world.parts() as parts:
            done = reproduce(parts, DATASET, number, other)
            assert done.differs == []
            assert not done.left or self.has_earlier_versions()
            if done.url:
                assert Path(done.url).read_bytes() == self.documents[number]

    def has_earlier_versions(self) -> bool:
        away = bool(self.model.away)
        return away or any(len(versions) > 1 for versions in self.model.contents.values())

    @precondition(lambda self: self.model.turn)
    @rule(grace=st.sampled_from((0, 0, 3600)), dies=st.sampled_from(("", *VACUUM_DIES)))
    def vacuum(self, grace: int, dies: str) -> None:
        """Dead files go, and no others: that is seen by whoever needs them next."""
        point, _, when = dies.partition(" ")
        with self.world.parts() as parts:
            with dying(when, f"vacuum.{point}"):
                vacuum(parts, DATASET, grace=grace)
            vacuum(parts, DATASET, grace=grace)
            (left,) = vacuum(parts, DATASET, grace=grace, dry_run=True)
        if grace:
            return
        assert (left.condemned, left.removed, left.others) == ({}, {}, [])
        readable = self.documents.keys() - self.expired
        alive, dead = self.shards_alive_and_dead()
        root = self.world.base / "root"
        assert [name for name in dead - alive if (root / name).exists()] == []
        numbers = [int(path.name[:6]) for path in root.glob(f"{DATASET}/snapshots/0*.json")]
        assert sorted(numbers) == sorted(readable)

    @precondition(lambda self: self.documents)
    @rule(most=st.sampled_from((3, 4, 100)), dies=st.sampled_from(("", *SNAPSHOT_DIES)))
    def merge_shards(self, most: int, dies: str) -> None:
        """Small shards become few: the same samples, and nothing that is withdrawn."""
        point, _, when = dies.partition(" ")
        self.world.change(publish={"max_samples": most})
        with self.world.parts() as parts:
            with dying(when, point):
                compacting_shards.compact(parts, DATASET)
            compacting_shards.compact(parts, DATASET)
            assert compacting_shards.compact(parts, DATASET).snapshot is None
        self.world.change(publish={"max_samples": 3})
        self.is_behind = False
        self.model.publish(None)

    @precondition(lambda self: self.documents)
    @rule(keep=st.sampled_from((0, 1, 2)), grace=st.sampled_from((0.0, 3600.0)))
    def maintained(self, keep: int, grace: float) -> None:
        """Housekeeping as a timer does it, after a look at what it would do."""
        self.world.change(retention=RetentionOptions(keep, grace))
        before = self.world.views(SEEN), self.world.published()
        with self.world.parts() as parts:
            for task in TASKS:
                maintaining.run(parts, DATASET, task, dry_run=True)
            assert before == (self.world.views(SEEN), self.world.published())
            done = list(maintaining.maintain(parts, DATASET, actor="timer"))
            assert all(isinstance(each, Maintained) for each in done), done
            assert [found for each in done for found in each.found] == []
        self.model.publish(None)
        self.is_behind = False
        (newest,) = self.world.ask("SELECT max(snapshot) AS n FROM curation.snapshots")
        there = [number for number in range(1, newest["n"] + 1) if number not in self.expired]
        self.expired |= set(there[:-keep] if keep else ()) - set(self.tags.values())

    # ------------------------------------------------------------ damage

    @precondition(lambda self: self.model.batches)
    @rule(
        kind=st.sampled_from(
            ("manifest", "descriptors", "matches", "segment", "mask", "snapshot", "latest", "shard")
        ),
        damage=st.sampled_from(DAMAGES[:-1]),
        pick=some,
    )
    def damaged(self, kind: str, damage: Any, pick: int) -> None:
        """A file is lost or damaged: found, and mended by the command that is named."""
        there = self.files(kind)
        if not there:
            return
        file = there[pick % len(there)]
        path = self.world.base / "root" / file.name
        before = path.read_bytes()
        damage(path)
        if path.exists() and path.read_bytes() == before:
            return  # zeros made zero
        found = self.verify()
        assert any(file.name in said for said in found), (kind, file.name, found)
        self.mend(found)
        assert self.verify() == []
        if file.sha256 and file in self.files(kind):  # lost candidate files are forgotten
            assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256

    def files(self, kind: str) -> list[StoredFile]:
        """What rows name that are in use."""
        if kind == "latest":
            path = self.world.base / "root" / DATASET / "snapshots" / "latest.json"
            return [StoredFile(f"{DATASET}/snapshots/latest.json", "", 0)] if path.exists() else []
        live = "WHERE generation_to IS NULL"
        statement = {
            "manifest": "SELECT manifest AS file FROM sscd_ops.source_shards",
            "descriptors": "SELECT descriptors AS file FROM sscd_ops.source_shards",
            "matches": "SELECT file FROM sscd_ops.searches",
            "segment": "SELECT value AS file FROM sscd_ops.segments JOIN sscd_ops.segment_masks"
            f" USING (segment_id), jsonb_each(files) {live}",
            "mask": f"SELECT mask AS file FROM sscd_ops.segment_masks {live}",
            "snapshot": "SELECT file FROM sscd_ops.snapshots WHERE expired_at IS NULL",
            "shard": "SELECT value AS file FROM sscd_ops.output_shards, jsonb_each(files)",
        }[kind]
        rows = self.world.ask(statement)
        found = {row["file"]["name"]: need_file(row["file"]) for row in rows if row["file"]}
        alive, dead = self.shards_alive_and_dead()
        dead = {name.removesuffix(".tar") for name in dead - alive}
        return [
            found[name]
            for name in sorted(found)
            if re.sub(r"(\.tar|\.parquet|_stats\.json)$", "", name) not in dead
        ]

    def shards_alive_and_dead(self) -> tuple[set[str], set[str]]:
        """Names of tars in snapshots that can be read, and in those that are expired."""
        alive: set[str] = set()
        dead: set[str] = set()
        for number, document in self.documents.items():
            names = dead if number in self.expired else alive
            names |= {name for name, _ in self.listed(document)}
        return alive, dead

    def verify(self) -> list[str]:
        return verify(self.world)

    def mend(self, found: Sequence[str]) -> None:
        """Do what is said, in its words, until nothing is found."""
        for said in found:
            done = False
            if f"`sscd-ops index rebuild --dataset {DATASET}`" in said:
                self.put_back_until(lambda parts: rebuild_index(parts, DATASET) and None)
                done = True
            if f"`sscd-ops snapshot verify --dataset {DATASET} --repair`" in said:
                self.put_back_until(lambda parts: rebuild_snapshots(parts, DATASET)[1])
                done = True
            if not done:
                assert "run its night again" in said, said
                self.gone_on_with()

    def put_back_until(self, mend: Callable[[Wiring], object]) -> None:
        """Mend; where that says that a source has changed, put the original back and mend again.

        ``mend`` raises, or answers with what is left.
        """
        for _ in self.originals():
            try:
                with self.world.parts() as parts:
                    left = mend(parts)
            except FileMismatch as error:
                left = str(error)
            if not left:
                return
            told = ("has changed", "put the original back", "is gone")
            assert any(words in str(left) for words in told), left
        raise AssertionError(left)

    def originals(self) -> Iterator[None]:
        """The source files as they are; then each earlier version of one put back for a while."""
        yield
        away = sorted(self.model.away)
        try:
            for uri in away:
                self.write(uri, -1)
            if away:
                yield
            for uri, versions in self.model.contents.items():
                for number in range(len(versions) - 1):
                    self.write(uri, number)
                    yield
                self.write(uri, -1)
        finally:
            for uri in self.model.contents:
                self.write(uri, -1)
            for uri in away:
                (self.world.incoming / uri).unlink()

    # ------------------------------------------------------------ what must hold

    @invariant()
    def what_holds(self) -> None:
        self.verdicts_are_the_models()
        self.look_ups_answer_as_they_did()
        self.snapshots_are_the_models_and_stay()
        if self.model.turn and not self.is_behind:
            with self.world.parts() as parts:
                found = verify_catalog(parts, DATASET, only_rows=True)
            assert found == [], found

    def verdicts_are_the_models(self) -> None:
        found = {
            row["sample_id"].bytes: (
                row["verdict"],
                row["reason"],
                row["witness_sample_id"] and row["witness_sample_id"].bytes,
                row["similarity"],
                row["threshold"],
                row["turn"],
            )
            for row in self.world.ask("SELECT * FROM curation.samples")
        }
        wanted = {}
        for each in self.model.samples:
            said = self.model.verdict(each)
            assert said is not None
            witness = self.model.said_of(said.witness) if said.witness else None
            wanted[each] = (
                said.verdict,
                said.reason,
                witness and witness.carrier,
                said.similarity,
                said.threshold,
                said.turn,
            )
        differ = {
            self.model.reads[each].key if each in self.model.reads else str(UUID(bytes=each)): (
                f"{found.get(each)} is said, {wanted.get(each)} by the model"
            )
            for each in found.keys() | wanted.keys()
            if found.get(each) != wanted.get(each)
        }
        assert not differ, differ

    def look_ups_answer_as_they_did(self) -> None:
        digests = np.array([list(digest) for digest in self.model.pictures], np.uint8)
        places = [(SOURCE, uri) for uri in self.model.contents]
        with self.world.parts() as parts, parts.catalog.begin() as conn:
            dataset = datasets.read(conn, DATASET)
            if dataset is None:
                return
            assert dataset.turn == self.model.turn
            for turn in range(self.model.turn + 1):
                known = lookups.known_images(conn, dataset.dataset_id, digests, turn)
                order = np.argsort(known.row)
                columns = [
                    getattr(known, name)[order].tolist() for name in known.__dataclass_fields__
                ]
                if self.said.setdefault(turn, columns) is columns:
                    self.assert_known(known.take(order), turn)
                assert repr(columns) == repr(self.said[turn])
                samples = lookups.known_samples(conn, dataset.dataset_id, places, turn)
                assert samples == {
                    each for each, said in self.model.samples.items() if said[0].turn <= turn
                }

    def assert_known(self, known: Any, turn: int) -> None:
        said = {
            image: now for image in self.model.pictures if (now := self.model.said_of(image, turn))
        }
        images = list(self.model.pictures)
        assert {images[row] for row in known.row} == set(said)
        for at, row in enumerate(known.row):
            now = said[images[row]]
            assert (known.verdict[at], known.reason[at]) == (now.verdict, now.reason)
            assert known.turn[at] == now.turn
            if now.carrier:
                assert known.sample_id[at].tobytes() == now.carrier
            if now.witness:
                assert known.witness_sha256[at].tobytes() == now.witness
                assert known.similarity[at] == now.similarity

    def snapshots_are_the_models_and_stay(self) -> None:
        rows = self.world.ask("SELECT * FROM curation.snapshots ORDER BY snapshot")
        for row in rows:
            assert (row["expired_at"] is not None) == (row["snapshot"] in self.expired)
            if row["snapshot"] in self.expired:
                continue
            data = self.world.stored(row["file"])
            if self.documents.setdefault(row["snapshot"], data) is data:
                self.places[row["snapshot"]] = self.members(data)
            assert self.documents[row["snapshot"]] == data
        if not rows:
            assert not self.model.published
            return
        pointer = self.world.base / "root" / DATASET / "snapshots" / "latest.json"
        latest = pointer.read_bytes() if pointer.exists() else None
        behind = {*self.documents.values(), None}
        assert latest == data or (self.is_behind and latest in behind)
        published = self.world.published()
        for name, digest in published.items():
            assert self.bytes_of.setdefault(name, digest) == digest
        for number in self.documents.keys() - self.expired:
            for name, shard in self.listed(self.documents[number]):
                assert published[name] == shard["sha256"]
        assert self.places[rows[-1]["snapshot"]].keys() == self.model.published

    def listed(self, document: bytes) -> list[tuple[str, dict[str, Any]]]:
        """Name and entry of each shard of a snapshot."""
        return [
            (posixpath.normpath(f"{DATASET}/snapshots/{shard['url']}"), shard)
            for shard in json.loads(document)["shardlist"]
        ]

    def members(self, document: bytes) -> dict[Id, str]:
        """Samples of a snapshot, each once, and its shard; their members are the source's."""
        found: dict[str, dict[str, bytes]] = {}
        places: dict[Id, str] = {}
        for name, shard in self.listed(document):
            with tarfile.open(fileobj=io.BytesIO(self.world.stored(name))) as tar:
                keys = set()
                for member in tar:
                    key, _, extension = member.name.partition(".")
                    stream = tar.extractfile(member)
                    assert stream is not None
                    assert extension not in found.setdefault(key, {})
                    found[key][extension] = stream.read()
                    places[UUID(key).bytes] = name
                    keys.add(key)
            assert len(keys) == shard["nsamples"]
        for key, members in found.items():
            read = self.model.reads[UUID(key).bytes]
            assert members["jpg"] == read.picture.data
            assert members["txt"] == (read.caption or "").encode()
        return places

    def assert_counts(self) -> None:
        """What each night counts is what it decided, whatever became of that since."""
        for batch in self.model.batches:
            first = [said[0] for said in self.model.samples.values()]
            mine = [said for said in first if said.turn == batch.turn]
            exact = sum(said.reason == "exact" for said in mine)
            (run,) = self.world.ask("SELECT * FROM curation.runs WHERE turn = :t", t=batch.turn)
            assert [run[name] for name in COUNTS] == [
                len(mine),
                exact,
                sum(said.verdict == "removed" for said in mine) - exact,
                *(
                    sum(said.verdict == verdict for said in mine)
                    for verdict in ("kept", "quarantined", "withdrawn")
                ),
            ]

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.finish()
        finally:
            self.at_end.close()

    def finish(self) -> None:
        """Everything is released and run to its end; then the promises are asked of it."""
        while any(b.state == "held" for b in self.model.batches):
            self.release(run_again=True)
        self.source_put_back()
        self.put("2026-11-30", [(3, "same")])
        self.run("2026-11-30")
        self.what_holds()
        assert {batch.state for batch in self.model.batches} == {"published"}
        assert self.model.published == self.model.kept()
        self.assert_counts()
        assert_newest_verdicts(self.world)
        assert_witnesses_are_kept(self.world)
        assert_no_kept_copies(self.world)
        with self.world.parts() as parts:
            assert verify_catalog(parts, DATASET, copies=True) == []
