"""What the governor machine's test keeps of leases, and what must hold at the place of each event."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from actors.gateway import Ref
from events import codec
from events.sessions import EndedSession
from events.types import (
    AccountPaused,
    AccountProbed,
    AccountReopened,
    AccountsConfigured,
    Lease,
    LeasesExpired,
    LeasesGranted,
    LeasesReleased,
    UsageCounted,
)
from store.opening import Store
from tests.dst.loop import Process

__all__ = ["AGENTS", "GovernorModel", "Mine", "ProcessRef"]

AGENTS = ("codex", "gemini")


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
    ended: EndedSession | None = None


class GovernorModel:
    """Reads the log as it grows. ``mine``: leases as their holders know them; ``out``: as the log has them;
    ``went_well``: leases of sessions that did their work; ``told``: attempts whose mailbox has an outcome."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self._read = 0
        self.mine: dict[str, Mine] = {}
        self.out: dict[str, Lease] = {}
        self.granted_at: dict[str, float] = {}
        self.slots: dict[str, int] = {}
        self.paused: dict[str, AccountPaused] = {}
        self.probes: dict[str, str] = {}
        self.counted: set[str] = set()
        self.went_well: set[str] = set()
        self.told: set[str] = set()

    def catch_up(self) -> None:
        """Reads what the log got, with a bookkeeping of its own: slots are never taken twice, at no version."""
        for event in self.store.log.read_stream("governor", after=self._read):
            self._read = event.version
            found = codec.decode(event.type, event.schema, event.data)
            match found:
                case AccountsConfigured(accounts=given):
                    self.slots = {one.name: one.slots for one in given}
                case LeasesGranted(leases=leases):
                    for lease in leases:
                        taken = {one.slot for one in self.out.values() if one.account == lease.account}
                        assert lease.slot in set(range(self.slots[lease.account])) - taken
                        paused = self.paused.get(lease.account)
                        assert paused is None or self.probes.get(lease.account) == lease.lease_id
                        self.out[lease.lease_id] = lease
                        self.granted_at[lease.lease_id] = event.recorded_at
                case LeasesReleased(lease_ids=ended) | LeasesExpired(lease_ids=ended):
                    for one in ended:
                        lease = self.out.pop(one)
                        known = lease.account in AGENTS and lease.attempt_id in self.told
                        assert not known or lease.attempt_id in self.counted, (
                            "what a mailbox knows is counted before the lease is free"
                        )
                case AccountPaused():
                    self.paused[found.account] = found
                    self.probes.pop(found.account, None)
                case AccountProbed():
                    paused = self.paused[found.account]
                    assert event.recorded_at >= paused.until - 0.001, "nobody is probed before the end of its pause"
                    assert self.probes.get(found.account) not in self.out, "one probe at a time"
                    self.probes[found.account] = found.lease_id
                case AccountReopened():
                    paused, probe = self.paused.pop(found.account), self.probes.pop(found.account, None)
                    assert probe in self.went_well or paused.refused, "it opens after a probe that went well"
                case UsageCounted():
                    assert found.attempt_id not in self.counted, "a session is counted once"
                    self.counted.add(found.attempt_id)
                case _:
                    continue

    def could_be_granted(self, holder: str) -> bool:
        """Whether a runner and a slot of an open account are free, which works on nothing for this holder yet."""

        def free(account: str) -> bool:
            return sum(one.account == account for one in self.out.values()) < self.slots[account]

        busy = {one.account for one in self.out.values() if one.holder == holder and one.issue_number}
        return free("docker") and any(
            free(account) and account not in self.paused and account not in busy for account in AGENTS
        )
