-- The witness is an image; the sample that carries it now is one row or none (of a month that was
-- detached). The row says who carried it, which holds while no change names the image; else it is
-- looked up. Each LIMIT keeps the planner from joining what it fences to everything else: it is looked
-- up for each row, the carrying sample in its own month alone.
CREATE VIEW curation.removed AS
SELECT d.name AS dataset, s.batch_id, s.sample_id, sh.source, sh.relative_uri AS source_shard, s.key,
    s.image_sha256, s.width, s.height, s.format, s.bytes, s.caption, s.meta, s.verdict, s.reason,
    i.carrier_id AS witness_sample_id, s.similarity, s.threshold, s.turn, s.decided_at,
    wsh.source AS witness_source, wsh.relative_uri AS witness_source_shard, w.key AS witness_key,
    w.caption AS witness_caption, wd.batch_id AS witness_batch_id,
    CASE WHEN i.carrier_id IS NOT NULL THEN d.name END AS witness_dataset,
    (SELECT (SELECT o.name FROM sscd_ops.output_shards o WHERE o.output_id = p.output_id)
        FROM sscd_ops.placements p
        WHERE p.decision_id = CASE WHEN i.said THEN i.carrier_decision ELSE i.slot_decision END
        AND p.slot_from <= CASE WHEN i.said THEN w.slot ELSE i.slot END
        AND p.slot_to > CASE WHEN i.said THEN w.slot ELSE i.slot END
        AND p.snapshot_from IS NOT NULL AND p.snapshot_to IS NULL
        ORDER BY p.slot_from DESC LIMIT 1) AS witness_shard,
    CASE WHEN s.first_verdict = 'removed' AND EXISTS (SELECT FROM sscd_ops.archived_shards a
            WHERE a.decision_id = s.decision_id AND a.files IS NOT NULL
            AND (a.first_shard, a.first_position) <= (s.shard_id, s.position)
            AND (a.last_shard, a.last_position) >= (s.shard_id, s.position)
            AND s.sample_id <> ALL (a.without)) THEN 'archive'
        WHEN sh.gone_at IS NULL THEN 'source' ELSE 'gone' END AS recoverable,
    sh.seen_at AS source_seen_at
FROM sscd_ops.samples_now s
JOIN sscd_ops.datasets d ON d.dataset_id = s.dataset_id
JOIN sscd_ops.source_shards sh ON sh.shard_id = s.shard_id
LEFT JOIN LATERAL (
    SELECT true AS said, s.witness_id AS carrier_id, s.witness_decision AS carrier_decision,
        NULL::bigint AS carrier_shard, NULL::integer AS slot, NULL::bigint AS slot_decision
    WHERE s.witness_id IS NOT NULL
    UNION ALL
    SELECT false, n.carrier_id, n.carrier_decision, n.carrier_shard, n.slot, n.slot_decision
    FROM sscd_ops.images_now n
    WHERE s.witness_id IS NULL AND n.dataset_id = s.dataset_id AND n.sha256 = s.witness_sha256
    LIMIT 1
) i ON true
LEFT JOIN sscd_ops.decisions wd ON wd.decision_id = i.carrier_decision
LEFT JOIN LATERAL (
    SELECT c.key, c.caption, c.slot, c.shard_id FROM sscd_ops.samples c
    WHERE c.month = wd.month AND c.decision_id = i.carrier_decision AND c.sample_id = i.carrier_id
    LIMIT 1
) w ON true
LEFT JOIN sscd_ops.source_shards wsh ON wsh.shard_id = coalesce(w.shard_id, i.carrier_shard)
WHERE s.is_removed;

COMMENT ON VIEW curation.removed IS 'Removed samples with the kept sample because of which each one went';
COMMENT ON COLUMN curation.removed.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.removed.batch_id IS 'The batch that read it';
COMMENT ON COLUMN curation.removed.sample_id IS 'Id of the sample: derived from where and what it is';
COMMENT ON COLUMN curation.removed.source IS 'Configured name of the feed';
COMMENT ON COLUMN curation.removed.source_shard IS 'The file it was read from, relative to the source''s root';
COMMENT ON COLUMN curation.removed.key IS 'Its key in that file';
COMMENT ON COLUMN curation.removed.image_sha256 IS 'sha256 of its image bytes; null without a readable image';
COMMENT ON COLUMN curation.removed.width IS 'Pixels across';
COMMENT ON COLUMN curation.removed.height IS 'Pixels down';
COMMENT ON COLUMN curation.removed.format IS 'Image format by its bytes';
COMMENT ON COLUMN curation.removed.bytes IS 'Bytes of the image';
COMMENT ON COLUMN curation.removed.caption IS 'Its caption';
COMMENT ON COLUMN curation.removed.meta IS 'The source''s named metadata columns';
COMMENT ON COLUMN curation.removed.verdict IS 'kept, removed, quarantined or withdrawn';
COMMENT ON COLUMN curation.removed.reason IS 'exact, near (by descriptor) or perceptual (by hash alone) for removed samples, a quarantine code for quarantined ones, withdrawn for withdrawn ones';
COMMENT ON COLUMN curation.removed.witness_sample_id IS 'The kept sample because of which it was removed';
COMMENT ON COLUMN curation.removed.similarity IS 'Similarity with the witness''s image: of the descriptors; for reason perceptual 1 - Hamming distance / 256; 1 for equal bytes';
COMMENT ON COLUMN curation.removed.threshold IS 'Threshold of the decision it rests on, on the scale of similarity';
COMMENT ON COLUMN curation.removed.turn IS 'The turn of its current verdict';
COMMENT ON COLUMN curation.removed.decided_at IS 'When that was';
COMMENT ON COLUMN curation.removed.witness_source IS 'The witness''s feed';
COMMENT ON COLUMN curation.removed.witness_source_shard IS 'The file the witness was read from';
COMMENT ON COLUMN curation.removed.witness_key IS 'The witness''s key there';
COMMENT ON COLUMN curation.removed.witness_caption IS 'The witness''s caption';
COMMENT ON COLUMN curation.removed.witness_batch_id IS 'The batch that kept the witness';
COMMENT ON COLUMN curation.removed.witness_dataset IS 'The witness''s dataset';
COMMENT ON COLUMN curation.removed.witness_shard IS 'The published tar that holds the witness, relative to the storage root; null until it is published';
COMMENT ON COLUMN curation.removed.recoverable IS 'Where its bytes are, should it be kept after all: archive (publish.undo), source (as last seen) or gone';
COMMENT ON COLUMN curation.removed.source_seen_at IS 'When its source shard was last looked at';
