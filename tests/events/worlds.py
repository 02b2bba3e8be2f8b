"""Short ways to write events and states in tests of the core."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from events.commands import Admit, Claim, Command, FillSlots, Slot, TakeOutcome
from events.decide import decide
from events.repository import evolve
from events.repository_state import RepositoryState
from events.types import Admission, AttemptStarted, ImportedContext, RepositoryEvent
from events.work import CascadePolicy, FailureClass, Level, Outcome, VerificationRules

RULES = VerificationRules()
STOCK = "5" * 64
START = datetime(2020, 1, 1, tzinfo=UTC)


def policy(**changes: object) -> CascadePolicy:
    return CascadePolicy(**{"stock_context": STOCK, **changes})  # type: ignore[arg-type]


def admission(number: int, *, day: float | None = None, inputs: str = "", seed: bool = True) -> Admission:
    moment = START + timedelta(days=number if day is None else day)
    return Admission(
        issue_number=number,
        created_at=moment.isoformat().replace("+00:00", "Z"),
        commit=f"{number:040x}",
        python_version="3.11",
        row="0" * 64,
        inputs=inputs or f"inputs-{number}",
        seed=seed,
    )


def outcome(
    *, verified: bool = True, context: str | None = None, cls: FailureClass | None = None, cancelled: bool = False
) -> Outcome:
    failure = None if verified else cls or FailureClass.RECIPE
    message = "verified" if verified else f"failed as {failure}"
    return Outcome(
        verified=verified,
        level=Level.TESTS,
        stage="tests",
        failure_class=failure,
        message=message,
        context=context,
        cancelled=cancelled,
    )


class Repository:
    """A repository driven by plain calls: decides, folds, and keeps every event."""

    def __init__(self, *numbers: int, rows: list[Admission] | None = None, **policy_changes: object) -> None:
        self.state = RepositoryState(repository="o/r")
        self.events: list[RepositoryEvent] = []
        self.now = 1_000_000.0
        self._ids = 0
        rows = rows if rows is not None else [admission(number) for number in numbers]
        self.do(Claim(incarnation="i1", sweep="s"))
        self.do(Admit(sweep="s", rules=RULES, policy=policy(**policy_changes), pull_requests=rows))

    def do(self, command: Command) -> list[RepositoryEvent]:
        events = decide(self.state, command, self.now)
        for event in events:
            evolve(self.state, event)
        self.events += events
        return events

    def join(self, *numbers: int, **policy_changes: object) -> None:
        """Admits further pull requests to the same sweep."""
        rows = [admission(number) for number in numbers]
        self.do(Admit(sweep="s", rules=RULES, policy=policy(**policy_changes), pull_requests=rows))

    def fill(self, slots: int = 1, *, agent: str | None = None) -> list[AttemptStarted]:
        """Offers slots; returns the attempts that were started."""
        offered = []
        for _ in range(slots):
            self._ids += 1
            offered.append(Slot(attempt_id=f"a{self._ids}", lease=f"l{self._ids}", runner="runner:0", agent=agent))
        return [one for one in self.do(FillSlots(slots=offered)) if isinstance(one, AttemptStarted)]

    def end(self, attempt: AttemptStarted, **how: object) -> list[RepositoryEvent]:
        """Ends an attempt: ``end(a)`` verified, ``end(a, verified=False, …)`` as :func:`outcome` says."""
        how.setdefault("context", attempt.context)
        return self.do(TakeOutcome(attempt_id=attempt.attempt_id, outcome=outcome(**how)))  # type: ignore[arg-type]

    def state_of(self, number: int) -> str:
        return str(self.state.prs[number].state)


def known_context(number: int, *, inputs: str = "", context: str = "c") -> ImportedContext:
    return ImportedContext(
        context=context,
        issue_number=number,
        created_at=admission(number).created_at,
        inputs=inputs or f"inputs-{number}",
        rules=RULES,
        attempt_id="old",
    )
