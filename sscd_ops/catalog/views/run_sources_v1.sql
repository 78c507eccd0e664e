CREATE VIEW curation.run_sources AS
SELECT d.name AS dataset, x.batch_id, s.source, x.turn,
    (s.counts ->> 'read')::bigint AS read,
    (s.counts ->> 'kept')::bigint AS kept,
    (s.counts ->> 'removed_exact')::bigint AS removed_exact,
    (s.counts ->> 'removed_near')::bigint AS removed_near,
    (s.counts ->> 'quarantined')::bigint AS quarantined,
    coalesce((s.counts ->> 'withdrawn')::bigint, 0) AS withdrawn,
    (s.counts ->> 'known')::bigint AS known,
    (s.counts ->> 'not_delivered')::bigint AS not_delivered,
    (s.counts ->> 'removed_perceptual')::bigint AS removed_perceptual,
    (s.counts ->> 'kept_plain')::bigint AS kept_plain
FROM sscd_ops.decision_sources s
JOIN sscd_ops.decisions x USING (decision_id)
JOIN sscd_ops.datasets d USING (dataset_id)
WHERE x.turn IS NOT NULL AND x.batch_id IS NOT NULL;

COMMENT ON VIEW curation.run_sources IS 'The counts of a decided batch by source';
COMMENT ON COLUMN curation.run_sources.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.run_sources.batch_id IS 'Number of the batch';
COMMENT ON COLUMN curation.run_sources.source IS 'Configured name of the feed';
COMMENT ON COLUMN curation.run_sources.turn IS 'The batch''s turn';
COMMENT ON COLUMN curation.run_sources.read IS 'Samples read';
COMMENT ON COLUMN curation.run_sources.kept IS 'Samples kept';
COMMENT ON COLUMN curation.run_sources.removed_exact IS 'Removed because their image bytes were known';
COMMENT ON COLUMN curation.run_sources.removed_near IS 'Removed as near copies, removed_perceptual among them';
COMMENT ON COLUMN curation.run_sources.quarantined IS 'Quarantined';
COMMENT ON COLUMN curation.run_sources.withdrawn IS 'Stopped by a rule or a withdrawn picture as they were read';
COMMENT ON COLUMN curation.run_sources.known IS 'Read again, already had a verdict';
COMMENT ON COLUMN curation.run_sources.not_delivered IS 'Rows of the source without an image';
COMMENT ON COLUMN curation.run_sources.removed_perceptual IS 'Of removed_near: those that only the perceptual hash called copies';
COMMENT ON COLUMN curation.run_sources.kept_plain IS 'Of kept: those whose image has nothing in it to compare';
