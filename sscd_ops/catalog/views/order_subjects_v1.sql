CREATE VIEW curation.order_subjects AS
SELECT d.name AS dataset, s.order_id, s.kind, s.value, s.digest,
    o.verb = 'withdraw' AND s.kind IN ('url', 'domain', 'source') AND o.turn IS NOT NULL
        AND o.turn_to IS NULL AS is_rule
FROM sscd_ops.order_subjects s
JOIN sscd_ops.orders o USING (order_id)
JOIN sscd_ops.datasets d USING (dataset_id);

COMMENT ON VIEW curation.order_subjects IS 'What an order names; urls, domains and sources of one in force are rules';
COMMENT ON COLUMN curation.order_subjects.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.order_subjects.order_id IS 'Number of the order';
COMMENT ON COLUMN curation.order_subjects.kind IS 'id, sha256, url, domain, source or picture';
COMMENT ON COLUMN curation.order_subjects.value IS 'As it was normalised; null once it was erased';
COMMENT ON COLUMN curation.order_subjects.digest IS 'An id''s 16 bytes, the sha256 of an image, else that of the value';
COMMENT ON COLUMN curation.order_subjects.is_rule IS 'Whether it stops what nights read now';
