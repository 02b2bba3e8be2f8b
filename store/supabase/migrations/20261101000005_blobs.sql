-- Blobs in parts. A blob is there when its row in `blobs` is, which is written only when the parts have its digest.

CREATE TABLE IF NOT EXISTS public.blobs (
    digest text COLLATE "C" PRIMARY KEY,
    size bigint NOT NULL,
    parts integer NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS public.blob_parts (
    digest text COLLATE "C" NOT NULL,
    part integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (digest, part)
);

-- Takes one part in, in base64. A part that is there already is written over while its blob is not sealed: an earlier
-- writer may have left another one.
CREATE OR REPLACE FUNCTION public.headrace_put_part(digest text, part integer, data text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
#variable_conflict use_column
BEGIN
    IF NOT EXISTS (SELECT 1 FROM public.blobs AS b WHERE b.digest = headrace_put_part.digest) THEN
        INSERT INTO public.blob_parts AS p
        VALUES (headrace_put_part.digest, headrace_put_part.part, decode(headrace_put_part.data, 'base64'))
        ON CONFLICT (digest, part) DO UPDATE SET data = excluded.data WHERE p.data <> excluded.data;
    END IF;
END $$;

-- Makes the parts a blob, if they have its digest. False: they have not, and are gone.
CREATE OR REPLACE FUNCTION public.headrace_seal(digest text, parts integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET statement_timeout = '300s' AS $$
#variable_conflict use_column
DECLARE
    whole bytea;
BEGIN
    IF EXISTS (SELECT 1 FROM public.blobs AS b WHERE b.digest = headrace_seal.digest) THEN
        RETURN true;
    END IF;
    SELECT coalesce(string_agg(p.data, ''::bytea ORDER BY p.part), ''::bytea) INTO whole
    FROM public.blob_parts AS p WHERE p.digest = headrace_seal.digest AND p.part < headrace_seal.parts;
    IF encode(sha256(whole), 'hex') <> headrace_seal.digest THEN
        DELETE FROM public.blob_parts AS p WHERE p.digest = headrace_seal.digest;
        RETURN false;
    END IF;
    INSERT INTO public.blobs VALUES (headrace_seal.digest, length(whole), headrace_seal.parts) ON CONFLICT DO NOTHING;
    RETURN true;
END $$;

-- One part of a blob, in base64, with the blob's size in bytes and in parts; null: there is no such blob.
CREATE OR REPLACE FUNCTION public.headrace_get_part(digest text, part integer) RETURNS json
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
    SELECT json_build_object('size', b.size, 'parts', b.parts, 'data', translate(encode(p.data, 'base64'), E'\n', ''))
    FROM public.blobs AS b
    LEFT JOIN public.blob_parts AS p ON p.digest = b.digest AND p.part = headrace_get_part.part
    WHERE b.digest = headrace_get_part.digest
$$;

ALTER TABLE public.blobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.blob_parts ENABLE ROW LEVEL SECURITY;

REVOKE ALL ON public.blobs, public.blob_parts FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.blobs TO service_role;
REVOKE ALL ON FUNCTION public.headrace_put_part(text, integer, text), public.headrace_seal(text, integer),
    public.headrace_get_part(text, integer) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.headrace_put_part(text, integer, text), public.headrace_seal(text, integer),
    public.headrace_get_part(text, integer) TO service_role;

INSERT INTO public.headrace_migrations (number, name) VALUES (5, 'blobs') ON CONFLICT DO NOTHING;
NOTIFY pgrst, 'reload schema';
