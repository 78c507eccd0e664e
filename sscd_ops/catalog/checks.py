"""The promises as questions to the tables: of one dataset, what is not as it should be.

Each is one statement over whole tables, which answers nothing where all is well. Rows come into
being in transactions that keep the promises, so what is found here was changed by hand, or by a bad
disk or release: nothing makes such rows anew, and the remedy is a dump.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import date

from sqlalchemy.engine import Connection

from sscd_ops.catalog.partitions import months
from sscd_ops.catalog.placements import LOST
from sscd_ops.catalog.read_again import STANDS
from sscd_ops.catalog.sql import rows, run
from sscd_ops.model import Finding

RESTORE = "restore a dump from before that: `sscd-ops db restore FILE --replace`"
"""What mends rows that were changed by hand."""
_EXAMPLES = 3
_MOST = 1000


@dataclass(frozen=True)
class Check:
    """A question: rows with a column ``what`` for each thing that is wrong.

    ``what`` says of how many such things the rows are, with ``{count}``, and the first of them are
    named. Bound in ``sql`` are ``d``, the dataset; ``s``, a snapshot, and ``t``, that
    one's turn; ``months``, those whose samples are attached.
    """

    promise: str
    what: str
    sql: str


_DECIDED = (
    "decided AS (SELECT x.*, x.month = ANY(CAST(:months AS date[])) AS has_rows"
    " FROM sscd_ops.decisions x WHERE x.dataset_id = :d AND x.turn IS NOT NULL)"
)
_ROWS = (
    f"WITH {_DECIDED}, mine AS (SELECT s.* FROM sscd_ops.samples s JOIN decided x"
    " ON x.decision_id = s.decision_id AND x.month = s.month)"
)
"""The dataset's decisions in force, and their rows of samples."""

# ---------------------------------------------------------------- I1: one verdict each

_TWICE = Check(
    "I1",
    "{count} sample(s) have rows in two decisions",
    f"{_ROWS}, every AS (SELECT decision_id, shard_id, position, sample_id FROM mine"
    " WHERE sample_id IS NOT NULL UNION ALL"
    " SELECT e.decision_id, e.shard_id, e.position, e.sample_id FROM sscd_ops.detached_samples e"
    " JOIN decided USING (decision_id) WHERE NOT has_rows)"
    f" SELECT CAST(s.sample_id AS text) AS what FROM every s WHERE {STANDS}"
    " GROUP BY s.sample_id HAVING count(*) > 1",
)
_READ_AGAIN = Check(
    "I1",
    "{count} sample(s) were read again and have no row since",
    f"{_ROWS} SELECT CAST(r.sample_id AS text) AS what FROM sscd_ops.read_again_now r"
    " JOIN decided x ON x.decision_id = r.decision_id AND x.has_rows"
    " WHERE r.again_id IS NOT NULL AND NOT EXISTS (SELECT FROM mine m"
    " WHERE m.decision_id = r.decision_id AND m.sample_id = r.again_id)",
)

_TALLY = {
    "read": "true",
    "kept": "verdict = 'kept'",
    "removed_exact": "verdict = 'removed' AND reason = 'exact'",
    "removed_near": "verdict = 'removed' AND reason <> 'exact'",
    "removed_perceptual": "verdict = 'removed' AND reason = 'perceptual'",
    "quarantined": "verdict = 'quarantined'",
    "withdrawn": "verdict = 'withdrawn'",
}
"""Count of a night -> the rows that it counts."""
_COUNTED = ", ".join(
    f"count(m.sample_id) FILTER (WHERE {of}) AS {name}" for name, of in _TALLY.items()
)
_DIFFERENT = " || ".join(
    f"CASE WHEN n.{name} <> r.{name} THEN ' {name} ' || n.{name} || ' (rows: ' || r.{name} || ')'"
    " ELSE '' END"
    for name in _TALLY
)
_NIGHTS = Check(
    "I1",
    "{count} night(s) count other samples than they have rows of",
    f"{_ROWS}, r AS (SELECT x.decision_id, {_COUNTED} FROM decided x"
    " LEFT JOIN mine m USING (decision_id) WHERE x.has_rows GROUP BY 1), n AS (SELECT decision_id,"
    " batch_id, "
    + ", ".join(f"coalesce(CAST(counts ->> '{name}' AS bigint), 0) AS {name}" for name in _TALLY)
    + " FROM decided WHERE batch_id IS NOT NULL AND has_rows)"
    f" SELECT 'batch ' || n.batch_id || ':' || {_DIFFERENT} AS what FROM n JOIN r"
    f" USING (decision_id) WHERE {_DIFFERENT} <> ''",
)

_SOURCES = Check(
    "I1",
    "{count} night(s) have other counts than their sources together",
    f"WITH {_DECIDED} SELECT 'batch ' || x.batch_id AS what FROM decided x"
    " JOIN sscd_ops.decision_sources o USING (decision_id)"
    " GROUP BY x.batch_id, x.counts"
    + " HAVING "
    + " OR ".join(
        f"sum(CAST(o.counts ->> '{name}' AS bigint)) <> CAST(x.counts ->> '{name}' AS bigint)"
        for name in _TALLY
    ),
)

_RULES = Check(
    "I1",
    "{count} sample(s) were not withdrawn, though a rule in force stopped them",
    f"{_ROWS}, rule AS (SELECT s.kind, s.digest, s.host, o.turn, o.turn_to"
    " FROM sscd_ops.order_subjects s JOIN sscd_ops.orders o USING (order_id)"
    " WHERE o.dataset_id = :d AND o.verb = 'withdraw' AND o.turn IS NOT NULL"
    " AND s.kind IN ('url', 'domain', 'source')),"
    # every host with the domains that cover it; none is looked at where no rule asks
    " below AS (SELECT h.host, array_to_string((string_to_array(h.host, '.'))[1:n], '.') || '.'"
    " AS domain FROM (SELECT DISTINCT host FROM mine WHERE host IS NOT NULL"
    " AND EXISTS (SELECT FROM rule WHERE kind = 'domain')) h,"
    " generate_series(1, cardinality(string_to_array(h.host, '.')) - 1) n),"
    " stopped AS (SELECT m.decision_id, m.sample_id, r.turn, r.turn_to FROM mine m"
    " JOIN rule r ON r.kind = 'url' AND r.digest = m.url_sha256"
    " UNION ALL SELECT m.decision_id, m.sample_id, r.turn, r.turn_to FROM mine m"
    " JOIN below b USING (host) JOIN rule r ON r.kind = 'domain' AND r.host = b.domain"
    " UNION ALL SELECT m.decision_id, m.sample_id, r.turn, r.turn_to FROM mine m"
    " JOIN sscd_ops.source_shards sh USING (shard_id)"
    " JOIN rule r ON r.kind = 'source' AND r.digest = sha256(convert_to(sh.source, 'UTF8')))"
    " SELECT DISTINCT CAST(m.sample_id AS text) AS what FROM stopped p"
    " JOIN decided x USING (decision_id) JOIN mine m USING (decision_id, sample_id)"
    " WHERE x.batch_id IS NOT NULL AND m.verdict <> 'withdrawn'"
    " AND p.turn < x.turn AND (p.turn_to IS NULL OR p.turn_to >= x.turn)",
)
"""A night of turn T asks the rules in force at T - 1."""

_CARRIERS = Check(
    "I1",
    "{count} kept sample(s) are not what their images say",
    f"{_ROWS} SELECT CAST(coalesce(m.sample_id, i.sample_id) AS text) AS what FROM"
    " (SELECT * FROM mine WHERE verdict = 'kept') m FULL JOIN"
    " (SELECT i.* FROM sscd_ops.images i JOIN decided USING (decision_id)"
    " WHERE i.verdict = 'kept' AND has_rows) i"
    " ON (i.decision_id, i.sample_id) = (m.decision_id, m.sample_id)"
    " WHERE (i.sha256, i.slot, i.shard_id, i.position) IS DISTINCT FROM"
    " (m.image_sha256, m.slot, m.shard_id, m.position)"
    # one of a free image has a change in place of a row of its own
    " AND NOT (i.sample_id IS NULL AND EXISTS (SELECT FROM sscd_ops.changes c"
    " WHERE c.dataset_id = :d AND c.decision_id = m.decision_id"
    " AND c.image_sha256 = m.image_sha256 AND c.carrier_id = m.sample_id AND c.slot = m.slot))",
)

# ---------------------------------------------------------------- I2: witnesses

_KEPT_NOW = (
    "kept AS (SELECT sha256 FROM sscd_ops.images_now WHERE dataset_id = :d AND verdict = 'kept')"
)
_WITNESSES = Check(
    "I2",
    "{count} removed sample(s) have no witness that is kept now",
    f"WITH {_KEPT_NOW} SELECT CAST(s.sample_id AS text) AS what FROM sscd_ops.samples_now s"
    " WHERE s.dataset_id = :d AND s.is_removed AND s.sample_id IS NOT NULL"
    " AND NOT EXISTS (SELECT FROM kept k WHERE k.sha256 = s.witness_sha256)",
)
_SIMILAR = Check(
    "I2",
    "{count} removed sample(s) are not as similar to their witness as the threshold asks",
    "SELECT CAST(s.sample_id AS text) AS what FROM sscd_ops.samples_now s"
    " WHERE s.dataset_id = :d AND s.is_removed AND CASE WHEN s.reason = 'exact'"
    " THEN s.witness_sha256 = s.image_sha256 ELSE s.similarity >= s.threshold END IS NOT TRUE",
)

_LISTED_BYTES = Check(
    "I1",
    "{count} kept image(s) have the bytes of pictures that are withdrawn with their copies",
    f"WITH {_KEPT_NOW} SELECT DISTINCT encode(k.sha256, 'hex') AS what FROM kept k"
    " JOIN sscd_ops.withdrawn_images w ON w.dataset_id = :d AND w.sha256 = k.sha256"
    " JOIN sscd_ops.decisions x ON x.decision_id = w.decision_id AND x.turn IS NOT NULL"
    " JOIN sscd_ops.orders o ON o.order_id = w.order_id AND o.turn_to IS NULL",
)

# ---------------------------------------------------------------- I4: in the newest snapshot once

_PLACED = (
    "placed AS (SELECT p.output_id, p.decision_id, p.slot_from, p.slot_to"
    " FROM sscd_ops.placements p JOIN decided x USING (decision_id)"
    " WHERE p.snapshot_from <= :s AND (p.snapshot_to IS NULL OR p.snapshot_to > :s))"
)
_SLOTS = (
    "slots AS (SELECT decision_id, CAST(counts ->> 'kept' AS int) AS slots FROM decided"
    " WHERE batch_id IS NOT NULL AND snapshot <= :s"
    " UNION ALL SELECT x.decision_id, max(c.slot) + 1 FROM decided x JOIN sscd_ops.changes c"
    " ON c.slot_decision = x.decision_id AND c.dataset_id = :d"
    " WHERE x.batch_id IS NULL AND x.snapshot <= :s GROUP BY 1)"
)
"""How many slots the decisions gave that the snapshot follows, each from 0 on."""
_NUMBERED = Check(
    "I4",
    "{count} night(s) have kept samples that are not numbered through",
    f"{_ROWS} SELECT 'batch ' || x.batch_id AS what FROM mine m JOIN decided x USING (decision_id)"
    " WHERE m.slot IS NOT NULL GROUP BY x.batch_id HAVING min(m.slot) <> 0"
    " OR max(m.slot) <> count(*) - 1 OR count(DISTINCT m.slot) <> count(*)",
)
_TWO_SHARDS = Check(
    "I4",
    "{count} range(s) of kept samples are in two shards of the snapshot",
    f"WITH {_DECIDED}, {_PLACED}, ended AS (SELECT *, max(slot_to) OVER (PARTITION BY decision_id"
    " ORDER BY slot_from, slot_to, output_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    " AS before FROM placed) SELECT o.name || ': slots ' || e.slot_from || ' to '"
    " || least(e.before, e.slot_to) - 1 || ' of turn ' || x.turn AS what FROM ended e"
    " JOIN decided x USING (decision_id) JOIN sscd_ops.output_shards o ON o.output_id = e.output_id"
    " WHERE e.slot_from < e.before",
)
_NO_SHARD = Check(
    "I4",
    "{count} range(s) of kept samples of published decisions are in no shard of the snapshot",
    f"{LOST}, {_DECIDED}, {_PLACED}, {_SLOTS}, ends AS ("
    " SELECT decision_id, slot_from, slot_to FROM placed"
    " UNION ALL SELECT decision_id, slots, slots FROM slots), gaps AS (SELECT decision_id,"
    " coalesce(max(slot_to) OVER (PARTITION BY decision_id ORDER BY slot_from, slot_to"
    " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS a, slot_from AS b FROM ends)"
    " SELECT 'slots ' || g.a || ' to ' || g.b - 1 || ' of turn ' || x.turn AS what FROM gaps g"
    " JOIN decided x USING (decision_id) WHERE g.b > g.a AND (SELECT count(*) FROM lost l"
    " WHERE l.decision_id = g.decision_id AND l.slot >= g.a AND l.slot < g.b) < g.b - g.a",
)
_NOT_KEPT = Check(
    "I4",
    "{count} sample(s) in the snapshot were not kept at its turn",
    f"{LOST}, {_DECIDED}, {_PLACED} SELECT o.name || ': slot ' || l.slot AS what FROM lost l"
    " JOIN placed p ON p.decision_id = l.decision_id AND p.slot_from <= l.slot"
    " AND p.slot_to > l.slot JOIN sscd_ops.output_shards o ON o.output_id = p.output_id",
)
_SHARDS = Check(
    "I4",
    "{count} shard(s) are of other numbers of samples than they hold slots",
    f"WITH {_DECIDED} SELECT o.name AS what FROM sscd_ops.output_shards o"
    " JOIN decided x USING (decision_id) LEFT JOIN sscd_ops.placements p USING (output_id)"
    " GROUP BY o.output_id HAVING coalesce(sum(p.slot_to - p.slot_from), 0) <> o.samples",
)

# ---------------------------------------------------------------- I7: snapshots

_LISTED = Check(
    "I7",
    "{count} snapshot(s) are of other shards or samples than are placed in them",
    f"WITH {_DECIDED}, held AS (SELECT o.output_id, o.samples,"
    " CAST(o.files #>> '{tar,bytes}' AS bigint) AS bytes, min(p.snapshot_from) AS a,"
    " max(coalesce(p.snapshot_to, 2147483647)) AS b FROM sscd_ops.output_shards o"
    " JOIN decided x USING (decision_id) JOIN sscd_ops.placements p USING (output_id)"
    " WHERE p.snapshot_from IS NOT NULL GROUP BY 1), steps AS ("
    " SELECT a AS snapshot, 1 AS shards, samples, bytes FROM held"
    " UNION ALL SELECT b, -1, -samples, -bytes FROM held"
    " UNION ALL SELECT snapshot, 0, 0, 0 FROM sscd_ops.snapshots WHERE dataset_id = :d),"
    " summed AS (SELECT snapshot, sum(sum(shards)) OVER w AS shards,"
    " sum(sum(samples)) OVER w AS samples, sum(sum(bytes)) OVER w AS bytes"
    " FROM steps GROUP BY snapshot WINDOW w AS (ORDER BY snapshot))"
    " SELECT CAST(n.snapshot AS text) AS what FROM sscd_ops.snapshots n JOIN summed u"
    " USING (snapshot) WHERE n.dataset_id = :d"
    " AND (n.shards, n.samples, n.bytes) IS DISTINCT FROM (u.shards, u.samples, u.bytes)",
)
_PARENTS = Check(
    "I7",
    "{count} snapshot(s) do not follow on the one before",
    "SELECT CAST(snapshot AS text) AS what FROM (SELECT *, row_number() OVER w AS number,"
    " lag(turn) OVER w AS turn_before FROM sscd_ops.snapshots WHERE dataset_id = :d"
    " WINDOW w AS (ORDER BY snapshot)) s"
    " WHERE snapshot <> number OR parent <> snapshot - 1 OR turn < turn_before",
)

# ---------------------------------------------------------------- I8: turns, the index


def _changes(subject: str) -> Check:
    return Check(
        "I8",
        "{count} later verdict(s) do not hold until the next one of the same " + subject,
        f"WITH {_DECIDED}, held AS (SELECT c.turn, c.turn_to, c.{subject}, lead(c.turn) OVER"
        f" (PARTITION BY c.{subject} ORDER BY c.turn) AS following FROM sscd_ops.changes c"
        " JOIN decided x ON x.decision_id = c.decision_id AND x.turn = c.turn"
        f" WHERE c.dataset_id = :d AND c.{subject} IS NOT NULL)"
        f" SELECT 'of turn ' || turn || ' until '  || coalesce(CAST(turn_to AS text), 'now')"
        " AS what FROM held WHERE turn_to IS DISTINCT FROM following",
    )


_NUMBERS = Check(
    "I8",
    "{count} number(s) of the dataset are not those of its rows",
    "SELECT n.name || ' is ' || n.said || ', its rows say ' || n.found AS what FROM"
    " sscd_ops.datasets d CROSS JOIN LATERAL (VALUES"
    " ('next_turn', d.next_turn, (SELECT coalesce(max(turn), 0) + 1 FROM sscd_ops.decisions"
    " WHERE dataset_id = :d)),"
    " ('turns', d.next_turn - 1, (SELECT count(turn) FROM sscd_ops.decisions"
    " WHERE dataset_id = :d)),"
    " ('generation', d.generation, (SELECT coalesce(max(generation), 0)"
    " FROM sscd_ops.generations WHERE dataset_id = :d)),"
    " ('snapshot', d.snapshot, (SELECT coalesce(max(snapshot), 0) FROM sscd_ops.snapshots"
    " WHERE dataset_id = :d))) AS n(name, said, found)"
    " WHERE d.dataset_id = :d AND n.said <> n.found",
)
_STATES = Check(
    "I8",
    "{count} night(s) are in another state than their decision",
    f"WITH {_DECIDED} SELECT 'batch ' || b.batch_id || ' (' || b.state || ')' AS what"
    " FROM sscd_ops.batches b FULL JOIN (SELECT * FROM decided WHERE batch_id IS NOT NULL) x"
    " USING (decision_id) WHERE coalesce(b.dataset_id, x.dataset_id) = :d"
    " AND coalesce(b.decision_id, x.decision_id) IS NOT NULL"
    " AND (x.batch_id IS DISTINCT FROM b.batch_id OR CASE WHEN x.published_at IS NULL"
    " THEN b.state NOT IN ('decided', 'unpublishable') ELSE b.state <> 'published' END)",
)
_MASKS = Check(
    "I8",
    "{count} segment(s) have masks of other numbers of images than are kept in them",
    f"WITH {_DECIDED}, described AS (SELECT decision_id, dataset_id, sha256, verdict"
    " FROM sscd_ops.images WHERE dataset_id = :d AND segment_row IS NOT NULL UNION ALL"
    " SELECT decision_id, dataset_id, sha256, NULL FROM sscd_ops.described_later"
    " WHERE dataset_id = :d),"
    " kept AS (SELECT i.decision_id, count(*) AS images FROM described i"
    " JOIN decided USING (decision_id) LEFT JOIN sscd_ops.changes_now c"
    " ON c.dataset_id = i.dataset_id AND c.image_sha256 = i.sha256"
    " WHERE coalesce(c.verdict, i.verdict) = 'kept' GROUP BY 1)"
    " SELECT CAST(g.segment_id AS text) AS what FROM sscd_ops.segments g"
    " JOIN sscd_ops.segment_masks m ON m.segment_id = g.segment_id AND m.generation_to IS NULL"
    " JOIN sscd_ops.segment_parts p ON p.segment_id = g.segment_id"
    " LEFT JOIN kept k ON k.decision_id = p.decision_id"
    " WHERE g.dataset_id = :d AND g.role = 'images'"
    " GROUP BY g.segment_id, m.kept, g.rows HAVING m.kept <> coalesce(sum(k.images), 0)"
    " OR g.rows <> sum(p.rows)",
)
_WITHDRAWN_SET = Check(
    "I8",
    "{count} order(s) have other pictures in the withdrawn set than in its segments",
    f"WITH {_DECIDED}, entries AS (SELECT w.decision_id, count(w.row) AS pictures,"
    " count(DISTINCT w.row) AS places, max(w.row) AS last FROM sscd_ops.withdrawn_images w"
    " JOIN decided USING (decision_id) GROUP BY 1), stored AS (SELECT g.decision_id, g.rows,"
    " m.kept FROM sscd_ops.segments g LEFT JOIN sscd_ops.segment_masks m"
    " ON m.segment_id = g.segment_id AND m.generation_to IS NULL"
    " WHERE g.dataset_id = :d AND g.role = 'withdrawn')"
    " SELECT 'of turn ' || x.turn AS what FROM entries e FULL JOIN stored s USING (decision_id)"
    " JOIN decided x USING (decision_id) WHERE coalesce(e.pictures, 0) <> coalesce(s.kept, 0)"
    " OR e.places <> e.pictures OR e.last >= s.rows",
)

CHECKS = (
    _TWICE,
    _READ_AGAIN,
    _NIGHTS,
    _SOURCES,
    _RULES,
    _CARRIERS,
    _WITNESSES,
    _SIMILAR,
    _LISTED_BYTES,
    _NUMBERED,
    _TWO_SHARDS,
    _NO_SHARD,
    _NOT_KEPT,
    _SHARDS,
    _LISTED,
    _PARENTS,
    _changes("image_sha256"),
    _changes("sample_id"),
    _NUMBERS,
    _STATES,
    _MASKS,
    _WITHDRAWN_SET,
)


def check_rows(
    conn: Connection,
    dataset_id: int,
    snapshot: int | None = None,
    only: Container[str] = ("I1", "I2", "I4", "I7", "I8"),
) -> Iterator[Finding]:
    """What is wrong with a dataset's rows, promise by promise; all as of one moment.

    Args:
        conn: a transaction in which every statement sees the same (``Catalog.read``).
        dataset_id: whose.
        snapshot: what holds the samples of I4; the newest one where no number is given.
        only: promises.
    """
    # everything is read: joins in loops, which the planner takes for few rows, cost hours
    run(conn, "SET LOCAL enable_nestloop = off")
    run(conn, "SET LOCAL work_mem = '256MB'")
    held = rows(
        conn,
        "SELECT snapshot, turn FROM sscd_ops.snapshots WHERE dataset_id = :d"
        " AND (CAST(:s AS int) IS NULL OR snapshot = :s) ORDER BY snapshot DESC LIMIT 1",
        d=dataset_id,
        s=snapshot,
    )
    bound: dict[str, int | list[date]] = {
        "d": dataset_id,
        "s": held[0]["snapshot"] if held else 0,
        "t": held[0]["turn"] if held else 0,
        "months": months(conn),
    }
    for check in CHECKS:
        if check.promise not in only:
            continue
        mine = {name: given for name, given in bound.items() if f":{name}" in check.sql}
        answer = rows(conn, f"{check.sql} ORDER BY 1 LIMIT {_MOST}", **mine)
        found = [str(row["what"]) for row in answer]
        if found:
            count = str(len(found)) if len(found) < _MOST else f"{_MOST} or more"
            named = ", ".join(found[:_EXAMPLES])
            yield Finding(check.promise, f"{check.what.format(count=count)}: {named}", RESTORE)
