"""Property 23 as a state machine: the real governor, on both logs, under a virtual clock and a seeded scheduler.

Holders ask, renew, give back (also late and twice), die and come back; the governor is killed at any moment and at its
fault points, is cut off and lives on beside its successor, and begins a new run. At every version of the log no account
has more leases than slots; who lives and renews loses nothing; what nobody renews is free in time; and nobody waits
while there is a slot.

Sessions end in every way, are told of late, twice or by the mailbox only. A paused account has no new lease but one
probe at a time, opens only after one that went well, and each session is counted once.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from loguru import logger

from actors import faults, governor
from actors.governor import TTL_S, RateLimitGovernor, Terms, Wish
from actors.log_client import new_event
from actors.log_writer import LogWriter
from events.errors import VersionConflict
from events.governor import Pauses
from events.sessions import ended_session
from events.types import (
    Account,
    OutcomeReported,
)
from events.wanting import SessionWanted
from events.work import SessionReport
from store.log import Append
from store.opening import Store, open_store
from tests.dst.loop import Killed, Process, VirtualLoop, current_process
from tests.events.worlds import outcome
from tests.machines.budget import budget
from tests.machines.governor_model import AGENTS, GovernorModel, Mine, ProcessRef

HOLDERS = ("repository:o/a", "repository:o/b", "repository:o/c")
ACCOUNTS = ("docker", "claude")
EPOCH_S = 1_700_000_000.0
SLACK_S = TTL_S / 6 + 5.0
POINTS = (
    faults.GOVERNOR_CLAIMED,
    faults.GOVERNOR_BEFORE_TURN,
    faults.GOVERNOR_BEFORE_COUNTING,
    faults.GOVERNOR_COUNTED,
    faults.GOVERNOR_GRANTED,
    faults.STREAM_AFTER_APPEND,
)

PAUSES = Pauses(default_s=300.0, jitter_s=10.0)

holders, accounts = st.sampled_from(HOLDERS), st.sampled_from(ACCOUNTS)
slots = st.integers(1, 3)


class GovernorMachine(GovernorModel, RuleBasedStateMachine):
    """See the module."""

    url = "memory:"

    def __init__(self) -> None:
        super().__init__()
        logger.disable("actors")
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-governor-"))
        self._ids = iter(range(10**9))
        self._new_id: object = getattr(governor, "new_id")  # noqa: B009 - what the module imported for itself
        setattr(governor, "new_id", lambda: f"{next(self._ids):09d}")  # noqa: B010
        self.calls = 0
        self.waiting: list[tuple[Process, str, str, asyncio.Task[None]]] = []
        self.old: list[tuple[RateLimitGovernor, Process]] = []

    def teardown(self) -> None:
        setattr(governor, "new_id", self._new_id)  # noqa: B010
        if hasattr(self, "loop"):
            self.loop.abandon()
            self.loop.close()
            self.store.close()
        shutil.rmtree(self.folder)
        logger.enable("actors")

    @initialize(seed=st.integers(0, 2**16), docker=slots, claude=slots)
    def begin(self, seed: int, docker: int, claude: int) -> None:
        self.loop = VirtualLoop(random.Random(seed), ends_at=1e12)  # noqa: S311 - replayable by intent
        self.store: Store = open_store(self.url.format(folder=self.folder), write=True)
        self.writer = ProcessRef("log", LogWriter("", "", lambda *_, **__: self.store))
        self.run_number = 1
        self.configured = self.accounts_of(docker, claude)
        self.start()

    def accounts_of(self, docker: int, claude: int) -> list[Account]:
        agents = [Account(name="codex", slots=claude, agent="codex"), Account(name="gemini", slots=1, agent="gemini")]
        return [Account(name="docker", slots=docker), Account(name="claude", slots=claude), *agents]

    # ------------------------------------------------------------ processes and time

    def clock(self) -> float:
        return EPOCH_S + self.loop.time()

    def start(self) -> None:
        """A governor of the present run, in a process of its own."""
        self.process, self.began = Process("governor"), self.clock()
        run, terms = f"run-{self.run_number}", Terms(sweep="s", pauses=PAUSES)
        self.governor = RateLimitGovernor(self.writer, self.configured, self.clock, run, terms)
        self.task(self.governor.held())
        self.let(0.5)
        self.began = self.clock()

    def task(self, work: Coroutine[Any, Any, Any], process: Process | None = None) -> asyncio.Task[Any]:
        return self.loop.create_task(work, context=(process or self.process).context())

    def let(self, seconds: float) -> None:
        """Lets so much virtual time pass."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def ask(self, work: Coroutine[Any, Any, Any]) -> Any:
        """A call to the governor that is alive; its answer is there within a second."""
        task = self.task(work)
        self.let(1.0)
        assert task.done(), "the governor does not answer"
        return task.result()

    def of(self, holder: str) -> list[Mine]:
        return [one for one in self.mine.values() if one.lease.holder == holder and not one.late]

    # ------------------------------------------------------------ holders

    async def _acquire(self, asked: RateLimitGovernor, holder: str, account: str, count: int) -> None:
        self.calls += 1
        wish = Wish(number=self.calls, holder=holder, account=account, count=count)
        for lease in await asked.exchange(f"desk-{self.calls}", 1, [wish], []):
            assert (lease.holder, lease.account) == (holder, account)
            self.mine[lease.lease_id] = Mine(lease=lease, confirmed=self.clock())

    @rule(holder=holders, account=accounts, count=st.integers(1, 3))
    def acquire(self, holder: str, account: str, count: int) -> None:
        task = self.task(self._acquire(self.governor, holder, account, count))
        self.waiting.append((self.process, holder, account, task))
        self.let(0.5)

    async def _session(self, asked: RateLimitGovernor, holder: str, numbers: list[int]) -> None:
        self.calls += 1
        sessions = tuple(SessionWanted(number, number) for number in numbers)
        wish = Wish(number=self.calls, holder=holder, account="agents", count=1, sessions=sessions)
        for lease in await asked.exchange(f"desk-{self.calls}", 1, [wish], []):
            assert lease.holder == holder
            assert lease.attempt_id
            assert lease.issue_number in numbers
            self.mine[lease.lease_id] = Mine(lease=lease, confirmed=self.clock())

    @rule(holder=holders, numbers=st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True))
    def ask_for_sessions(self, holder: str, numbers: list[int]) -> None:
        task = self.task(self._session(self.governor, holder, numbers))
        self.waiting.append((self.process, holder, "agents", task))
        self.let(0.5)

    def under_way(self) -> list[Mine]:
        return [one for one in self.mine.values() if one.lease.account in AGENTS and one.ended is None]

    @precondition(lambda self: self.under_way())
    @rule(
        which=st.randoms(use_true_random=False),
        ended=st.sampled_from(["completed", "rate_limited", "account", "cancelled"]),
        reset_s=st.sampled_from([None, 20.0, 900.0]),
        how=st.sampled_from(["told", "told twice", "mailbox", "lost"]),
    )
    def a_session_ends(self, which: Any, ended: str, reset_s: float | None, how: str) -> None:
        """It is told of by its holder, or only its mailbox knows, or nobody does."""
        one: Mine = which.choice(self.under_way())
        reset_at = self.clock() + reset_s if reset_s is not None and ended == "rate_limited" else None
        report = SessionReport(account=one.lease.account, agent="a", ended=ended, reset_at=reset_at, output_tokens=0)
        lease = one.lease
        one.ended = ended_session(
            report, attempt_id=lease.attempt_id, account=lease.account, lease_id=lease.lease_id, sweep="s"
        )
        one.late = True
        if ended == "completed":
            self.went_well.add(lease.lease_id)
        if how == "mailbox":
            self.told.add(lease.attempt_id)
            given = msgspec.structs.replace(outcome(verified=False), session=report)
            event = OutcomeReported(attempt_id=lease.attempt_id, outcome=given)
            stream, new = f"attempt:{lease.attempt_id}", [new_event(event, f"mail-{lease.attempt_id}")]
            self.store.log.append(Append(stream, 0, new, self.clock()))
        elif how.startswith("told"):
            for _ in range(2 if how == "told twice" else 1):
                self.ask(self.governor.ended([one.ended]))
            self.catch_up()
            assert lease.attempt_id in self.counted
            assert lease.lease_id not in self.out

    @precondition(lambda self: self.under_way())
    @rule(which=st.randoms(use_true_random=False), holder=holders, numbers=st.lists(st.integers(1, 9), max_size=3))
    def a_limit_is_met_and_waited_out(self, which: Any, holder: str, numbers: list[int]) -> None:
        """What comes most seldom by itself: an account that is due for its probe, and somebody who asks."""
        self.a_session_ends(which, "rate_limited", 20.0, "told")
        self.pass_time(40.0)
        self.ask_for_sessions(holder, [*dict.fromkeys(numbers), 99])
        self.catch_up()

    @precondition(lambda self: any(one.ended is not None for one in self.mine.values()))
    @rule(which=st.randoms(use_true_random=False))
    def a_session_is_told_of_late(self, which: Any) -> None:
        """By the successor of its holder, which tells all that it knows of."""
        ends = [one.ended for one in self.mine.values() if one.ended is not None]
        self.ask(self.governor.ended(which.sample(ends, min(3, len(ends)))))

    @precondition(lambda self: self.mine)
    @rule(which=st.randoms(use_true_random=False), twice=st.booleans())
    def release(self, which: Any, twice: bool) -> None:
        """Of any lease ever granted: in time, late, or once more."""
        one: Mine = which.choice(list(self.mine.values()))
        one.late = True
        self.calls += 1
        self.ask(self.governor.exchange(f"desk-{self.calls}", 1, [], [one.lease.lease_id] * (2 if twice else 1)))
        self.catch_up()
        assert one.lease.lease_id not in self.out

    @rule(seconds=st.sampled_from([0.1, 2.0, TTL_S / 2, TTL_S + 1, TTL_S * 3, 330.0]))
    def pass_time(self, seconds: float) -> None:
        """Whoever lives renews three times in the time that a lease holds."""
        while seconds > 0:
            self.let(min(seconds, TTL_S / 3))
            seconds -= TTL_S / 3
            self.renew()

    def renew(self) -> None:
        for holder in HOLDERS:
            ids = [one.lease.lease_id for one in self.of(holder)]
            assert self.ask(self.governor.renew({holder: ids})) == ids, "who renews in time keeps what it has"
            for one in self.of(holder):
                one.confirmed = self.clock()

    @rule(holder=holders)
    def holder_dies(self, holder: str) -> None:
        for one in self.of(holder):
            one.late = True

    @rule(holder=holders)
    def holder_comes_back(self, holder: str) -> None:
        """It names what it knows of; the rest, and what it waited for, is free at once."""
        kept = [one.lease.lease_id for one in self.of(holder)]
        self.ask(self.governor.give_back_all_but(holder, kept))
        self.catch_up()
        assert {one.lease_id for one in self.out.values() if one.holder == holder} <= set(kept) | {
            one.lease.lease_id for one in self.of(holder)
        }

    # ------------------------------------------------------------ the governor's deaths

    @rule()
    def governor_is_killed(self) -> None:
        self.process.die()
        self.start()

    @rule(point=st.sampled_from(POINTS), holder=holders, account=accounts)
    def governor_is_killed_at(self, point: str, holder: str, account: str) -> None:
        victim = self.process

        def plan(reached: str) -> None:
            if reached == point and current_process() is victim:
                victim.alive = False
                raise Killed

        with faults.installed(plan):
            self.acquire(holder, account, 2)
        self.process.die()
        self.start()

    @rule()
    def governor_is_cut_off(self) -> None:
        """It lives on beside its successor."""
        self.old.append((self.governor, self.process))
        self.start()

    @precondition(lambda self: self.old)
    @rule(which=st.randoms(use_true_random=False), holder=holders, account=accounts)
    def somebody_asks_an_old_governor(self, which: Any, holder: str, account: str) -> None:
        old, process = which.choice(self.old)
        before = set(self.mine)
        task = self.task(self._acquire(old, holder, account, 1), process)
        self.let(TTL_S / 6 + 1)
        assert not task.done() or isinstance(task.exception(), VersionConflict)
        assert set(self.mine) == before, "it grants nothing"

    @rule(docker=slots, claude=slots)
    def a_new_run_begins(self, docker: int, claude: int) -> None:
        """The driver was started anew, with other accounts: all that ran before is dead."""
        for holder in HOLDERS:
            self.holder_dies(holder)
        for _, process in self.old:
            process.die()
        self.process.die()
        self.old = []
        self.run_number += 1
        self.configured = self.accounts_of(docker, claude)
        mailboxes = {one.lease.attempt_id for one in self.mine.values() if one.lease.lease_id in self.out} & self.told
        self.start()
        self.catch_up()
        assert not self.out, "leases of an earlier run are over"
        assert mailboxes <= self.counted, "what only a mailbox knew of is counted before anything is granted"

    # ------------------------------------------------------------ what always holds

    @invariant()
    def leases_never_exceed_capacity_and_end_in_time(self) -> None:
        if not hasattr(self, "loop"):
            return
        if any(self.clock() - one.confirmed > TTL_S / 3 for one in self.mine.values() if not one.late):
            self.renew()
        self.catch_up()
        for account, most in self.slots.items():
            assert sum(one.account == account for one in self.out.values()) <= most
        for one in self.mine.values():
            if not one.late:
                assert one.lease.lease_id in self.out, "a living holder keeps its lease"
        for lease_id in self.out:
            known = self.mine.get(lease_id)
            last = max(self.granted_at[lease_id], known.confirmed if known else 0.0, self.began)
            assert self.clock() - last <= TTL_S + SLACK_S, f"{lease_id} is nobody's and does not expire"

    @invariant()
    def nobody_waits_while_there_is_a_slot(self) -> None:
        self.waiting = [one for one in self.waiting if one[0].alive and not one[3].done()]
        for process, holder, account, _ in self.waiting:
            if process is self.process and account == "agents":
                assert not self.could_be_granted(holder), f"{holder} waits for a session and could have one"
            elif process is self.process:
                used = sum(one.account == account for one in self.out.values())
                assert used == self.slots[account], f"{holder} waits and {account} has a free slot"


class SqliteGovernorMachine(GovernorMachine):
    """The same on a file."""

    url = "sqlite:///{folder}/log.db"


@pytest.mark.parametrize(
    ("machine", "examples"), [(GovernorMachine, 60), (SqliteGovernorMachine, 20)], ids=["memory", "sqlite"]
)
def test_leases_stay_within_capacity_whoever_dies(machine: type[GovernorMachine], examples: int) -> None:
    run_state_machine_as_test(machine, settings=budget(examples, steps=30))
