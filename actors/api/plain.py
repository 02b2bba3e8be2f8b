"""The core driven by plain calls: one pull request, in this process, without Ray.

The same rules as in a repository's actor hold: an intent is durable before anything of it starts, an outcome before it
counts; what an earlier run left in flight is looked for in its mailbox, ended, and marked, before anything new starts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from actors.admission import admissions, rows_to_bytes
from actors.agent_settings import AgentAccount
from actors.agents.session import SessionReason
from actors.api.waiting import finish
from actors.caching import import_of
from actors.ids import new_id
from actors.log_client import new_event
from actors.templates import stock_context
from actors.workbench import Workbench
from events.commands import Admit, Claim, Command, FillSlots, Interrupt, Reopen, Slot, TakeOutcome
from events.decide import decide, is_drained
from events.errors import EnvironmentNotReady
from events.forcing import FORCED, force
from events.records import PrRecord
from events.repository import evolve
from events.repository_state import RepositoryState
from events.types import AttemptStarted, RepositoryEvent
from events.work import (
    CascadePolicy,
    FailureClass,
    Outcome,
    PriorAttempt,
    PullRequest,
    SessionReport,
    Stage,
    VerificationRules,
    WorkOrder,
)
from store.log import Append
from store.opening import Store
from store.read_models import AttemptState
from store.snapshots import load

__all__ = ["PlainRepository"]

RATE_LIMITED = SessionReason.RATE_LIMITED.value


class PlainRepository:
    """The stream of one repository, written by this process while ``store`` is open.

    - *Success*: ``work`` returns when the pull request is verified or has failed; all of it is in the log.
    - *Failure*: what goes wrong with a context is an outcome in the log; an error of the log or of a verifier is
      raised, and the attempt that it met is marked as interrupted if the log can still be written.
    - *Crash*: the next process that works on the repository marks the attempt that was under way.

    With ``rehearsal`` nothing is written and nothing is started: ``work`` ends where something would be.
    """

    def __init__(
        self,
        store: Store,
        repository: str,
        *,
        rehearsal: bool = False,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._rehearsal = store, rehearsal
        self._clock, self._wait = clock, wait
        self._stream = f"repository:{repository}"
        self.state: RepositoryState = load(store.log, self._stream).state
        self.events: list[RepositoryEvent] = []
        """What was decided here, in order."""
        self.limit: SessionReport | None = None
        """The session that met the last account's limit, which ended the work."""

    def admit(
        self, row: PullRequest, *, sweep: str, rules: VerificationRules, policy: CascadePolicy, forced: bool
    ) -> PrRecord:
        """Brings a pull request in, opened again if it has failed, or if it is ``forced``."""
        self._decide(Claim(incarnation=new_id(), sweep=sweep))
        owner, _, repo = row.repository.partition("/")
        self._decide(import_of(self.state, self._store.models.contexts_of(owner, repo)))
        blob = "" if self._rehearsal else self._store.blobs.put(rows_to_bytes([row]))
        if not self._rehearsal:
            self._store.blobs.put(stock_context().to_tar_bytes())
        admitted = admissions([row], rows_blob=blob)
        self._decide(Admit(sweep=sweep, rules=rules, policy=policy, pull_requests=admitted))
        number = row.issue_number
        if forced:
            self._record(force(self.state, [number], reason=FORCED))
        else:
            self._decide(Reopen(sweep=sweep, issue_numbers=[number], reason="synthesised anew"))
        return self.state.prs[number]

    def settle(self, bench: Callable[[], Workbench]) -> None:
        """Gives an end to every attempt that an earlier run left in flight; ``bench`` is only made if there are any."""
        for attempt in [] if self._rehearsal else list(self.state.inflight.values()):
            outcome: Outcome | None = load(self._store.log, f"attempt:{attempt.attempt_id}").state.outcome
            if outcome is not None:
                self._decide(TakeOutcome(attempt_id=attempt.attempt_id, outcome=outcome))
                continue
            bench().end(attempt.attempt_id)
            blobs = bench().salvage(attempt.attempt_id)
            why = "its processes ended with an earlier run"
            self._decide(Interrupt(attempt_id=attempt.attempt_id, reason=why, blobs=blobs))

    def work(
        self,
        row: PullRequest,
        bench: Callable[[], Workbench],
        *,
        accounts: Sequence[AgentAccount],
        patience_s: float,
        cancel: threading.Event,
    ) -> PrRecord:
        """Does what is due for the pull request until it is finished, or until an attempt met an agent's limit.

        Args:
            row: the pull request, which was admitted.
            bench: where attempts are made.
            accounts: whose sessions may be paid; while one is exhausted, the next one.
            patience_s: how long nothing but infra failures may happen.
            cancel: set to end what is under way.

        Raises:
            EnvironmentNotReady: the engine stayed away for ``patience_s``.
        """
        failing_since: float | None = None
        payable = list(accounts)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="attempt") as pool:
            pool.submit(int).result()  # so that its thread is there before an intent is
            while not is_drained(self.state) and not cancel.is_set():
                pr = self.state.prs[row.issue_number]
                pause_s = max(pr.not_before, self.state.not_before) - self._clock()
                if pause_s > 0 and not self._rehearsal:
                    if failing_since is not None and self._clock() - failing_since > patience_s:
                        raise EnvironmentNotReady(
                            f"{row.name}: nothing but infra failures for {patience_s:.0f} s: {pr.reason}; see "
                            f"`headrace doctor`, then run it again"
                        )
                    self._wait(pause_s)
                    continue
                started = self._start(payable[0] if payable else None, bench)
                if started is None or self._rehearsal:
                    break
                outcome = self._perform(pool, self._order(started, row), bench(), cancel)
                if outcome.failure_class is not FailureClass.INFRA:
                    failing_since = None
                elif failing_since is None:
                    failing_since = self._clock()
                if outcome.session is not None and outcome.session.ended == RATE_LIMITED:
                    payable.pop(0)
                    if not payable:
                        self.limit = outcome.session
                        break
        return self.state.prs[row.issue_number]

    def _start(self, account: AgentAccount | None, bench: Callable[[], Workbench]) -> AttemptStarted | None:
        """What is due now, once its bench is ready; ``None``: nothing."""
        attempt_id = new_id()
        lease = f"plain:{attempt_id}"
        slot = Slot(attempt_id=attempt_id, lease=lease, runner="plain")
        if account is not None:
            slot = msgspec.structs.replace(slot, agent=account.agent, account=account.name, agent_lease=lease)
        events = decide(self.state, FillSlots(slots=[slot]), self._clock())
        started = next((one for one in events if isinstance(one, AttemptStarted)), None)
        if started is not None and not self._rehearsal:
            bench()
        self._record(events)
        return started

    def _perform(
        self, pool: ThreadPoolExecutor, order: WorkOrder, bench: Workbench, cancel: threading.Event
    ) -> Outcome:
        """Has the attempt made, in a thread, so that Ctrl-C ends it in order: cancelled, cleaned up and in the log."""
        done: list[Outcome] = []
        try:
            finish(pool.submit(lambda: done.append(bench.perform(order, cancel=cancel))))
        except BaseException as exc:
            cancel.set()
            pool.shutdown()
            if done:
                self._decide(TakeOutcome(attempt_id=order.attempt_id, outcome=done[0]))
            else:
                why = f"it raised {type(exc).__name__}: {exc}" if str(exc) else f"it raised {type(exc).__name__}"
                self._decide(Interrupt(attempt_id=order.attempt_id, reason=why))
            raise
        self._decide(TakeOutcome(attempt_id=order.attempt_id, outcome=done[0]))
        return done[0]

    def _order(self, started: AttemptStarted, row: PullRequest) -> WorkOrder:
        state, generates = self.state, started.stage is Stage.LLM_GENERATE
        source = state.prs.get(started.source) if started.source is not None else None
        known = source.tests if source is not None and source.context == started.context else None
        return WorkOrder(
            attempt_id=started.attempt_id,
            log_id=self._store.log.log_id,
            sweep=started.sweep,
            stage=started.stage,
            pull_request=row,
            rules=state.prs[started.issue_number].rules,
            anchor=state.anchor,
            context=started.context,
            agent=started.agent,
            account=started.account,
            prior=self._prior(row) if generates else (),
            known_failures=known,
        )

    def _prior(self, row: PullRequest) -> tuple[PriorAttempt, ...]:
        """The attempts on a pull request that failed, oldest first."""
        rows = self._store.models.attempts(
            owner=row.owner, repo=row.repo, issue_number=row.issue_number, state=AttemptState.FAILED
        )
        return tuple(
            PriorAttempt(
                attempt_id=one.attempt_id,
                stage=one.stage,
                failed_at=one.ended_stage or "",
                message=one.message,
                failure_class=one.failure_class,
                context=one.context,
                log_tail=one.log_tail,
            )
            for one in rows
            if one.failure_class is not FailureClass.INFRA
        )

    def _decide(self, command: Command) -> list[RepositoryEvent]:
        events = decide(self.state, command, self._clock())
        self._record(events)
        return events

    def _record(self, events: Sequence[RepositoryEvent]) -> None:
        """Appends, then folds."""
        if not events:
            return
        if not self._rehearsal:
            batch = [new_event(event, new_id()) for event in events]
            self._store.log.append(Append(self._stream, self.state.version, batch, self._clock()))
        for event in events:
            evolve(self.state, event)
        self.events += events
