"""Calls of a Supabase project: one place for deadlines, repetition, and what errors mean.

Everything that this store asks may be asked again: reads change nothing, appends carry event ids, blobs are named by
their content, the rest is idempotent. So a call whose answer is lost, late or "not now" is repeated, with the same
content, after a pause that doubles and is drawn at random (many clients that lost one server do not come back at once),
until its deadline; then it raises ``LogUnavailable``, and may have happened. What no repetition mends is told at once.
"""

from __future__ import annotations

import random
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import httpx
from loguru import logger
from postgrest import APIError
from storage3 import SyncStorageClient
from supabase import Client, ClientOptions, create_client

from events.errors import EnvironmentNotReady, HeadraceError, LogUnavailable
from store.supabase.credentials import KEY_VARIABLE, URL_VARIABLE, Credentials

__all__ = ["OPEN_FOR_S", "PATIENCE_S", "NotNow", "Rest"]

T = TypeVar("T")

OPEN_FOR_S = 15.0
"""How long opening a store is tried: its address may be wrong, and somebody waits for the command."""
PATIENCE_S = 900.0
"""How long a call of an open store is tried: a restart of a database takes seconds, a failover minutes."""
REQUEST_TIMEOUT_S = 60.0
"""For one answer. Longer than the 8 s after which the server gives a statement up; the longest functions take more."""
CONNECT_TIMEOUT_S = 5.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
TELL_AFTER_S = 5.0
TELL_EVERY_S = 60.0
CONNECTIONS = 32
MESSAGE_CHARACTERS = 300

_AGAIN_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_AGAIN_STATE = ("08", "53", "40", "57P", "57014", "55P03", "PGRST000", "PGRST001", "PGRST002", "PGRST003")
"""Beginnings of codes: no connection, no resources, rolled back, shutting down, out of time, lock, pool."""
_MISSING = frozenset({"PGRST202", "PGRST205", "42883", "42P01"})
_REFUSED = frozenset({"42501", "PGRST300", "PGRST301", "PGRST302", "PGRST303"})


class NotNow(Exception):
    """Raised by what :meth:`Rest.insist` calls: the answer was that it be asked again."""


class Rest:
    """One project; safe to use from several threads. Errors: ``EnvironmentNotReady``, ``LogUnavailable``."""

    def __init__(self, credentials: Credentials, *, patience_s: float = PATIENCE_S) -> None:
        self.url, self.patience_s = credentials.url, patience_s
        self._credentials = credentials
        self._seen = threading.local()
        self._closed = threading.Event()
        self._http = httpx.Client(
            timeout=httpx.Timeout(REQUEST_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            event_hooks={"response": [self._note]},
        )
        options = ClientOptions(
            auto_refresh_token=False, persist_session=False, httpx_client=self._http, postgrest_client_retry=False
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self._client: Client = create_client(credentials.url, credentials.key, options)
            self._rest = self._client.postgrest
            self.storage: SyncStorageClient = self._client.storage
            """Of the same project, with the same connections; for what :meth:`insist` calls."""

    def rpc(self, function: str, arguments: Mapping[str, object], *, patience_s: float | None = None) -> Any:
        """What a function of the database returns."""
        given: dict[str, Any] = dict(arguments)
        return self.insist(lambda: self._rest.rpc(function, given).execute().data, patience_s=patience_s)

    def select(
        self,
        table: str,
        columns: str,
        *,
        order: str,
        limit: int,
        equal: Mapping[str, object] | None = None,
        above: Mapping[str, object] | None = None,
        least: Mapping[str, object] | None = None,
        most: Mapping[str, object] | None = None,
        descending: bool = False,
    ) -> list[dict[str, Any]]:
        """Rows of one page, in ``order``: at most ``limit``, and fewer where the server caps its answers."""

        def ask() -> Any:
            query = self._rest.from_(table).select(columns)
            for column, value in (equal or {}).items():
                query = query.eq(column, value)
            for column, value in (above or {}).items():
                query = query.gt(column, value)
            for column, value in (least or {}).items():
                query = query.gte(column, value)
            for column, value in (most or {}).items():
                query = query.lte(column, value)
            return query.order(order, desc=descending).limit(limit).execute().data

        rows: list[dict[str, Any]] = self.insist(ask)
        return rows

    def stream(self, path: str) -> AbstractContextManager[httpx.Response]:
        """The answer to a GET of ``path`` below the project's address, its body not yet read; for :meth:`insist`."""
        return self._http.stream("GET", f"{self.url}/{path}", headers=self._client.options.headers)

    def hide(self, text: str) -> str:
        """``text`` without the key."""
        return self._credentials.hide(text)

    def insist(self, ask: Callable[[], T], *, patience_s: float | None = None) -> T:
        """Calls ``ask`` until it has an answer; see the module for what is repeated."""
        began = time.monotonic()
        deadline = began + (self.patience_s if patience_s is None else patience_s)
        tell, pause = began + TELL_AFTER_S, FIRST_PAUSE_S
        while True:
            try:
                self._seen.status = 0
                return ask()
            except (APIError, httpx.HTTPError, NotNow, RuntimeError) as exc:
                problem = self._meaning(exc)
                now = time.monotonic()
                wait = random.uniform(pause / 2, pause)  # noqa: S311 - no secret
                if not isinstance(problem, LogUnavailable) or now + wait > deadline or self._closed.is_set():
                    raise problem from exc
                if now > tell:
                    logger.warning("waiting for the store, for {:.0f} s so far: {}", now - began, problem.message)
                    tell = now + TELL_EVERY_S
            self._closed.wait(wait)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def close(self) -> None:
        """Ends the connections, and what waits to be repeated; closing twice is harmless."""
        self._closed.set()
        self._http.close()

    def _note(self, response: httpx.Response) -> None:
        self._seen.status = response.status_code

    def _meaning(self, exc: Exception) -> HeadraceError:
        """What an error says of the store, without the key."""
        if self._closed.is_set():
            return LogUnavailable(f"{self.url}: the store is closed; open it again")
        if not isinstance(exc, APIError):
            if isinstance(exc, RuntimeError):
                raise exc
            late = isinstance(exc, NotNow)
            detail = self.hide(str(exc) if late else f"{type(exc).__name__}: {exc}".removesuffix(": "))
            said = "cannot answer now" if late else "gives no answer"
            return LogUnavailable(
                f"{self.url} {said} ({detail}); check {URL_VARIABLE} and the network; the call may be repeated"
            )
        status, code = int(self._seen.status), str(exc.code or "")
        said = self.hide(" ".join(str(exc.message or exc.details or "").split()))[:MESSAGE_CHARACTERS]
        detail = f"HTTP {status}{f', {code}' if code and code != str(status) else ''}: {said}"
        if status in (401, 403) or code in _REFUSED:
            return EnvironmentNotReady(
                f"{self.url} refuses {KEY_VARIABLE} ({detail}); set it to the service_role key of this very project, "
                f"one that has not expired"
            )
        if code in _MISSING:
            return EnvironmentNotReady(
                f"{self.url} lacks what this program needs ({detail}); run `headrace store migrate`, and if that was "
                f"done just now, wait a minute: the API reads its schema anew"
            )
        if code.startswith(_AGAIN_STATE) or status in _AGAIN_STATUS:
            hint = "it takes longer than the server allows" if code == "57014" else "it cannot answer now"
            return LogUnavailable(f"{self.url}: {hint} ({detail}); the call may be repeated")
        return EnvironmentNotReady(
            f"{self.url} does not understand what it is asked ({detail}); check {URL_VARIABLE}, it names no project of "
            f"Supabase, or one that this program does not know"
        )
