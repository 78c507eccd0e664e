-- The witness is an image; the sample that carries it now is one row or none (of a month that was
-- detached). Each LIMIT keeps the planner from joining what it fences to everything else: it is looked
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
        WHERE p.decision_id = i.slot_decision AND p.slot_from <= i.slot AND p.slot_to > i.slot
        AND p.snapshot_from IS NOT NULL AND p.snapshot_to IS NULL
        ORDER BY p.slot_from DESC LIMIT 1) AS witness_shard
FROM sscd_ops.samples_now s
JOIN sscd_ops.datasets d ON d.dataset_id = s.dataset_id
JOIN sscd_ops.source_shards sh ON sh.shard_id = s.shard_id
LEFT JOIN LATERAL (
    SELECT n.* FROM sscd_ops.images_now n
    WHERE n.dataset_id = s.dataset_id AND n.sha256 = s.witness_sha256
    LIMIT 1
) i ON true
LEFT JOIN sscd_ops.decisions wd ON wd.decision_id = i.carrier_decision
LEFT JOIN sscd_ops.source_shards wsh ON wsh.shard_id = i.carrier_shard
LEFT JOIN LATERAL (
    SELECT c.key, c.caption FROM sscd_ops.samples c
    WHERE c.month = wd.month AND c.decision_id = i.carrier_decision
        AND c.shard_id = i.carrier_shard AND c.position = i.carrier_position
    LIMIT 1
) w ON true
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
COMMENT ON COLUMN curation.removed.reason IS 'exact, near (by descriptor) or perceptual (by hash alone) for removed samples, a quarantine code for quarantined ones';
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
