"""From an attempt that has started to the order that its runner gets."""

from __future__ import annotations

from actors.log_client import LogClient
from actors.repository_config import RepositoryConfig
from events.repository_state import RepositoryState
from events.types import AttemptStarted
from events.work import PriorAttempt, PullRequest, Stage, WorkOrder
from store.read_models import AttemptRow

__all__ = ["order_of", "prior_attempts"]

PRIOR_ATTEMPTS = 8
"""How many failed attempts, the latest, an agent is told of."""
PRIOR_LOG_CHARS = 4_000


def order_of(
    started: AttemptStarted,
    *,
    state: RepositoryState,
    config: RepositoryConfig,
    pull_request: PullRequest,
    prior: tuple[PriorAttempt, ...] = (),
) -> WorkOrder:
    """The order for an attempt that ``state`` has in flight."""
    return WorkOrder(
        attempt_id=started.attempt_id,
        log_id=config.log_id,
        sweep=config.sweep,
        stage=started.stage,
        pull_request=pull_request,
        rules=state.prs[started.issue_number].rules,
        anchor=state.anchor,
        context=started.context,
        agent=started.agent,
        account=started.account,
        prior=prior,
        known_failures=_known_failures(started, state),
    )


def _known_failures(started: AttemptStarted, state: RepositoryState) -> str | None:
    """The ``tests`` blob of the attempt that verified the context on the pull request that it is taken from."""
    source = state.prs.get(started.source) if started.source is not None else None
    return source.tests if source is not None and source.context == started.context else None


async def prior_attempts(
    started: AttemptStarted, *, state: RepositoryState, log: LogClient
) -> tuple[PriorAttempt, ...]:
    """What has failed on the pull request of a session, oldest first; nothing for other attempts.

    Raises:
        LogUnavailable: the log could not be read for two minutes.
    """
    wanted = state.prs[started.issue_number].failures[-PRIOR_ATTEMPTS:]
    if started.stage is not Stage.LLM_GENERATE or not wanted:
        return ()
    owner, _, repo = state.repository.partition("/")
    known = {one.attempt_id: one for one in await log.attempts_of(owner, repo, started.issue_number)}
    return tuple(_prior(known[one]) for one in wanted if one in known)


def _prior(row: AttemptRow) -> PriorAttempt:
    return PriorAttempt(
        attempt_id=row.attempt_id,
        stage=row.stage,
        failed_at=row.ended_stage or "",
        message=row.message,
        failure_class=row.failure_class,
        context=row.context,
        log_tail=row.log_tail[-PRIOR_LOG_CHARS:],
    )
