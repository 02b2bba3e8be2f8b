"""What ``headrace doctor`` sees of a Supabase project: address, key, schema, latency, row cap, clock, lock, blobs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from events.errors import HeadraceError
from scripts.findings import Finding, fail, ok, warn

if TYPE_CHECKING:
    from store.supabase.rest import Rest

__all__ = ["look_at_supabase"]

LATENCY_CALLS = 7
SLOW_MS = 250.0
"""A decision of an actor waits for a few calls; above this, they are what a sweep waits for."""
SKEW_S = 5.0
"""Reset times and times of events are told by clocks of several machines."""
PROBED_ROWS = 5000
SMALL_CAP_ROWS = 100


def look_at_supabase() -> list[Callable[[], Finding | None]]:
    """The checks; each answers at once, the project was asked already."""
    return [lambda finding=finding: finding for finding in _findings()]  # type: ignore[misc]


def _findings() -> list[Finding]:
    from store.supabase.credentials import credentials_of
    from store.supabase.opening import check_schema
    from store.supabase.rest import OPEN_FOR_S, Rest

    try:
        credentials = credentials_of()
    except HeadraceError as exc:
        return [fail("store", exc.message, mend="see the message; docs/supabase.md says where to find address and key")]
    rest = Rest(credentials, patience_s=OPEN_FOR_S)
    try:
        state = check_schema(rest)
        return [
            ok("store", f"supabase: {rest.url} takes the key; schema {state['schema']}, {state['seq']} events"),
            _latency(rest),
            _row_cap(rest, int(state["seq"])),
            _clock(rest),
            _lock(rest),
            _storage(rest),
        ]
    except HeadraceError as exc:
        return [fail("store", exc.message, mend="see the message, or use another --store")]
    finally:
        rest.close()


def _latency(rest: Rest) -> Finding:
    taken = []
    for _ in range(LATENCY_CALLS):
        began = time.perf_counter()
        rest.rpc("headrace_state", {})
        taken.append((time.perf_counter() - began) * 1e3)
    median = statistics.median(taken)
    seen = f"a call takes {median:.0f} ms (median of {LATENCY_CALLS})"
    if median > SLOW_MS:
        mend = "run the sweep nearer to the project's region, or make the project in yours"
        return warn("store latency", f"{seen}, more than {SLOW_MS:.0f} ms", mend=mend)
    return ok("store latency", seen)


def _row_cap(rest: Rest, events: int) -> Finding:
    got = len(rest.select("events", "seq", order="seq", limit=PROBED_ROWS))
    if got >= min(events, PROBED_ROWS):
        return ok("store row cap", f"not met by {got} rows; whatever it is, reads are complete")
    if got < SMALL_CAP_ROWS:
        mend = "raise max rows in the project's API settings (1000 is its default); reads are complete, but slow"
        return warn("store row cap", f"an answer has {got} rows at most", mend=mend)
    return ok("store row cap", f"{got} rows an answer; reads go on until they are complete")


def _clock(rest: Rest) -> Finding:
    began = time.time()
    state = rest.rpc("headrace_state", {})
    middle = (began + time.time()) / 2
    skew = middle - int(state["now_us"]) / 1e6
    seen = f"this machine is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the project"
    if abs(skew) > SKEW_S:
        return warn("store clock", seen, mend="set this machine's clock (NTP); times in the log come from it")
    return ok("store clock", seen)


def _lock(rest: Rest) -> Finding:
    row: dict[str, Any] = rest.select("headrace_lock", "holder,epoch,seen_at", order="one", limit=1)[0]
    if row["seen_at"] == "-infinity":
        return ok("store lock", "nothing drives this log")
    return ok("store lock", f"last held by {row['holder']}, a sign of life at {row['seen_at']} (epoch {row['epoch']})")


def _storage(rest: Rest) -> Finding:
    from store.supabase.blobs import LARGE_BYTES
    from store.supabase.storage import BUCKET, Storage

    why_not = Storage(rest).why_not(make=False)
    if why_not:
        mend = "nothing, if the database has the room; or switch Storage on, for a private bucket of this key"
        return warn("store blobs", f"all go to the table, Storage cannot be used: {why_not}", mend=mend)
    return ok("store blobs", f"above {LARGE_BYTES >> 20} MiB they go to Storage (bucket {BUCKET}), others to the table")
