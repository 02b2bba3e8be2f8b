"""Agents of simulated sweeps: their accounts, the providers' limits, and what comes of a session."""

from __future__ import annotations

import random
from collections.abc import Callable
from hashlib import sha256

import msgspec

from events.governor import Pauses
from events.types import Account
from events.work import FailureClass, Level, Outcome, SessionReport, WorkOrder

__all__ = ["Agents", "Provider", "SimAgent"]


class SimAgent(msgspec.Struct, frozen=True, kw_only=True):
    """An account, and its provider's limit: so many sessions in a window of so many seconds; 0: none.

    ``tells``: whether its CLI says when a limit is over.
    """

    account: Account
    sessions: int = 0
    window_s: float = 600.0
    tells: bool = True


class Agents(msgspec.Struct, frozen=True, kw_only=True):
    """What a scenario has of agents. ``hard``: pull requests that the template does not build, but a session's context
    does, which serves its whole repository. ``seconds``: of a session; ``failed``, ``aborted``: parts of all."""

    agents: tuple[SimAgent, ...]
    hard: frozenset[str]
    seconds: float = 30.0
    failed: float = 0.0
    aborted: float = 0.0
    pauses: Pauses = Pauses(default_s=300.0, jitter_s=5.0)

    @property
    def accounts(self) -> list[Account]:
        """The accounts, for the governor."""
        return [one.account for one in self.agents]

    @classmethod
    def drawn(cls, rng: random.Random, names: list[str]) -> Agents:
        """What a seed decides."""
        agents = []
        for name in ("claude", "codex")[: rng.randrange(1, 3)]:
            agents.append(
                SimAgent(
                    account=Account(name=name, slots=rng.randrange(1, 4), agent=name),
                    sessions=rng.choice([0, 0, 1, 3]),
                    window_s=rng.choice([60.0, 600.0]),
                    tells=rng.random() < 0.7,
                )
            )
        return cls(
            agents=tuple(agents),
            hard=frozenset(name for name in names if rng.random() < 0.7),
            seconds=rng.choice([2.0, 30.0]),
            failed=rng.choice([0.0, 0.3]),
            aborted=rng.choice([0.0, 0.0, 0.1]),
        )


class Provider:
    """The other side of all accounts. ``limited``: by account, the sessions that it turned away, with their times."""

    def __init__(self, agents: Agents, clock: Callable[[], float], rng: random.Random) -> None:
        self._agents = {one.account.name: one for one in agents.agents}
        self._terms, self._clock, self._rng = agents, clock, rng
        self._windows: dict[str, tuple[float, int]] = {}
        self.began: dict[str, list[float]] = {one: [] for one in self._agents}
        self.limited: dict[str, list[float]] = {one: [] for one in self._agents}

    def begin(self, account: str) -> float | None:
        """A session begins; if its account is exhausted, when that is over (POSIX seconds)."""
        agent, now = self._agents[account], self._clock()
        self.began[account].append(now)
        if not agent.sessions:
            return None
        start, used = self._windows.get(account, (now, 0))
        if now >= start + agent.window_s:
            start, used = now, 0
        if used >= agent.sessions:
            self.limited[account].append(now)
            return start + agent.window_s
        self._windows[account] = (start, used + 1)
        return None

    def seconds(self, reset_at: float | None) -> float:
        """How long a session takes."""
        return self._rng.uniform(0.5, 1.5) * (self._terms.seconds if reset_at is None else 1.0)

    def outcome(
        self, order: WorkOrder, *, reset_at: float | None, refused: FailureClass | None, cancelled: bool
    ) -> Outcome:
        """What a session comes to. ``refused``: what it makes is refused as this."""
        account = order.account or ""
        tells = self._agents[account].tells
        if cancelled:
            return _outcome(order, FailureClass.INFRA, "cancelled", cancelled=True)
        if reset_at is not None:
            return _outcome(order, FailureClass.AGENT, "rate_limited", reset_at=reset_at if tells else None)
        luck = self._rng.random()
        if luck < self._terms.aborted:
            away = self._rng.random() < 0.5
            return _outcome(order, FailureClass.INFRA if away else FailureClass.AGENT, "server" if away else "stalled")
        made = sha256(order.attempt_id.encode()).hexdigest()
        if refused is not None or luck < self._terms.aborted + self._terms.failed:
            return _outcome(order, refused or FailureClass.RECIPE, "completed", context=made)
        return _outcome(order, None, "completed", context=made)


def _outcome(
    order: WorkOrder,
    failure: FailureClass | None,
    ended: str,
    *,
    context: str | None = None,
    reset_at: float | None = None,
    cancelled: bool = False,
) -> Outcome:
    report = SessionReport(
        account=order.account or "",
        agent=order.agent or "",
        ended="cancelled" if cancelled else ended,
        message=f"a session that {ended}",
        reset_at=reset_at,
        input_tokens=1000,
        output_tokens=100 if ended == "completed" else 0,
        cost_usd=0.25 if order.agent == "claude" else None,
    )
    return Outcome(
        verified=failure is None,
        level=Level.TESTS,
        stage="tests",
        failure_class=failure,
        message=report.message,
        context=context,
        cancelled=cancelled,
        session=report,
    )
