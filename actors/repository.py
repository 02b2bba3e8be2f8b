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

import msgspec
from loguru import logger

from actors import faults
from actors.admission import admissions, rows_by_number
from actors.attempts import AttemptFollower
from actors.gateway import Ref
from actors.governor import RUNNERS
from actors.ids import new_id
from actors.leasing import LeaseDesk
from actors.log_client import LogClient, StreamWriter
from events.commands import Admit, Claim, Command, FillSlots, ImportContexts, Slot, TakeOutcome
from events.decide import decide, is_drained
from events.errors import VersionConflict
from events.repository import evolve
from events.repository_state import RepositoryState
from events.types import AttemptStarted, ImportedContext, Lease, RepositoryEvent, RepositoryRows
from events.work import CascadePolicy, Outcome, PullRequest, VerificationRules, WorkOrder
from store.read_models import CachedContext

__all__ = ["Means", "RepositoryActor", "RepositoryConfig", "RepositorySnapshot", "RunningAttempt"]

GRACE_S = 5.0
LINGER_S = 0.003
"""How long an append of one repository waits for those of others in its process."""
KEEP_DRAINED_EVERY = 100
"""A drained stream is read by every later status and run: it gets a snapshot after this many events already."""


class RepositoryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a repository actor works with. ``runners``: by the slot of account ``docker``."""

    log_id: str
    sweep: str
    rules: VerificationRules
    policy: CascadePolicy
    writer: Ref
    governor: Ref
    runners: list[Ref]


class RunningAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt in flight, as shown to people. ``since``: POSIX seconds."""

    issue_number: int
    stage: str
    runner: str
    since: float


class RepositorySnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A repository as it stands. ``infra_until``: when it tries again after infra failures; 0.0: now.

    ``superseded``: ``failure`` is that another actor has claimed the stream.
    """

    repository: str
    counts: dict[str, int]
    running: list[RunningAttempt]
    drained: bool
    attempts_ended: int
    infra_streak: int
    infra_until: float
    infra_message: str = ""
    failure: str = ""
    superseded: bool = False


class Means:
    """What the repositories of one process share: a client of the log, a desk for leases, a way to the runners."""

    def __init__(self, config: RepositoryConfig) -> None:
        self.log = LogClient(config.writer, linger_s=LINGER_S)
        self.desk = LeaseDesk(config.governor)
        self.follower = AttemptFollower(self.log, {ref.name: ref for ref in config.runners})


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
        self._acquiring: asyncio.Task[None] | None = None
        self._leases: dict[str, Lease] = {}
        self._pull_requests: dict[int, PullRequest] = {}
        self._since: dict[str, float] = {}
        self._ended = 0
        self._is_new = False
        self._infra_message = ""
        self._failure = ""
        self._superseded = False
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
        )

    async def stop(self, drain_s: float) -> None:
        """Starts nothing more, gives running attempts ``drain_s`` seconds, then cancels them and waits until each is
        marked in the log or ``GRACE_S`` seconds have passed."""
        self._stopping = True
        self._wake.set()
        self._desk.withdraw(self._name)
        if self._acquiring is not None:
            await asyncio.wait([self._acquiring], timeout=GRACE_S)
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
        for task in (self._main, self._acquiring, *self._tasks):
            if task is not None:
                task.cancel()

    async def _wait_for_attempts(self, timeout_s: float) -> None:
        pending = [task for task in self._tasks if not task.done()]
        if pending:
            await asyncio.wait(pending, timeout=timeout_s)

    async def _run(self) -> None:
        self._desk.join(self._name, self._held)
        try:
            await self._load()
            while not self._stopping and not is_drained(self._state):
                await self._turn()
            if not self._stopping:
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
        rows = rows_by_number(await self._log.get_blob(self._rows.rows))
        await self._follow_survivors()
        owner, _, repo = self._rows.repository.partition("/")
        cached = await self._log.contexts_of(owner, repo)
        await self._decide(ImportContexts(contexts=[_imported(one) for one in cached if self._is_news(one)]))
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

    def _is_news(self, one: CachedContext) -> bool:
        if one.revoked_at is not None or one.context in self._state.revoked:
            return one.context not in self._state.revoked
        known = self._state.prs.get(one.issue_number)
        same_job = known is not None and (known.inputs, known.rules) == (one.inputs, one.rules)
        return known is None or not (same_job and known.context == one.context)

    async def _follow_survivors(self) -> None:
        """Attempts of an earlier incarnation: each gets an outcome before anything new starts on its pull request."""
        survivors = list(self._state.inflight.values())
        keep = []
        for one in survivors:
            if await self._follower.is_under_way(one):
                keep.append(one.lease)
                self._since[one.attempt_id] = self._clock()
                self._spawn(self._finish(one.attempt_id, self._follower.follow(one)))
            else:
                await self._decide(await self._follower.settle(one))
        if not self._is_new:  # else no earlier incarnation has held a lease
            await self._desk.give_back_all_but(self._name, keep, self._claim)

    # ------------------------------------------------------------ working

    async def _turn(self) -> None:
        self._wake.clear()
        now = self._clock()
        start_at = self._state.next_start()
        if start_at is not None and now >= start_at and self._acquiring is None:
            due = sum(self._state.prs[number].not_before <= now for number in self._state.ready)
            self._acquiring = asyncio.create_task(self._acquire(due))
        timeout = max(0.05, start_at - now) if start_at is not None and now < start_at else None
        if timeout is None and self._acquiring is None and not self._tasks:
            raise RuntimeError(f"{self._name} has {self._state.counts(self._config.sweep)} but nothing to wait for")
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _acquire(self, count: int) -> None:
        try:
            leases = await self._desk.acquire(self._name, RUNNERS, min(count, len(self._config.runners)))
            faults.hit(faults.REPOSITORY_LEASED)
            await self._fill(leases)
        except Exception as exc:
            self._fail(exc)
        finally:
            self._acquiring = None
            self._wake.set()

    async def _fill(self, leases: list[Lease]) -> None:
        slots = []
        for lease in leases:
            self._leases[lease.lease_id] = lease
            runner = self._config.runners[lease.slot].name
            slots.append(Slot(attempt_id=new_id(), lease=lease.lease_id, runner=runner))
        events = [] if self._stopping else await self._decide(FillSlots(slots=slots))
        started = [one for one in events if isinstance(one, AttemptStarted)]
        faults.hit(faults.REPOSITORY_BEFORE_ACTING)
        for one in started:
            self._since[one.attempt_id] = self._clock()
            self._spawn(self._finish(one.attempt_id, self._follower.perform(self._order(one))))
        used = {one.lease for one in started}
        self._release([one.lease_id for one in leases if one.lease_id not in used])

    def _order(self, started: AttemptStarted) -> tuple[str, WorkOrder]:
        order = WorkOrder(
            attempt_id=started.attempt_id,
            log_id=self._config.log_id,
            sweep=self._config.sweep,
            stage=started.stage,
            pull_request=self._pull_requests[started.issue_number],
            rules=self._state.prs[started.issue_number].rules,
            anchor=self._state.anchor,
            context=started.context,
            agent=started.agent,
            known_failures=self._known_failures(started),
        )
        return started.runner, order

    def _known_failures(self, started: AttemptStarted) -> str | None:
        """The ``tests`` blob of the attempt that verified the context on the pull request that it is taken from."""
        source = self._state.prs.get(started.source) if started.source is not None else None
        return source.tests if source is not None and source.context == started.context else None

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
                faults.hit(faults.REPOSITORY_BEFORE_RELEASE)
                self._release([attempt.lease])
                faults.hit(faults.REPOSITORY_AFTER_RELEASE)
                self._follower.forget(attempt)
        except Exception as exc:
            self._fail(exc)
        finally:
            self._wake.set()

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
        return list({*self._leases, *(one.lease for one in self._state.inflight.values())})

    async def _leave(self) -> None:
        knows_all = self._desk.leave(self._name)
        if self._acquiring is not None:
            self._acquiring.cancel()
            self._acquiring = None
        if not knows_all or self._held():
            await self._desk.give_back_all_but(self._name, [], self._claim)


def _imported(one: CachedContext) -> ImportedContext:
    return ImportedContext(
        context=one.context,
        issue_number=one.issue_number,
        created_at=one.created_at,
        inputs=one.inputs,
        rules=one.rules,
        attempt_id=one.attempt_id,
        parent=one.parent,
        tests=one.tests,
        revoked=one.revoked_why if one.revoked_at is not None else None,
    )
