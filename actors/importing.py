"""Rows of an earlier pipeline as events: what it tried, and which contexts it says have worked.

Nothing of it counts as verified here. A context comes in as a *claim*: the cache knows of it, no pull request's inputs
match it, and it is tried like a neighbour's and judged by Headrace's own verifier. Attempts become history under rules
that no sweep has, of pull requests that the log does not know yet.

Importing the same rows again finds them there and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from actors.admission import admissions, rows_to_bytes
from actors.ids import new_id
from actors.log_client import new_event
from actors.templates import stock_context
from events.commands import Admit, Claim, ImportContexts
from events.decide import decide
from events.repository import evolve
from events.repository_state import RepositoryState
from events.types import (
    AttemptFailed,
    AttemptInterrupted,
    AttemptStarted,
    ContextsImported,
    ImportedContext,
    PullRequestFailed,
    RepositoryEvent,
    StageEntered,
)
from events.work import CascadePolicy, FailureClass, Level, Outcome, PullRequest, Stage, VerificationRules
from store.docker_context import DockerContext
from store.log import Append, Appended
from store.opening import Store
from store.snapshots import load

__all__ = ["CLAIMED_RULES", "SWEEP", "Claimed", "EarlierAttempt", "Imported", "import_rows"]

SWEEP = "imported"
CLAIMED_RULES = VerificationRules(level=Level.BUILD, must_pass=("imported: not verified here",))
"""No sweep has these, so what was imported under them is another job to every sweep."""
CLAIMED_INPUTS = "claimed"
"""No digest of inputs, so the cache never answers with a claim."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A context that an earlier pipeline says has worked on a pull request."""

    row: PullRequest
    context: DockerContext


class EarlierAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt of an earlier pipeline. ``log``: all that it printed; ``finished_at``: as it was told, for people."""

    row: PullRequest
    stage: Stage
    succeeded: bool
    agent: str | None = None
    message: str = ""
    log: str = ""
    failure_class: FailureClass = FailureClass.RECIPE
    finished_at: str = ""


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did. ``known``: rows that the log had, or whose pull request it knows already."""

    contexts: int
    attempts: int
    contexts_known: int
    attempts_known: int


def import_rows(
    store: Store, *, contexts: Sequence[Claimed], attempts: Sequence[EarlierAttempt], at: float
) -> Imported:
    """Records rows, all in one transaction. ``at``: POSIX seconds.

    Raises:
        LogUnavailable: nothing was recorded.
    """
    rows = [*(one.row for one in contexts), *(one.row for one in attempts)]
    names = dict.fromkeys(row.repository for row in rows)
    done = _Import(store, at)
    batches = []
    for name in names:
        own = [one for one in contexts if one.row.repository == name]
        tried = [one for one in attempts if one.row.repository == name]
        batches += done.repository(name, own, tried)
    for result in store.log.append_many(batches) if batches else ():
        if not isinstance(result, Appended):
            raise result
    return done.told()


class _Import:
    """Decides, repository by repository, and counts."""

    def __init__(self, store: Store, at: float) -> None:
        self._store, self._at = store, at
        self._contexts = self._attempts = self._contexts_known = self._attempts_known = 0

    def told(self) -> Imported:
        return Imported(
            contexts=self._contexts,
            attempts=self._attempts,
            contexts_known=self._contexts_known,
            attempts_known=self._attempts_known,
        )

    def repository(self, name: str, contexts: Iterable[Claimed], attempts: Iterable[EarlierAttempt]) -> list[Append]:
        stream = f"repository:{name}"
        state: RepositoryState = load(self._store.log, stream).state
        version = state.version
        events: list[RepositoryEvent] = []

        def take(new: Iterable[RepositoryEvent]) -> None:
            for event in new:
                evolve(state, event)
                events.append(event)

        claims = list(dict.fromkeys(self._claim(one) for one in contexts))
        news = decide(state, ImportContexts(contexts=claims), self._at)
        fresh = sum(len(event.contexts) for event in news if isinstance(event, ContextsImported))
        self._contexts += fresh
        self._contexts_known += len(claims) - fresh
        take(news)
        by_number: dict[int, list[EarlierAttempt]] = {}
        for one in attempts:
            if one.row.issue_number in state.prs:
                self._attempts_known += 1
            else:
                by_number.setdefault(one.row.issue_number, []).append(one)
        if by_number:
            sweep = state.sweep
            take(self._admitted(state, [given[0].row for given in by_number.values()]))
            for given in by_number.values():
                for one in given:
                    take(self._attempt(one))
                    self._attempts += 1
                take([self._end(given[-1])])
            if sweep:  # whoever worked on the repository goes on as if nothing had been
                take(decide(state, Claim(incarnation=new_id(), sweep=sweep), self._at))
        new = [new_event(event, new_id()) for event in events]
        return [Append(stream, version, new, self._at)] if new else []

    def _claim(self, one: Claimed) -> ImportedContext:
        digest = self._store.blobs.put(one.context.to_tar_bytes())
        return ImportedContext(
            context=digest,
            issue_number=one.row.issue_number,
            created_at=one.row.created_at,
            inputs=f"{CLAIMED_INPUTS}:{digest}",
            rules=CLAIMED_RULES,
            attempt_id=f"{SWEEP}:{one.row.name}:{digest[:12]}",
        )

    def _admitted(self, state: RepositoryState, rows: Sequence[PullRequest]) -> list[RepositoryEvent]:
        """The claim of the import's own sweep, and its pull requests, past the cache."""
        policy = state.policy or CascadePolicy(stock_context=stock_context().digest)
        blob = self._store.blobs.put(rows_to_bytes(rows))
        admitted = admissions(rows, rows_blob=blob)
        claim = decide(state, Claim(incarnation=new_id(), sweep=SWEEP), self._at)
        numbers = [row.issue_number for row in rows]
        admit = Admit(sweep=SWEEP, rules=CLAIMED_RULES, policy=policy, pull_requests=admitted)
        return [
            *claim,
            *decide(state, admit, self._at),
            StageEntered(issue_number=numbers[0], stage=Stage.CHECK_CACHE, others=numbers[1:]),
            StageEntered(issue_number=numbers[0], stage=Stage.FIND_SIMILAR, reason="imported", others=numbers[1:]),
        ]

    def _attempt(self, one: EarlierAttempt) -> list[RepositoryEvent]:
        """The intent and the end of an attempt. A success without a verdict of ours is none: it counts as ended."""
        attempt_id, number = f"{SWEEP}-{new_id()}", one.row.issue_number
        when = f" of {one.finished_at}" if one.finished_at else ""
        started = AttemptStarted(
            attempt_id=attempt_id,
            issue_number=number,
            stage=one.stage,
            sweep=SWEEP,
            lease=SWEEP,
            runner=SWEEP,
            agent=one.agent,
            reason=f"imported: an attempt{when} by an earlier pipeline",
        )
        blobs = {"build_log": self._store.blobs.put(one.log.encode())} if one.log else {}
        return [started, self._ended(one, attempt_id, blobs)]

    def _ended(self, one: EarlierAttempt, attempt_id: str, blobs: dict[str, str]) -> RepositoryEvent:
        if one.succeeded:
            reason = "imported: it is said to have succeeded, which was not verified here"
            return AttemptInterrupted(
                attempt_id=attempt_id, issue_number=one.row.issue_number, reason=reason, blobs=blobs
            )
        outcome = Outcome(
            verified=False,
            level=CLAIMED_RULES.level,
            stage="build",
            failure_class=one.failure_class,
            message=one.message or "no message was handed over",
            blobs=blobs,
            log_tail="\n".join(one.log.splitlines()[-40:]),
        )
        return AttemptFailed(attempt_id=attempt_id, issue_number=one.row.issue_number, outcome=outcome)

    def _end(self, last: EarlierAttempt) -> RepositoryEvent:
        return PullRequestFailed(
            issue_number=last.row.issue_number,
            reason="imported: not verified here; a sweep that has it works on it",
            stage="imported",
            failure_class=None if last.succeeded else last.failure_class,
        )
