"""A virtual sweep: workers, agents and time are simulated, every decision is the real core's.

The clock stands still while decisions are made and jumps to the next end of an attempt. Attempts that end at one
moment are taken in in the order of their starts; then the free slots are offered to the repositories in turn. The same
world under the same policy writes the same log, event for event. The core is never told an epoch.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from random import Random

import msgspec

from actors.simulation import windowed
from actors.simulation.journal import Journal
from actors.simulation.slots import Offers, Slots
from actors.simulation.world import Oracle, SimulatedRepository, World
from events.commands import Admit, Claim, FillSlots, TakeOutcome
from events.decide import decide, is_drained
from events.pull_request import PrState
from events.records import posix
from events.repository import evolve
from events.repository_state import RepositoryState
from events.sessions import EndedSession
from events.types import (
    Admission,
    AttemptStarted,
    Event,
    NeighboursQueued,
    RepositoriesAdmitted,
    RepositoryActivated,
    RepositoryEvent,
    RepositoryRetired,
    RepositoryRows,
    SweepDefined,
    SweepRunEnded,
    SweepRunStarted,
)
from events.work import CascadePolicy, FailureClass, Level, Outcome, SessionReport, Stage, VerificationRules
from store.log import EventLog

__all__ = ["Simulation", "Summary"]

START = posix("2025-01-01T00:00:00Z")
RULES = VerificationRules()
MIN_ACTIVE = 64


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulation came to. ``verifications`` are those of existing contexts; times are virtual seconds."""

    policy: str
    repositories: int
    prs: int
    succeeded: int
    failed: int
    unreached: int
    agent_sessions: int
    verifications: int
    makespan_s: float
    events: int
    workers: int
    seed: int
    sweep: str


class Simulation:
    """One virtual sweep of ``world`` into ``log``, which must not hold a sweep of that name yet.

    Without a log the events are counted and not kept. ``progress`` hears how many pull requests are finished with, each
    time that a repository is.
    """

    def __init__(
        self,
        world: World,
        log: EventLog | None,
        *,
        policy: str = "cascade",
        knobs: CascadePolicy,
        sweep: str = "simulated",
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._world, self._kind, self._knobs, self._sweep = world, policy, knobs, sweep
        self._oracle = Oracle(world)
        self._journal = Journal(log, prefix=f"{sweep}-{world.seed}-")
        self._slots = Slots(world, self._journal)
        self._now = START
        self._ends: list[tuple[float, int, str, AttemptStarted]] = []
        self._attempts = 0
        self._states: dict[str, RepositoryState] = {}
        self._hungry: dict[str, None] = {}
        self._pending = deque(world.repositories)
        self._queue: deque[tuple[str, int]] = deque()
        self._decided: dict[str, list[RepositoryEvent]] = {}
        self._sessions = self._verifications = 0
        self._told: list[EndedSession] = []
        self._progress = progress
        self._totals = {"succeeded": 0, "failed": 0, "unreached": 0}

    def run(self) -> Summary:
        """Runs to the end, which is when every repository is drained."""
        self._begin()
        self._dispatch()
        while self._ends or (self._states and self._slots.next_opening(self._now) is not None):
            self._advance()
            self._dispatch()
        if self._states:
            raise RuntimeError(f"{len(self._states)} repositories are neither drained nor at work: a fault of the core")
        self._journal.record(f"sweep:{self._sweep}", [SweepRunEnded(run="simulation", how="finished")], self._now)
        self._journal.flush()
        return Summary(
            policy=self._kind,
            repositories=len(self._world.repositories),
            prs=sum(len(one.prs) for one in self._world.repositories),
            agent_sessions=self._sessions,
            verifications=self._verifications,
            makespan_s=self._now - START,
            events=self._journal.events,
            workers=self._world.workers,
            seed=self._world.seed,
            sweep=self._sweep,
            **self._totals,
        )

    # ------------------------------------------------------------ beginning and end

    def _begin(self) -> None:
        rows = [
            RepositoryRows(
                repository=one.name,
                rows=sha256(msgspec.json.encode(one)).hexdigest(),
                pull_requests=len(one.prs),
            )
            for one in self._world.repositories
        ]
        digest = sha256(msgspec.json.encode(self._world)).hexdigest()
        defined = SweepDefined(
            sweep=self._sweep, timeline="simulated", timeline_digest=digest, rules=RULES, policy=self._knobs
        )
        started = SweepRunStarted(run="simulation", host="virtual", pid=0, workers=self._world.workers)
        events: list[Event] = [defined, RepositoriesAdmitted(repositories=rows), started]
        self._journal.record(f"sweep:{self._sweep}", events, self._now)
        self._slots.configure(self._now)
        self._activate()
        if self._kind == "windowed":
            self._queue = deque((name, number) for name, state in self._states.items() for number in state.ready)
            order = list(self._queue)
            Random(self._world.seed).shuffle(order)  # noqa: S311
            self._queue = deque(order)

    def _activate(self) -> None:
        most = max(MIN_ACTIVE, 2 * self._world.workers)
        while self._pending and (len(self._states) < most or self._kind == "windowed"):
            self._activate_one(self._pending.popleft())

    def _activate_one(self, repository: SimulatedRepository) -> None:
        name = repository.name
        self._journal.record(f"sweep:{self._sweep}", [RepositoryActivated(repository=name)], self._now)
        state = self._states[name] = RepositoryState(repository=name)
        rows = sha256(name.encode()).hexdigest()
        admitted = [
            Admission(
                issue_number=pr.issue_number,
                created_at=pr.created_at,
                commit=f"{pr.issue_number:040x}",
                python_version="",
                row=rows,
                inputs=f"{pr.issue_number:064x}",
                seed=pr.seed,
            )
            for pr in repository.prs
        ]
        self._commit(name, decide(state, Claim(incarnation="simulation", sweep=self._sweep), self._now))
        admit = Admit(sweep=self._sweep, rules=RULES, policy=self._knobs, pull_requests=admitted)
        self._commit(name, decide(state, admit, self._now))
        self._hungry[name] = None
        self._retire_if_drained(name)

    def _retire_if_drained(self, name: str) -> None:
        state = self._states[name]
        if state.inflight or not is_drained(state):
            return
        counts = state.counts(self._sweep)
        succeeded, failed = counts.get("succeeded", 0), counts.get("failed", 0)
        unreached = sum(counts.values()) - succeeded - failed
        self._journal.record(f"repository:{name}", self._decided.pop(name, []), self._now)
        retired = RepositoryRetired(repository=name, succeeded=succeeded, failed=failed, unreached=unreached)
        self._journal.record(f"sweep:{self._sweep}", [retired], self._now)
        for key, count in (("succeeded", succeeded), ("failed", failed), ("unreached", unreached)):
            self._totals[key] += count
        if self._progress is not None:
            self._progress(sum(self._totals.values()))
        del self._states[name]
        self._hungry.pop(name, None)
        self._activate()

    # ------------------------------------------------------------ time

    def _advance(self) -> None:
        """Jumps to the next moment at which something happens, and takes in all that ends then."""
        moments = [self._ends[0][0]] if self._ends else []
        opening = self._slots.next_opening(self._now)
        if opening is not None:
            moments.append(opening)
        self._now = min(moments)
        if self._now == opening:
            self._hungry.update(dict.fromkeys(self._states))
        ended: list[AttemptStarted] = []
        self._told = []
        while self._ends and self._ends[0][0] <= self._now:
            _, _, name, started = heapq.heappop(self._ends)
            ended.append(started)
            self._take_in(name, started)
        self._write_decided()
        self._slots.release(ended, self._told, self._now)
        if any(one.agent is not None for one in ended):
            self._hungry.update(dict.fromkeys(self._states))

    def _take_in(self, name: str, started: AttemptStarted) -> None:
        state = self._states[name]
        number = started.issue_number
        outcome = self._outcome(state, started)
        command = TakeOutcome(attempt_id=started.attempt_id, outcome=outcome)
        events = decide(state, command, self._now)
        self._commit(name, events)
        if started.attempt_id in state.sessions:
            self._told.append(state.sessions[started.attempt_id])
        self._hungry[name] = None
        if self._kind == "windowed":
            if state.prs[number].state is PrState.FIND_SIMILAR:
                self._queue.appendleft((name, number))
            for event in events:
                if isinstance(event, NeighboursQueued):
                    self._queue.extend((name, one) for one in event.issue_numbers)
        self._retire_if_drained(name)

    def _outcome(self, state: RepositoryState, started: AttemptStarted) -> Outcome:
        number = started.issue_number
        if started.stage is Stage.LLM_GENERATE and started.agent is not None:
            session = state.prs[number].generations
            context = self._oracle.generates(state.repository, number, agent=started.agent, session=session)
            made = _VERIFIED if context is not None else _NOTHING_MADE
            report = SessionReport(account=started.account or "", agent=started.agent, ended="completed")
            return msgspec.structs.replace(made, context=context, session=report)
        context = started.context or ""
        return _VERIFIED if self._oracle.verifies(state.repository, number, context) else _REFUTED

    # ------------------------------------------------------------ deciding

    def _dispatch(self) -> None:
        """Offers the free slots to the repositories in turn, until nobody takes any."""
        offers = self._slots.offer(self._now)
        if self._kind == "windowed":
            self._work_off(offers)
        while offers and self._hungry and self._kind != "windowed":
            name = next(iter(self._hungry))
            del self._hungry[name]
            state = self._states[name]
            share = max(1, len(offers) // (len(self._hungry) + 1))
            given = offers.give(share)
            started = self._started(name, decide(state, FillSlots(slots=given), self._now))
            offers.take_back(given, started)
            if len(started) == share:
                self._hungry[name] = None
            self._retire_if_drained(name)
        self._slots.grant(self._now)
        self._write_decided()

    def _write_decided(self) -> None:
        """Records what was decided for each repository since the last call, in one batch each."""
        decided, self._decided = self._decided, {}
        for name, events in decided.items():
            self._journal.record(f"repository:{name}", events, self._now)

    def _work_off(self, offers: Offers) -> None:
        parked: list[tuple[str, int]] = []
        while offers and self._queue:
            name, number = self._queue.popleft()
            given = offers.give(1)
            events = windowed.next_attempt(self._states[name], number, given[0])
            if not events:
                parked.append((name, number))
            offers.take_back(given, self._started(name, events))
            self._retire_if_drained(name)
        self._queue.extendleft(reversed(parked))

    def _started(self, name: str, events: list[RepositoryEvent]) -> list[AttemptStarted]:
        """Folds ``events``, which are recorded once all leases of this moment are, and starts the attempts in them."""
        started = [one for one in events if isinstance(one, AttemptStarted)]
        for one in started:
            self._slots.take(one, holder=name, now=self._now)
            self._attempts += 1
            generation = one.stage is Stage.LLM_GENERATE
            self._sessions += generation
            self._verifications += not generation
            seconds = self._oracle.seconds(one.attempt_id, one.agent if generation else None)
            heapq.heappush(self._ends, (self._now + seconds, self._attempts, name, one))
        self._commit(name, events)
        return started

    def _commit(self, name: str, events: list[RepositoryEvent]) -> None:
        self._decided.setdefault(name, []).extend(events)
        state = self._states[name]
        for event in events:
            evolve(state, event)


_VERIFIED = Outcome(verified=True, level=Level.TESTS, stage="tests", message="verified")
_REFUTED = Outcome(
    verified=False, level=Level.TESTS, stage="tests", failure_class=FailureClass.RECIPE, message="refuted"
)
_NOTHING_MADE = Outcome(
    verified=False, level=Level.TESTS, stage="tests", failure_class=FailureClass.RECIPE, message="the session failed"
)
