CREATE VIEW curation.quarantined AS
SELECT d.name AS dataset, s.batch_id, s.sample_id, sh.source, sh.relative_uri AS source_shard, s.key,
    s.image_sha256, s.width, s.height, s.format, s.bytes, s.caption, s.meta, s.verdict, s.reason,
    NULL::uuid AS witness_sample_id,
    s.similarity, s.threshold, s.turn, s.decided_at,
    s.message
FROM sscd_ops.samples_now s
JOIN sscd_ops.datasets d ON d.dataset_id = s.dataset_id
JOIN sscd_ops.source_shards sh ON sh.shard_id = s.shard_id
WHERE s.verdict = 'quarantined';

COMMENT ON VIEW curation.quarantined IS 'Quarantined samples, and faults of whole source shards (null key and sample_id, in no count of runs)';
COMMENT ON COLUMN curation.quarantined.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.quarantined.batch_id IS 'The batch that read it';
COMMENT ON COLUMN curation.quarantined.sample_id IS 'Id of the sample; null for a fault of the whole source shard';
COMMENT ON COLUMN curation.quarantined.source IS 'Configured name of the feed';
COMMENT ON COLUMN curation.quarantined.source_shard IS 'The file it was read from, or whose fault it is, relative to the source''s root';
COMMENT ON COLUMN curation.quarantined.key IS 'Its key in that file; null for a fault of the whole source shard';
COMMENT ON COLUMN curation.quarantined.image_sha256 IS 'sha256 of its image bytes; null without a readable image';
COMMENT ON COLUMN curation.quarantined.width IS 'Pixels across';
COMMENT ON COLUMN curation.quarantined.height IS 'Pixels down';
COMMENT ON COLUMN curation.quarantined.format IS 'Image format by its bytes';
COMMENT ON COLUMN curation.quarantined.bytes IS 'Bytes of the image';
COMMENT ON COLUMN curation.quarantined.caption IS 'Its caption';
COMMENT ON COLUMN curation.quarantined.meta IS 'The source''s named metadata columns';
COMMENT ON COLUMN curation.quarantined.verdict IS 'kept, removed, quarantined or withdrawn';
COMMENT ON COLUMN curation.quarantined.reason IS 'exact or near for removed samples, a quarantine code for quarantined ones';
COMMENT ON COLUMN curation.quarantined.witness_sample_id IS 'The kept sample because of which it was removed';
COMMENT ON COLUMN curation.quarantined.similarity IS 'Similarity with the witness''s image, 1 for equal bytes';
COMMENT ON COLUMN curation.quarantined.threshold IS 'Threshold of the decision it rests on';
COMMENT ON COLUMN curation.quarantined.turn IS 'The turn of its current verdict';
COMMENT ON COLUMN curation.quarantined.decided_at IS 'When that was';
COMMENT ON COLUMN curation.quarantined.message IS 'What exactly was wrong';
