"""Makes worlds of the kind on which the cascade is measured: seeded, so that a size and a seed name one world."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

from actors.simulation.world import Agent, SimulatedPr, SimulatedRepository, Verify, World

__all__ = ["make_world"]

START = datetime(2018, 1, 1, tzinfo=UTC)


def make_world(
    *,
    repositories: int = 20,
    prs: int = 200,
    epochs: tuple[int, int] = (3, 15),
    workers: int = 32,
    agents: int | None = None,
    success: float = 0.8,
    days: float = 420.0,
    alone: float = 0.0,
    also: float = 0.0,
    seeds: int = 0,
    seed: int = 1,
) -> World:
    """A world of repositories whose pull requests are spread over ``days`` and whose epochs' lengths are random.

    Args:
        repositories: how many.
        prs: pull requests of each.
        epochs: least and most epochs of a repository, evenly drawn.
        workers: of the world.
        agents: sessions at once; ``None``: as many as workers.
        success: of a session.
        days: the time line's length.
        alone: share of pull requests on which their own epoch's contexts fail.
        also: share of pull requests on which a far-away epoch's contexts verify too.
        seeds: pull requests of each repository, from its middle on, that are swept from the start; 0: all.
        seed: of the world and of its luck.
    """
    random = Random(seed)  # noqa: S311
    found = []
    for index in range(repositories):
        times = sorted(random.uniform(0.0, days) for _ in range(prs))
        count = min(prs, random.randint(*epochs))
        starts = {0, *random.sample(range(1, prs), count - 1)}
        epoch, rows = -1, []
        for at, day in enumerate(times):
            epoch += at in starts
            moment = (START + timedelta(days=day)).isoformat().replace("+00:00", "Z")
            stray = also > 0.0 and random.random() < also
            rows.append(
                SimulatedPr(
                    issue_number=at + 1,
                    created_at=moment,
                    epoch=epoch,
                    seed=seeds == 0 or prs // 2 <= at < prs // 2 + seeds,
                    also=[random.randrange(count)] if stray else [],
                    alone=alone > 0.0 and random.random() < alone,
                )
            )
        found.append(SimulatedRepository(owner="simulated", repo=f"r{index}", prs=rows))
    agent = Agent(name="claude", slots=agents or workers, seconds=3600.0, success=success)
    return World(seed=seed, workers=workers, verify=Verify(seconds=600.0), agents=[agent], repositories=found)
