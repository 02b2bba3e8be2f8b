-- What sessions of agents used and how they ended; limited and interrupted attempts are in error_logs too. Rows of before
-- lack both until `headrace store rebuild`.

ALTER TABLE public.build_attempts
    ADD COLUMN IF NOT EXISTS exit_code bigint,
    ADD COLUMN IF NOT EXISTS account text,
    ADD COLUMN IF NOT EXISTS session_ended text,
    ADD COLUMN IF NOT EXISTS agent_exit_code bigint,
    ADD COLUMN IF NOT EXISTS agent_version text,
    ADD COLUMN IF NOT EXISTS model text,
    ADD COLUMN IF NOT EXISTS session_id text,
    ADD COLUMN IF NOT EXISTS input_tokens bigint,
    ADD COLUMN IF NOT EXISTS cached_input_tokens bigint,
    ADD COLUMN IF NOT EXISTS output_tokens bigint,
    ADD COLUMN IF NOT EXISTS tokens_partial boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS usd double precision,
    ADD COLUMN IF NOT EXISTS session_s double precision;

ALTER TABLE public.error_logs
    ADD COLUMN IF NOT EXISTS state text NOT NULL DEFAULT 'failed',
    ADD COLUMN IF NOT EXISTS exit_code bigint,
    ADD COLUMN IF NOT EXISTS reset_at double precision,
    ADD COLUMN IF NOT EXISTS agent text,
    ADD COLUMN IF NOT EXISTS account text,
    ADD COLUMN IF NOT EXISTS session_ended text,
    ADD COLUMN IF NOT EXISTS agent_exit_code bigint,
    ADD COLUMN IF NOT EXISTS model text,
    ADD COLUMN IF NOT EXISTS input_tokens bigint,
    ADD COLUMN IF NOT EXISTS output_tokens bigint,
    ADD COLUMN IF NOT EXISTS usd double precision;

INSERT INTO public.headrace_migrations (number, name) VALUES (6, 'sessions') ON CONFLICT DO NOTHING;
NOTIFY pgrst, 'reload schema';
