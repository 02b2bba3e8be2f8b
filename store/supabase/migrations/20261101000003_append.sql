-- The append: one call, one READ COMMITTED transaction, one lock (the row of headrace_meta), which orders all appends:
-- seq has no gaps and no reader meets a later event before an earlier one. Nothing here raises for a conflict.
--
-- request: {"epoch": number or null, "batches": [batch, …]}
-- batch:   {"stream", "expected", "at_us", "ids": […], "types": […], "schemas": […], "data": […], "unreadable": bool,
--           "reads": {model: {row_key: changed_by or null}}, "sets": [[model, filters, {row_key: changed_by}]],
--           "rows": {model: [row, …]}}
-- answer:  {"status": "fenced", "holder"} or {"status": "done", "results": [result, …]}, a result being
--           ["appended", version, seq] · ["conflict", actual version] · ["unreadable"]
--           ["known", [[id, seq, stream, version, type, schema, data, hash], …]]   some ids are recorded already
--           ["stale", [[model, [row, …]], …]]    the rows that `reads` and `sets` name are others than the client knew;
--                                                this batch and those behind it were not looked at

CREATE OR REPLACE FUNCTION public.headrace_known_rows(batch json) RETURNS json
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    model text;
    wanted json;
    there json;
    same boolean;
    found json[] := '{}'; -- json, not jsonb: a row comes back as it was put, its keys in their order
    stale boolean := false;
BEGIN
    FOR model, wanted IN SELECT w.key, w.value FROM json_each(batch -> 'reads') AS w LOOP
        EXECUTE format(
            'SELECT bool_and(r.changed_by IS NOT DISTINCT FROM w.value), json_agg(r) FILTER (WHERE r.row_key IS NOT NULL)
             FROM json_each_text($1) AS w LEFT JOIN %s AS r ON r.row_key = w.key', public.headrace_model(model)
        ) INTO same, there USING wanted;
        stale := stale OR NOT same;
        found := found || json_build_array(model, coalesce(there, '[]'));
    END LOOP;
    FOR wanted IN SELECT w.value FROM json_array_elements(batch -> 'sets') AS w LOOP
        model := wanted ->> 0;
        EXECUTE format(
            'SELECT coalesce(jsonb_object_agg(r.row_key, r.changed_by), ''{}'') = $1, json_agg(r) FROM %s AS r WHERE %s',
            public.headrace_model(model), public.headrace_where(wanted -> 1)
        ) INTO same, there USING (wanted -> 2)::jsonb;
        stale := stale OR NOT same;
        found := found || json_build_array(model, coalesce(there, '[]'));
    END LOOP;
    RETURN CASE WHEN stale THEN array_to_json(found) END;
END $$;

CREATE OR REPLACE FUNCTION public.headrace_append(request json) RETURNS json
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET enable_seqscan = off SET jit = off AS $$
DECLARE
    last_seq bigint;
    batch json;
    ids text[];
    types text[];
    schemas integer[];
    payloads text[];
    head_version bigint;
    head_hash text;
    known json;
    name text;
    at_us bigint;
    model text;
    changed json;
    results json[] := '{}';
BEGIN
    PERFORM set_config('synchronous_commit', 'on', true); -- what is acknowledged is on the disk, whatever is the default
    SELECT m.seq INTO STRICT last_seq FROM public.headrace_meta AS m FOR UPDATE;
    IF request ->> 'epoch' IS NOT NULL THEN
        SELECT l.holder INTO name FROM public.headrace_lock AS l WHERE l.epoch > (request ->> 'epoch')::bigint;
        IF FOUND THEN
            RETURN json_build_object('status', 'fenced', 'holder', name);
        END IF;
    END IF;
    FOR batch IN SELECT b.value FROM json_array_elements(request -> 'batches') AS b LOOP
        name := batch ->> 'stream';
        ids := ARRAY(SELECT json_array_elements_text(batch -> 'ids'));
        SELECT json_agg(json_build_array(e.event_id, e.seq, e.stream, e.version, e.type, e.schema, e.data, e.hash))
        INTO known FROM public.events AS e WHERE e.event_id = ANY (ids);
        IF known IS NOT NULL OR (SELECT count(DISTINCT i) FROM unnest(ids) AS i) < cardinality(ids) THEN
            results := results || json_build_array('known', coalesce(known, '[]'));
            CONTINUE;
        END IF;
        SELECT s.version, s.hash INTO head_version, head_hash FROM public.streams AS s WHERE s.stream = name;
        IF NOT FOUND THEN
            head_version := 0;
            head_hash := repeat('0', 64);
        END IF;
        IF head_version <> (batch ->> 'expected')::bigint THEN
            results := results || json_build_array('conflict', head_version);
            CONTINUE;
        END IF;
        IF (batch ->> 'unreadable')::boolean THEN
            results := results || json_build_array('unreadable');
            CONTINUE;
        END IF;
        changed := public.headrace_known_rows(batch);
        IF changed IS NOT NULL THEN
            results := results || json_build_array('stale', changed);
            EXIT;
        END IF;
        types := ARRAY(SELECT json_array_elements_text(batch -> 'types'));
        schemas := ARRAY(SELECT json_array_elements_text(batch -> 'schemas')::integer);
        payloads := ARRAY(SELECT json_array_elements_text(batch -> 'data'));
        at_us := (batch ->> 'at_us')::bigint;
        FOR i IN 1 .. cardinality(ids) LOOP
            head_version := head_version + 1;
            last_seq := last_seq + 1;
            head_hash := encode(sha256(convert_to(
                concat_ws(
                    E'\n', head_hash, head_version, schemas[i], at_us, length(name), length(ids[i]), length(types[i]),
                    name || ids[i] || types[i] || payloads[i]
                ), 'UTF8'
            )), 'hex');
            INSERT INTO public.events VALUES (
                last_seq, name, head_version, ids[i], types[i], schemas[i], at_us, payloads[i], head_hash
            );
        END LOOP;
        INSERT INTO public.streams AS s VALUES (name, head_version, head_hash)
        ON CONFLICT (stream) DO UPDATE SET version = excluded.version, hash = excluded.hash;
        FOR model, changed IN SELECT c.key, c.value FROM json_each(batch -> 'rows') AS c LOOP
            PERFORM public.headrace_put(model, changed);
        END LOOP;
        results := results || json_build_array('appended', head_version, last_seq);
    END LOOP;
    UPDATE public.headrace_meta AS m SET seq = last_seq WHERE m.seq < last_seq;
    RETURN json_build_object('status', 'done', 'results', array_to_json(results));
END $$;

REVOKE ALL ON FUNCTION public.headrace_known_rows(json), public.headrace_append(json)
FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.headrace_append(json) TO service_role;

INSERT INTO public.headrace_migrations (number, name) VALUES (3, 'append') ON CONFLICT DO NOTHING;
NOTIFY pgrst, 'reload schema';
