"""Property 22 for every machine: each (state, event) pair does what the table says, or raises and changes nothing.

The pull request's own table is walked in ``test_machines``; here are the others, and every event type on a stream that
it does not belong to.
"""

from __future__ import annotations

import copy
from typing import Any, get_args

import pytest

from events.errors import IllegalTransition
from events.streams import Machine, first_difference, machine_of
from events.sweep import TRANSITIONS, RepositoryPhase
from events.types import (
    Account,
    AccountsConfigured,
    Event,
    GatherEvent,
    GovernorEvent,
    Lease,
    LeasesExpired,
    LeasesGranted,
    LeasesReleased,
    OutcomeReported,
    RepositoriesAdmitted,
    RepositoryActivated,
    RepositoryEvent,
    RepositoryRetired,
    RepositoryRows,
    SweepEvent,
)
from tests.events.history import history
from tests.events.worlds import outcome

OF_STREAM: dict[str, tuple[type, ...]] = {
    "repository:o/r": get_args(RepositoryEvent),
    "sweep:demo": get_args(SweepEvent),
    "governor": get_args(GovernorEvent),
    "gather:o/r": get_args(GatherEvent),
    "attempt:a1": (OutcomeReported,),
}
ROWS = RepositoryRows(repository="o/r", rows="0" * 64, pull_requests=3)
OF_SWEEP: list[Any] = [
    RepositoriesAdmitted(repositories=[ROWS]),
    RepositoryActivated(repository="o/r"),
    RepositoryRetired(repository="o/r", succeeded=2, failed=1, unreached=0),
]
WAYS = {
    RepositoryPhase.PENDING: OF_SWEEP[:1],
    RepositoryPhase.ACTIVE: OF_SWEEP[:2],
    RepositoryPhase.RETIRED: OF_SWEEP,
}


def machine(stream: str, events: list[Any]) -> tuple[Machine[Any], Any]:
    """A machine and its state after ``events``."""
    found = machine_of(stream)
    assert found is not None
    state = found[0].initial(found[1])
    for event in events:
        found[0].evolve(state, event)
    return found[0], state


def refused(on: Machine[Any], state: Any, event: Any) -> None:
    before = copy.deepcopy(state)
    with pytest.raises(IllegalTransition) as refusal:
        on.evolve(state, event)
    assert refusal.value.event.startswith(type(event).__name__)
    assert first_difference(state, before) is None


@pytest.mark.parametrize("stream", OF_STREAM)
@pytest.mark.parametrize("lived", [False, True], ids=["new", "lived"])
def test_a_stream_refuses_every_event_of_another_kind_of_stream(stream: str, *, lived: bool) -> None:
    given = history()
    on, state = machine(stream, [event for one, event in given if one == stream] if lived else [])
    strangers = {type(event): event for _, event in given if not isinstance(event, OF_STREAM[stream])}
    assert set(strangers) == set(get_args(Event)) - set(OF_STREAM[stream])
    for event in strangers.values():
        refused(on, state, event)


@pytest.mark.parametrize("phase", RepositoryPhase)
@pytest.mark.parametrize("event", OF_SWEEP, ids=lambda event: type(event).__name__)
def test_a_repository_of_a_sweep_goes_where_the_table_says_or_stays(phase: RepositoryPhase, event: Any) -> None:
    on, state = machine("sweep:s", WAYS[phase])
    assert state.repositories["o/r"].phase is phase
    to = TRANSITIONS[phase].get(type(event).__name__)
    if to is None:
        refused(on, state, event)
    else:
        on.evolve(state, event)
        assert state.repositories["o/r"].phase is to


@pytest.mark.parametrize("event", OF_SWEEP[1:], ids=lambda event: type(event).__name__)
def test_a_sweep_refuses_what_is_about_a_repository_that_it_does_not_hold(event: Any) -> None:
    refused(*machine("sweep:s", []), event)


def test_a_lease_is_granted_once_and_ended_once() -> None:
    lease = Lease(lease_id="a", account="docker", slot=0, holder="h", expires_at=1.0)
    accounts = AccountsConfigured(accounts=[Account(name="docker", slots=1)])
    granted, released, expired = (
        LeasesGranted(leases=[lease]),
        LeasesReleased(lease_ids=["a"]),
        LeasesExpired(lease_ids=["a"]),
    )
    refused(*machine("governor", []), granted)  # no such account yet
    for end in (released, expired):
        refused(*machine("governor", [accounts]), end)
        refused(*machine("governor", [accounts, granted]), granted)
        for again in (released, expired):
            refused(*machine("governor", [accounts, granted, end]), again)
        _, state = machine("governor", [accounts, granted, end, granted])
        assert set(state.leases) == {"a"}


def test_a_mailbox_takes_one_outcome_of_its_own_attempt() -> None:
    mine, other = (OutcomeReported(attempt_id=one, outcome=outcome()) for one in ("a1", "a2"))
    refused(*machine("attempt:a1", []), other)
    refused(*machine("attempt:a1", [mine]), mine)
