CREATE VIEW curation.events AS
SELECT e.event_id, e.at, d.name AS dataset, e.turn, e.kind, e.actor, e.why, e.sample_id, e.batch_id,
    e.details
FROM sscd_ops.events e JOIN sscd_ops.datasets d USING (dataset_id);

COMMENT ON VIEW curation.events IS 'Append-only record of what was done or decided; a night''s decisions are one event';
COMMENT ON COLUMN curation.events.event_id IS 'Number of the event';
COMMENT ON COLUMN curation.events.at IS 'When';
COMMENT ON COLUMN curation.events.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.events.turn IS 'The turn it took, null if none';
COMMENT ON COLUMN curation.events.kind IS 'decided, published, held, released, abandoned, turn_not_awaited, unpublishable ...';
COMMENT ON COLUMN curation.events.actor IS 'Who: a person, or the runner of the batch';
COMMENT ON COLUMN curation.events.why IS 'The reason given';
COMMENT ON COLUMN curation.events.sample_id IS 'The sample it is about, if one';
COMMENT ON COLUMN curation.events.batch_id IS 'The batch it is about, if one';
COMMENT ON COLUMN curation.events.details IS 'Figures, as JSON';
