"""A log of a finished sweep ``s`` over two repositories, made by the real core."""

from __future__ import annotations

import msgspec

from events import codec
from events.types import (
    AttemptStarted,
    Event,
    RepositoriesAdmitted,
    RepositoryActivated,
    RepositoryRetired,
    RepositoryRows,
    SweepDefined,
    SweepRunEnded,
    SweepRunStarted,
)
from events.work import FailureClass, Stage
from store.log import Append, NewEvent
from store.opening import Store, open_store
from tests.events.worlds import RULES, Repository, policy

__all__ = ["GOOD", "OTHER", "REPOSITORIES", "make"]

GOOD, OTHER = "ab12cd34" + "0" * 56, "ab12cd34" + "f" * 56
REPOSITORIES = ("o/q", "o/r")
POLICY = policy(try_default=False, generate=True, max_attempts=1)


def make(url: str) -> None:
    """In each repository PRs 1 to 3 are verified by ``GOOD``, 4 by ``OTHER``; 5 failed as recipe, 6 as tamper."""
    definition = SweepDefined(sweep="s", timeline="prs.jsonl", timeline_digest="d", rules=RULES, policy=POLICY)
    rows = [RepositoryRows(repository=name, rows="0" * 64, pull_requests=6) for name in REPOSITORIES]
    sweep: list[Event] = [
        definition,
        RepositoriesAdmitted(repositories=rows),
        SweepRunStarted(run="run-1", host="host", pid=7, workers=2),
        *(RepositoryActivated(repository=name) for name in REPOSITORIES),
        *(RepositoryRetired(repository=name, succeeded=4, failed=2, unreached=0) for name in REPOSITORIES),
        SweepRunEnded(run="run-1", how="finished"),
    ]
    with open_store(url, write=True) as store:
        _record(store, "sweep:s", sweep)
        for name in REPOSITORIES:
            _record(store, f"repository:{name}", _repository())


def _record(store: Store, stream: str, events: list[Event]) -> None:
    new = [
        NewEvent(f"{stream}-{number}", type(event).__name__, codec.schema_of(event), codec.encode(event))
        for number, event in enumerate(events)
    ]
    store.log.append(Append(stream, 0, new, 1_700_000_000.0))


def _repository() -> list[Event]:
    made = Repository(1, 2, 3, try_default=False, generate=True, max_attempts=1)
    (session,) = made.fill(1, agent="claude")
    made.end(session, context=GOOD)
    for one in made.fill(2, agent="claude"):
        made.end(one)
    for number, context, cls in (
        (4, OTHER, None),
        (5, "5" * 64, FailureClass.RECIPE),
        (6, "6" * 64, FailureClass.TAMPER),
    ):
        made.join(number, try_default=False, generate=True, max_attempts=1)
        while attempts := made.fill(1, agent="claude"):
            (attempt,) = attempts
            if attempt.stage is Stage.LLM_GENERATE:
                made.end(attempt, verified=cls is None, cls=cls, context=context)
            else:
                made.end(attempt, verified=False)
    assert [made.state_of(number) for number in range(1, 7)] == ["succeeded"] * 4 + ["failed"] * 2
    return [_from_the_template(one) for one in made.events]


def _from_the_template(event: Event) -> Event:
    """No session's context descends from another's."""
    if isinstance(event, AttemptStarted) and event.stage is Stage.LLM_GENERATE:
        return msgspec.structs.replace(event, context=None)
    return event
