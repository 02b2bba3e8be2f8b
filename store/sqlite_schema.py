"""What a SQLite log holds: its tables, the triggers that make events immutable, and a view for people.

``sqlite3 LOG.db 'SELECT * FROM event_view'`` shows the log with readable times; ``json_extract(data, '$.reason')`` and
its like work on it.
"""

from __future__ import annotations

__all__ = ["APPLICATION_ID", "SCHEMA", "SNAPSHOTS_SINCE", "STEPS", "TRUST_SINCE"]

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

STEPS = (_FIRST, _SNAPSHOTS, _TRUST)
"""What lifts a log from schema 0 (an empty file) to 1, from 1 to 2, and so on; to be run in one transaction."""

SNAPSHOTS_SINCE = 2
"""The first schema with snapshots; a reader may meet a log that no writer has lifted yet."""

TRUST_SINCE = 3
"""The first schema whose read models know of flaky tests, lineage and revocation."""

SCHEMA = len(STEPS)
"""Number of the schema that the last step makes, kept as ``user_version``."""
