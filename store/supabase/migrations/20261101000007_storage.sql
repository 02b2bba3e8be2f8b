-- Where the content of a blob is: in `blob_parts`, or an object of Supabase Storage, named by the digest, in the bucket
-- `headrace-blobs`. Such a blob has no parts.

ALTER TABLE public.blobs ADD COLUMN IF NOT EXISTS stored_in text NOT NULL DEFAULT 'parts';
ALTER TABLE public.blobs DROP CONSTRAINT IF EXISTS blobs_stored_in;
ALTER TABLE public.blobs ADD CONSTRAINT blobs_stored_in
    CHECK (stored_in = 'parts' OR (stored_in = 'storage' AND parts = 0 AND size > 0));

-- Makes an object a blob; the client has read it back. A blob that is there already stays where it is. Parts that a
-- writer left which died go.
CREATE OR REPLACE FUNCTION public.headrace_seal_stored(digest text, size bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO public.blobs AS b (digest, size, parts, stored_in)
    VALUES (headrace_seal_stored.digest, headrace_seal_stored.size, 0, 'storage') ON CONFLICT DO NOTHING;
    IF FOUND THEN
        DELETE FROM public.blob_parts AS p WHERE p.digest = headrace_seal_stored.digest;
    END IF;
END $$;

REVOKE ALL ON FUNCTION public.headrace_seal_stored(text, bigint) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.headrace_seal_stored(text, bigint) TO service_role;

INSERT INTO public.headrace_migrations (number, name) VALUES (7, 'storage') ON CONFLICT DO NOTHING;
NOTIFY pgrst, 'reload schema';
