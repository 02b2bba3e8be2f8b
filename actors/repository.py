"""RepositoryActor: owns one repository's timeline and cascade queue, and is the single writer of its stream.

It loads the stream, folds it, asks the core what is due, appends, and only then acts.

- *Success*: every state that ``snapshot`` shows is in the log.
- *Failure*: an error that it cannot wait out is kept and shown by ``snapshot``; nothing that is in the log is lost.
- *Crash*: the next incarnation claims the stream, so that anything the old one still appends is refused, and looks
  after each attempt in flight: an outcome in the mailbox counts; work still under way on its runner is waited for;
  what is left of all others is ended, and they are interrupted. Nothing is repeated that has an outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from loguru import logger

from actors import faults
from actors.admission import admissions, rows_by_number
from actors.caching import import_of
from actors.governor import RUNNERS
from actors.ids import new_id
from actors.log_client import StreamWriter
from actors.orders import order_of, prior_attempts
from actors.repository_config import Means, RepositoryConfig, RepositorySnapshot, RunningAttempt
from actors.seeking import Seeker
from events.capacity import Outlook
from events.commands import (
    Admit,
    AwaitLease,
    Claim,
    Command,
    FillSlots,
    Interrupt,
    Slot,
    TakeOutcome,
)
from events.decide import decide, is_drained
from events.errors import VersionConflict
from events.pull_request import PrState
from events.records import InFlight
from events.repository import evolve
from events.repository_state import RepositoryState
from events.types import AttemptStarted, Lease, RepositoryEvent, RepositoryRows
from events.wanting import Wanted, wanted
from events.work import Outcome, PullRequest

__all__ = ["Means", "RepositoryActor", "RepositoryConfig", "RepositorySnapshot", "RunningAttempt"]

GRACE_S = 5.0
TELL_S = 60.0
"""How long a repository that is done waits for the governor to know what its sessions used."""
KEEP_DRAINED_EVERY = 100
"""A drained stream is read by every later status and run: it gets a snapshot after this many events already."""


class RepositoryActor:
    """See the module. Several live in one :class:`actors.host.RepositoryHost`."""

    def __init__(
        self, rows: RepositoryRows, config: RepositoryConfig, means: Means, clock: Callable[[], float]
    ) -> None:
        self._rows, self._config, self._clock = rows, config, clock
        self._name = f"repository:{rows.repository}"
        self._state = RepositoryState(repository=rows.repository)
        self._incarnation, self._claim = new_id(), 0
        self._log, self._follower, self._desk = means.log, means.follower, means.desk
        self._stream = StreamWriter(self._log, self._name, clock=clock, new_id=new_id)
        self._commit = asyncio.Lock()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._main: asyncio.Task[None] | None = None
        self._seeker = Seeker(self._desk, self._name, fill=self._fill, failed=self._fail, wake=self._wake.set)
        self._leases: dict[str, Lease] = {}
        self._pull_requests: dict[int, PullRequest] = {}
        self._since: dict[str, float] = {}
        self._ended = 0
        self._is_new = False
        self._infra_message = ""
        self._failure = ""
        self._superseded = False
        self._undone = ""
        self._stopping = False

    def __repr__(self) -> str:
        return f"RepositoryActor({self._rows.repository})"

    async def live(self) -> RepositorySnapshot:
        """Does the work, or joins it, until nothing is left to do or it cannot go on; how things stand then."""
        if self._main is None:
            self._main = asyncio.create_task(self._run())
        await asyncio.wait([self._main])
        return self.snapshot()

    def snapshot(self) -> RepositorySnapshot:
        """How things stand."""
        state = self._state
        return RepositorySnapshot(
            repository=state.repository,
            counts=state.counts(self._config.sweep),
            running=[
                RunningAttempt(
                    issue_number=one.issue_number,
                    stage=one.stage.value,
                    runner=one.runner,
                    since=self._since.get(one.attempt_id, 0.0),
                    account=one.account,
                )
                for one in state.inflight.values()
            ],
            drained=self._main is not None and self._main.done() and not self._failure and is_drained(self._state),
            attempts_ended=self._ended,
            infra_streak=state.infra_streak,
            infra_until=state.not_before,
            infra_message=self._infra_message,
            failure=self._failure,
            superseded=self._superseded,
            undone=self._undone,
        )

    async def stop(self, drain_s: float) -> None:
        """Starts nothing more, gives running attempts ``drain_s`` seconds, then cancels them and waits until each is
        marked in the log or ``GRACE_S`` seconds have passed."""
        self._stopping = True
        self._wake.set()
        self._seeker.withdraw()
        await self._seeker.settle(GRACE_S)
        await self._wait_for_attempts(drain_s)
        for runner in dict.fromkeys(one.runner for one in self._state.inflight.values()):
            mine = [one.attempt_id for one in self._state.inflight.values() if one.runner == runner]
            await self._follower.cancel(runner, mine)
        await self._wait_for_attempts(GRACE_S)
        await self._leave()

    def abandon(self) -> None:
        """Leaves everything as it is, as if this process had died: a successor takes the stream over."""
        self._stopping = True
        self._desk.leave(self._name)
        self._seeker.cancel()
        for task in (self._main, *self._tasks):
            if task is not None:
                task.cancel()

    async def _wait_for_attempts(self, timeout_s: float) -> None:
        pending = [task for task in self._tasks if not task.done()]
        if pending:
            await asyncio.wait(pending, timeout=timeout_s)

    async def _run(self) -> None:
        self._desk.join(self._name, self._held, self._wake.set)
        try:
            await self._load()
            while not self._stopping and not self._undone and not is_drained(self._state):
                await self._turn()
            if not self._stopping:
                await self._desk.told(TELL_S)
                await self._leave()
                async with self._commit:
                    await self._stream.keep(self._state, every=KEEP_DRAINED_EVERY)
        except Exception as exc:
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        """Keeps why this actor cannot go on; it starts nothing more. What runs is ended by whoever stops it."""
        if isinstance(exc, VersionConflict):
            self._superseded = True
            self._failure = f"another actor took {self._name} over; this one stops ({exc})"
            logger.warning(self._failure)
        else:
            self._failure = f"{type(exc).__name__}: {exc}"
            logger.opt(exception=exc).error("{} stops", self._name)
        self._stopping = True
        self._wake.set()
        self._desk.leave(self._name)  # what it holds is free again soon, also if nobody can reach this actor any more

    # ------------------------------------------------------------ starting

    async def _load(self) -> None:
        config = self._config
        await self._stream.claim(self._incarnation, self._adopt)
        faults.hit(faults.REPOSITORY_CLAIMED)
        self._desk.tell(list(self._state.sessions.values()))
        rows = rows_by_number(await self._log.get_blob(self._rows.rows))
        await self._follow_survivors()
        owner, _, repo = self._rows.repository.partition("/")
        cached = await self._log.contexts_of(owner, repo)
        await self._decide(import_of(self._state, cached))
        admitted = admissions(rows.values(), rows_blob=self._rows.rows)
        await self._decide(Admit(sweep=config.sweep, rules=config.rules, policy=config.policy, pull_requests=admitted))
        await self._read_rows(rows)

    async def _read_rows(self, given: dict[int, PullRequest]) -> None:
        """The full rows of the sweep's pull requests, each from the blob under which it was last admitted.

        One that a shorter timeline no longer names stays in the sweep, with the row that it had.
        """
        wanted: dict[str, list[int]] = {}
        for pr in self._state.of_sweep(self._config.sweep):
            wanted.setdefault(pr.row, []).append(pr.issue_number)
        for blob, numbers in wanted.items():
            rows = given if blob == self._rows.rows else rows_by_number(await self._log.get_blob(blob))
            self._pull_requests.update((number, rows[number]) for number in numbers)

    async def _adopt(self, state: RepositoryState) -> None:
        self._state, self._is_new = state, state.version == 0
        await self._decide(Claim(incarnation=self._incarnation, sweep=self._config.sweep))
        self._claim = self._state.version

    async def _follow_survivors(self) -> None:
        """Attempts of an earlier incarnation: each gets an outcome before anything new starts on its pull request."""
        survivors = list(self._state.inflight.values())
        keep = []
        for one in survivors:
            if await self._follower.is_under_way(one):
                keep += [lease for lease in (one.lease, one.agent_lease) if lease]
                self._since[one.attempt_id] = self._clock()
                self._spawn(self._finish(one.attempt_id, self._follower.follow(one)))
            else:
                await self._decide(await self._follower.settle(one))
                self._tell(one)
        if not self._is_new:  # else no earlier incarnation has held a lease
            await self._desk.give_back_all_but(self._name, keep, self._claim)
        await self._cancel_losers()

    # ------------------------------------------------------------ working

    async def _turn(self) -> None:
        """Asks for what is due, says who waits for an agent, and waits until there is news."""
        self._wake.clear()
        now, runners = self._clock(), len(self._config.runners)
        want = wanted(self._state, most=runners, now=now)
        self._seeker.seek(want, most=runners)
        refused, patience_s = self._seeker.refusal()
        if want.sessions and refused is not None:
            await self._await_lease(want, refused)
            if self._wake.is_set():
                return  # something has happened meanwhile
            if refused.never and not (want.runners or want.next_at or self._tasks or self._seeker.is_seeking_runners):
                self._undone = refused.reason
                return
        timers = [want.next_at - now] if want.next_at is not None else []
        timers += [patience_s] if patience_s else []
        if not timers and not self._seeker.is_busy and not self._tasks:
            raise RuntimeError(f"{self._name} has {self._state.counts(self._config.sweep)} but nothing to wait for")
        try:
            async with asyncio.timeout(max(0.05, min(timers)) if timers else None):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _await_lease(self, want: Wanted, refused: Outlook) -> None:
        numbers = [one.issue_number for one in want.sessions]
        if any(self._state.prs[number].state in (PrState.FIND_SIMILAR, PrState.HELD) for number in numbers):
            command = AwaitLease(issue_numbers=numbers, reason=refused.reason, until=refused.until)
            if await self._decide(command):
                self._wake.set()

    async def _fill(self, leases: list[Lease]) -> None:
        self._leases.update((one.lease_id, one) for one in leases)
        slots = self._slots(leases)
        events = [] if self._stopping else await self._decide(FillSlots(slots=slots, awaits=False))
        started = [one for one in events if isinstance(one, AttemptStarted)]
        faults.hit(faults.REPOSITORY_BEFORE_ACTING)
        for one in started:
            self._since[one.attempt_id] = self._clock()
            self._spawn(self._finish(one.attempt_id, self._perform(one)))
        used = {lease for one in started for lease in (one.lease, one.agent_lease)}
        self._release([one.lease_id for one in leases if one.lease_id not in used])

    def _slots(self, leases: list[Lease]) -> list[Slot]:
        """Leases as slots; those of a session, which has an attempt already, in pairs."""
        accounts = {one.attempt_id: one for one in leases if one.account in self._config.agents}
        slots = []
        for lease in leases:
            if lease.account != RUNNERS:
                continue
            runner = self._config.runners[lease.slot].name
            agent = accounts.get(lease.attempt_id)
            slots.append(
                Slot(attempt_id=lease.attempt_id or new_id(), lease=lease.lease_id, runner=runner)
                if agent is None
                else Slot(
                    attempt_id=lease.attempt_id,
                    lease=lease.lease_id,
                    runner=runner,
                    agent=self._config.agents[agent.account],
                    account=agent.account,
                    agent_lease=agent.lease_id,
                    issue_number=lease.issue_number,
                )
            )
        return slots

    async def _perform(self, started: AttemptStarted) -> TakeOutcome | Interrupt:
        prior = await prior_attempts(started, state=self._state, log=self._log)
        order = order_of(
            started,
            state=self._state,
            config=self._config,
            pull_request=self._pull_requests[started.issue_number],
            prior=prior,
        )
        return await self._follower.perform((started.runner, order))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, attempt_id: str, ending: Coroutine[Any, Any, Command]) -> None:
        """Waits for an attempt's end, records it, and gives its lease back."""
        try:
            command = await ending
            if isinstance(command, TakeOutcome):
                self._note(command.outcome)
            attempt = self._state.inflight.get(attempt_id)
            await self._decide(command)
            self._ended += 1
            self._since.pop(attempt_id, None)
            if attempt is not None:
                self._tell(attempt)
                await self._cancel_losers()
                faults.hit(faults.REPOSITORY_BEFORE_RELEASE)
                self._release([attempt.lease])
                faults.hit(faults.REPOSITORY_AFTER_RELEASE)
                self._follower.forget(attempt)
        except Exception as exc:
            self._fail(exc)
        finally:
            self._wake.set()

    def _tell(self, attempt: InFlight) -> None:
        """Tells the governor of a session's end; with that its account's lease is over."""
        end = self._state.sessions.get(attempt.attempt_id)
        if end is not None and attempt.agent_lease:
            faults.hit(faults.REPOSITORY_BEFORE_TELLING)
            self._leases.pop(attempt.agent_lease, None)
            self._desk.tell([end])

    async def _cancel_losers(self) -> None:
        """Ends the sessions that have lost a race; each is recorded when it has ended."""
        lost: dict[str, list[str]] = {}
        for one in self._state.inflight.values():
            if one.lost:
                lost.setdefault(one.runner, []).append(one.attempt_id)
        for runner, attempt_ids in lost.items():
            await self._follower.cancel(runner, attempt_ids)

    def _note(self, outcome: Outcome) -> None:
        infra = outcome.failure_class is not None and outcome.failure_class.value == "infra"
        self._infra_message = outcome.message if infra else ""

    async def _decide(self, command: Command) -> list[RepositoryEvent]:
        """Decides, appends, folds: in this order, one command at a time."""
        async with self._commit:
            events = decide(self._state, command, self._clock())
            await self._stream.append(events)
            for event in events:
                evolve(self._state, event)
            await self._stream.keep(self._state)
            return events

    # ------------------------------------------------------------ leases

    def _release(self, lease_ids: list[str]) -> None:
        for one in lease_ids:
            self._leases.pop(one, None)
        self._desk.release(lease_ids)

    def _held(self) -> list[str]:
        """The leases of attempts in flight, and those that are about to be used."""
        inflight = self._state.inflight.values()
        agents = [one.agent_lease for one in inflight if one.agent_lease]
        return list({*self._leases, *(one.lease for one in inflight), *agents})

    async def _leave(self) -> None:
        knows_all = self._desk.leave(self._name)
        self._seeker.cancel()
        if not knows_all or self._held():
            await self._desk.give_back_all_but(self._name, [], self._claim)
