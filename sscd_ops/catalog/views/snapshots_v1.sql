CREATE VIEW curation.snapshots AS
SELECT d.name AS dataset, s.snapshot, s.created_at, s.samples, s.shards, s.bytes, s.parent, s.turn,
    x.batch_id, s.file ->> 'name' AS file, s.file ->> 'sha256' AS sha256, s.decision_id, s.expired_at,
    (SELECT string_agg(t.name, ', ' ORDER BY t.name) FROM sscd_ops.snapshot_tags t
        WHERE t.dataset_id = s.dataset_id AND t.snapshot = s.snapshot) AS tags
FROM sscd_ops.snapshots s
JOIN sscd_ops.decisions x USING (decision_id)
JOIN sscd_ops.datasets d ON d.dataset_id = s.dataset_id;

COMMENT ON VIEW curation.snapshots IS 'Snapshots: immutable, complete lists of shards';
COMMENT ON COLUMN curation.snapshots.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.snapshots.snapshot IS 'Number of the snapshot';
COMMENT ON COLUMN curation.snapshots.created_at IS 'When it was made';
COMMENT ON COLUMN curation.snapshots.samples IS 'Samples in it';
COMMENT ON COLUMN curation.snapshots.shards IS 'Shards in it';
COMMENT ON COLUMN curation.snapshots.bytes IS 'Bytes of its tars';
COMMENT ON COLUMN curation.snapshots.parent IS 'The snapshot before, 0 for none';
COMMENT ON COLUMN curation.snapshots.turn IS 'The newest turn that it follows';
COMMENT ON COLUMN curation.snapshots.batch_id IS 'The batch that made it; null: no night did';
COMMENT ON COLUMN curation.snapshots.file IS 'Its file, relative to the storage root';
COMMENT ON COLUMN curation.snapshots.sha256 IS 'sha256 of that file';
COMMENT ON COLUMN curation.snapshots.decision_id IS 'The decision that made it';
COMMENT ON COLUMN curation.snapshots.expired_at IS 'When it was expired: its file and the shards of expired snapshots alone may be gone; null: readable';
COMMENT ON COLUMN curation.snapshots.tags IS 'Names that people gave it, see snapshot_tags; null: none';
