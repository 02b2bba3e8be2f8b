-- The event log: its tables, what makes events immutable, and the one writer with a lock.
--
-- Nobody but the functions here writes: the API's roles may read the tables (service_role only) and call the functions
-- (service_role only). Row level security is on, without any policy.

DO $$
BEGIN
    IF to_regclass('public.headrace_meta') IS NULL AND to_regclass('public.events') IS NOT NULL THEN
        RAISE EXCEPTION 'public.events belongs to another program; give Headrace a project of its own';
    END IF;
    IF (SELECT count(*) FROM pg_catalog.pg_roles WHERE rolname IN ('anon', 'authenticated', 'service_role')) < 3 THEN
        RAISE EXCEPTION 'the roles anon, authenticated and service_role are missing; this is no Supabase project';
    END IF;
    IF current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'the database is not encoded in UTF8; events are';
    END IF;
END $$;

CREATE TABLE IF NOT EXISTS public.headrace_meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    log_id text NOT NULL,
    seq bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE public.headrace_meta IS 'One row: the log''s id, and the seq of its last event. Its lock orders appends.';

CREATE TABLE IF NOT EXISTS public.headrace_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.headrace_lock (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch bigint NOT NULL DEFAULT 0,
    token text NOT NULL DEFAULT '',
    holder text NOT NULL DEFAULT '',
    machine text NOT NULL DEFAULT '',
    pid bigint NOT NULL DEFAULT 0,
    seen_at timestamptz NOT NULL DEFAULT '-infinity'
);
COMMENT ON TABLE public.headrace_lock IS 'Who drives this log: a writer of an earlier epoch is refused.';

CREATE TABLE IF NOT EXISTS public.events (
    seq bigint PRIMARY KEY,
    stream text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    event_id text COLLATE "C" NOT NULL UNIQUE,
    type text NOT NULL,
    schema integer NOT NULL,
    recorded_us bigint NOT NULL,
    data text NOT NULL,
    hash text NOT NULL,
    UNIQUE (stream, version)
);

CREATE TABLE IF NOT EXISTS public.streams (
    stream text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    hash text NOT NULL
);
COMMENT ON TABLE public.streams IS 'The head of every stream: version and hash of its last event.';

INSERT INTO public.headrace_meta (log_id) VALUES (replace(gen_random_uuid()::text, '-', '')) ON CONFLICT DO NOTHING;
INSERT INTO public.headrace_lock DEFAULT VALUES ON CONFLICT DO NOTHING;

CREATE OR REPLACE FUNCTION public.headrace_refuse() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    RAISE EXCEPTION 'events are immutable';
END $$;

CREATE OR REPLACE TRIGGER events_are_not_updated BEFORE UPDATE ON public.events
FOR EACH STATEMENT EXECUTE FUNCTION public.headrace_refuse();
CREATE OR REPLACE TRIGGER events_are_not_truncated BEFORE TRUNCATE ON public.events
FOR EACH STATEMENT EXECUTE FUNCTION public.headrace_refuse();
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM pg_catalog.pg_trigger
        WHERE tgrelid = 'public.events'::regclass AND tgname = 'events_are_not_deleted'
    ) THEN -- a later migration has it allow what a snapshot covers
        CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON public.events
        FOR EACH ROW EXECUTE FUNCTION public.headrace_refuse();
    END IF;
END $$;

CREATE OR REPLACE VIEW public.event_view WITH (security_invoker = true) AS
SELECT seq, stream, version, type, to_timestamp(recorded_us / 1000000.0) AS recorded_at, data, event_id, schema, hash
FROM public.events;

CREATE OR REPLACE VIEW public.pr_timelines WITH (security_invoker = true) AS
SELECT
    event.data::json ->> 'sweep' AS sweep,
    split_part(substr(event.stream, length('repository:') + 1), '/', 1) AS owner,
    split_part(substr(event.stream, length('repository:') + 1), '/', 2) AS repo,
    (admitted.value ->> 'issue_number')::bigint AS issue_number,
    admitted.value ->> 'created_at' AS created_at,
    admitted.value ->> 'commit' AS commit,
    admitted.value ->> 'python_version' AS python_version,
    admitted.value ->> 'row' AS rows_blob,
    event.seq
FROM public.events AS event
CROSS JOIN LATERAL json_array_elements(event.data::json -> 'pull_requests') AS admitted
WHERE event.type = 'PullRequestsAdmitted';
COMMENT ON VIEW public.pr_timelines IS 'The pull requests of every sweep, as they were admitted; full rows are in the blob rows_blob.';

-- Takes the lock for a driver, whose `token` is its own: asked again, it has the lock that it took. A holder that was
-- seen within `ttl_s` seconds keeps it, unless its epoch is `over`: who asks knows that it is dead. Whoever had the lock
-- before is refused from then on.
CREATE OR REPLACE FUNCTION public.headrace_acquire(
    token text, holder text, machine text, pid bigint, ttl_s double precision, over bigint
) RETURNS json
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    held public.headrace_lock;
BEGIN
    SELECT l.* INTO STRICT held FROM public.headrace_lock AS l FOR UPDATE;
    IF held.token = headrace_acquire.token THEN
        RETURN json_build_object('status', 'held', 'epoch', held.epoch);
    END IF;
    IF held.seen_at > clock_timestamp() - make_interval(secs => ttl_s) AND held.epoch IS DISTINCT FROM over THEN
        RETURN json_build_object(
            'status', 'locked', 'epoch', held.epoch, 'holder', held.holder, 'machine', held.machine, 'pid', held.pid,
            'seen_s', extract(epoch FROM clock_timestamp() - held.seen_at)
        );
    END IF;
    UPDATE public.headrace_lock AS l
    SET epoch = held.epoch + 1, token = headrace_acquire.token, holder = headrace_acquire.holder,
        machine = headrace_acquire.machine, pid = headrace_acquire.pid, seen_at = clock_timestamp();
    RETURN json_build_object('status', 'held', 'epoch', held.epoch + 1);
END $$;

-- Says that the holder of `epoch` lives, or that it is done (`release`). False: somebody else has the lock.
CREATE OR REPLACE FUNCTION public.headrace_beat(epoch bigint, release boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    UPDATE public.headrace_lock AS l
    SET seen_at = CASE WHEN release THEN '-infinity' ELSE clock_timestamp() END
    WHERE l.epoch = headrace_beat.epoch;
    RETURN FOUND;
END $$;

-- What a client looks at before it trusts a store: its log, its schema, its clock, and whether a commit is on the disk.
CREATE OR REPLACE FUNCTION public.headrace_state() RETURNS json
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
    SELECT json_build_object(
        'log_id', (SELECT log_id FROM public.headrace_meta),
        'seq', (SELECT seq FROM public.headrace_meta),
        'schema', (SELECT max(number) FROM public.headrace_migrations),
        'fsync', current_setting('fsync') = 'on',
        'now_us', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    )
$$;

ALTER TABLE public.headrace_meta ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.headrace_migrations ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.headrace_lock ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.events ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.streams ENABLE ROW LEVEL SECURITY;

REVOKE ALL ON public.headrace_meta, public.headrace_migrations, public.headrace_lock, public.events, public.streams,
    public.event_view, public.pr_timelines FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.headrace_meta, public.headrace_migrations, public.headrace_lock, public.events, public.streams,
    public.event_view, public.pr_timelines TO service_role;
REVOKE ALL ON FUNCTION public.headrace_refuse(),
    public.headrace_acquire(text, text, text, bigint, double precision, bigint),
    public.headrace_beat(bigint, boolean), public.headrace_state() FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.headrace_acquire(text, text, text, bigint, double precision, bigint),
    public.headrace_beat(bigint, boolean), public.headrace_state() TO service_role;

INSERT INTO public.headrace_migrations (number, name) VALUES (1, 'event_log') ON CONFLICT DO NOTHING;
NOTIFY pgrst, 'reload schema';
