CREATE VIEW curation.snapshot_tags AS
SELECT d.name AS dataset, t.snapshot, t.name, t.keep_until, t.actor, t.why, t.at
FROM sscd_ops.snapshot_tags t
JOIN sscd_ops.datasets d USING (dataset_id);

COMMENT ON VIEW curation.snapshot_tags IS 'Names that people gave snapshots; a tag keeps its snapshot from being expired';
COMMENT ON COLUMN curation.snapshot_tags.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.snapshot_tags.snapshot IS 'Number of the snapshot';
COMMENT ON COLUMN curation.snapshot_tags.name IS 'The tag: one snapshot of a dataset bears it';
COMMENT ON COLUMN curation.snapshot_tags.keep_until IS 'The last day (UTC) that it keeps the snapshot; null: for ever';
COMMENT ON COLUMN curation.snapshot_tags.actor IS 'Who gave it';
COMMENT ON COLUMN curation.snapshot_tags.why IS 'The reason given';
COMMENT ON COLUMN curation.snapshot_tags.at IS 'When';
