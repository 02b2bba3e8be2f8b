"""The migrations of a Supabase project: SQL files in order, each harmless when it is applied again.

They lie where the Supabase CLI looks for them, so they are applied by it, by ``headrace store migrate``, or by hand
from one printed file. Which ones a database has is recorded in it (``headrace_migrations``), by each of them itself.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from events.errors import EnvironmentNotReady, LogTooNew

__all__ = ["MIGRATIONS", "SCHEMA", "Migration", "apply", "as_one_file"]

CONNECT_TIMEOUT_S = 10
LOCK_TIMEOUT_S = 30
CONNECT = "connect"
_ADVISORY_LOCK = 0x48454144
"""Two runs of ``migrate`` take turns."""


class Migration(msgspec.Struct, frozen=True):
    """One step. ``number``: the schema that it leads to."""

    number: int
    name: str
    path: Path

    @property
    def sql(self) -> str:
        """Its statements."""
        return self.path.read_text(encoding="utf-8")


def _found() -> list[Migration]:
    folder = Path(__file__).with_name("migrations")
    paths = sorted(folder.glob("*.sql"))
    return [Migration(number, path.stem.partition("_")[2], path) for number, path in enumerate(paths, start=1)]


MIGRATIONS = _found()
SCHEMA = len(MIGRATIONS)
"""The schema that this program works with."""


def as_one_file() -> str:
    """All migrations, one transaction each, for the SQL editor of the dashboard."""
    return "\n".join(f"-- {one.path.name}\nBEGIN;\n{one.sql}COMMIT;\n" for one in MIGRATIONS)


def apply(database_url: str, *, up_to: int = SCHEMA) -> list[Migration]:
    """Applies what a database lacks, each migration in a transaction of its own.

    Args:
        database_url: of PostgreSQL, as the owner of the tables (``postgres`` in a Supabase project).
        up_to: the schema to stop at.

    Returns:
        those that were applied.

    Raises:
        EnvironmentNotReady: the database cannot be reached, or refuses a migration; that one left no trace.
        LogTooNew: it has migrations that this program does not know.
    """
    import psycopg

    done: list[Migration] = []
    doing = CONNECT
    try:
        with psycopg.connect(database_url, connect_timeout=CONNECT_TIMEOUT_S, autocommit=True) as connection:
            connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'")
            connection.execute("SELECT pg_advisory_lock(%s)", (_ADVISORY_LOCK,))
            (there,) = connection.execute("SELECT to_regclass('public.headrace_migrations')").fetchone() or (None,)
            have = 0
            if there is not None:
                row = connection.execute("SELECT coalesce(max(number), 0) FROM public.headrace_migrations").fetchone()
                have = int(row[0]) if row else 0
            if have > SCHEMA:
                raise LogTooNew(where="the database", found=have, known=SCHEMA)
            for migration in MIGRATIONS[have:up_to]:
                doing = f"apply {migration.path.name}"
                with connection.transaction():
                    connection.execute(migration.sql.encode())
                done.append(migration)
    except psycopg.Error as exc:
        said = " ".join(str(exc).split())
        remedy = "check --database-url (role postgres; in the dashboard: Connect)"
        if doing != CONNECT:
            remedy = "mend what it says, or use a project of Headrace's own; nothing of this migration was kept"
        raise EnvironmentNotReady(f"the database does not {doing}: {said}; {remedy}") from exc
    return done
