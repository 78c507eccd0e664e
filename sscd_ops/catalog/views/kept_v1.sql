CREATE VIEW curation.kept AS
SELECT d.name AS dataset, s.batch_id, s.sample_id, sh.source, sh.relative_uri AS source_shard, s.key,
    s.image_sha256, s.width, s.height, s.format, s.bytes, s.caption, s.meta, s.verdict, s.reason,
    NULL::uuid AS witness_sample_id,
    s.similarity, s.threshold, s.turn, s.decided_at,
    coalesce((SELECT (SELECT o.name FROM sscd_ops.output_shards o WHERE o.output_id = p.output_id)
            FROM sscd_ops.placements p
            WHERE p.decision_id = s.slot_decision AND p.slot_from <= s.slot AND p.slot_to > s.slot
            AND p.snapshot_from IS NOT NULL AND p.snapshot_to IS NULL
            ORDER BY p.slot_from DESC LIMIT 1),
        (SELECT (SELECT o.name FROM sscd_ops.output_shards o WHERE o.output_id = p.output_id)
            FROM sscd_ops.placements p
            WHERE p.decision_id = s.slot_decision AND p.slot_from <= s.slot AND p.slot_to > s.slot
            AND p.snapshot_from IS NULL
            ORDER BY p.slot_from DESC LIMIT 1)) AS shard,
    replace(s.sample_id::text, '-', '') AS shard_key, s.plain
FROM sscd_ops.samples_now s
JOIN sscd_ops.datasets d ON d.dataset_id = s.dataset_id
JOIN sscd_ops.source_shards sh ON sh.shard_id = s.shard_id
WHERE s.is_kept;

COMMENT ON VIEW curation.kept IS 'Kept samples with the output shard of each one';
COMMENT ON COLUMN curation.kept.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.kept.batch_id IS 'The batch that read it';
COMMENT ON COLUMN curation.kept.sample_id IS 'Id of the sample: derived from where and what it is';
COMMENT ON COLUMN curation.kept.source IS 'Configured name of the feed';
COMMENT ON COLUMN curation.kept.source_shard IS 'The file it was read from, relative to the source''s root';
COMMENT ON COLUMN curation.kept.key IS 'Its key in that file';
COMMENT ON COLUMN curation.kept.image_sha256 IS 'sha256 of its image bytes; null without a readable image';
COMMENT ON COLUMN curation.kept.width IS 'Pixels across';
COMMENT ON COLUMN curation.kept.height IS 'Pixels down';
COMMENT ON COLUMN curation.kept.format IS 'Image format by its bytes';
COMMENT ON COLUMN curation.kept.bytes IS 'Bytes of the image';
COMMENT ON COLUMN curation.kept.caption IS 'Its caption';
COMMENT ON COLUMN curation.kept.meta IS 'The source''s named metadata columns';
COMMENT ON COLUMN curation.kept.verdict IS 'kept, removed, quarantined or withdrawn';
COMMENT ON COLUMN curation.kept.reason IS 'exact, near (by descriptor) or perceptual (by hash alone) for removed samples, a quarantine code for quarantined ones, withdrawn for withdrawn ones';
COMMENT ON COLUMN curation.kept.witness_sample_id IS 'The kept sample because of which it was removed';
COMMENT ON COLUMN curation.kept.similarity IS 'Similarity with the witness''s image: of the descriptors; for reason perceptual 1 - Hamming distance / 256; 1 for equal bytes';
COMMENT ON COLUMN curation.kept.threshold IS 'Threshold of the decision it rests on, on the scale of similarity';
COMMENT ON COLUMN curation.kept.turn IS 'The turn of its current verdict';
COMMENT ON COLUMN curation.kept.decided_at IS 'When that was';
COMMENT ON COLUMN curation.kept.shard IS 'The tar that holds it, or will once the batch is published; relative to the storage root';
COMMENT ON COLUMN curation.kept.plain IS 'Nothing in its image to compare: it matches only equal bytes';
COMMENT ON COLUMN curation.kept.shard_key IS 'Its key there: the sample_id as 32 hex digits';
