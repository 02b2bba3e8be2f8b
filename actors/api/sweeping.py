"""What a runner does to the log before its sweep, and reads from it afterwards."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from hashlib import sha256

import msgspec

from actors.admission import admissions, rows_to_bytes
from actors.api.states import SynthesisState, trace_of
from actors.api.synthesizer import context_of
from actors.ids import new_id
from actors.recording import record
from actors.templates import stock_context
from events import codec
from events.commands import Admit, Claim, Reopen
from events.decide import decide
from events.errors import InputError, LogLocked
from events.forcing import FORCED, force
from events.pull_request import PrState
from events.repository import evolve
from events.repository_state import RepositoryState
from events.sweep import SweepState
from events.types import RepositoryEvent
from events.work import CascadePolicy, PullRequest, VerificationRules
from store.docker_context import DockerContext
from store.opening import Store, open_store
from store.snapshots import load

__all__ = ["Found", "by_repository", "collect", "open_when_free", "prepare", "sweep_name"]

LOCK_WAIT_S = 15.0
POLL_S = 0.2


class Found(msgspec.Struct, frozen=True):
    """What a run came to on one pull request."""

    context: DockerContext | None
    trace: list[SynthesisState]


def by_repository(rows: Sequence[PullRequest]) -> dict[str, list[PullRequest]]:
    """Each pull request once, by its repository.

    Raises:
        InputError: one is there twice, with different fields.
    """
    known: dict[str, PullRequest] = {}
    found: dict[str, list[PullRequest]] = {}
    for row in rows:
        if row.name not in known:
            known[row.name] = row
            found.setdefault(row.repository, []).append(row)
        elif known[row.name] != row:
            raise InputError(f"{row.name} is among the items twice, with different fields; leave one of them out")
    return found


def sweep_name(rows: Sequence[PullRequest]) -> str:
    """A name that the same pull requests always get, so that running them again goes on with their sweep."""
    names = "\n".join(sorted({row.name for row in rows}))
    return f"api-{sha256(names.encode()).hexdigest()[:12]}"


def open_when_free(url: str) -> Store:
    """Opens a store for writing; the actors of a driver that was killed hold its lock for some seconds more.

    Raises:
        LogLocked: another process writes it.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return open_store(url, write=True, holder="Python API")
        except LogLocked:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def prepare(
    store: Store,
    rows: Mapping[str, list[PullRequest]],
    *,
    sweep: str,
    rules: VerificationRules,
    policy: CascadePolicy,
    forced: bool,
) -> dict[str, int]:
    """Opens what has failed again, or everything if it is ``forced``; the version of each repository before that."""
    versions = {}
    for name, given in rows.items():
        state: RepositoryState = load(store.log, f"repository:{name}").state
        versions[name] = state.version
        numbers = [row.issue_number for row in given]
        now = time.time()
        if forced:
            store.blobs.put(stock_context().to_tar_bytes())
            blob = store.blobs.put(rows_to_bytes(given))
            admit = Admit(sweep=sweep, rules=rules, policy=policy, pull_requests=admissions(given, rows_blob=blob))
            scratch: RepositoryState = load(store.log, f"repository:{name}").state
            events = []
            for command in (Claim(incarnation=new_id(), sweep=sweep), admit):
                for event in decide(scratch, command, now):
                    evolve(scratch, event)
                    events.append(event)
            events += force(scratch, numbers, reason=FORCED)
        else:
            events = decide(state, Reopen(sweep=sweep, issue_numbers=numbers, reason="synthesised anew"), now)
        sweep_state: SweepState = load(store.log, f"sweep:{sweep}").state
        record(store.log, state, events, sweeps=[sweep_state], at=now)
    return versions


def collect(store: Store, rows: Sequence[PullRequest], versions: Mapping[str, int]) -> list[Found]:
    """What became of each pull request; the trace is that of the events since ``versions``."""
    states: dict[str, RepositoryState] = {}
    news: dict[str, list[RepositoryEvent]] = {}
    for name in {row.repository for row in rows}:
        states[name] = load(store.log, f"repository:{name}").state
        stored = store.log.read_stream(f"repository:{name}", after=versions.get(name, 0))
        news[name] = [codec.decode(one.type, one.schema, one.data) for one in stored]  # type: ignore[misc]
    found = []
    for row in rows:
        pr = states[row.repository].prs.get(row.issue_number)
        trace = trace_of(news[row.repository], row.issue_number)
        verified = pr is not None and pr.state is PrState.SUCCEEDED
        if pr is not None and verified:
            found.append(Found(context_of(store, row, pr), trace or [SynthesisState.CHECK_CACHE]))
        else:
            found.append(Found(None, trace))
    return found
