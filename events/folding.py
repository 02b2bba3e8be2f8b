"""How pull requests move within a repository's state: what the handlers of all its events share."""

from __future__ import annotations

from bisect import insort

from events.errors import IllegalTransition
from events.pull_request import TRANSITIONS, PrState, next_state
from events.records import PrRecord
from events.repository_state import RepositoryState, remove_place

__all__ = ["forget_success", "is_member", "leave_queue", "make_ready", "not_held", "record", "succeed"]

_QUEUED = PrState.QUEUED
"""A member of an enum is slow to look up on its class, and this one is compared with at every event."""


def record(state: RepositoryState, number: int, trigger: str) -> tuple[PrRecord, PrState]:
    """The pull request and the state that ``trigger`` leads it to."""
    pr = state.prs.get(number)
    if pr is None:
        subject = f"{state.repository}#{number}"
        raise IllegalTransition(machine="pull request", state="unknown", event=trigger, subject=subject)
    to = TRANSITIONS[pr.state].get(trigger)
    if to is None:
        to = next_state(pr.state, trigger, subject=f"{state.repository}#{number}")
    return pr, to


def is_member(state: RepositoryState, number: int) -> bool:
    """Whether a pull request belongs to the active sweep."""
    return number in state.members.get(state.sweep, ())


def make_ready(state: RepositoryState, pr: PrRecord) -> None:
    """Puts a pull request among those that may be worked on, if it was reached."""
    number = pr.issue_number
    state.waiting.pop(number, None)
    if pr.reached and number in state.members.get(state.sweep, ()):
        state.ready[number] = None
        if pr.state is _QUEUED:
            state.queued[number] = None


def leave_queue(state: RepositoryState, number: int) -> None:
    """Takes a pull request out of those that wait."""
    state.ready.pop(number, None)
    state.queued.pop(number, None)
    state.waiting.pop(number, None)


def not_held(state: RepositoryState, pr: PrRecord) -> None:
    """A pull request waits for no attempt any more."""
    if pr.behind is not None:
        members = state.held.get(pr.behind, {})
        members.pop(pr.issue_number, None)
        if not members:
            state.held.pop(pr.behind, None)
        pr.behind = None


def forget_success(state: RepositoryState, pr: PrRecord) -> None:
    """What was verified on a pull request does not count any more."""
    if pr.state is PrState.SUCCEEDED:
        remove_place(state.verified, (pr.at, pr.issue_number))
        pr.context = pr.verified_by = pr.source = pr.tests = None


def succeed(state: RepositoryState, pr: PrRecord, to: PrState, context: str, reason: str) -> None:
    """A pull request is verified by ``context``."""
    pr.state, pr.context, pr.reason = to, context, reason
    leave_queue(state, pr.issue_number)
    state.close(pr)
    insort(state.verified, (pr.at, pr.issue_number))
