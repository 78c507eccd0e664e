CREATE VIEW curation.runs AS
SELECT d.name AS dataset, b.batch_id, b.interval_start, b.interval_end, b.supplement, x.turn, b.state,
    (x.counts ->> 'read')::bigint AS read,
    (x.counts ->> 'kept')::bigint AS kept,
    (x.counts ->> 'removed_exact')::bigint AS removed_exact,
    (x.counts ->> 'removed_near')::bigint AS removed_near,
    (x.counts ->> 'quarantined')::bigint AS quarantined,
    CASE WHEN x.turn IS NOT NULL THEN coalesce((x.counts ->> 'withdrawn')::bigint, 0) END
        AS withdrawn,
    (x.counts ->> 'known')::bigint AS known,
    (x.counts ->> 'not_delivered')::bigint AS not_delivered,
    (SELECT count(*) FROM sscd_ops.source_shards s WHERE s.attempt_id = b.attempt_id)
        AS source_shards,
    a.skipped_shards,
    o.shards, o.published_bytes,
    b.started_at, b.finished_at,
    extract(epoch FROM b.finished_at - b.started_at)::double precision AS seconds,
    a.fingerprint_detail ->> 'name' AS fingerprint,
    a.search, a.threshold, a.config_sha256, b.message,
    x.snapshot, x.decided_at,
    b.runner ->> 'kind' AS runner, nullif(b.runner ->> 'run_id', '') AS run_id,
    (x.counts ->> 'removed_perceptual')::bigint AS removed_perceptual,
    CASE WHEN a.config -> 'duplicates' -> 'perceptual' = 'true'
        THEN (a.config -> 'duplicates' ->> 'perceptual_distance')::integer END
        AS perceptual_distance,
    b.night,
    (x.counts ->> 'kept_plain')::bigint AS kept_plain,
    CASE WHEN a.read_again IS NOT NULL
        THEN coalesce(nullif(array_to_string(a.read_again, ','), ''), 'all') END AS read_again
FROM sscd_ops.batches b
JOIN sscd_ops.datasets d USING (dataset_id)
LEFT JOIN sscd_ops.decisions x ON x.decision_id = b.decision_id
LEFT JOIN sscd_ops.attempts a ON a.attempt_id = b.attempt_id
LEFT JOIN LATERAL (
    SELECT count(*) AS shards,
        coalesce(sum((p.files -> 'tar' ->> 'bytes')::bigint), 0)::bigint AS published_bytes
    FROM sscd_ops.output_shards p WHERE p.decision_id = b.decision_id AND NOT p.replaces
) o ON b.decision_id IS NOT NULL
WHERE NOT b.dry_run;

COMMENT ON VIEW curation.runs IS 'One row a batch: a night of a dataset, or a supplement to one. Counts are those of the decision';
COMMENT ON COLUMN curation.runs.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.runs.batch_id IS 'Number of the batch';
COMMENT ON COLUMN curation.runs.interval_start IS 'Start of the interval';
COMMENT ON COLUMN curation.runs.interval_end IS 'End of the interval, exclusive';
COMMENT ON COLUMN curation.runs.supplement IS '0, or the number of the supplement';
COMMENT ON COLUMN curation.runs.turn IS 'The turn in which it was decided';
COMMENT ON COLUMN curation.runs.state IS 'planned, ingested, embedded, matched, decided, published; or held, abandoned, unpublishable. Whether an undecided batch has failed, only its runner can say';
COMMENT ON COLUMN curation.runs.read IS 'Samples read: kept + removed_exact + removed_near + quarantined + withdrawn';
COMMENT ON COLUMN curation.runs.kept IS 'Samples kept by the decision';
COMMENT ON COLUMN curation.runs.removed_exact IS 'Samples removed because their image bytes were known';
COMMENT ON COLUMN curation.runs.removed_near IS 'Samples removed because their image is a near copy, removed_perceptual among them';
COMMENT ON COLUMN curation.runs.quarantined IS 'Samples quarantined';
COMMENT ON COLUMN curation.runs.withdrawn IS 'Samples that a rule or a withdrawn picture stopped as they were read';
COMMENT ON COLUMN curation.runs.known IS 'Samples read again that already had a verdict: no row';
COMMENT ON COLUMN curation.runs.not_delivered IS 'Rows of the source without an image';
COMMENT ON COLUMN curation.runs.source_shards IS 'Source shards of the batch';
COMMENT ON COLUMN curation.runs.skipped_shards IS 'Source shards found that another batch owns';
COMMENT ON COLUMN curation.runs.shards IS 'Output shards of its decision';
COMMENT ON COLUMN curation.runs.published_bytes IS 'Bytes of its tars written so far';
COMMENT ON COLUMN curation.runs.started_at IS 'When it was registered';
COMMENT ON COLUMN curation.runs.finished_at IS 'When it was published or abandoned';
COMMENT ON COLUMN curation.runs.seconds IS 'From start to finish';
COMMENT ON COLUMN curation.runs.fingerprint IS 'Model of the descriptors and 8 digits of the fingerprint''s digest';
COMMENT ON COLUMN curation.runs.search IS 'Search backend for history, as survey resolved it; null before';
COMMENT ON COLUMN curation.runs.threshold IS 'Least similarity of a copy';
COMMENT ON COLUMN curation.runs.config_sha256 IS 'Its frozen configuration, see configs';
COMMENT ON COLUMN curation.runs.message IS 'What a person should know';
COMMENT ON COLUMN curation.runs.snapshot IS 'The snapshot it made, if any';
COMMENT ON COLUMN curation.runs.decided_at IS 'When it was decided';
COMMENT ON COLUMN curation.runs.runner IS 'cli or airflow';
COMMENT ON COLUMN curation.runs.run_id IS 'The DAG run, for airflow';
COMMENT ON COLUMN curation.runs.removed_perceptual IS 'Of removed_near: those that only the perceptual hash called copies';
COMMENT ON COLUMN curation.runs.kept_plain IS 'Of kept: those whose image has nothing in it to compare; equal bytes alone are removed for them';
COMMENT ON COLUMN curation.runs.night IS 'The night as commands take it by --date: the local day its interval starts, or that instant';
COMMENT ON COLUMN curation.runs.perceptual_distance IS 'Greatest Hamming distance of a copy by perceptual hash; null: none were compared';
COMMENT ON COLUMN curation.runs.read_again IS 'Of a supplement that read quarantined samples again: their codes, or all; else null';
