-- What was decided first, and every later change that speaks for a sample: its own; its image's while
-- it has none of its own, and where its own ended. The witness is the sample that carried the image at
-- that turn.
CREATE VIEW curation.verdicts AS
SELECT d.name AS dataset, v.sample_id, v.turn, x.kind, v.verdict, v.reason,
    (SELECT coalesce(c.carrier_id, i.sample_id)
        FROM sscd_ops.images i
        JOIN sscd_ops.decisions b ON b.decision_id = i.decision_id AND b.turn <= v.turn
        LEFT JOIN sscd_ops.changes c ON c.dataset_id = i.dataset_id AND c.image_sha256 = i.sha256
            AND c.turn <= v.turn AND (c.turn_to IS NULL OR c.turn_to > v.turn)
            AND EXISTS (SELECT FROM sscd_ops.decisions e
                WHERE e.decision_id = c.decision_id AND e.turn = c.turn)
        WHERE i.dataset_id = v.dataset_id AND i.sha256 = v.witness_sha256
        LIMIT 1) AS witness_sample_id,
    v.similarity, v.threshold, v.decision_id, x.batch_id, x.decided_at
FROM (
    SELECT b.dataset_id, s.sample_id, b.turn, b.decision_id, s.verdict, s.reason, s.witness_sha256,
        s.similarity, s.threshold
    FROM sscd_ops.samples s
    JOIN sscd_ops.decisions b ON b.decision_id = s.decision_id AND b.month = s.month
        AND b.turn IS NOT NULL
    WHERE s.sample_id IS NOT NULL
    UNION ALL
    SELECT c.dataset_id, c.sample_id, c.turn, c.decision_id, c.verdict, c.reason,
        c.witness_sha256, c.similarity, c.threshold
    FROM sscd_ops.changes c
    WHERE c.sample_id IS NOT NULL AND c.verdict <> 'follows'
    UNION ALL
    SELECT c.dataset_id, s.sample_id, c.turn, c.decision_id,
        CASE WHEN c.verdict = 'kept' AND c.carrier_id <> s.sample_id THEN 'removed'
            ELSE c.verdict END,
        CASE WHEN c.verdict = 'kept' AND c.carrier_id <> s.sample_id THEN 'exact'
            ELSE c.reason END,
        CASE WHEN c.verdict = 'kept' AND c.carrier_id <> s.sample_id THEN c.image_sha256
            ELSE c.witness_sha256 END,
        CASE WHEN c.verdict = 'kept' AND c.carrier_id <> s.sample_id THEN 1
            ELSE c.similarity END,
        c.threshold
    FROM sscd_ops.samples s
    JOIN sscd_ops.decisions b ON b.decision_id = s.decision_id AND b.month = s.month
        AND b.turn IS NOT NULL
    JOIN sscd_ops.changes c ON c.dataset_id = b.dataset_id AND c.image_sha256 = s.image_sha256
        AND c.turn > b.turn
    WHERE s.own_fault IS NULL AND NOT EXISTS (
        SELECT FROM sscd_ops.changes o
        JOIN sscd_ops.decisions e ON e.decision_id = o.decision_id AND e.turn = o.turn
        WHERE o.dataset_id = c.dataset_id AND o.sample_id = s.sample_id AND o.turn <= c.turn
            AND (o.turn_to IS NULL OR o.turn_to > c.turn) AND o.verdict <> 'follows')
        AND NOT EXISTS (SELECT FROM sscd_ops.read_again_now r
            WHERE r.of_decision = s.decision_id AND r.shard_id = s.shard_id
            AND r.position = s.position AND r.turn <= c.turn)
    UNION ALL
    -- its own verdict ended, and its image was not changed by the same decision
    SELECT o.dataset_id, o.sample_id, o.turn, o.decision_id,
        CASE WHEN c.turn IS NULL THEN s.verdict
            WHEN c.verdict = 'kept' AND c.carrier_id <> s.sample_id THEN 'removed'
            ELSE c.verdict END,
        CASE WHEN c.turn IS NULL THEN s.reason
            WHEN c.verdict = 'kept' AND c.carrier_id <> s.sample_id THEN 'exact'
            ELSE c.reason END,
        CASE WHEN c.turn IS NULL THEN s.witness_sha256
            WHEN c.verdict = 'kept' AND c.carrier_id <> s.sample_id THEN c.image_sha256
            ELSE c.witness_sha256 END,
        CASE WHEN c.turn IS NULL THEN s.similarity
            WHEN c.verdict = 'kept' AND c.carrier_id <> s.sample_id THEN 1
            ELSE c.similarity END,
        CASE WHEN c.turn IS NULL THEN s.threshold ELSE c.threshold END
    FROM sscd_ops.changes o
    JOIN sscd_ops.samples s ON s.sample_id = o.sample_id
    JOIN sscd_ops.decisions b ON b.decision_id = s.decision_id AND b.month = s.month
        AND b.turn < o.turn AND b.dataset_id = o.dataset_id
    LEFT JOIN sscd_ops.changes c ON c.dataset_id = b.dataset_id
        AND c.image_sha256 = s.image_sha256 AND c.turn > b.turn AND c.turn <= o.turn
        AND (c.turn_to IS NULL OR c.turn_to > o.turn) AND s.own_fault IS NULL
        AND EXISTS (SELECT FROM sscd_ops.decisions e
            WHERE e.decision_id = c.decision_id AND e.turn = c.turn)
    WHERE o.verdict = 'follows' AND c.turn IS DISTINCT FROM o.turn
        AND NOT EXISTS (SELECT FROM sscd_ops.read_again_now r
            WHERE r.of_decision = s.decision_id AND r.shard_id = s.shard_id
            AND r.position = s.position AND r.turn <= o.turn)
) v
JOIN sscd_ops.decisions x ON x.decision_id = v.decision_id AND x.turn = v.turn
JOIN sscd_ops.datasets d ON d.dataset_id = v.dataset_id;

COMMENT ON VIEW curation.verdicts IS 'All that was ever decided of a sample: one row for each turn that said something of it';
COMMENT ON COLUMN curation.verdicts.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.verdicts.sample_id IS 'Id of the sample';
COMMENT ON COLUMN curation.verdicts.turn IS 'The turn; the greatest of a sample is what holds now';
COMMENT ON COLUMN curation.verdicts.kind IS 'What took the turn, see decisions';
COMMENT ON COLUMN curation.verdicts.verdict IS 'kept, removed, quarantined or withdrawn';
COMMENT ON COLUMN curation.verdicts.reason IS 'exact, near (by descriptor) or perceptual (by hash alone) for removed samples, a quarantine code for quarantined ones, withdrawn for withdrawn ones';
COMMENT ON COLUMN curation.verdicts.witness_sample_id IS 'The sample that carried the witness then';
COMMENT ON COLUMN curation.verdicts.similarity IS 'Similarity with the witness''s image, 1 for equal bytes';
COMMENT ON COLUMN curation.verdicts.threshold IS 'Threshold of the decision it rests on';
COMMENT ON COLUMN curation.verdicts.decision_id IS 'The decision';
COMMENT ON COLUMN curation.verdicts.batch_id IS 'The batch of a night, else null';
COMMENT ON COLUMN curation.verdicts.decided_at IS 'When that was';
