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

    By pull request: what was ``refuted`` and what ``flaked`` on it (or has no verdict yet), sessions ``paid`` for it,
    those that were ``aborted`` and ``limited``; ``tampered``: those for which no session may be paid any more.
    ``lost``: sessions under way that another one was faster than.
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
        self.aborted: dict[int, int] = {}
        self.limited: dict[int, int] = {}
        self.lost: set[str] = set()
        self.sessions: set[str] = set()
        self.unjudged: set[tuple[int, str]] = set()
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
                self.see_end(event)
            case CacheHit():
                assert event.context not in self.revoked, "what is revoked is no hit"
            case _:
                return

    def see_end(self, event: AttemptSucceeded | AttemptFailed | AttemptInterrupted | AttemptRateLimited) -> None:
        attempt = self.running.pop(event.attempt_id)
        assert attempt.issue_number == event.issue_number
        self.ended.append(event.attempt_id)
        if attempt.account is not None:
            self.sessions.add(event.attempt_id)
        if event.attempt_id in self.lost:
            assert isinstance(event, AttemptInterrupted), "who has lost only ends"
            self.lost.discard(event.attempt_id)
            return
        if isinstance(event, AttemptRateLimited):
            assert attempt.stage is Stage.LLM_GENERATE
            self.limited[event.issue_number] = self.limited.get(event.issue_number, 0) + 1
        if isinstance(event, AttemptFailed):
            self.see_failure(event, attempt)
        if isinstance(event, AttemptSucceeded):
            assert event.context not in self.revoked, "what is revoked verifies nothing"
            self.lost.update(self.racing(event.issue_number))

    def see_failure(self, event: AttemptFailed, attempt: AttemptStarted) -> None:
        number, cls = event.issue_number, event.outcome.failure_class
        session = attempt.stage is Stage.LLM_GENERATE
        context = event.outcome.context or (None if session else attempt.context)
        flaked = self.flaked.setdefault(number, {})
        made_here = attempt.stage is Stage.LLM_GENERATE or flaked.get(context or "") is Stage.LLM_GENERATE
        if cls is FailureClass.TAMPER and made_here:
            self.tampered.add(number)
        if cls is FailureClass.INFRA:
            new = session and context is not None and context != attempt.context and context not in flaked
            if new and context not in self.refuted.get(number, set()) | self.revoked:
                flaked[context or ""] = attempt.stage
                self.unjudged.add((number, context or ""))
            return
        if context in self.revoked or attempt.context in self.revoked:
            return
        if cls is FailureClass.AGENT and session:
            self.aborted[number] = self.aborted.get(number, 0) + 1
            return
        if cls is FailureClass.FLAKE and (context not in flaked or (number, context) in self.unjudged):
            flaked.setdefault(context or "", attempt.stage)
            self.unjudged.discard((number, context or ""))
            return
        if context is not None:
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
        self.unjudged = {one for one in self.unjudged if one[1] not in event.contexts}
        for number in event.issue_numbers:
            pr = self.state.prs[number]
            assert pr.context in event.contexts
            self.paid.pop(number, None)
            self.aborted.pop(number, None)
            self.limited.pop(number, None)
            made_here = pr.verified_by is Stage.LLM_GENERATE and pr.context == event.context
            if event.attempt_id is not None and made_here:
                self.tampered.add(number)

    def see_start(self, event: AttemptStarted) -> None:
        number = event.issue_number
        assert event.attempt_id not in self.started, "an attempt starts once"
        session = event.stage is Stage.LLM_GENERATE
        rivals = [self.running[one] for one in self.racing(number)]
        assert not rivals or session, "one attempt at a time on a PR, but for sessions"
        assert len(rivals) < self.policy.race
        for one in rivals:
            assert one.stage is event.stage
            assert one.account != event.account, "no account races with itself"
            assert self.paid.get(number, 0), "nobody races before one has failed"
        assert self.state.prs[number].state is not PrState.SUCCEEDED, "what is verified is not worked on again"
        assert session or event.context not in self.refuted.get(number, set()), "what was refuted is not tried again"
        assert event.context not in self.revoked, "what is revoked is not tried, nor started from"
        again = set(self.flaked.get(number, {})) - self.refuted.get(number, set())
        assert not again or rivals or (not session and event.context in again), "what flaked is tried once more first"
        assert number in self.members[self.state.sweep], "only the active sweep's pull requests are worked on"
        if event.stage is Stage.LLM_GENERATE:
            assert event.agent is not None
            assert self.policy.generate
            assert self.paid.get(number, 0) + len(rivals) < self.policy.max_attempts, "the budget of a PR is kept"
            assert self.aborted.get(number, 0) < self.policy.max_aborted
            assert self.limited.get(number, 0) <= self.policy.rl_max_retries
            assert number not in self.tampered, "no session is paid for after one has tampered"
        else:
            assert event.context is not None
        self.started.add(event.attempt_id)
        self.running[event.attempt_id] = event

    def racing(self, number: int) -> list[str]:
        """The attempts under way on a pull request, but for those that have lost."""
        return [one for one, started in self.running.items() if started.issue_number == number and one not in self.lost]

    def anew(self, number: int) -> None:
        self.aborted.pop(number, None)
        self.limited.pop(number, None)
        self.unjudged = {one for one in self.unjudged if one[0] != number}
        self.refuted.pop(number, None)
        self.paid.pop(number, None)
        self.flaked.pop(number, None)
        self.tampered.discard(number)
