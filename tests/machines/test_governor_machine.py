"""Property 23 as a state machine: the real governor, on both logs, under a virtual clock and a seeded scheduler.

Holders ask, renew, give back (also late and twice), die and come back; the governor is killed at any moment and at its
fault points, is cut off and lives on beside its successor, and begins a new run. At every version of the log no account
has more leases than slots; who lives and renews loses nothing; what nobody renews is free in time; and nobody waits
while there is a slot.
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
from actors.gateway import Ref
from actors.governor import TTL_S, RateLimitGovernor, Wish
from actors.log_writer import LogWriter
from events import codec
from events.errors import VersionConflict
from events.types import Account, AccountsConfigured, Lease, LeasesExpired, LeasesGranted, LeasesReleased
from store.opening import Store, open_store
from tests.dst.loop import Killed, Process, VirtualLoop, current_process
from tests.machines.budget import budget

HOLDERS = ("repository:o/a", "repository:o/b", "repository:o/c")
ACCOUNTS = ("docker", "claude")
EPOCH_S = 1_700_000_000.0
SLACK_S = TTL_S / 6 + 5.0
POINTS = (faults.GOVERNOR_CLAIMED, faults.GOVERNOR_BEFORE_TURN, faults.GOVERNOR_GRANTED, faults.STREAM_AFTER_APPEND)

holders, accounts = st.sampled_from(HOLDERS), st.sampled_from(ACCOUNTS)
slots = st.integers(1, 3)


class ProcessRef(Ref):
    """Calls an object that lives in a process of its own: the death of the caller ends nothing there."""

    def __init__(self, name: str, target: object) -> None:
        super().__init__(name, target)
        self._target, self._process = target, Process(name)

    async def call(self, method: str, *args: object) -> Any:
        work = getattr(self._target, method)(*args)
        return await asyncio.get_running_loop().create_task(work, context=self._process.context())


class Mine(msgspec.Struct):
    """A lease as its holder knows it. ``confirmed``: when it was granted or last renewed."""

    lease: Lease
    confirmed: float
    late: bool = False
    """Given back, or its holder died: it is nobody's any more, whatever the log says."""


class GovernorMachine(RuleBasedStateMachine):
    """See the module."""

    url = "memory:"

    def __init__(self) -> None:
        super().__init__()
        logger.disable("actors")
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-governor-"))
        self._ids = iter(range(10**9))
        self._new_id: object = getattr(governor, "new_id")  # noqa: B009 - what the module imported for itself
        setattr(governor, "new_id", lambda: f"{next(self._ids):09d}")  # noqa: B010
        self.mine: dict[str, Mine] = {}
        self.out: dict[str, Lease] = {}
        self.granted_at: dict[str, float] = {}
        self.slots: dict[str, int] = {}
        self._read = self.calls = 0
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
        self.configured = [Account(name="docker", slots=docker), Account(name="claude", slots=claude)]
        self.start()

    # ------------------------------------------------------------ processes and time

    def clock(self) -> float:
        return EPOCH_S + self.loop.time()

    def start(self) -> None:
        """A governor of the present run, in a process of its own."""
        self.process, self.began = Process("governor"), self.clock()
        self.governor = RateLimitGovernor(self.writer, self.configured, self.clock, f"run-{self.run_number}")
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

    @rule(seconds=st.sampled_from([0.1, 2.0, TTL_S / 2, TTL_S + 1, TTL_S * 3]))
    def pass_time(self, seconds: float) -> None:
        """Whoever lives renews three times in the time that a lease holds."""
        while seconds > 0:
            self.let(min(seconds, TTL_S / 3))
            seconds -= TTL_S / 3
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
        self.configured = [Account(name="docker", slots=docker), Account(name="claude", slots=claude)]
        self.start()
        self.catch_up()
        assert not self.out, "leases of an earlier run are over"

    # ------------------------------------------------------------ what always holds

    def catch_up(self) -> None:
        """Reads what the log got, with a bookkeeping of its own: slots are never taken twice, at no version."""
        for event in self.store.log.read_stream("governor", after=self._read):
            self._read = event.version
            match codec.decode(event.type, event.schema, event.data):
                case AccountsConfigured(accounts=given):
                    self.slots = {one.name: one.slots for one in given}
                case LeasesGranted(leases=leases):
                    for lease in leases:
                        taken = {one.slot for one in self.out.values() if one.account == lease.account}
                        assert lease.slot in set(range(self.slots[lease.account])) - taken
                        self.out[lease.lease_id] = lease
                        self.granted_at[lease.lease_id] = event.recorded_at
                case LeasesReleased(lease_ids=ended) | LeasesExpired(lease_ids=ended):
                    for one in ended:
                        del self.out[one]
                case _:
                    continue

    @invariant()
    def leases_never_exceed_capacity_and_end_in_time(self) -> None:
        if not hasattr(self, "loop"):
            return
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
            if process is self.process:
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
