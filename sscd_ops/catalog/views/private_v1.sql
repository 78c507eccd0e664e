-- What holds now, for the public views: private, so that they may change with the tables.

-- Later verdicts in force. Its decision is asked in subqueries, not joined: the views below have this
-- one several times over, and beyond eight tables the planner keeps joins in the order written, which
-- reads every month. A subquery that is itself the condition counts as half of the rows; one that is
-- compared, as one in 200.
CREATE VIEW sscd_ops.changes_now AS
SELECT c.*, (SELECT d.decided_at FROM sscd_ops.decisions d
        WHERE d.decision_id = c.decision_id) AS decided_at
FROM sscd_ops.changes c
WHERE c.turn_to IS NULL
    AND (SELECT d.turn = c.turn FROM sscd_ops.decisions d WHERE d.decision_id = c.decision_id);

-- Rows of samples that are none any more: what they say was read again.
CREATE VIEW sscd_ops.read_again_now AS
SELECT r.* FROM sscd_ops.read_again r
WHERE (SELECT d.turn = r.turn FROM sscd_ops.decisions d WHERE d.decision_id = r.decision_id);

-- One row an image. In force is asked row by row: an image in 16 partitions looks like 16 rows to the
-- planner, and for so many it would read all decisions each time.
CREATE VIEW sscd_ops.images_now AS
SELECT i.dataset_id, i.sha256, coalesce(c.verdict, i.verdict) AS verdict,
    coalesce(c.carrier_id, i.sample_id) AS carrier_id,
    coalesce(c.carrier_decision, i.decision_id) AS carrier_decision,
    coalesce(c.carrier_shard, i.shard_id) AS carrier_shard,
    coalesce(c.carrier_position, i.position) AS carrier_position,
    CASE WHEN c.turn IS NULL THEN i.slot ELSE c.slot END AS slot,
    CASE WHEN c.turn IS NULL THEN i.decision_id ELSE c.slot_decision END AS slot_decision
FROM sscd_ops.images i
LEFT JOIN sscd_ops.changes_now c ON c.dataset_id = i.dataset_id AND c.image_sha256 = i.sha256
WHERE (SELECT d.turn FROM sscd_ops.decisions d WHERE d.decision_id = i.decision_id) IS NOT NULL;

-- One row a sample, and one a fault of a source shard. What speaks for a sample: its own change,
-- unless that says it follows its image again; else its own fault, else its image: kept with it, or as
-- equal bytes of the one that carries it. Of an image that was changed before the sample was read, the
-- sample's own row says all.
-- The month joins so that a decision's rows are looked for in their own partition alone.
CREATE VIEW sscd_ops.samples_now AS
SELECT s.month, s.decision_id, d.dataset_id, d.batch_id, s.sample_id, s.shard_id, s.position,
    s.key, s.verdict AS first_verdict,
    s.image_sha256, s.width, s.height, s.format, s.bytes, s.caption, s.meta,
    CASE WHEN own.turn IS NOT NULL THEN own.verdict
        WHEN img.turn IS NULL THEN s.verdict
        WHEN img.verdict <> 'kept' THEN img.verdict
        WHEN img.carrier_id = s.sample_id THEN 'kept' ELSE 'removed' END AS verdict,
    -- The planner takes an unknown boolean for true in half of the rows, an unknown text for equal
    -- to another one in half a percent: with so few rows expected it joins in loops.
    CASE WHEN own.turn IS NOT NULL THEN own.verdict = 'kept'
        WHEN img.turn IS NULL THEN s.verdict = 'kept'
        ELSE img.verdict = 'kept' AND img.carrier_id = s.sample_id END AS is_kept,
    CASE WHEN own.turn IS NOT NULL THEN own.verdict = 'removed'
        WHEN img.turn IS NULL THEN s.verdict = 'removed'
        WHEN img.verdict <> 'kept' THEN img.verdict = 'removed'
        ELSE img.carrier_id <> s.sample_id END AS is_removed,
    CASE WHEN own.turn IS NOT NULL THEN own.reason
        WHEN img.turn IS NULL THEN s.reason
        WHEN img.verdict <> 'kept' THEN img.reason
        WHEN img.carrier_id <> s.sample_id THEN 'exact' END AS reason,
    CASE WHEN own.turn IS NOT NULL THEN own.message
        WHEN img.turn IS NULL THEN s.message
        WHEN img.verdict <> 'kept' THEN img.message END AS message,
    CASE WHEN own.turn IS NOT NULL THEN own.witness_sha256
        WHEN img.turn IS NULL THEN s.witness_sha256
        WHEN img.verdict <> 'kept' THEN img.witness_sha256
        WHEN img.carrier_id <> s.sample_id THEN s.image_sha256 END AS witness_sha256,
    -- known from the row, while nothing changed; else it is looked up in images_now
    CASE WHEN own.turn IS NULL AND img.turn IS NULL AND NOT EXISTS (
            SELECT FROM sscd_ops.changes c
            WHERE c.dataset_id = d.dataset_id AND c.image_sha256 = s.witness_sha256)
        THEN s.witness_id END AS witness_id,
    s.witness_decision,
    CASE WHEN own.turn IS NOT NULL THEN own.similarity
        WHEN img.turn IS NULL THEN s.similarity
        WHEN img.verdict <> 'kept' THEN img.similarity
        WHEN img.carrier_id <> s.sample_id THEN 1 END AS similarity,
    CASE WHEN own.turn IS NOT NULL THEN own.threshold
        WHEN img.turn IS NULL THEN s.threshold
        WHEN img.verdict <> 'kept' THEN img.threshold END AS threshold,
    CASE WHEN own.turn IS NOT NULL THEN own.slot
        WHEN img.turn IS NULL THEN s.slot
        WHEN img.carrier_id = s.sample_id THEN img.slot END AS slot,
    CASE WHEN own.turn IS NOT NULL THEN own.slot_decision
        WHEN img.turn IS NULL THEN s.decision_id
        WHEN img.carrier_id = s.sample_id THEN img.slot_decision END AS slot_decision,
    -- of what changed, as it is kept without a descriptor
    CASE WHEN own.turn IS NULL AND img.turn IS NULL THEN s.plain IS TRUE
        WHEN own.turn IS NOT NULL AND own.verdict <> 'kept' THEN false
        WHEN own.turn IS NULL AND (img.verdict <> 'kept' OR img.carrier_id <> s.sample_id)
            THEN false
        ELSE EXISTS (SELECT FROM sscd_ops.images i
            JOIN sscd_ops.decisions x ON x.decision_id = i.decision_id AND x.turn IS NOT NULL
            WHERE i.dataset_id = d.dataset_id AND i.sha256 = s.image_sha256
            AND i.segment_row IS NULL)
            AND NOT EXISTS (SELECT FROM sscd_ops.described_later l
            JOIN sscd_ops.decisions x ON x.decision_id = l.decision_id AND x.turn IS NOT NULL
            WHERE l.dataset_id = d.dataset_id AND l.sha256 = s.image_sha256) END AS plain,
    -- of what follows its image again: since when, if that is later
    coalesce(own.turn, greatest(img.turn, d.turn, (SELECT f.turn FROM sscd_ops.changes_now f
        WHERE f.dataset_id = d.dataset_id AND f.sample_id = s.sample_id
        AND f.verdict = 'follows'))) AS turn,
    coalesce(own.decided_at, greatest(img.decided_at, d.decided_at,
        (SELECT f.decided_at FROM sscd_ops.changes_now f
        WHERE f.dataset_id = d.dataset_id AND f.sample_id = s.sample_id
        AND f.verdict = 'follows'))) AS decided_at
FROM sscd_ops.samples s
JOIN sscd_ops.decisions d ON d.decision_id = s.decision_id AND d.month = s.month
    AND d.turn IS NOT NULL
LEFT JOIN sscd_ops.changes_now own ON own.dataset_id = d.dataset_id
    AND own.sample_id = s.sample_id AND own.verdict <> 'follows'
LEFT JOIN sscd_ops.changes_now img ON img.dataset_id = d.dataset_id
    AND img.image_sha256 = s.image_sha256 AND img.turn > d.turn AND s.own_fault IS NULL
-- asked row by row, as above: joined, the table is read whole, and the months with it
WHERE (SELECT true FROM sscd_ops.read_again_now r WHERE r.of_decision = s.decision_id
    AND r.shard_id = s.shard_id AND r.position = s.position LIMIT 1) IS NOT TRUE;
