CREATE VIEW curation.snapshot_users AS
SELECT d.name AS dataset, u.snapshot, u.run, u.actor, u.at
FROM sscd_ops.snapshot_users u
JOIN sscd_ops.datasets d USING (dataset_id);

COMMENT ON VIEW curation.snapshot_users IS 'What was trained on a snapshot, as people said by sscd-ops snapshot tag --used-by';
COMMENT ON COLUMN curation.snapshot_users.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.snapshot_users.snapshot IS 'Number of the snapshot';
COMMENT ON COLUMN curation.snapshot_users.run IS 'The training run, as it was named';
COMMENT ON COLUMN curation.snapshot_users.actor IS 'Who said so';
COMMENT ON COLUMN curation.snapshot_users.at IS 'When';
