"""What is swept in a simulated run: rows, their luck, how much runs at once, and with which agents."""

from __future__ import annotations

import random

import msgspec

from events.work import CascadePolicy, FailureClass, PullRequest
from tests.dst.agents import Agents
from tests.pull_requests import pull_request

__all__ = ["STOCK", "Scenario", "draw_scenario"]

STOCK = "5" * 64


class Scenario(msgspec.Struct, frozen=True):
    """What is swept: rows, those that no context builds, and how the workbench behaves.

    The first verdict on those in ``flaky`` is a flake; the refused ones are refused as one of ``classes``.
    """

    rows: list[PullRequest]
    refused: frozenset[str]
    workers: int
    max_active: int
    hosts: int
    seconds: float
    infra: float
    policy: CascadePolicy
    flaky: frozenset[str] = frozenset()
    classes: tuple[FailureClass, ...] = (FailureClass.RECIPE,)
    agents: Agents | None = None


def draw_scenario(rng: random.Random) -> Scenario:
    """What a seed decides; every other one has agents."""
    days = rng.choice([1, 10, 40])
    rows = [
        pull_request(
            repository,
            number,
            created_at=f"2020-{1 + number * days // 30 % 12:02d}-{1 + number * days % 28:02d}T00:00:00Z",
            seed=rng.random() < 0.7,
        )
        for repository in range(rng.randrange(1, 4))
        for number in range(1, rng.randrange(2, 8))
    ]
    drawn = Scenario(
        rows=rows,
        refused=frozenset(one.name for one in rows if rng.random() < 0.2),
        workers=rng.randrange(1, 4),
        max_active=rng.randrange(1, 4),
        hosts=rng.randrange(1, 3),
        seconds=rng.choice([0.05, 2.0, 60.0]),
        infra=rng.choice([0.0, 0.0, 0.1]),
        policy=CascadePolicy(stock_context=STOCK, neighbor_cap=rng.choice([1, 40])),
        flaky=frozenset(one.name for one in rows if rng.random() < 0.2),
        classes=(FailureClass.RECIPE, FailureClass.TIMEOUT, FailureClass.TAMPER),
    )
    return _with_agents(drawn, rng) if rng.random() < 0.5 else drawn


def _with_agents(drawn: Scenario, rng: random.Random) -> Scenario:
    policy = msgspec.structs.replace(drawn.policy, generate=True, race=rng.choice([1, 1, 2]))
    names = [one.name for one in drawn.rows]
    classes = (FailureClass.RECIPE, FailureClass.TIMEOUT)
    agents = Agents.drawn(rng, names)
    return msgspec.structs.replace(drawn, policy=policy, agents=agents, classes=classes, flaky=frozenset())
