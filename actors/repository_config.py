"""What repository actors are given, what they share, and how they are shown."""

from __future__ import annotations

import msgspec

from actors.attempts import AttemptFollower
from actors.gateway import Ref
from actors.leasing import LeaseDesk
from actors.log_client import LogClient
from events.work import CascadePolicy, VerificationRules

__all__ = ["Means", "RepositoryConfig", "RepositorySnapshot", "RunningAttempt"]

LINGER_S = 0.003
"""How long an append of one repository waits for those of others in its process."""


class RepositoryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a repository actor works with. ``runners``: by the slot of account ``docker``; ``agents``: the backend of
    each agent's account."""

    log_id: str
    sweep: str
    rules: VerificationRules
    policy: CascadePolicy
    writer: Ref
    governor: Ref
    runners: list[Ref]
    agents: dict[str, str] = msgspec.field(default_factory=dict)


class RunningAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt in flight, as shown to people. ``since``: POSIX seconds; ``account``: of a session."""

    issue_number: int
    stage: str
    runner: str
    since: float
    account: str | None = None


class RepositorySnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A repository as it stands. ``infra_until``: when it tries again after infra failures; 0.0: now.

    ``superseded``: ``failure`` is that another actor has claimed the stream. ``undone``: why what is left will not be
    done in this run, though nothing has failed.
    """

    repository: str
    counts: dict[str, int]
    running: list[RunningAttempt]
    drained: bool
    attempts_ended: int
    infra_streak: int
    infra_until: float
    infra_message: str = ""
    failure: str = ""
    superseded: bool = False
    undone: str = ""


class Means:
    """What the repositories of one process share: a client of the log, a desk for leases, a way to the runners."""

    def __init__(self, config: RepositoryConfig) -> None:
        self.log = LogClient(config.writer, linger_s=LINGER_S)
        self.desk = LeaseDesk(config.governor)
        self.follower = AttemptFollower(self.log, {ref.name: ref for ref in config.runners})
