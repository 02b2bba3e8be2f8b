"""What the repository machine's test counts of a stream's events, and what must hold at the place of each of them."""

from __future__ import annotations

from events.pull_request import PrState
from events.repository_state import RepositoryState
from events.types import (
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
    CacheHit,
    ContextRevoked,
    PullRequestReopened,
    PullRequestsAdmitted,
    RepositoryEvent,
)
from events.work import CascadePolicy, FailureClass, Stage, VerificationRules
from tests.events.worlds import STOCK

__all__ = ["RepositoryModel"]


class RepositoryModel:
    """Counts events before they are folded into ``state``.

    By pull request: what was ``refuted`` and what ``flaked`` on it, sessions ``paid`` for it; ``tampered``: those for
    which no session may be paid any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.state = RepositoryState(repository="o/r")
        self.policy = CascadePolicy(stock_context=STOCK)
        self.admitted: dict[int, tuple[str, VerificationRules]] = {}
        self.members: dict[str, set[int]] = {}
        self.running: dict[str, AttemptStarted] = {}
        self.ended: list[str] = []
        self.started: set[str] = set()
        self.refuted: dict[int, set[str]] = {}
        self.paid: dict[int, int] = {}
        self.flaked: dict[int, dict[str, Stage]] = {}
        self.tampered: set[int] = set()
        self.revoked: set[str] = set()

    def see(self, event: RepositoryEvent) -> None:
        """Counts an event; what must hold at its place is asserted here."""
        match event:
            case PullRequestsAdmitted():
                for row in event.pull_requests:
                    if self.admitted.get(row.issue_number) != (row.inputs, event.rules):
                        self.anew(row.issue_number)
                    self.admitted[row.issue_number] = (row.inputs, event.rules)
                self.members.setdefault(event.sweep, set()).update(row.issue_number for row in event.pull_requests)
            case PullRequestReopened():
                self.anew(event.issue_number)
            case ContextRevoked():
                self.see_revocation(event)
            case AttemptStarted():
                self.see_start(event)
            case AttemptSucceeded() | AttemptFailed() | AttemptInterrupted() | AttemptRateLimited():
                attempt = self.running.pop(event.attempt_id)
                assert attempt.issue_number == event.issue_number
                self.ended.append(event.attempt_id)
                if isinstance(event, AttemptFailed):
                    self.see_failure(event, attempt)
                if isinstance(event, AttemptSucceeded):
                    assert event.context not in self.revoked, "what is revoked verifies nothing"
            case CacheHit():
                assert event.context not in self.revoked, "what is revoked is no hit"
            case _:
                return

    def see_failure(self, event: AttemptFailed, attempt: AttemptStarted) -> None:
        number, cls = event.issue_number, event.outcome.failure_class
        context = event.outcome.context or attempt.context
        flaked = self.flaked.setdefault(number, {})
        made_here = attempt.stage is Stage.LLM_GENERATE or flaked.get(context or "") is Stage.LLM_GENERATE
        if cls is FailureClass.TAMPER and made_here:
            self.tampered.add(number)
        if cls is FailureClass.INFRA or context is None or context in self.revoked:
            return
        if cls is FailureClass.FLAKE and context not in flaked:
            flaked[context] = attempt.stage
            return
        self.refuted.setdefault(number, set()).add(context)
        self.paid[number] = self.paid.get(number, 0) + made_here

    def see_revocation(self, event: ContextRevoked) -> None:
        assert event.contexts
        assert not self.revoked & set(event.contexts), "what is revoked is not revoked again"
        assert event.attempt_id is None or event.context != STOCK, "no attempt revokes the template"
        self.revoked.update(event.contexts)
        for flaked in self.flaked.values():
            for context in event.contexts:
                flaked.pop(context, None)
        for number in event.issue_numbers:
            pr = self.state.prs[number]
            assert pr.context in event.contexts
            self.paid.pop(number, None)
            made_here = pr.verified_by is Stage.LLM_GENERATE and pr.context == event.context
            if event.attempt_id is not None and made_here:
                self.tampered.add(number)

    def see_start(self, event: AttemptStarted) -> None:
        number = event.issue_number
        assert event.attempt_id not in self.started, "an attempt starts once"
        assert all(one.issue_number != number for one in self.running.values()), "one attempt at a time on a PR"
        assert self.state.prs[number].state is not PrState.SUCCEEDED, "what is verified is not worked on again"
        assert event.context not in self.refuted.get(number, set()), "what was refuted is not tried again"
        assert event.context not in self.revoked, "what is revoked is not tried"
        again = set(self.flaked.get(number, {})) - self.refuted.get(number, set())
        assert not again or event.context in again, "what flaked is tried once more first"
        assert number in self.members[self.state.sweep], "only the active sweep's pull requests are worked on"
        if event.stage is Stage.LLM_GENERATE:
            assert event.agent is not None
            assert self.policy.generate
            assert self.paid.get(number, 0) < self.policy.max_attempts, "the budget of a PR is kept"
            assert number not in self.tampered, "no session is paid for after one has tampered"
        else:
            assert event.context is not None
        self.started.add(event.attempt_id)
        self.running[event.attempt_id] = event

    def anew(self, number: int) -> None:
        self.refuted.pop(number, None)
        self.paid.pop(number, None)
        self.flaked.pop(number, None)
        self.tampered.discard(number)
