-- What the services' role may do in Lethe's database: read and write rows, append to the audit log, and change no table. The owner of the
-- tables runs it after every migration. `lethe migrate` does so by itself, with the role that LETHE_SERVICES_DATABASE_URL names in place of
-- lethe_service; by hand:  CREATE ROLE lethe_service LOGIN PASSWORD '…';  and then this file.

-- Before PostgreSQL 15 everybody may make tables there.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO lethe_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO lethe_service;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO lethe_service;
-- What a later migration makes, should nobody run this file after it.
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO lethe_service;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO lethe_service;
-- Events are never changed or removed, and which migrations have run is told by who runs them.
REVOKE UPDATE, DELETE ON audit_events FROM lethe_service;
REVOKE INSERT, UPDATE, DELETE
    ON lethe_job_schema, lethe_access_schema, lethe_audit_schema, lethe_quota_schema, lethe_answer_schema
    FROM lethe_service;
