"""Measures a policy on generated worlds against what theory allows."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from actors.simulation.engine import Simulation
from actors.simulation.world import World
from events.work import CascadePolicy
from store.memory import MemoryLog

__all__ = ["KNOBS", "Measured", "mean", "measure"]

KNOBS = CascadePolicy(stock_context="0" * 64, try_default=False, generate=True)
"""Window 60 days, cap 40, three sessions a pull request, agents, no stock template."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy did.

    ``sessions``: per environment, as a multiple of the bound 1/success; ``verifications``: per pull request;
    ``makespan_min``: virtual minutes; ``of_ideal``: makespan over one verification a pull request and one session an
    environment, divided by the workers; ``of_expected``: the same with 1/success sessions an environment.
    """

    sessions: float
    verifications: float
    makespan_min: float
    of_ideal: float
    of_expected: float
    unfinished: float


def measure(world: World, *, policy: str = "cascade") -> Measured:
    """Runs ``world`` under ``policy``. A pull request that no other's context fits counts as an environment."""
    summary = Simulation(world, MemoryLog(log_id="measured"), policy=policy, knobs=KNOBS).run()
    (agent,) = world.agents
    environments = 0
    for repository in world.repositories:
        alone = sum(pr.alone for pr in repository.prs)
        environments += len({pr.epoch for pr in repository.prs if not pr.alone}) + alone
    verifying = summary.prs * world.verify.seconds
    ideal = (verifying + environments * agent.seconds) / world.workers
    expected = (verifying + environments * agent.seconds / agent.success) / world.workers
    return Measured(
        sessions=summary.agent_sessions / environments * agent.success,
        verifications=summary.verifications / summary.prs,
        makespan_min=summary.makespan_s / 60.0,
        of_ideal=summary.makespan_s / ideal,
        of_expected=summary.makespan_s / expected,
        unfinished=float(summary.prs - summary.succeeded - summary.failed),
    )


def mean(found: Iterable[Measured]) -> Measured:
    """Field by field."""
    rows = [msgspec.structs.astuple(one) for one in found]
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return Measured(**dict(zip(Measured.__struct_fields__, means, strict=True)))
