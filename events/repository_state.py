"""What the stream of one repository says: its pull requests, its attempts in flight, and indexes for quick decisions.

Only :func:`events.repository.evolve` changes a state. The indexes are kept by it and follow from the rest:

- ``open``: the pull requests of the active sweep that were reached and are not finished, ordered by time;
- ``unreached``: those that no cascade has reached yet, ordered by time;
- ``queued``: those of ``ready`` that have not been through the cache;
- ``refuted``: by context, where on the time line it was refuted, ordered by time;
- ``held``: by attempt, who waits for its end;
- ``again``: the unfinished pull requests on which a context is to be tried once more after a flake.

``sessions``: those that have ended, as the governor is told of them.
``revoked`` holds the contexts that are never used again, with the reason; ``parents`` of each context those that a
session made it from. ``verified`` and ``imported`` have no context of ``revoked``.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import msgspec

from events.pull_request import FINISHED, PrState
from events.records import Flaked, InFlight, Place, PrRecord, context_of
from events.sessions import EndedSession
from events.types import ImportedContext
from events.work import CascadePolicy, FailureClass, Outcome, Stage

__all__ = ["RepositoryState", "remove_place"]


class RepositoryState(msgspec.Struct, kw_only=True):
    """All that the stream of one repository says; ``version`` counts the events folded."""

    repository: str
    version: int = 0
    incarnation: str = ""
    sweep: str = ""
    policy: CascadePolicy | None = None
    prs: dict[int, PrRecord] = msgspec.field(default_factory=dict)
    members: dict[str, set[int]] = msgspec.field(default_factory=dict)
    ready: dict[int, None] = msgspec.field(default_factory=dict)
    waiting: dict[int, None] = msgspec.field(default_factory=dict)
    inflight: dict[str, InFlight] = msgspec.field(default_factory=dict)
    open: list[Place] = msgspec.field(default_factory=list)
    unreached: list[Place] = msgspec.field(default_factory=list)
    queued: dict[int, None] = msgspec.field(default_factory=dict)
    refuted: dict[str, list[Place]] = msgspec.field(default_factory=dict)
    held: dict[str, dict[int, None]] = msgspec.field(default_factory=dict)
    verified: list[Place] = msgspec.field(default_factory=list)
    imported: dict[str, ImportedContext] = msgspec.field(default_factory=dict)
    again: dict[int, None] = msgspec.field(default_factory=dict)
    revoked: dict[str, str] = msgspec.field(default_factory=dict)
    parents: dict[str, set[str]] = msgspec.field(default_factory=dict)
    infra_streak: int = 0
    not_before: float = 0.0
    sessions: dict[str, EndedSession] = msgspec.field(default_factory=dict)

    def racing(self, number: int) -> list[InFlight]:
        """The attempts in flight on a pull request; several are sessions that race."""
        return [one for one in self.inflight.values() if one.issue_number == number and not one.lost]

    def next_start(self) -> float | None:
        """When the first of ``ready`` may be worked on, in POSIX seconds; ``None``: none is ready."""
        if not self.ready:
            return None
        return max(self.not_before, min(self.prs[number].not_before for number in self.ready))

    @property
    def anchor(self) -> str:
        """The commit of the earliest pull request: what the repository tier of images holds."""
        return min(self.prs.values(), key=lambda pr: (pr.at, pr.issue_number)).commit if self.prs else ""

    def of_sweep(self, sweep: str) -> list[PrRecord]:
        """The pull requests of one sweep, in the order of their times."""
        return sorted((self.prs[n] for n in self.members.get(sweep, ())), key=lambda pr: (pr.at, pr.issue_number))

    def contexts(self) -> set[str]:
        """Every context that the stream knows of: used, tried, made, imported or revoked."""
        known = {*self.revoked, *self.refuted, *self.parents, *(one.context for one in self.imported.values())}
        known.update(parent for parents in self.parents.values() for parent in parents)
        if self.policy is not None:
            known.add(self.policy.stock_context)
        used = [pr.context for pr in self.prs.values()] + [one.context for one in self.inflight.values()]
        return known.union(one for one in used if one is not None)

    def has_work(self, sweep: str) -> bool:
        """Whether a pull request of the sweep was reached and is not finished."""
        members = (self.prs[number] for number in self.members.get(sweep, ()))
        return any(pr.reached and pr.state not in FINISHED for pr in members)

    def counts(self, sweep: str) -> dict[str, int]:
        """Pull requests of one sweep by state; those that wait for a slot appear as ``awaiting_slot``."""
        found: dict[str, int] = {}
        for number in self.members.get(sweep, ()):
            key = str(self.shown_state(number))
            found[key] = found.get(key, 0) + 1
        return found

    def shown_state(self, number: int) -> str:
        """A pull request's state as people are shown it; ``unreached``: no cascade has come to it."""
        pr = self.prs[number]
        if pr.state in (PrState.QUEUED, PrState.FIND_SIMILAR):
            if number in self.ready:
                return PrState.AWAITING_SLOT if pr.state is PrState.FIND_SIMILAR else PrState.QUEUED
            return "unreached" if not pr.reached else str(pr.state)
        return str(pr.state)

    def reindex(self) -> None:
        """Makes ``open`` and ``unreached`` anew, after the active sweep or its pull requests have changed."""
        active = [self.prs[n] for n in self.members.get(self.sweep, ()) if self.prs[n].state not in FINISHED]
        self.open = sorted((pr.at, pr.issue_number) for pr in active if pr.reached)
        self.unreached = sorted((pr.at, pr.issue_number) for pr in active if not pr.reached)

    def close(self, pr: PrRecord) -> None:
        """Takes a finished pull request out of the indexes that it is in."""
        if self.again:
            self.again.pop(pr.issue_number, None)
        remove_place(self.open if pr.reached else self.unreached, (pr.at, pr.issue_number))

    def refute(self, context: str, pr: PrRecord) -> None:
        """Remembers that ``context`` does not build ``pr``."""
        if context not in pr.tried:
            pr.tried.add(context)
            if self.again and pr.again is None:
                self.again.pop(pr.issue_number, None)
            insort(self.refuted.setdefault(context, []), (pr.at, pr.issue_number))

    def count_failure(self, pr: PrRecord, attempt: InFlight, outcome: Outcome) -> None:
        """What a failure that is not the infrastructure's refutes, and which of the budgets of ``pr`` it spends.

        The first flake of a context spends nothing but that it was the first. What was revoked meanwhile is out of use
        anyway, and nobody is charged for it.
        """
        context, made_here = context_of(attempt, outcome), attempt.stage is Stage.LLM_GENERATE
        flaked = pr.flaked.get(context) if context is not None else None
        if flaked is not None and flaked.stage is Stage.LLM_GENERATE:
            made_here = True
        if outcome.failure_class is FailureClass.TAMPER and made_here:
            pr.generation_ended = True
        if self.revoked and (context in self.revoked or attempt.context in self.revoked):
            return
        if outcome.failure_class is FailureClass.AGENT and attempt.account is not None:
            pr.aborted += 1
            return
        first = flaked is None or flaked.unjudged
        if outcome.failure_class is FailureClass.FLAKE and context is not None and first:
            pr.flaked[context] = Flaked(attempt.stage if flaked is None else flaked.stage, attempt.source)
            self.again[pr.issue_number] = None
            return
        if context is not None:
            self.refute(context, pr)
        if made_here:
            pr.generations += 1

    def keep_unjudged(self, pr: PrRecord, attempt: InFlight, context: str | None) -> None:
        """What a session made has no verdict, for the infrastructure failed: it is tried before another is paid for."""
        known = attempt.account is None or context == attempt.context or context in pr.tried or context in self.revoked
        if context is not None and not known and context not in pr.flaked:
            pr.flaked[context] = Flaked(attempt.stage, attempt.source, unjudged=True)
            self.again[pr.issue_number] = None

    def forget_refutations(self, pr: PrRecord) -> None:
        """Forgets what was refuted on a pull request that is worked on anew."""
        for context in pr.tried:
            remove_place(self.refuted[context], (pr.at, pr.issue_number))
        pr.tried.clear()
        pr.flaked.clear()
        self.again.pop(pr.issue_number, None)


def remove_place(line: list[Place], place: Place) -> None:
    """Takes ``place`` out of an ordered line, if it is there."""
    index = bisect_left(line, place)
    if index < len(line) and line[index] == place:
        del line[index]
