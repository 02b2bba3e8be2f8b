"""What stream ``governor`` says: accounts, leases, pauses, and what sessions used."""

from __future__ import annotations

import msgspec

from events.governor_events import Account, Budget, Lease

__all__ = ["GovernorState", "Pause", "Spent", "Used"]


class Pause(msgspec.Struct, kw_only=True):
    """Why and until when (POSIX seconds) an account grants nothing. ``probe``: the one lease that was granted since."""

    until: float
    reason: str
    reset_at: float | None = None
    refused: bool = False
    probe: str | None = None


class Spent(msgspec.Struct, kw_only=True):
    """What sessions used in a sweep. ``unpriced``: sessions of which no price is known; they are not in ``usd``."""

    sessions: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    unpriced: int = 0

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


class Used(msgspec.Struct, frozen=True):
    """What one session used that started at ``at``: kept while a window may count it."""

    at: float
    sessions: int
    tokens: int
    usd: float


class GovernorState(msgspec.Struct, kw_only=True):
    """Accounts by name, leases by id, the taken slots of each account, its pause, and what was used.

    ``spent``: by sweep and account. ``recent``: by account with a window, ordered by start. ``counted``: the attempts
    whose sessions are in ``spent`` already.
    """

    version: int = 0
    incarnation: str = ""
    run: str = ""
    accounts: dict[str, Account] = msgspec.field(default_factory=dict)
    leases: dict[str, Lease] = msgspec.field(default_factory=dict)
    taken: dict[str, set[int]] = msgspec.field(default_factory=dict)
    sweep: str = ""
    budget: Budget = Budget()
    pauses: dict[str, Pause] = msgspec.field(default_factory=dict)
    spent: dict[str, dict[str, Spent]] = msgspec.field(default_factory=dict)
    recent: dict[str, list[Used]] = msgspec.field(default_factory=dict)
    counted: set[str] = msgspec.field(default_factory=set)

    def copy(self) -> GovernorState:
        """A state of its own, which can go ahead of what is durable."""
        replace = msgspec.structs.replace
        return replace(
            self,
            leases=dict(self.leases),
            taken={account: set(slots) for account, slots in self.taken.items()},
            pauses={account: replace(one) for account, one in self.pauses.items()},
            spent={
                sweep: {account: replace(one) for account, one in given.items()} for sweep, given in self.spent.items()
            },
            recent={account: list(given) for account, given in self.recent.items()},
            counted=set(self.counted),
        )

    def free_slots(self, account: str) -> list[int]:
        """The free slots of an account, lowest first; none for an unknown account."""
        known = self.accounts.get(account)
        taken = self.taken.get(account, set())
        return [slot for slot in range(known.slots if known else 0) if slot not in taken]

    def in_use(self, account: str) -> int:
        """How many leases on an account are out."""
        return len(self.taken.get(account, ()))

    def agents(self) -> list[Account]:
        """The accounts of agents, as they were configured."""
        return [one for one in self.accounts.values() if one.agent]

    def spent_of(self, account: str) -> Spent:
        """What an account's sessions used in the present sweep."""
        return self.spent.get(self.sweep, {}).get(account, Spent())

    def spent_in_all(self) -> Spent:
        """What all sessions of the present sweep used."""
        total = Spent()
        for one in self.spent.get(self.sweep, {}).values():
            total.sessions += one.sessions
            total.input_tokens += one.input_tokens
            total.output_tokens += one.output_tokens
            total.usd += one.usd
            total.unpriced += one.unpriced
        return total
