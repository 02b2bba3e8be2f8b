"""Verification handed in from outside: a function in the place of the Docker engine.

For tests, rehearsals and verifiers of one's own. Everything else is as ever: the core decides what is tried, every
attempt is in the log, logs are blobs. A function that raises an ``InfraError`` has had no verdict, and is asked again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from datetime import datetime
from typing import Protocol, cast, runtime_checkable

import msgspec

from actors.agents.session import SessionReason
from actors.api.errors import RateLimitError
from actors.settings import Settings
from actors.templates import stock_context
from actors.workbench import Workbench
from events.errors import InfraError
from events.work import (
    FailureClass,
    Metrics,
    Outcome,
    PriorAttempt,
    PullRequest,
    SessionReport,
    Stage,
    TestCounts,
    WorkOrder,
)
from store.blobs import BlobStore
from store.docker_context import DockerContext

__all__ = [
    "ContextGenerator",
    "ContextVerifier",
    "Verification",
    "VerifierBench",
    "WorkbenchMaker",
    "can_generate",
    "workbench_of",
]

POLL_S = 0.1
TAIL_LINES = 20

WorkbenchMaker = Callable[[Settings, BlobStore], Workbench]


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict on one context for one pull request.

    ``stage``: where it ended (``build``, ``smoke``, ``tests``, …); ``failure_class``: who has to answer for a refusal;
    ``log``: all that was printed, which goes into the store.

    >>> Verification(verified=False, stage="smoke", message="no module named numpy").failure_class
    <FailureClass.RECIPE: 'recipe'>
    >>> Verification(verified=True).failure_class is None
    True
    """

    verified: bool
    stage: str = "tests"
    message: str = ""
    failure_class: FailureClass | None = None
    tests: TestCounts | None = None
    log: str = ""

    def __post_init__(self) -> None:
        if self.verified:
            msgspec.structs.force_setattr(self, "failure_class", None)
        elif self.failure_class is None:
            msgspec.structs.force_setattr(self, "failure_class", FailureClass.RECIPE)


class ContextVerifier(Protocol):
    """Judges a context on a pull request. Any function of these two arguments is one.

    It must give the same verdict each time that it is asked the same. In a ``SynthesizeImagesRunner`` it runs in other
    processes, several at once: it is pickled, so what it changes stays there.

    >>> def only_modern(pull_request: PullRequest, context: DockerContext) -> bool:
    ...     return pull_request.python_version != "3.8"
    """

    def __call__(self, pull_request: PullRequest, context: DockerContext) -> Verification | bool:
        """The verdict; ``True`` and ``False`` are one without details.

        Raises:
            InfraError: there is none, for reasons that neither context nor pull request have to answer for.
        """


@runtime_checkable
class ContextGenerator(Protocol):
    """What a verifier may have besides: a ``generate`` in the place of a coding agent's session.

    >>> class Scripted:
    ...     def __call__(self, pull_request: PullRequest, context: DockerContext) -> bool:
    ...         return "numpy" in context.build_env_sh
    ...     def generate(self, pull_request: PullRequest, prior: Sequence[PriorAttempt]) -> DockerContext:
    ...         return msgspec.structs.replace(stock_context(), build_env_sh="pip install numpy")
    >>> isinstance(Scripted(), ContextGenerator)
    True
    """

    def generate(self, pull_request: PullRequest, prior: Sequence[PriorAttempt]) -> DockerContext | None:
        """A new context for a pull request on which ``prior`` attempts failed; ``None``: the session made none.

        Raises:
            RateLimitError: the account is exhausted; this costs no attempt.
        """


class VerifierBench:
    """A :class:`actors.workbench.Workbench` over a verifier. It makes nothing that could be left behind.

    A verifier cannot be interrupted: when an order is cancelled its verdict is not waited for, and does not count.
    """

    def __init__(self, verifier: ContextVerifier, blobs: BlobStore) -> None:
        self._verifier, self._blobs = verifier, blobs

    def perform(self, order: WorkOrder, *, cancel: threading.Event) -> Outcome:
        """See ``Workbench``; raises what the verifier raises, but for ``InfraError``."""
        done: Future[Outcome] = Future()

        def judge() -> None:
            try:
                done.set_result(self._judged(order))
            except BaseException as exc:  # carried over to whoever waits
                done.set_exception(exc)

        threading.Thread(target=judge, name=f"verifier {order.attempt_id}", daemon=True).start()
        while not cancel.is_set():
            if wait([done], timeout=POLL_S).done:
                return done.result()
        return Outcome(
            verified=False,
            level=order.rules.level,
            stage="verifier",
            failure_class=FailureClass.INFRA,
            message="cancelled",
            context=order.context,
            cancelled=True,
        )

    def _judged(self, order: WorkOrder) -> Outcome:
        context = self._context(order)
        if order.stage is Stage.LLM_GENERATE:
            try:
                made = cast(ContextGenerator, self._verifier).generate(order.pull_request, order.prior)
            except RateLimitError as exc:
                return _without_context(order, SessionReason.RATE_LIMITED.value, exc.message, reset_at=exc.reset_at)
            if made is None:
                return _without_context(order, "no_scripts", "the session made no context")
            context = made
        digest = self._blobs.put(context.to_tar_bytes())
        try:
            given = self._verifier(order.pull_request, context)
        except InfraError as exc:
            given = Verification(verified=False, message=exc.message, failure_class=FailureClass.INFRA)
        verdict = Verification(verified=given) if isinstance(given, bool) else given
        return self._outcome(order, verdict, digest)

    def reap(self, *, log_id: str, keep: frozenset[str]) -> list[str]:  # noqa: ARG002 - see Workbench
        """See ``Workbench``."""
        return []

    def end(self, attempt_id: str) -> None:
        """See ``Workbench``."""

    def salvage(self, attempt_id: str) -> dict[str, str]:  # noqa: ARG002 - see Workbench
        """See ``Workbench``."""
        return {}

    def wait_ready(self, *, timeout_s: float) -> str | None:  # noqa: ARG002 - see Workbench
        """See ``Workbench``: it is always there."""
        return None

    def _context(self, order: WorkOrder) -> DockerContext:
        if order.context is None:
            return stock_context()
        return DockerContext.from_tar_bytes(self._blobs.get(order.context), source=f"context {order.context[:12]}")

    def _outcome(self, order: WorkOrder, verdict: Verification, context: str) -> Outcome:
        session = _report(order, "completed") if order.stage is Stage.LLM_GENERATE else None
        return Outcome(
            verified=verdict.verified,
            level=order.rules.level,
            stage=verdict.stage,
            failure_class=verdict.failure_class,
            message=verdict.message or ("verified" if verdict.verified else "refused"),
            context=context,
            tests=verdict.tests,
            metrics=Metrics(),
            blobs={"test_log": self._blobs.put(verdict.log.encode())} if verdict.log else {},
            log_tail="" if verdict.verified else "\n".join(verdict.log.splitlines()[-TAIL_LINES:]),
            session=session,
        )


def _without_context(order: WorkOrder, ended: str, message: str, *, reset_at: datetime | None = None) -> Outcome:
    """The outcome of a session that left nothing to judge."""
    return Outcome(
        verified=False,
        level=order.rules.level,
        stage="session",
        failure_class=FailureClass.AGENT,
        message=message,
        session=_report(order, ended, message, reset_at=reset_at),
    )


def _report(order: WorkOrder, ended: str, message: str = "", *, reset_at: datetime | None = None) -> SessionReport:
    return SessionReport(
        account=order.account or "",
        agent=order.agent or "",
        ended=ended,
        message=message,
        reset_at=None if reset_at is None else reset_at.timestamp(),
    )


class _Over:
    """Makes a bench over a verifier, in whichever process it is sent to."""

    def __init__(self, verifier: ContextVerifier) -> None:
        self._verifier = verifier

    def __call__(self, settings: Settings, blobs: BlobStore) -> Workbench:  # noqa: ARG002 - a WorkbenchMaker's
        return VerifierBench(self._verifier, blobs)


class _Given:
    """Hands a bench on that somebody made."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def __call__(self, settings: Settings, blobs: BlobStore) -> Workbench:  # noqa: ARG002 - a WorkbenchMaker's
        return self._bench


def workbench_of(verifier: ContextVerifier | Workbench) -> WorkbenchMaker:
    """What makes the workbench for an injected verifier, which may be a workbench itself."""
    return _Given(cast(Workbench, verifier)) if hasattr(verifier, "perform") else _Over(verifier)


def can_generate(verifier: ContextVerifier | Workbench) -> bool:
    """Whether sessions may be asked of it."""
    return hasattr(verifier, "perform") or isinstance(verifier, ContextGenerator)
