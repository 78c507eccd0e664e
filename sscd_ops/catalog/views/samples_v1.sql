-- What is computed for a column is computed where the column is asked for, and nowhere else.
CREATE VIEW curation.samples AS
SELECT d.name AS dataset, s.batch_id, s.sample_id, sh.source, sh.relative_uri AS source_shard, s.key,
    s.image_sha256, s.width, s.height, s.format, s.bytes, s.caption, s.meta, s.verdict, s.reason,
    coalesce(s.witness_id, (SELECT i.carrier_id FROM sscd_ops.images_now i
        WHERE i.dataset_id = s.dataset_id AND i.sha256 = s.witness_sha256 LIMIT 1))
        AS witness_sample_id,
    s.similarity, s.threshold, s.turn, s.decided_at,
    s.plain
FROM sscd_ops.samples_now s
JOIN sscd_ops.datasets d ON d.dataset_id = s.dataset_id
JOIN sscd_ops.source_shards sh ON sh.shard_id = s.shard_id
WHERE s.sample_id IS NOT NULL;

COMMENT ON VIEW curation.samples IS 'Every sample read, with its current verdict';
COMMENT ON COLUMN curation.samples.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.samples.batch_id IS 'The batch that read it';
COMMENT ON COLUMN curation.samples.sample_id IS 'Id of the sample: derived from where and what it is';
COMMENT ON COLUMN curation.samples.source IS 'Configured name of the feed';
COMMENT ON COLUMN curation.samples.source_shard IS 'The file it was read from, relative to the source''s root';
COMMENT ON COLUMN curation.samples.key IS 'Its key in that file';
COMMENT ON COLUMN curation.samples.image_sha256 IS 'sha256 of its image bytes; null without a readable image';
COMMENT ON COLUMN curation.samples.width IS 'Pixels across';
COMMENT ON COLUMN curation.samples.height IS 'Pixels down';
COMMENT ON COLUMN curation.samples.format IS 'Image format by its bytes';
COMMENT ON COLUMN curation.samples.bytes IS 'Bytes of the image';
COMMENT ON COLUMN curation.samples.caption IS 'Its caption';
COMMENT ON COLUMN curation.samples.meta IS 'The source''s named metadata columns';
COMMENT ON COLUMN curation.samples.verdict IS 'kept, removed, quarantined or withdrawn';
COMMENT ON COLUMN curation.samples.reason IS 'exact, near (by descriptor) or perceptual (by hash alone) for removed samples, a quarantine code for quarantined ones, withdrawn for withdrawn ones';
COMMENT ON COLUMN curation.samples.witness_sample_id IS 'The kept sample because of which it was removed';
COMMENT ON COLUMN curation.samples.similarity IS 'Similarity with the witness''s image: of the descriptors; for reason perceptual 1 - Hamming distance / 256; 1 for equal bytes';
COMMENT ON COLUMN curation.samples.threshold IS 'Threshold of the decision it rests on, on the scale of similarity';
COMMENT ON COLUMN curation.samples.turn IS 'The turn of its current verdict';
COMMENT ON COLUMN curation.samples.decided_at IS 'When that was';
COMMENT ON COLUMN curation.samples.plain IS 'Kept, and nothing in its image to compare: it matches only equal bytes';
