"""What must hold of every log: checked at each append of a simulated run, and once more of the whole log at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from events import codec, gathering, governor, repository, sweep
from events.decide import LOST
from events.gathering import GatherState
from events.governor import GovernorState
from events.repository_state import RepositoryState
from events.sweep import RepositoryPhase, SweepState
from events.types import AttemptInterrupted, AttemptStarted, AttemptSucceeded, Event, OutcomeReported
from events.work import Stage
from store.log import Append, Appended, RecordedEvent, Refused
from store.memory import MemoryLog

__all__ = ["CheckedLog", "Observer"]


class Observer:
    """Folds what is appended at once, with the real machines, and looks at what only the order of things shows."""

    def __init__(self, running: Callable[[str], bool], *, max_active: int) -> None:
        self.repositories: dict[str, RepositoryState] = {}
        self.governor = GovernorState()
        self.sweeps: dict[str, SweepState] = {}
        self.gathers: dict[str, GatherState] = {}
        self.reported: dict[str, bool] = {}
        self.started: set[str] = set()
        self.in_flight: set[str] = set()
        self._running, self._max_active = running, max_active

    def see(self, stream: str, event: Event) -> None:
        """Folds one event; ``AssertionError`` or ``IllegalTransition`` tells what is broken."""
        kind, _, name = stream.partition(":")
        if kind == "repository":
            self._repository(name, event)
        elif kind == "governor":
            governor.evolve(self.governor, event)  # type: ignore[arg-type]
            for account in self.governor.accounts.values():
                out = [one for one in self.governor.leases.values() if one.account == account.name]
                assert len(out) <= account.slots, f"{len(out)} leases on {account.slots} slots of {account.name}"
        elif kind == "gather":
            gathering.evolve(self.gathers.setdefault(name, GatherState(repository=name)), event)  # type: ignore[arg-type]
        elif kind == "sweep":
            state = sweep.evolve(self.sweeps.setdefault(name, SweepState(sweep=name)), event)  # type: ignore[arg-type]
            active = len(state.in_phase(RepositoryPhase.ACTIVE))
            assert active <= self._max_active, f"{active} repositories are active, {self._max_active} may be"
        else:
            outcome = cast(OutcomeReported, event).outcome
            assert name in self.started, f"attempt {name} has an outcome and was never started"
            assert name in self.in_flight or outcome.cancelled, f"attempt {name} has its outcome after its end"
            self.reported[name] = not outcome.cancelled

    def _joins(self, state: RepositoryState, event: AttemptStarted) -> None:
        """Only sessions race on one pull request, after one has failed, each on an account of its own."""
        others = [one for one in state.inflight.values() if one.issue_number == event.issue_number and not one.lost]
        race = state.policy.race if state.policy is not None else 1
        assert len(others) < max(1, race), f"PR {event.issue_number} is in {len(others) + 1} attempts at once"
        for one in others:
            assert one.stage is event.stage is Stage.LLM_GENERATE, "only sessions race"
            assert one.account != event.account, f"two sessions on PR {event.issue_number} by {event.account}"
            assert state.prs[event.issue_number].generations, "nobody races before one has failed"
        if event.account is not None:
            lease = self.governor.leases.get(event.agent_lease or "")
            assert lease is None or (lease.account, lease.attempt_id) == (event.account, event.attempt_id)

    def _repository(self, name: str, event: Event) -> None:
        state = self.repositories.setdefault(name, RepositoryState(repository=name))
        if isinstance(event, AttemptStarted):
            assert event.attempt_id not in self.started, f"attempt {event.attempt_id} is started twice"
            self._joins(state, event)
            self.started.add(event.attempt_id)
        if isinstance(event, AttemptInterrupted):
            lost = state.inflight[event.attempt_id].lost
            assert lost or not self.reported.get(event.attempt_id), f"{event.attempt_id} has an outcome that is lost"
            assert lost == event.reason.startswith(LOST), "who loses a race is said to"
            assert not self._running(event.attempt_id), f"attempt {event.attempt_id} still runs and is interrupted"
        before = dict(state.inflight)
        repository.evolve(state, event)  # type: ignore[arg-type]
        self.in_flight |= state.inflight.keys()
        self.in_flight -= before.keys() - state.inflight.keys()
        if isinstance(event, AttemptSucceeded):
            assert self.reported.get(event.attempt_id), f"attempt {event.attempt_id} counts without its outcome"


class CheckedLog(MemoryLog):
    """A log in memory that shows each new event to an observer and tells of the first thing that is broken."""

    def __init__(
        self, observer: Observer, broken: Callable[[BaseException], None], note: Callable[[str], None]
    ) -> None:
        super().__init__(log_id="l")
        self._observer, self._broken, self._note = observer, broken, note
        self._shown = 0

    def append_many(self, batches: Sequence[Append]) -> list[Appended | Refused]:
        results = super().append_many(batches)
        new: list[RecordedEvent] = list(self.read_all(after=self._shown))
        self._shown += len(new)
        for one in new:
            self._note(f"{one.seq} {one.stream} {one.version} {one.type} {one.hash}")
            try:
                self._observer.see(one.stream, codec.decode(one.type, one.schema, one.data))
            except Exception as exc:
                self._broken(exc)
        return results
