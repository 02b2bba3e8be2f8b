"""What PostgREST does, as far as the store uses it, between HTTP on 127.0.0.1 and a real PostgreSQL.

``/DATABASE/rest/v1/…`` speaks for one database, so ``http://127.0.0.1:PORT/DATABASE`` is a project's address.

It does: one READ COMMITTED transaction a request, read-only for GET; the role of the key (JSON Web Tokens signed with
``SECRET``; no key: ``anon``), ``rpc`` with a JSON object of named arguments, ``select`` with columns, ``eq``, ``gt``,
``gte``, ``lt``, ``lte``, ``order``, ``limit``, plain inserts, updates and deletes; the cap on rows of an answer, the
statement time-out of the role (8 s) and those set for a function, HTTP status by SQLSTATE, ``PGRST`` codes of the
errors that are not the database's, and a pool of few connections.

It does not: schemas other than ``public``, overloaded functions, embedding, ``or``, ``in``, ``like``, ranges, counts,
upserts, preferences beyond ignoring them, CSV and other media types, OpenAPI, TLS, HTTP/2, the API gateway in front of
PostgREST (Kong, with its own key check), Auth, Realtime. What it does not know it answers with 501.

``/DATABASE/storage/v1/…`` is Storage of the same project: ``tests/supabase/objects.py``.

``POST /DATABASE/_faults`` sets :class:`Faults`, ``GET /DATABASE/_calls`` counts the calls of each function.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import psycopg
from psycopg import sql

from tests.supabase.answers import SECRET, CutOff, CutShort, Refused, Who, key_of, who_of
from tests.supabase.objects import Objects

__all__ = ["SECRET", "Faults", "key_of"]

POOL_CONNECTIONS = 10
POOL_WAIT_S = 10.0
Connection = psycopg.Connection[Any]
OPERATORS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}

STATUS = (
    ("08", 503), ("0L", 403), ("0P", 403), ("23503", 409), ("23505", 409), ("25006", 405), ("28", 403), ("40", 500),
    ("42501", 403), ("42883", 404), ("42P01", 404), ("42P17", 500), ("53400", 500), ("53", 503), ("54", 500),
    ("55", 500), ("57P01", 503), ("57", 500), ("58", 500), ("P0001", 400), ("P0", 500), ("XX", 500),
)  # fmt: skip
"""HTTP status by the beginning of an SQLSTATE; others: 400."""


class Faults(msgspec.Struct, kw_only=True):
    """What goes wrong. ``row_cap``: rows of an answer. ``statement_timeout_ms``: of every role. ``unavailable``: so
    many requests get 503; ``cut_before`` and ``cut_after``: so many calls of functions are cut off before the database
    has seen them, or after it has committed. ``cut_every``: and of every so many calls one is cut off after it.
    ``delay_ms``: how long each request takes on its way."""

    row_cap: int = 1000
    statement_timeout_ms: int = 8000
    unavailable: int = 0
    cut_before: int = 0
    cut_after: int = 0
    cut_every: int = 0
    delay_ms: int = 0


class Database:
    """One database: its connections, what goes wrong with it, and what was called."""

    def __init__(self, dsn: str, objects: Objects) -> None:
        self.faults = Faults()
        self.objects = objects
        self.calls: Counter[str] = Counter()
        self.turn = threading.Lock()
        self._dsn = dsn
        self._functions: dict[str, tuple[list[tuple[str, str]], str, list[str]]] = {}
        self._idle: queue.LifoQueue[Connection | None] = queue.LifoQueue()
        for _ in range(POOL_CONNECTIONS):
            self._idle.put(None)

    @property
    def timeout(self) -> str:
        """For a statement, as PostgreSQL writes it."""
        return f"{self.faults.statement_timeout_ms}ms"

    def spend(self, fault: str) -> bool:
        """Whether a fault that comes a number of times comes now."""
        with self.turn:
            left = int(getattr(self.faults, fault))
            setattr(self.faults, fault, max(0, left - 1))
            return left > 0

    def beside(self, method: str, path: str, *, headers: Message[str, str], body: bytes) -> tuple[int, bytes] | None:
        """The answer to what is not PostgREST's."""
        if path == "_faults":
            self.faults = msgspec.json.decode(body, type=Faults)
            return 200, b"{}"
        if path == "_calls":
            return 200, json.dumps(self.calls).encode()
        if path.startswith(("storage/v1/", "_storage")):
            return self.objects.answer(method, path, headers=headers, body=body)
        return None

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        try:
            connection = self._idle.get(timeout=POOL_WAIT_S)
        except queue.Empty:
            raise Refused(504, "PGRST003", "Timed out acquiring connection from connection pool.") from None
        try:
            if connection is None or connection.closed:
                try:
                    connection = psycopg.connect(self._dsn, autocommit=True, connect_timeout=5)
                except psycopg.OperationalError as exc:
                    raise Refused(503, "PGRST000", "Database connection error. Retrying the connection.") from exc
            yield connection
        finally:
            usable = connection is not None and not connection.closed and not connection.broken
            self._idle.put(connection if usable else None)

    def function(self, connection: Connection, name: str) -> tuple[list[tuple[str, str]], str, list[str]]:
        """Names and types of a function's arguments, the type that it returns, and the settings it asks for."""
        if name not in self._functions:
            row = connection.execute(
                """SELECT coalesce(proargnames, '{}'),
                          ARRAY(SELECT format_type(t, NULL) FROM unnest(proargtypes) AS t),
                          format_type(prorettype, NULL), coalesce(proconfig, '{}')
                   FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname = %s""",
                (name,),
            ).fetchone()
            if row is None:
                raise Refused(404, "PGRST202", f"Could not find the function public.{name} in the schema cache")
            self._functions[name] = (list(zip(row[0], row[1], strict=True)), row[2], row[3])
        return self._functions[name]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Gateway

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # every method is heard; those that are not known get 501
            return self._handle
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, content = self._answer(body)
            sent = content
        except Refused as exc:
            status, content = exc.status, exc.body
            sent = content
        except CutOff:
            self.close_connection = True
            return
        except CutShort as exc:
            self.close_connection = True
            status, content, sent = 200, exc.content, exc.content[: len(exc.content) // 2]
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(sent)
        self.wfile.flush()

    def _answer(self, body: bytes) -> tuple[int, bytes]:
        parts = urlsplit(self.path)
        name, _, rest = parts.path.strip("/").partition("/")
        database = self.server.database(name)
        beside = database.beside(self.command, rest, headers=self.headers, body=body)
        if beside is not None:
            return beside
        if not rest.startswith("rest/v1/"):
            raise Refused(404, "PGRST125", "Invalid path specified in request URL")
        time.sleep(database.faults.delay_ms / 1e3)
        if database.spend("unavailable"):
            return 503, b"<html>503 Service Temporarily Unavailable</html>"
        who = who_of(self.headers.get("Authorization"))
        what = rest.removeprefix("rest/v1/")
        query = parse_qsl(parts.query, keep_blank_values=True)
        if "count=" in (self.headers.get("Prefer") or ""):
            raise Refused(501, "GATEWAY", "counts are not implemented here")
        with database.connection() as connection:
            try:
                match self.command, what.partition("/"):
                    case "POST", ("rpc", _, function):
                        return _call(database, connection, function, who=who, body=body)
                    case "GET", (table, "", _):
                        return _read(database, connection, table, who=who, query=query)
                    case ("POST" | "PATCH" | "DELETE") as method, (table, "", _):
                        statement, values = _write(connection, method, table, query=query, body=body)
                        return _run(database, connection, statement, values=values, who=who)
                    case _:
                        raise Refused(501, "GATEWAY", f"{self.command} {what} is not implemented here")
            except psycopg.Error as exc:
                raise _refused(exc, who.role) from exc
            finally:
                _roll_back(connection)


def _begin(connection: Connection, who: Who, *, timeout: str, read: bool) -> None:
    connection.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED READ {'ONLY' if read else 'WRITE'}")
    connection.execute(
        "SELECT set_config('role', %s, true), set_config('request.jwt.claims', %s, true), "
        "set_config('statement_timeout', %s, true)",
        (who.role, who.claims, timeout),
    )


def _call(database: Database, connection: Connection, name: str, *, who: Who, body: bytes) -> tuple[int, bytes]:
    """A function, with the arguments in ``body``; a faithful PostgREST would look at their names too."""
    arguments, returns, settings = database.function(connection, name)
    if database.spend("cut_before"):
        raise CutOff
    hoisted = dict(setting.split("=", 1) for setting in settings)
    _begin(connection, who, timeout=hoisted.get("statement_timeout", database.timeout), read=False)
    call = sql.SQL("{}({})").format(
        sql.Identifier("public", name),
        sql.SQL(", ").join(sql.SQL("{0} => _.{0}").format(sql.Identifier(one)) for one, _ in arguments),
    )
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(one), sql.SQL(type_)) for one, type_ in arguments
    )
    source = sql.SQL(" FROM json_to_record(%s::json) AS _({})").format(columns) if arguments else sql.SQL("")
    result = call if returns == "void" else sql.SQL("to_json({})").format(call)
    statement = sql.SQL("SELECT {}::text{}").format(result, source)
    row = connection.execute(statement, (body.decode(),) if arguments else None).fetchone()
    connection.execute("COMMIT")
    with database.turn:
        database.calls[name] += 1
        count = database.calls.total()
    every = database.faults.cut_every
    if database.spend("cut_after") or (every and count % every == 0):
        raise CutOff
    if returns == "void":
        return 204, b""
    return 200, (row[0] if row and row[0] is not None else "null").encode()


def _read(
    database: Database, connection: Connection, table: str, *, who: Who, query: list[tuple[str, str]]
) -> tuple[int, bytes]:
    """A page of a table, no longer than the row cap."""
    given = dict(query)
    names = given.get("select", "*")
    columns: sql.Composable = sql.SQL("*")
    if names != "*":
        columns = sql.SQL(", ").join(map(sql.Identifier, names.split(",")))
    order: sql.Composable = sql.SQL("")
    if "order" in given:
        column, _, way = given["order"].partition(".")
        if way not in ("", "asc", "desc"):
            raise Refused(501, "GATEWAY", f"order {way} is not implemented here")
        order = sql.SQL(" ORDER BY {} {}").format(sql.Identifier(column), sql.SQL(way or "asc"))
    limit = min(database.faults.row_cap, int(given.get("limit", database.faults.row_cap)))
    where, values = _where(query)
    statement = sql.SQL(
        "SELECT coalesce(json_agg(page), '[]')::text FROM (SELECT {} FROM {}{}{} LIMIT {}) AS page"
    ).format(columns, _target(connection, table), where, order, limit)
    _begin(connection, who, timeout=database.timeout, read=True)
    row = connection.execute(statement, values).fetchone()
    connection.execute("COMMIT")
    return 200, row[0].encode() if row else b"[]"


def _write(
    connection: Connection, method: str, table: str, *, query: list[tuple[str, str]], body: bytes
) -> tuple[sql.Composed, list[str]]:
    """The statement of a plain insert, update or delete."""
    target, (where, values) = _target(connection, table), _where(query)
    match method:
        case "DELETE":
            return sql.SQL("DELETE FROM {}{}").format(target, where), values
        case "PATCH":
            changes = json.loads(body)
            assignments = [sql.SQL("{} = {}").format(sql.Identifier(one), to) for one, to in changes.items()]
            return sql.SQL("UPDATE {} SET {}{}").format(target, sql.SQL(", ").join(assignments), where), values
        case _:
            insert = sql.SQL("INSERT INTO {0} SELECT * FROM json_populate_record(NULL::{0}, %s::json)")
            return insert.format(target), [body.decode()]


def _run(
    database: Database, connection: Connection, statement: sql.Composed, *, values: list[str], who: Who
) -> tuple[int, bytes]:
    _begin(connection, who, timeout=database.timeout, read=False)
    connection.execute(statement, values)
    connection.execute("COMMIT")
    return 204, b""


def _target(connection: Connection, table: str) -> sql.Identifier:
    known = connection.execute("SELECT to_regclass(%s)", (f'public."{table}"',)).fetchone()
    if known is None or known[0] is None:
        raise Refused(404, "PGRST205", f"Could not find the table 'public.{table}' in the schema cache")
    return sql.Identifier("public", table)


def _where(query: list[tuple[str, str]]) -> tuple[sql.Composable, list[str]]:
    filters, values = [], []
    for name, value in query:
        if name in ("select", "order", "limit"):
            continue
        operator, _, operand = value.partition(".")
        if operator not in OPERATORS:
            raise Refused(501, "GATEWAY", f"the filter {operator} is not implemented here")
        filters.append(sql.SQL("{} {} %s").format(sql.Identifier(name), sql.SQL(OPERATORS[operator])))
        values.append(operand)
    return (sql.SQL(" WHERE {}").format(sql.SQL(" AND ").join(filters)) if filters else sql.SQL("")), values


class Gateway(ThreadingHTTPServer):
    """The server. ``dsn``: of PostgreSQL as ``authenticator``, without a database's name; ``folder``: for objects."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, dsn: str, folder: Path, port: int) -> None:
        self._dsn, self._folder = dsn, folder
        self._databases: dict[str, Database] = {}
        self._turn = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    def database(self, name: str) -> Database:
        """The database of that name."""
        with self._turn:
            if name not in self._databases:
                self._databases[name] = Database(f"{self._dsn}/{name}", Objects(self._folder / name))
            return self._databases[name]


def _refused(exc: psycopg.Error, role: str) -> Refused:
    state = exc.sqlstate
    if state is None:  # the connection broke: the server went away
        return Refused(503, "PGRST001", "Database client error. Retrying the connection.")
    if state == "42501" and role == "anon":
        return Refused(401, state, exc.diag.message_primary or str(exc))
    status = next((status for beginning, status in STATUS if state.startswith(beginning)), 400)
    return Refused(status, state, exc.diag.message_primary or str(exc))


def _roll_back(connection: Connection) -> None:
    if not connection.closed and connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            connection.close()


def main() -> None:
    """Serves until standard input ends: with the process that started it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--objects", required=True, type=Path, help="folder for Storage")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    gateway = Gateway(options.dsn, options.objects, options.port)
    print(gateway.server_address[1], flush=True)
    threading.Thread(target=gateway.serve_forever, daemon=True).start()
    sys.stdin.read()
    gateway.shutdown()


if __name__ == "__main__":
    main()
