"""How a context that is not trusted any more is taken out of use, with all that was made from it. Pure.

A context is a suspect for what it is, wherever its text came from: one that two sessions made from different parents
falls with either of them. The stock template is Headrace's own: an attempt that finds it tampering refutes it on that
pull request; only a person revokes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import msgspec

from events.commands import ImportContexts, Reopen, Revoke
from events.pull_request import PrState
from events.records import InFlight, context_of, import_key
from events.repository_state import RepositoryState
from events.types import ContextRevoked, ContextsImported, PullRequestReopened, RepositoryEvent
from events.work import FailureClass, Outcome

__all__ = [
    "distrusted",
    "import_contexts",
    "naming_the_check",
    "not_counted",
    "orphaned",
    "reopen",
    "revocation",
    "revoke",
    "tampering",
]


def revoke(state: RepositoryState, command: Revoke) -> list[RepositoryEvent]:
    """The event that takes a context out of use; none if it is already, or if the repository does not know it."""
    if command.context in state.revoked or command.context not in state.contexts():
        return []
    return [revocation(state, command.context, why=command.why)]


def revocation(
    state: RepositoryState, context: str, *, why: str, attempt_id: str | None = None, gone: Set[str] = frozenset()
) -> ContextRevoked:
    """A context's end, with its descendants but for those in ``gone``, and the pull requests that it re-opens."""
    family = _descendants(state.parents, context)
    contexts = [one for one in family if one not in state.revoked and one not in gone]
    numbers = [number for _, number in state.verified if state.prs[number].context in contexts]
    return ContextRevoked(context=context, why=why, contexts=contexts, issue_numbers=numbers, attempt_id=attempt_id)


def _descendants(parents: Mapping[str, Set[str]], context: str) -> list[str]:
    """A context and all that were made from it, directly or not, in the order in which they were made."""
    found = {context: None}
    while True:
        more = [child for child, given in parents.items() if child not in found and not given.isdisjoint(found)]
        if not more:
            return list(found)
        found.update(dict.fromkeys(more))


def tampering(state: RepositoryState, attempt: InFlight, outcome: Outcome) -> list[RepositoryEvent]:
    """What an attempt that found its context tampering means for all other pull requests."""
    context = context_of(attempt, outcome)
    if context is None or context in state.revoked or context == _stock(state):
        return []
    why = f"tampering was found on PR {attempt.issue_number}: {outcome.message}"
    return [revocation(state, context, why=why, attempt_id=attempt.attempt_id)]


def naming_the_check(outcome: Outcome) -> Outcome:
    """An outcome whose message begins with the name of the check that found the tampering."""
    check = next((one.name for one in outcome.checks if not one.ok), None)
    if check is None or outcome.message.startswith(f"{check}:"):
        return outcome
    return msgspec.structs.replace(outcome, message=f"{check}: {outcome.message}")


def distrusted(state: RepositoryState, attempt: InFlight, context: str) -> str | None:
    """Why a success with ``context`` does not count: it, or what the session made it from, was revoked meanwhile."""
    return state.revoked.get(context) or state.revoked.get(attempt.context or "")


def not_counted(outcome: Outcome, why: str) -> Outcome:
    """The outcome of an attempt that succeeded, and does not count because its context was revoked (``why``)."""
    message = f"it passed, and does not count: its context was revoked meanwhile ({why})"
    return msgspec.structs.replace(outcome, verified=False, failure_class=FailureClass.RECIPE, message=message)


def orphaned(state: RepositoryState, context: str, why: str) -> list[RepositoryEvent]:
    """The end of a context that a session made from one that was revoked (``why``) while it was at work."""
    if context in state.revoked or context == _stock(state):
        return []
    return [revocation(state, context, why=f"it was made from a context that was revoked: {why}")]


def import_contexts(state: RepositoryState, command: ImportContexts) -> list[RepositoryEvent]:
    """What the cache knows and the stream does not: contexts to use, and contexts that are not to be used any more."""
    whys = {one.context: one.revoked for one in command.contexts if one.revoked is not None}
    known = {**whys, **state.revoked}
    usable = [one for one in command.contexts if one.context not in known]
    while orphans := {one.context: known[one.parent] for one in usable if one.parent in known}:
        known |= orphans
        whys |= orphans
        usable = [one for one in usable if one.context not in known]
    new = [one for one in usable if state.imported.get(import_key(one.issue_number, one.inputs, one.rules)) != one]
    events: list[RepositoryEvent] = [ContextsImported(contexts=new)] if new else []
    gone: set[str] = set()
    for context, why in whys.items():
        if context not in gone and context not in state.revoked:
            revoked = revocation(state, context, why=why, gone=gone)
            gone.update(revoked.contexts)
            events.append(revoked)
    return events


def reopen(state: RepositoryState, command: Reopen) -> list[RepositoryEvent]:
    """The events that open those of the pull requests again that have failed in the sweep."""
    members = state.members.get(command.sweep, set())
    return [
        PullRequestReopened(issue_number=number, sweep=command.sweep, reason=command.reason)
        for number in dict.fromkeys(command.issue_numbers)
        if number in members and state.prs[number].state is PrState.FAILED
    ]


def _stock(state: RepositoryState) -> str | None:
    return state.policy.stock_context if state.policy is not None else None
