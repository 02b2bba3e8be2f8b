-- Read models: what each event does to a row is computed by the client, which hands over rows together with what it
-- read to make them; the append (next migration) checks that and writes them in its own transaction.
--
-- Every read model has the columns `row_key` (its primary key as text) and `changed_by` (id of the event that made the
-- row what it is). Its other columns are the fields of the row.

CREATE TABLE IF NOT EXISTS public.headrace_models (name text PRIMARY KEY);
COMMENT ON TABLE public.headrace_models IS 'The tables that are read models; no other is touched by name.';

CREATE TABLE IF NOT EXISTS public.admissions (
    row_key text COLLATE "C" PRIMARY KEY,
    changed_by text NOT NULL,
    owner text COLLATE "C" NOT NULL,
    repo text COLLATE "C" NOT NULL,
    issue_number bigint NOT NULL,
    sweep text NOT NULL,
    created_at text NOT NULL,
    commit text NOT NULL,
    python_version text NOT NULL,
    inputs text NOT NULL,
    rules json NOT NULL
);
CREATE INDEX IF NOT EXISTS admissions_by_pull_request ON public.admissions (owner, repo, issue_number);

CREATE TABLE IF NOT EXISTS public.build_attempts (
    row_key text COLLATE "C" PRIMARY KEY,
    changed_by text NOT NULL,
    attempt_id text COLLATE "C" NOT NULL,
    sweep text NOT NULL,
    owner text COLLATE "C" NOT NULL,
    repo text COLLATE "C" NOT NULL,
    issue_number bigint NOT NULL,
    stage text NOT NULL,
    agent text,
    context text,
    source bigint,
    reason text NOT NULL,
    started_at double precision NOT NULL,
    state text NOT NULL,
    finished_at double precision,
    ended_stage text,
    failure_class text,
    message text NOT NULL,
    tests_passed bigint,
    tests_failed bigint,
    tests_errors bigint,
    tests_skipped bigint,
    build_s double precision,
    test_s double precision,
    peak_memory_bytes bigint,
    image_bytes bigint,
    build_reused boolean NOT NULL,
    image text,
    log_tail text NOT NULL,
    blobs json NOT NULL,
    reset_at double precision,
    tests_flaky bigint,
    tests_known bigint
);
CREATE INDEX IF NOT EXISTS build_attempts_by_pull_request ON public.build_attempts (owner, repo, issue_number);

CREATE TABLE IF NOT EXISTS public.error_logs (
    row_key text COLLATE "C" PRIMARY KEY,
    changed_by text NOT NULL,
    attempt_id text COLLATE "C" NOT NULL,
    owner text COLLATE "C" NOT NULL,
    repo text COLLATE "C" NOT NULL,
    issue_number bigint NOT NULL,
    at double precision NOT NULL,
    stage text NOT NULL,
    failure_class text,
    message text NOT NULL,
    log_tail text NOT NULL,
    blobs json NOT NULL
);
CREATE INDEX IF NOT EXISTS error_logs_by_pull_request ON public.error_logs (owner, repo, issue_number);

CREATE TABLE IF NOT EXISTS public.build_contexts (
    row_key text COLLATE "C" PRIMARY KEY,
    changed_by text NOT NULL,
    context text COLLATE "C" NOT NULL,
    owner text COLLATE "C" NOT NULL,
    repo text COLLATE "C" NOT NULL,
    issue_number bigint NOT NULL,
    inputs text NOT NULL,
    created_at text NOT NULL,
    python_version text NOT NULL,
    rules json NOT NULL,
    attempt_id text NOT NULL,
    stage text NOT NULL,
    source bigint,
    verified_at double precision NOT NULL,
    parent text,
    tests text,
    revoked_at double precision,
    revoked_why text
);
CREATE INDEX IF NOT EXISTS build_contexts_by_context ON public.build_contexts (owner, repo, context);

INSERT INTO public.headrace_models VALUES ('admissions'), ('build_attempts'), ('error_logs'), ('build_contexts')
ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS public.headrace_staged (
    rebuild text NOT NULL,
    part integer NOT NULL,
    model text NOT NULL,
    rows json NOT NULL,
    PRIMARY KEY (rebuild, part)
);
COMMENT ON TABLE public.headrace_staged IS 'Rows of read models that are being rebuilt, until they take the place of those that are.';

-- The table of a read model, as SQL text; any other name is refused.
CREATE OR REPLACE FUNCTION public.headrace_model(model text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM public.headrace_models AS m WHERE m.name = model) THEN
        RAISE EXCEPTION 'there is no read model %', model;
    END IF;
    RETURN format('public.%I', model);
END $$;

-- `where` as SQL: every named column has the value that is given.
CREATE OR REPLACE FUNCTION public.headrace_where(filters json) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT coalesce(string_agg(format('r.%I = %L', f.key, f.value), ' AND '), 'true') FROM json_each_text(filters) AS f
$$;

-- Writes rows, each in the place of the one with its key.
CREATE OR REPLACE FUNCTION public.headrace_put(model text, rows json) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    target text := public.headrace_model(model);
BEGIN
    EXECUTE format(
        'DELETE FROM %s AS r WHERE r.row_key IN (SELECT n.value ->> ''row_key'' FROM json_array_elements($1) AS n)', target
    ) USING rows;
    EXECUTE format('INSERT INTO %1$s SELECT * FROM json_populate_recordset(NULL::%1$s, $1)', target) USING rows;
END $$;

-- A page of a read model in the order of its keys, and the log's seq at that moment.
CREATE OR REPLACE FUNCTION public.headrace_rows(model text, filters json, after text, size integer) RETURNS json
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    found json;
BEGIN
    EXECUTE format(
        'SELECT json_agg(page) FROM (SELECT r.* FROM %s AS r WHERE r.row_key > $1 AND %s ORDER BY r.row_key LIMIT $2) AS page',
        public.headrace_model(model), public.headrace_where(filters)
    ) INTO found USING after, size;
    RETURN json_build_object('rows', coalesce(found, '[]'), 'seq', (SELECT seq FROM public.headrace_meta));
END $$;

-- Takes rows of a rebuild in; repeating a part changes nothing.
CREATE OR REPLACE FUNCTION public.headrace_stage(rebuild text, part integer, model text, rows json) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    PERFORM public.headrace_model(model);
    INSERT INTO public.headrace_staged VALUES (rebuild, part, model, rows) ON CONFLICT DO NOTHING;
END $$;

-- Puts the staged rows of a rebuild in the place of all rows, if the log is still at `seq`; then forgets them, and what
-- rebuilds before it have left. False: the log went on, nothing was changed.
CREATE OR REPLACE FUNCTION public.headrace_rebuild(rebuild text, seq bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET statement_timeout = '300s' AS $$
DECLARE
    one record;
BEGIN
    PERFORM 1 FROM public.headrace_meta AS m WHERE m.seq = headrace_rebuild.seq FOR UPDATE;
    IF NOT FOUND THEN
        DELETE FROM public.headrace_staged AS s WHERE s.rebuild = headrace_rebuild.rebuild;
        RETURN false;
    END IF;
    FOR one IN SELECT m.name FROM public.headrace_models AS m LOOP
        EXECUTE format('DELETE FROM %s', public.headrace_model(one.name));
    END LOOP;
    FOR one IN SELECT s.model, s.rows FROM public.headrace_staged AS s WHERE s.rebuild = headrace_rebuild.rebuild LOOP
        PERFORM public.headrace_put(one.model, one.rows);
    END LOOP;
    DELETE FROM public.headrace_staged;
    RETURN true;
END $$;

ALTER TABLE public.headrace_models ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.headrace_staged ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.admissions ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.build_attempts ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.error_logs ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.build_contexts ENABLE ROW LEVEL SECURITY;

REVOKE ALL ON public.headrace_models, public.headrace_staged, public.admissions, public.build_attempts,
    public.error_logs, public.build_contexts FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.headrace_models, public.admissions, public.build_attempts, public.error_logs,
    public.build_contexts TO service_role;
REVOKE ALL ON FUNCTION public.headrace_model(text), public.headrace_where(json), public.headrace_put(text, json),
    public.headrace_rows(text, json, text, integer), public.headrace_stage(text, integer, text, json),
    public.headrace_rebuild(text, bigint) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.headrace_rows(text, json, text, integer),
    public.headrace_stage(text, integer, text, json), public.headrace_rebuild(text, bigint) TO service_role;

INSERT INTO public.headrace_migrations (number, name) VALUES (2, 'read_models') ON CONFLICT DO NOTHING;
NOTIFY pgrst, 'reload schema';
