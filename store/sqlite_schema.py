"""What a SQLite log holds: its tables, the triggers that make events immutable, and a view for people.

``sqlite3 LOG.db 'SELECT * FROM event_view'`` shows the log with readable times; ``json_extract(data, '$.reason')`` and
its like work on it.
"""

from __future__ import annotations

__all__ = ["APPLICATION_ID", "SCHEMA", "SESSIONS_SINCE", "SNAPSHOTS_SINCE", "STEPS", "TRUST_SINCE"]

APPLICATION_ID = 0x48454144
"""``HEAD``: tells a log from other programs' databases."""

_FIRST = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY,
        stream TEXT NOT NULL,
        version INTEGER NOT NULL,
        event_id TEXT NOT NULL UNIQUE,
        type TEXT NOT NULL,
        schema INTEGER NOT NULL,
        recorded_us INTEGER NOT NULL,
        data TEXT NOT NULL,
        hash TEXT NOT NULL,
        UNIQUE (stream, version)
    )
    """,
    """
    CREATE TRIGGER events_are_not_updated BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'events are immutable'); END
    """,
    """
    CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'events are immutable'); END
    """,
    """
    CREATE VIEW event_view AS
    SELECT seq, stream, version, type,
           strftime('%Y-%m-%dT%H:%M:%S', recorded_us / 1000000, 'unixepoch')
               || printf('.%06dZ', recorded_us % 1000000) AS recorded_at,
           data, event_id, schema, hash
    FROM events
    """,
    """
    CREATE TABLE admissions (
        owner TEXT NOT NULL,
        repo TEXT NOT NULL,
        issue_number INTEGER NOT NULL,
        sweep TEXT NOT NULL,
        created_at TEXT NOT NULL,
        "commit" TEXT NOT NULL,
        python_version TEXT NOT NULL,
        inputs TEXT NOT NULL,
        rules TEXT NOT NULL,
        PRIMARY KEY (owner, repo, issue_number)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE build_attempts (
        attempt_id TEXT PRIMARY KEY,
        sweep TEXT NOT NULL,
        owner TEXT NOT NULL,
        repo TEXT NOT NULL,
        issue_number INTEGER NOT NULL,
        stage TEXT NOT NULL,
        agent TEXT,
        context TEXT,
        source INTEGER,
        reason TEXT NOT NULL,
        started_at REAL NOT NULL,
        state TEXT NOT NULL,
        finished_at REAL,
        ended_stage TEXT,
        failure_class TEXT,
        message TEXT NOT NULL,
        tests_passed INTEGER,
        tests_failed INTEGER,
        tests_errors INTEGER,
        tests_skipped INTEGER,
        build_s REAL,
        test_s REAL,
        peak_memory_bytes INTEGER,
        image_bytes INTEGER,
        build_reused INTEGER NOT NULL,
        image TEXT,
        log_tail TEXT NOT NULL,
        blobs TEXT NOT NULL,
        reset_at REAL
    )
    """,
    "CREATE INDEX build_attempts_by_pull_request ON build_attempts (owner, repo, issue_number)",
    """
    CREATE TABLE error_logs (
        attempt_id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        repo TEXT NOT NULL,
        issue_number INTEGER NOT NULL,
        at REAL NOT NULL,
        stage TEXT NOT NULL,
        failure_class TEXT,
        message TEXT NOT NULL,
        log_tail TEXT NOT NULL,
        blobs TEXT NOT NULL
    )
    """,
    "CREATE INDEX error_logs_by_pull_request ON error_logs (owner, repo, issue_number)",
    """
    CREATE TABLE build_contexts (
        context TEXT NOT NULL,
        owner TEXT NOT NULL,
        repo TEXT NOT NULL,
        issue_number INTEGER NOT NULL,
        inputs TEXT NOT NULL,
        created_at TEXT NOT NULL,
        python_version TEXT NOT NULL,
        rules TEXT NOT NULL,
        attempt_id TEXT NOT NULL,
        stage TEXT NOT NULL,
        source INTEGER,
        verified_at REAL NOT NULL,
        PRIMARY KEY (owner, repo, issue_number, context)
    )
    """,
    f"PRAGMA application_id = {APPLICATION_ID}",
)

_COVERED = """EXISTS (
    SELECT 1 FROM snapshots JOIN events USING (stream, version, hash)
    WHERE stream = NEW.stream AND version > NEW.version
)"""

_SNAPSHOTS = (
    """
    CREATE TABLE snapshots (
        stream TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        hash TEXT NOT NULL,
        shape TEXT NOT NULL,
        state BLOB NOT NULL,
        digest TEXT NOT NULL
    )
    """,
    "CREATE TABLE pruned (stream TEXT PRIMARY KEY, version INTEGER NOT NULL, hash TEXT NOT NULL)",
    f"""
    CREATE TRIGGER pruned_is_covered_by_a_snapshot BEFORE INSERT ON pruned WHEN NOT {_COVERED}
    BEGIN SELECT RAISE(ABORT, 'no snapshot covers these events'); END
    """,
    """
    CREATE TRIGGER pruned_is_not_updated BEFORE UPDATE ON pruned
    BEGIN SELECT RAISE(ABORT, 'what was pruned is immutable'); END
    """,
    """
    CREATE TRIGGER pruned_is_not_deleted BEFORE DELETE ON pruned
    BEGIN SELECT RAISE(ABORT, 'what was pruned is immutable'); END
    """,
    """
    CREATE TRIGGER snapshots_of_pruned_streams_stay BEFORE DELETE ON snapshots
    WHEN EXISTS (SELECT 1 FROM pruned WHERE stream = OLD.stream)
    BEGIN SELECT RAISE(ABORT, 'its stream is pruned'); END
    """,
    """
    CREATE TRIGGER snapshots_of_pruned_streams_advance BEFORE INSERT ON snapshots
    WHEN EXISTS (SELECT 1 FROM pruned WHERE stream = NEW.stream AND version >= NEW.version)
    BEGIN SELECT RAISE(ABORT, 'its stream is pruned beyond this version'); END
    """,
    "DROP TRIGGER events_are_not_deleted",
    """
    CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events
    WHEN NOT EXISTS (SELECT 1 FROM pruned WHERE stream = OLD.stream AND version >= OLD.version)
    BEGIN SELECT RAISE(ABORT, 'events are immutable'); END
    """,
)

_TRUST = (
    "ALTER TABLE build_attempts ADD COLUMN tests_flaky INTEGER",
    "ALTER TABLE build_attempts ADD COLUMN tests_known INTEGER",
    "UPDATE build_attempts SET tests_flaky = 0, tests_known = 0 WHERE tests_passed IS NOT NULL",
    "ALTER TABLE build_contexts ADD COLUMN parent TEXT",
    "ALTER TABLE build_contexts ADD COLUMN tests TEXT",
    "ALTER TABLE build_contexts ADD COLUMN revoked_at REAL",
    "ALTER TABLE build_contexts ADD COLUMN revoked_why TEXT",
    """
    UPDATE build_contexts SET tests = (
        SELECT json_extract(blobs, '$.tests') FROM build_attempts
        WHERE build_attempts.attempt_id = build_contexts.attempt_id
    )
    """,
)

_OF_SESSIONS = """
    SELECT json_extract(data, '$.attempt_id') AS attempt_id,
           json_extract(data, '$.blobs') AS blobs,
           json_extract(data, '$.context') AS context,
           type = 'AttemptRateLimited' AS limited,
           coalesce(json_extract(data, '$.outcome.session'), json_extract(data, '$.session')) AS session
    FROM events
    WHERE type IN ('AttemptSucceeded', 'AttemptFailed', 'AttemptRateLimited', 'AttemptInterrupted')
"""
_LIFTED = {
    "account": "json_extract(told.session, '$.account')",
    "session_ended": "json_extract(told.session, '$.ended')",
    "agent_version": "json_extract(told.session, '$.version')",
    "model": "json_extract(told.session, '$.model')",
    "session_id": "json_extract(told.session, '$.session_id')",
    "input_tokens": "json_extract(told.session, '$.input_tokens')",
    "cached_input_tokens": "json_extract(told.session, '$.cached_input_tokens')",
    "output_tokens": "json_extract(told.session, '$.output_tokens')",
    "tokens_partial": "coalesce(json_extract(told.session, '$.partial'), 0)",
    "usd": "json_extract(told.session, '$.cost_usd')",
    "session_s": "coalesce(json_extract(told.session, '$.wall_s'), 0.0)",
}
_KINDS = {
    "exit_code": "INTEGER",
    "account": "TEXT",
    "session_ended": "TEXT",
    "agent_exit_code": "INTEGER",
    "agent_version": "TEXT",
    "model": "TEXT",
    "session_id": "TEXT",
    "input_tokens": "INTEGER",
    "cached_input_tokens": "INTEGER",
    "output_tokens": "INTEGER",
    "tokens_partial": "INTEGER NOT NULL DEFAULT 0",
    "usd": "REAL",
    "session_s": "REAL",
}
_OF_ERRORS = (
    "exit_code",
    "reset_at",
    "agent",
    "account",
    "session_ended",
    "agent_exit_code",
    "model",
    "input_tokens",
    "output_tokens",
    "usd",
)
_ERROR_KINDS = {**_KINDS, "reset_at": "REAL", "agent": "TEXT"}

_SESSIONS = (
    *(f"ALTER TABLE build_attempts ADD COLUMN {name} {kind}" for name, kind in _KINDS.items()),
    """
    UPDATE build_attempts SET account = started.account
    FROM (
        SELECT json_extract(data, '$.attempt_id') AS attempt_id, json_extract(data, '$.account') AS account
        FROM events WHERE type = 'AttemptStarted'
    ) AS started
    WHERE started.attempt_id = build_attempts.attempt_id AND started.account IS NOT NULL
    """,
    f"""
    UPDATE build_attempts SET {", ".join(f"{name} = {value}" for name, value in _LIFTED.items())},
           reset_at = coalesce(build_attempts.reset_at, json_extract(told.session, '$.reset_at'))
    FROM ({_OF_SESSIONS}) AS told
    WHERE told.attempt_id = build_attempts.attempt_id AND told.session IS NOT NULL
    """,  # noqa: S608
    f"""
    UPDATE build_attempts SET blobs = coalesce(told.blobs, '{{}}'),
           context = coalesce(told.context, build_attempts.context)
    FROM ({_OF_SESSIONS}) AS told
    WHERE told.attempt_id = build_attempts.attempt_id AND told.limited
    """,  # noqa: S608
    "ALTER TABLE error_logs ADD COLUMN state TEXT NOT NULL DEFAULT 'failed'",
    *(f"ALTER TABLE error_logs ADD COLUMN {name} {_ERROR_KINDS[name]}" for name in _OF_ERRORS),
    f"""
    UPDATE error_logs SET {", ".join(f"{name} = ended.{name}" for name in _OF_ERRORS)}
    FROM build_attempts AS ended WHERE ended.attempt_id = error_logs.attempt_id
    """,  # noqa: S608
    f"""
    INSERT INTO error_logs (
        attempt_id, owner, repo, issue_number, at, stage, message, log_tail, blobs, state, {", ".join(_OF_ERRORS)}
    )
    SELECT attempt_id, owner, repo, issue_number, finished_at, stage, message, log_tail, blobs, state,
           {", ".join(_OF_ERRORS)}
    FROM build_attempts WHERE state IN ('rate_limited', 'interrupted')
    """,  # noqa: S608
)

STEPS = (_FIRST, _SNAPSHOTS, _TRUST, _SESSIONS)
"""What lifts a log from schema 0 (an empty file) to 1, from 1 to 2, and so on; to be run in one transaction."""

SNAPSHOTS_SINCE = 2
"""The first schema with snapshots; a reader may meet a log that no writer has lifted yet."""

TRUST_SINCE = 3
"""The first schema whose read models know of flaky tests, lineage and revocation."""

SESSIONS_SINCE = 4
"""The first schema whose read models know of sessions of agents, and of attempts that were limited or interrupted."""

SCHEMA = len(STEPS)
"""Number of the schema that the last step makes, kept as ``user_version``."""
