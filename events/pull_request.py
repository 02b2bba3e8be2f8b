"""The pull-request machine: one table, state → trigger → next state.

Rules:

- A pull request is in exactly one state. What moves it is an event of its repository's stream; the *trigger* of an
  event is its type's name, for stages followed by ``:`` and the stage (``AttemptStarted:try_similar``). The end of
  one of several sessions that race on a pull request is followed by ``:racing``: the others are still at it.
- A session that has lost the race is no longer its pull request's: its end moves nothing.
- A trigger that the table does not list for a state raises :class:`events.errors.IllegalTransition` and changes
  nothing.
- ``queued`` and ``find_similar`` wait for a slot of a runner; ``held`` and ``awaiting_lease`` wait for what their
  last reason names. :attr:`PrState.AWAITING_SLOT` is how people are shown the first two: no event leads to it, because
  a slot is bound to a pull request only at the moment it becomes free.
- The diagrams in ``docs/machines.md`` are generated from :data:`TRANSITIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from events.errors import IllegalTransition

__all__ = ["FINISHED", "IN_ATTEMPT", "TRANSITIONS", "PrState", "next_state"]


class PrState(StrEnum):
    """Where a pull request stands."""

    QUEUED = "queued"
    CHECK_CACHE = "check_cache"
    FIND_SIMILAR = "find_similar"
    TRY_SIMILAR = "try_similar"
    TRY_DEFAULT = "try_default"
    LLM_GENERATE = "llm_generate"
    HELD = "held"
    AWAITING_LEASE = "awaiting_lease"
    AWAITING_SLOT = "awaiting_slot"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


FINISHED = frozenset({PrState.SUCCEEDED, PrState.FAILED})
IN_ATTEMPT = frozenset({PrState.TRY_SIMILAR, PrState.TRY_DEFAULT, PrState.LLM_GENERATE})

_ATTEMPT_ENDS = {
    "AttemptSucceeded": PrState.SUCCEEDED,
    "AttemptFailed": PrState.FIND_SIMILAR,
    "AttemptInterrupted": PrState.FIND_SIMILAR,
}

TRANSITIONS: Mapping[PrState, Mapping[str, PrState]] = {
    PrState.QUEUED: {
        "PullRequestsAdmitted": PrState.QUEUED,
        "StageEntered:check_cache": PrState.CHECK_CACHE,
    },
    PrState.CHECK_CACHE: {
        "PullRequestsAdmitted": PrState.QUEUED,
        "CacheHit": PrState.SUCCEEDED,
        "StageEntered:find_similar": PrState.FIND_SIMILAR,
    },
    PrState.FIND_SIMILAR: {
        "PullRequestsAdmitted": PrState.QUEUED,
        "AttemptStarted:try_similar": PrState.TRY_SIMILAR,
        "AttemptStarted:try_default": PrState.TRY_DEFAULT,
        "AttemptStarted:llm_generate": PrState.LLM_GENERATE,
        "PullRequestHeld": PrState.HELD,
        "LeaseAwaited": PrState.AWAITING_LEASE,
        "PullRequestFailed": PrState.FAILED,
    },
    PrState.TRY_SIMILAR: _ATTEMPT_ENDS,
    PrState.TRY_DEFAULT: _ATTEMPT_ENDS,
    PrState.LLM_GENERATE: {
        **_ATTEMPT_ENDS,
        "AttemptRateLimited": PrState.FIND_SIMILAR,
        "AttemptStarted:llm_generate": PrState.LLM_GENERATE,
        "AttemptFailed:racing": PrState.LLM_GENERATE,
        "AttemptInterrupted:racing": PrState.LLM_GENERATE,
        "AttemptRateLimited:racing": PrState.LLM_GENERATE,
    },
    PrState.HELD: {
        "PullRequestsAdmitted": PrState.QUEUED,
        "StageEntered:find_similar": PrState.FIND_SIMILAR,
    },
    PrState.AWAITING_LEASE: {
        "PullRequestsAdmitted": PrState.QUEUED,
        "StageEntered:find_similar": PrState.FIND_SIMILAR,
        "AttemptStarted:llm_generate": PrState.LLM_GENERATE,
    },
    PrState.SUCCEEDED: {
        "PullRequestsAdmitted": PrState.QUEUED,
        "PullRequestReopened": PrState.QUEUED,
        "ContextRevoked": PrState.QUEUED,
    },
    PrState.FAILED: {
        "PullRequestsAdmitted": PrState.QUEUED,
        "PullRequestReopened": PrState.QUEUED,
    },
}


def next_state(state: PrState, trigger: str, *, subject: str) -> PrState:
    """The state that ``trigger`` leads to.

    Raises:
        IllegalTransition: the table does not allow it; ``subject`` names the pull request.
    """
    try:
        return TRANSITIONS[state][trigger]
    except KeyError:
        raise IllegalTransition(machine="pull request", state=state, event=trigger, subject=subject) from None
