CREATE VIEW curation.receipts AS
SELECT d.name AS dataset, r.receipt_id, r.number, r.kind, r.order_id, r.at, r.sha256,
    r.body::jsonb AS body, r.attachment IS NULL AS is_erased
FROM sscd_ops.receipts r
JOIN sscd_ops.datasets d USING (dataset_id);

COMMENT ON VIEW curation.receipts IS 'What became of orders: ids and digests, in a chain for each dataset';
COMMENT ON COLUMN curation.receipts.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.receipts.receipt_id IS 'Number of the receipt';
COMMENT ON COLUMN curation.receipts.number IS 'Its place in the dataset''s chain';
COMMENT ON COLUMN curation.receipts.kind IS 'withdrawal, refusal, revert or purge';
COMMENT ON COLUMN curation.receipts.order_id IS 'The order';
COMMENT ON COLUMN curation.receipts.at IS 'When it was written';
COMMENT ON COLUMN curation.receipts.sha256 IS 'Digest of the one before it and of its body';
COMMENT ON COLUMN curation.receipts.body IS 'What it says, as JSON';
COMMENT ON COLUMN curation.receipts.is_erased IS 'Whether what is personal was erased';
