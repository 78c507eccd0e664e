-- A shard of several placements is in snapshots as a whole.
CREATE VIEW curation.shards AS
SELECT d.name AS dataset, o.name AS shard, o.form, p.snapshot_from, p.snapshot_to, o.samples,
    (o.files -> 'tar' ->> 'bytes')::bigint AS bytes, o.files -> 'tar' ->> 'sha256' AS sha256,
    x.batch_id, x.decision_id
FROM sscd_ops.output_shards o
JOIN (
    SELECT DISTINCT output_id, snapshot_from, snapshot_to FROM sscd_ops.placements
    WHERE snapshot_from IS NOT NULL AND (snapshot_to IS NULL OR snapshot_to > snapshot_from)
) p USING (output_id)
JOIN sscd_ops.decisions x ON x.decision_id = o.decision_id
JOIN sscd_ops.datasets d ON d.dataset_id = x.dataset_id;

COMMENT ON VIEW curation.shards IS 'Published shards, with the range of snapshots each one is in';
COMMENT ON COLUMN curation.shards.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.shards.shard IS 'The tar, relative to the storage root';
COMMENT ON COLUMN curation.shards.form IS 'The one set of extensions its samples have, such as jpg+txt+json';
COMMENT ON COLUMN curation.shards.snapshot_from IS 'First snapshot it is in';
COMMENT ON COLUMN curation.shards.snapshot_to IS 'First snapshot it is no longer in; null: still in';
COMMENT ON COLUMN curation.shards.samples IS 'Samples in it';
COMMENT ON COLUMN curation.shards.bytes IS 'Bytes of the tar';
COMMENT ON COLUMN curation.shards.sha256 IS 'sha256 of the tar';
COMMENT ON COLUMN curation.shards.batch_id IS 'The batch that published it; null: no night did';
COMMENT ON COLUMN curation.shards.decision_id IS 'The decision whose shard it is';
