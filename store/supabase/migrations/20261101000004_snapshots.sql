-- Snapshots, one a stream, and pruning: an event may go only when a snapshot of its stream covers it.

CREATE TABLE IF NOT EXISTS public.snapshots (
    stream text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    hash text NOT NULL,
    shape text NOT NULL,
    state bytea NOT NULL,
    digest text NOT NULL
);

CREATE TABLE IF NOT EXISTS public.pruned (
    stream text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    hash text NOT NULL
);
COMMENT ON TABLE public.pruned IS 'The last event that was removed of each stream of which some were.';

CREATE OR REPLACE FUNCTION public.headrace_keep_unpruned() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM public.pruned AS p WHERE p.stream = OLD.stream AND p.version >= OLD.version) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'events are immutable';
END $$;

CREATE OR REPLACE TRIGGER events_are_not_deleted BEFORE DELETE ON public.events
FOR EACH ROW EXECUTE FUNCTION public.headrace_keep_unpruned();

CREATE OR REPLACE FUNCTION public.headrace_cover_pruned() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.stream <> OLD.stream OR NEW.version < OLD.version) THEN
        RAISE EXCEPTION 'what was pruned is immutable';
    END IF;
    IF EXISTS (
        SELECT 1 FROM public.snapshots AS s JOIN public.events AS e USING (stream, version, hash)
        WHERE s.stream = NEW.stream AND s.version > NEW.version
    ) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'no snapshot covers these events';
END $$;

CREATE OR REPLACE TRIGGER pruned_is_covered_by_a_snapshot BEFORE INSERT OR UPDATE ON public.pruned
FOR EACH ROW EXECUTE FUNCTION public.headrace_cover_pruned();
CREATE OR REPLACE TRIGGER pruned_is_not_deleted BEFORE DELETE ON public.pruned
FOR EACH STATEMENT EXECUTE FUNCTION public.headrace_refuse();
CREATE OR REPLACE TRIGGER pruned_is_not_truncated BEFORE TRUNCATE ON public.pruned
FOR EACH STATEMENT EXECUTE FUNCTION public.headrace_refuse();

CREATE OR REPLACE FUNCTION public.headrace_keep_snapshot() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF EXISTS (SELECT 1 FROM public.pruned AS p WHERE p.stream = OLD.stream) THEN
            RAISE EXCEPTION 'its stream is pruned';
        END IF;
        RETURN OLD;
    END IF;
    IF EXISTS (SELECT 1 FROM public.pruned AS p WHERE p.stream = NEW.stream AND p.version >= NEW.version) THEN
        RAISE EXCEPTION 'its stream is pruned beyond this version';
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER snapshots_of_pruned_streams_stay BEFORE INSERT OR UPDATE OR DELETE ON public.snapshots
FOR EACH ROW EXECUTE FUNCTION public.headrace_keep_snapshot();

-- Stores a snapshot in the place of its stream's last one. False: the stream is pruned beyond it.
CREATE OR REPLACE FUNCTION public.headrace_put_snapshot(
    stream text, version bigint, hash text, shape text, state text, digest text
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM public.headrace_meta FOR UPDATE;
    IF EXISTS (
        SELECT 1 FROM public.pruned AS p
        WHERE p.stream = headrace_put_snapshot.stream AND p.version >= headrace_put_snapshot.version
    ) THEN
        RETURN false;
    END IF;
    INSERT INTO public.snapshots AS s VALUES (
        headrace_put_snapshot.stream, headrace_put_snapshot.version, headrace_put_snapshot.hash,
        headrace_put_snapshot.shape, decode(headrace_put_snapshot.state, 'base64'), headrace_put_snapshot.digest
    )
    ON CONFLICT (stream) DO UPDATE SET version = excluded.version, hash = excluded.hash, shape = excluded.shape,
        state = excluded.state, digest = excluded.digest;
    RETURN true;
END $$;

-- Removes the events of a stream below `version`, where its snapshot is; says how many, or null: no snapshot covers them.
CREATE OR REPLACE FUNCTION public.headrace_prune(stream text, version bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET statement_timeout = '300s' AS $$
#variable_conflict use_column
DECLARE
    last text;
    removed bigint;
BEGIN
    PERFORM 1 FROM public.headrace_meta FOR UPDATE;
    IF NOT EXISTS (
        SELECT 1 FROM public.snapshots AS s JOIN public.events AS e USING (stream, version, hash)
        WHERE s.stream = headrace_prune.stream AND s.version = headrace_prune.version
    ) THEN
        RETURN NULL;
    END IF;
    SELECT e.hash INTO last FROM public.events AS e
    WHERE e.stream = headrace_prune.stream AND e.version = headrace_prune.version - 1;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    INSERT INTO public.pruned AS p VALUES (headrace_prune.stream, headrace_prune.version - 1, last)
    ON CONFLICT (stream) DO UPDATE SET version = excluded.version, hash = excluded.hash;
    DELETE FROM public.events AS e WHERE e.stream = headrace_prune.stream AND e.version < headrace_prune.version;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;

ALTER TABLE public.snapshots ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.pruned ENABLE ROW LEVEL SECURITY;

REVOKE ALL ON public.snapshots, public.pruned FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.snapshots, public.pruned TO service_role;
REVOKE ALL ON FUNCTION public.headrace_keep_unpruned(), public.headrace_cover_pruned(), public.headrace_keep_snapshot(),
    public.headrace_put_snapshot(text, bigint, text, text, text, text), public.headrace_prune(text, bigint)
FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.headrace_put_snapshot(text, bigint, text, text, text, text),
    public.headrace_prune(text, bigint) TO service_role;

INSERT INTO public.headrace_migrations (number, name) VALUES (4, 'snapshots') ON CONFLICT DO NOTHING;
NOTIFY pgrst, 'reload schema';
