"""What a shell does with the core: decide, fold, offer slots, end attempts."""

from __future__ import annotations

import msgspec

from events.codec import decode, encode, schema_of
from events.commands import Command, FillSlots, Slot, TakeOutcome
from events.decide import decide
from events.repository import evolve
from events.repository_state import RepositoryState
from events.streams import machine_of
from events.types import AttemptStarted, RepositoryEvent
from events.work import FailureClass, SessionReport, Stage
from tests.events.worlds import outcome
from tests.machines.repository_model import RepositoryModel

__all__ = ["RepositoryShell"]


class RepositoryShell(RepositoryModel):
    """See the module. ``given``: the last outcome that was taken in."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[RepositoryEvent] = []
        self.now = 1_000_000.0
        self._ids = iter(range(10**6))
        self.given = TakeOutcome(attempt_id="none", outcome=outcome())

    def do(self, command: Command) -> list[RepositoryEvent]:
        """Decides, and folds what was decided, as a shell does that appended it in between."""
        before = encode_state(self.state)
        events = decide(self.state, command, self.now)
        assert encode_state(self.state) == before, "deciding changes nothing"
        for event in events:
            self.see(event)
            evolve(self.state, event)
            assert decode(type(event).__name__, schema_of(event), encode(event)) == event
        self.events += events
        return events

    def slot(self, account: str | None, number: int | None = None) -> Slot:
        return Slot(
            attempt_id=f"a{next(self._ids)}",
            lease="l",
            runner="r",
            agent=account and account.partition(":")[0],
            account=account,
            agent_lease=account and f"lease on {account}",
            issue_number=number,
        )

    def offer(self, slots: list[Slot], *, awaits: bool) -> list[AttemptStarted]:
        count, offered = len(slots), {slot.attempt_id: slot for slot in slots}
        command = FillSlots(slots=slots, awaits=awaits)
        used = [one for one in self.do(command) if isinstance(one, AttemptStarted)]
        for one in used:
            bound = offered[one.attempt_id].issue_number
            assert bound in (None, one.issue_number)
            assert bound is None or one.stage is Stage.LLM_GENERATE
            assert (offered[one.attempt_id].lease, offered[one.attempt_id].runner) == (one.lease, one.runner)
        assert len({one.attempt_id for one in used}) == len(used) <= count
        return used

    def end(
        self, attempt: AttemptStarted, cls: FailureClass | None, *, cancelled: bool = False, limited: bool = False
    ) -> None:
        session = attempt.stage is Stage.LLM_GENERATE
        context = f"{attempt.attempt_id:0>64}" if session else attempt.context
        if not session and cls is FailureClass.AGENT:
            cls = FailureClass.RECIPE
        given = outcome(verified=cls is None, cls=cls, context=context, cancelled=cancelled)
        if session:
            aborted = cls is FailureClass.AGENT
            ended = "rate_limited" if aborted and limited else "stalled" if aborted else "completed"
            report = SessionReport(account=attempt.account or "", agent=attempt.agent or "", ended=ended)
            given = msgspec.structs.replace(given, context=None if aborted else context, session=report)
        self.given = TakeOutcome(attempt_id=attempt.attempt_id, outcome=given)
        self.do(self.given)
        assert attempt.attempt_id in self.ended


def encode_state(state: RepositoryState) -> bytes:
    """All of a state, to see whether it changed."""
    found = machine_of("repository:o/r")
    assert found is not None
    return found[0].pack(state)
