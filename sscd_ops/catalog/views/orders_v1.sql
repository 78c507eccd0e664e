CREATE VIEW curation.orders AS
SELECT d.name AS dataset, o.order_id, o.verb, o.request ->> 'scope' AS scope, o.of_order, o.state,
    o.turn, o.turn_to, (r.counts ->> 'named')::bigint AS named,
    (r.counts ->> 'changed')::bigint AS changed, r.effect_sha256, o.actor, o.why, o.at, o.message,
    o.drafted_by, o.applied_by, o.approved_by, o.request, r.counts, o.decision_id
FROM sscd_ops.orders o
JOIN sscd_ops.datasets d USING (dataset_id)
LEFT JOIN sscd_ops.order_drafts r USING (order_id, draft);

COMMENT ON VIEW curation.orders IS 'What people decided or drafted about data';
COMMENT ON COLUMN curation.orders.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.orders.order_id IS 'Number of the order';
COMMENT ON COLUMN curation.orders.verb IS 'withdraw or revert';
COMMENT ON COLUMN curation.orders.scope IS 'only-these: the samples that are named; and-copies: their pictures, with all copies';
COMMENT ON COLUMN curation.orders.of_order IS 'The order that it reverts, or whose second part it is';
COMMENT ON COLUMN curation.orders.state IS 'drafted, held (until another person approves it), applied, refused or reverted';
COMMENT ON COLUMN curation.orders.turn IS 'Its turn: its rules hold from then on; null: not applied';
COMMENT ON COLUMN curation.orders.turn_to IS 'The turn that reverted it; null: it holds still';
COMMENT ON COLUMN curation.orders.named IS 'Samples that it named when it was drafted last';
COMMENT ON COLUMN curation.orders.changed IS 'Samples whose verdict it changes';
COMMENT ON COLUMN curation.orders.effect_sha256 IS 'Digest of what it changes: samples with their verdicts before and after';
COMMENT ON COLUMN curation.orders.actor IS 'Who asked for it, as typed';
COMMENT ON COLUMN curation.orders.why IS 'The ground; (erased) once it was taken out';
COMMENT ON COLUMN curation.orders.at IS 'When it was drafted first';
COMMENT ON COLUMN curation.orders.message IS 'Why it is held, or was refused';
COMMENT ON COLUMN curation.orders.drafted_by IS 'Who drafted it, as database, system or Airflow know the person';
COMMENT ON COLUMN curation.orders.applied_by IS 'Who tried to apply it first';
COMMENT ON COLUMN curation.orders.approved_by IS 'Who approved it';
COMMENT ON COLUMN curation.orders.request IS 'Scope and flags, as JSON';
COMMENT ON COLUMN curation.orders.counts IS 'What it changes by source, as JSON';
COMMENT ON COLUMN curation.orders.decision_id IS 'Its decision, see decisions';
