-- A role that may read the public views and nothing else. Roles belong to the whole server, so it
-- may be there already, be made at the same moment, or be somebody else's to make.
DO $$
BEGIN
    CREATE ROLE sscd_ops_auditor NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'role sscd_ops_auditor was not made: this user may not create roles';
END
$$;
DO $$
BEGIN
    GRANT USAGE ON SCHEMA curation TO sscd_ops_auditor;
    GRANT SELECT ON ALL TABLES IN SCHEMA curation TO sscd_ops_auditor;
EXCEPTION
    WHEN undefined_object THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'role sscd_ops_auditor got no rights: the views are another user''s';
END
$$;
