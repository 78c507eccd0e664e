CREATE VIEW curation.decisions AS
SELECT d.name AS dataset, x.turn, x.decision_id, x.kind, x.batch_id, x.actor, x.why, x.decided_at,
    x.generation, x.config_sha256,
    (SELECT count(*) FROM sscd_ops.changes c WHERE c.decision_id = x.decision_id) AS changes,
    x.published_at, x.snapshot, x.counts
FROM sscd_ops.decisions x
JOIN sscd_ops.datasets d USING (dataset_id)
WHERE x.turn IS NOT NULL;

COMMENT ON VIEW curation.decisions IS 'Everything that took a turn: nights, and what people and banks decide';
COMMENT ON COLUMN curation.decisions.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.decisions.turn IS 'Its number in the dataset: decisions count in this order';
COMMENT ON COLUMN curation.decisions.decision_id IS 'Number of the decision';
COMMENT ON COLUMN curation.decisions.kind IS 'night, order, repair, bank, adoption or derivation';
COMMENT ON COLUMN curation.decisions.batch_id IS 'The batch of a night, else null';
COMMENT ON COLUMN curation.decisions.actor IS 'Who: a person, or the runner of the batch';
COMMENT ON COLUMN curation.decisions.why IS 'The reason given';
COMMENT ON COLUMN curation.decisions.decided_at IS 'When it came into force';
COMMENT ON COLUMN curation.decisions.generation IS 'The generation of the index after it';
COMMENT ON COLUMN curation.decisions.config_sha256 IS 'The configuration in force, see configs';
COMMENT ON COLUMN curation.decisions.changes IS 'Earlier verdicts that it changed, of images and of samples';
COMMENT ON COLUMN curation.decisions.published_at IS 'When a snapshot first followed it; null: none does yet';
COMMENT ON COLUMN curation.decisions.snapshot IS 'That snapshot; null where it changed no shard';
COMMENT ON COLUMN curation.decisions.counts IS 'Its counts, as JSON';
