"""Opens the store of a Supabase project: its address, its key, its schema and its lock, in this order."""

from __future__ import annotations

from typing import Any

from events.errors import EnvironmentNotReady, LogTooNew, LogUnavailable
from store.supabase.blobs import SupabaseBlobs
from store.supabase.credentials import credentials_of
from store.supabase.log import SupabaseLog
from store.supabase.migrating import SCHEMA
from store.supabase.models import SupabaseModels
from store.supabase.rest import OPEN_FOR_S, PATIENCE_S, Rest

__all__ = ["check_schema", "open_blobs", "open_project"]

RECENT_EVENTS = 50
"""How many of the last events are verified at opening: each stream among them costs a call."""


def open_project(
    *, write: bool, holder: str, patience_s: float = PATIENCE_S
) -> tuple[SupabaseLog, SupabaseBlobs, SupabaseModels]:
    """Log, blobs and read models of the project that the environment names.

    Args:
        write: the last events are verified, and read models may be rebuilt.
        holder: what is driven, in words; with ``write``, the lock of the log is taken. Empty: it is not needed.
        patience_s: how long a call is repeated while the project is away.

    Raises:
        EnvironmentNotReady: address or key are missing or refused, or the schema is older than this program.
        LogLocked: somebody who lives has the lock.
        LogTooNew, LogCorrupt, LogUnavailable: the log cannot be used.
    """
    rest = Rest(credentials_of(), patience_s=patience_s)
    try:
        state = check_schema(rest)
        if write:
            _check_durable(rest, state)
        log = SupabaseLog(rest, log_id=state["log_id"], holder=holder if write else "")
    except BaseException:
        rest.close()
        raise
    try:
        if write:
            log.verify_recent(RECENT_EVENTS)
    except BaseException:
        log.close()
        raise
    return log, SupabaseBlobs(rest), SupabaseModels(rest, log=log, write=write)


def open_blobs() -> SupabaseBlobs:
    """The blobs of the project that the environment names; nothing is asked of it yet.

    Raises:
        EnvironmentNotReady: address or key are missing, or the key is of no use.
    """
    return SupabaseBlobs(Rest(credentials_of()))


def check_schema(rest: Rest) -> dict[str, Any]:
    """What the project says of itself (``headrace_state``), if this program can work with it."""
    state: dict[str, Any] = rest.rpc("headrace_state", {}, patience_s=OPEN_FOR_S)
    found = int(state["schema"])
    if found > SCHEMA:
        raise LogTooNew(where=rest.url, found=found, known=SCHEMA)
    if found < SCHEMA:
        raise EnvironmentNotReady(
            f"{rest.url} has schema {found}, this program needs {SCHEMA}; run `headrace store migrate --database-url …`"
        )
    return state


def _check_durable(rest: Rest, state: dict[str, Any]) -> None:
    if not state["fsync"]:
        raise LogUnavailable(
            f"{rest.url}: its PostgreSQL runs with fsync off, so nothing that is acknowledged is sure to stay; switch "
            f"it on"
        )
