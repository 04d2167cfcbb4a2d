-- Makes three roles with the least rights for a store on PostgreSQL, as its owner or a superuser:
--
--     psql "$URL" -f roles.sql
--
-- after the first `dispatcher run` or `dispatcher migrate` made the tables, and again after each
-- upgrade of them. The store is the schema `dispatcher`; for another one:
--
--     PGOPTIONS='-c dispatcher.schema=jobs' psql "$URL" -f roles.sql
--
--     dispatcher_submit    submits tasks and reads; sees no lock of a run
--     dispatcher_operate   also cancels, holds, releases, retries, edits, pauses and prunes
--     dispatcher_run       also runs tasks: daemons, and `claim` with what follows it
--
-- Nobody may log in as one of them. Make a role for each person or host, and let it be a member:
--
--     CREATE ROLE host7 LOGIN; GRANT dispatcher_run TO host7;
--
-- Who writes needs EXECUTE on pg_current_wal_lsn() and pg_walfile_name(pg_lsn), which show a
-- failover. Everybody has it unless it was revoked from PUBLIC; then a superuser grants it:
--
--     GRANT EXECUTE ON FUNCTION pg_current_wal_lsn(), pg_walfile_name(pg_lsn)
--         TO dispatcher_submit, dispatcher_operate, dispatcher_run;
--
-- None of them may change the tables: the owner upgrades these, with `dispatcher migrate`.

DO $$
DECLARE
    store TEXT := COALESCE(nullif(current_setting('dispatcher.schema', true), ''), 'dispatcher');
    submit TEXT := store || '_submit';
    operate TEXT := store || '_operate';
    run TEXT := store || '_run';
    owner TEXT;
    role TEXT;
    given TEXT;
    but_lock TEXT;
BEGIN
    SELECT pg_get_userbyid(nspowner) INTO owner FROM pg_namespace WHERE nspname = store;
    IF owner IS NULL THEN
        RAISE EXCEPTION 'there is no schema %; first run: dispatcher migrate', store;
    END IF;
    SELECT string_agg(quote_ident(column_name), ', ') INTO but_lock
    FROM information_schema.columns
    WHERE table_schema = store AND table_name = 'runs' AND column_name <> 'lock';

    FOREACH role IN ARRAY ARRAY[submit, operate, run] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', store, role);
        EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA %I FROM %I', store, role);
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', store, role);
    END LOOP;
    EXECUTE format('GRANT %I TO %I', submit, operate);
    EXECUTE format('GRANT %I TO %I', operate, run);

    FOREACH given IN ARRAY ARRAY[
        -- Everybody reads, but no locks.
        format('SELECT ON ALL TABLES IN SCHEMA %I TO %I', store, submit),
        format('INSERT ON %I.tasks, %1$I.payloads, %1$I.environments, %1$I.events TO %2$I',
            store, submit),
        -- Who waits for a task locks it, and marks it as awaited.
        format('UPDATE (awaited) ON %I.tasks TO %I', store, submit),
        format('INSERT ON %I.dependencies TO %I', store, submit),
        -- To lock the row of an environment that a task is to have takes a right to update one of
        -- its columns; one that is in use can be neither deleted nor renumbered.
        format('DELETE, UPDATE (id) ON %I.environments TO %I', store, submit),
        format('INSERT, UPDATE, DELETE ON %I.bulk_submits, %1$I.bulk_parts TO %2$I', store, submit),

        format('UPDATE, DELETE ON %I.tasks TO %I', store, operate),
        format('UPDATE (%s), DELETE ON %I.runs TO %I', but_lock, store, operate),
        format('INSERT, DELETE ON %I.paused_queues TO %I', store, operate),
        format('UPDATE, DELETE ON %I.nodes TO %I', store, operate),
        format('INSERT, UPDATE ON %I.limits TO %I', store, operate),
        format('DELETE ON %I.events TO %I', store, operate),
        format('UPDATE ON %I.dependencies TO %I', store, operate),
        format('INSERT, UPDATE ON %I.handovers TO %I', store, operate),
        format('INSERT, UPDATE, DELETE ON %I.schedules TO %I', store, operate),

        format('INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO %I', store, run),
        format('SELECT ON %I.runs TO %I', store, run),
        format('USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA %I TO %I', store, run)
    ] LOOP
        EXECUTE 'GRANT ' || given;
    END LOOP;
    -- Nobody rewrites what happened.
    EXECUTE format('REVOKE UPDATE ON %I.events FROM %I', store, run);
    EXECUTE format('REVOKE SELECT ON %I.runs FROM %I', store, submit);
    EXECUTE format('GRANT SELECT (%s) ON %I.runs TO %I', but_lock, store, submit);

    -- Tables of an upgrade: daemons work with them before this is run again.
    FOREACH given IN ARRAY ARRAY['SELECT ON TABLES TO ' || quote_ident(submit),
        'INSERT, UPDATE, DELETE ON TABLES TO ' || quote_ident(run),
        'USAGE, UPDATE ON SEQUENCES TO ' || quote_ident(run)] LOOP
        EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT %s',
            owner, store, given);
    END LOOP;
END $$;
