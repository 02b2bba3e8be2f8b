"""Opens a store by its URL: the event log, its blobs and its read models together.

``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``supabase`` (the project that ``SUPABASE_URL`` and
``SUPABASE_KEY`` name) and ``memory:`` (tests). One process at a time writes a SQLite log, any number read it meanwhile;
blobs may be put by every process, whoever holds the log. A Supabase log is written by any number of processes; of those
that name a holder (they drive a sweep, or change one) one at a time has its lock.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from events.errors import EnvironmentNotReady, StoreUrlError
from store.blobs import BlobStore, FileBlobs, MemoryBlobs
from store.log import EventLog
from store.memory import MemoryLog
from store.read_models import ReadModels
from store.sqlite import SqliteLog

__all__ = ["Store", "absolute_url", "new_log_id", "open_shared_blobs", "open_store"]

_SQLITE = "sqlite:///"
_SUPABASE = "supabase"
SUPABASE_CALLS_AT_ONCE = 8
"""Each call waits for the network; the project has some tens of connections for all."""


class Store:
    """A log with its blobs and its read models; a context manager that closes all of them.

    ``models`` answers ``contexts_of``, ``attempts`` and ``errors`` and is as current as ``log``. ``calls_at_once``: how
    many threads are of use to whoever asks it much. ``shared_blobs``: under what name other nodes open its blobs by
    themselves (:func:`open_shared_blobs`); empty: they cannot.
    """

    def __init__(
        self,
        *,
        url: str,
        log: EventLog,
        blobs: BlobStore,
        models: ReadModels,
        calls_at_once: int = 1,
        shared_blobs: str = "",
    ) -> None:
        self.url, self.log, self.blobs, self.models = url, log, blobs, models
        self.calls_at_once, self.shared_blobs = calls_at_once, shared_blobs

    def close(self) -> None:
        """Gives log and lock up; closing twice is harmless."""
        self.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def absolute_url(url: str) -> str:
    """The same store named so that a process with another working folder opens the same file."""
    name = url.removeprefix(_SQLITE)
    if not url.startswith(_SQLITE) or not name or name.startswith("/"):
        return url
    return f"{_SQLITE}{Path(name).resolve()}"


def new_log_id() -> str:
    """A random id for a new log."""
    return uuid.uuid4().hex


def open_store(url: str, *, write: bool, holder: str = "", new_id: Callable[[], str] = new_log_id) -> Store:
    """Opens the store that ``url`` names.

    Args:
        url: see the module; a relative path is taken from the current folder.
        write: creates the log if it is missing, takes its lock and verifies its last events (all of them: ``verify``);
            otherwise the log must exist and is only read.
        holder: what is done, in words (``sweep demo``), for whoever finds the log locked. On Supabase, none: the log is
            written without its lock, beside whoever has it.
        new_id: makes the ``log_id`` of a log that is created now; a Supabase log has one from its migrations.

    Raises:
        StoreUrlError: ``url`` names no kind of store, or no path.
        InputError: nothing is there to read, or the file belongs to another program.
        EnvironmentNotReady: the Supabase project or its key cannot be used, or its schema is older than this program.
        LogLocked: another process writes this log.
        LogTooNew, LogCorrupt, LogUnavailable: the log cannot be used.
    """
    if url == "memory:":
        memory = MemoryLog(log_id=new_id())
        return Store(url=url, log=memory, blobs=MemoryBlobs(), models=memory.models)
    if url == _SUPABASE:
        return _opened_supabase(write=write, holder=holder)
    if not url.startswith(_SQLITE):
        raise StoreUrlError(url=url)
    name = url.removeprefix(_SQLITE)
    if not name or name.endswith("/") or "\0" in name or "?" in name:
        raise StoreUrlError(url=url, problem="it names no file" if "?" not in name else "options are not understood")
    path = Path(name).resolve()
    log = SqliteLog(path, write=write, holder=holder, new_id=new_id)
    if write:
        try:
            log.verify_recent()
        except BaseException:
            log.close()
            raise
    return Store(url=url, log=log, blobs=FileBlobs(f"{path}.blobs"), models=log.models)


def open_shared_blobs(name: str) -> BlobStore | None:
    """The blobs of a store that every node reaches by itself; none if ``name`` is not of that kind, or if this process
    has no key for it."""
    if name != _SUPABASE:
        return None
    from store.supabase.opening import open_blobs

    try:
        return open_blobs()
    except EnvironmentNotReady:
        return None


def _opened_supabase(*, write: bool, holder: str) -> Store:
    from store.supabase.opening import open_project  # the client takes half a second to import

    log, blobs, models = open_project(write=write, holder=holder)
    return Store(
        url=_SUPABASE,
        log=log,
        blobs=blobs,
        models=models,
        calls_at_once=SUPABASE_CALLS_AT_ONCE,
        shared_blobs=_SUPABASE,
    )
