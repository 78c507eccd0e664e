CREATE SCHEMA curation;
COMMENT ON SCHEMA curation IS 'What was curated and why: public, stable views';

CREATE VIEW curation.configs AS
SELECT c.config_sha256, d.name AS dataset, c.turn, c.at, c.config
FROM sscd_ops.configs c JOIN sscd_ops.datasets d USING (dataset_id);

COMMENT ON VIEW curation.configs IS 'Every configuration a batch was planned with, without secrets';
COMMENT ON COLUMN curation.configs.config_sha256 IS 'sha256 of the configuration''s canonical JSON';
COMMENT ON COLUMN curation.configs.dataset IS 'Name of the dataset';
COMMENT ON COLUMN curation.configs.turn IS 'First turn decided with it; null if none was';
COMMENT ON COLUMN curation.configs.at IS 'When it was first seen';
COMMENT ON COLUMN curation.configs.config IS 'The dataset''s effective settings';
