"""A simulated world: its file format (CONTRACTS.md section 4), its validation, and what comes out of an attempt in it.

A context that was generated for a pull request of epoch *e* verifies on exactly the pull requests of epoch *e*. Two
optional fields of a pull request make worlds that do not keep to this: ``also`` names further epochs whose contexts
verify on it, and ``alone`` says that its own epoch's contexts do not (one that was generated for it serves it only).

Outcomes are a function of the world's seed and of what is attempted, not of the order in which it is: two policies
meet the same luck.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Annotated

import msgspec
from msgspec import Meta

from events.errors import InputError

__all__ = ["Agent", "Limit", "Oracle", "SimulatedPr", "SimulatedRepository", "Verify", "World", "load_world"]

_OWN = -1 << 62
"""The epoch of contexts that serve one pull request only."""

_Positive = Annotated[float, Meta(gt=0)]
_Fraction = Annotated[float, Meta(ge=0, le=1)]
_Count = Annotated[int, Meta(ge=1)]
_Name = Annotated[str, Meta(min_length=1, pattern="^[^/\\s]+$")]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the parts of a world file."""


class Verify(_Part, frozen=True, kw_only=True):
    """How long one verification takes; a jitter of 0.2 spreads it evenly over ±20 %."""

    seconds: _Positive = 600.0
    jitter: _Fraction = 0.0


class Limit(_Part, frozen=True, kw_only=True):
    """An account starts at most ``sessions`` within any ``per_seconds``."""

    sessions: _Count
    per_seconds: _Positive


class Agent(_Part, frozen=True, kw_only=True):
    """A coding agent's account: sessions at once, how long one takes, and how likely it ends in a verified context."""

    name: _Name
    slots: _Count
    seconds: _Positive = 3600.0
    jitter: _Fraction = 0.0
    success: _Fraction = 0.8
    limit: Limit | None = None


class SimulatedPr(_Part, frozen=True, kw_only=True):
    """A pull request and, hidden from the core, the environment that it needs."""

    issue_number: int
    created_at: str
    epoch: int
    seed: bool = True
    also: list[int] = []
    alone: bool = False


class SimulatedRepository(_Part, frozen=True, kw_only=True):
    """A repository with its pull requests, in any order."""

    owner: _Name
    repo: _Name
    prs: list[SimulatedPr]

    @property
    def name(self) -> str:
        """``owner/repo``."""
        return f"{self.owner}/{self.repo}"


class World(_Part, frozen=True, kw_only=True):
    """Everything that a simulation depends on."""

    seed: int = 0
    workers: _Count
    verify: Verify = Verify()
    agents: list[Agent] = []
    repositories: list[SimulatedRepository]


def load_world(path: str | Path) -> World:
    """Reads and checks a world file.

    Raises:
        InputError: it cannot be read, or is no world; the message names file and field.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror}; give a world file (JSON)") from exc
    try:
        world = msgspec.json.decode(data, type=World)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InputError(f"{path}: {exc}; see `headrace simulate --help` for the format") from exc
    _check(world, path)
    return world


def _check(world: World, path: str | Path) -> None:
    def refuse(field: str, problem: str) -> InputError:
        return InputError(f"{path}: field `{field}`: {problem}")

    names = [one.name for one in world.repositories]
    known: set[str] = set()
    for index, name in enumerate(names):
        if name in known:
            raise refuse(f"repositories[{index}]", f"{name} is there twice; merge the two")
        known.add(name)
    agents = [one.name for one in world.agents]
    for index, name in enumerate(agents):
        if name in agents[:index] or name == "docker":
            raise refuse(f"agents[{index}].name", f"{name!r} is taken; choose another name")
    for index, repository in enumerate(world.repositories):
        seen: set[int] = set()
        for at, pr in enumerate(repository.prs):
            field = f"repositories[{index}].prs[{at}]"
            if pr.issue_number in seen:
                raise refuse(f"{field}.issue_number", f"{pr.issue_number} is there twice in {repository.name}")
            seen.add(pr.issue_number)
            try:
                moment = datetime.fromisoformat(pr.created_at)
            except ValueError as exc:
                raise refuse(f"{field}.created_at", f"{pr.created_at!r} is no ISO 8601 time ({exc})") from exc
            if moment.tzinfo is None:
                raise refuse(f"{field}.created_at", f"{pr.created_at!r} has no time zone; write it in UTC, ending in Z")


class Oracle:
    """What comes out of attempts in a world. It remembers what each generated context was generated for."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._prs = {
            repository.name: {pr.issue_number: pr for pr in repository.prs} for repository in world.repositories
        }
        self._agents = {one.name: one for one in world.agents}
        self._made: dict[str, tuple[int, int]] = {}

    def verifies(self, repository: str, number: int, context: str) -> bool:
        """Whether ``context`` builds this pull request."""
        made = self._made.get(context)
        if made is None:
            return False
        pr = self._prs[repository][number]
        epoch, origin = made
        return origin == number or (epoch == pr.epoch and not pr.alone) or epoch in pr.also

    def generates(self, repository: str, number: int, *, agent: str, session: int) -> str | None:
        """The context that session ``session`` on this pull request makes; ``None`` if it fails."""
        luck = Random(f"{self._world.seed}:{repository}:{number}:{session}").random()  # noqa: S311
        if luck >= self._agents[agent].success:
            return None
        context = sha256(f"{self._world.seed}:{repository}:{number}:{session}".encode()).hexdigest()
        pr = self._prs[repository][number]
        self._made[context] = (pr.epoch if not pr.alone else _OWN, number)
        return context

    def seconds(self, attempt_id: str, agent: str | None) -> float:
        """How long an attempt takes: a session of ``agent``, or a verification."""
        what = self._agents[agent] if agent else self._world.verify
        if what.jitter == 0.0:
            return what.seconds
        spread = Random(f"{self._world.seed}:{attempt_id}").uniform(-what.jitter, what.jitter)  # noqa: S311
        return what.seconds * (1.0 + spread)
