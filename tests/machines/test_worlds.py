"""Properties 20 and 21 over worlds and fault plans that Hypothesis draws and shrinks.

The real actors of a whole sweep run in :mod:`tests.dst.world`, under its virtual clock and its seeded scheduler. There
everything comes from one seed; here Hypothesis draws the timeline, the network, and at which fault points, for the how
many-th time, a process dies, and so shrinks a failure to the few that it takes. What it prints replays the failure.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

from actors import faults
from events import codec
from events.types import Account, AttemptFailed, AttemptStarted, AttemptSucceeded
from events.work import CascadePolicy, FailureClass
from tests.dst.agents import Agents, SimAgent
from tests.dst.cluster import Faults
from tests.dst.scenario import STOCK, Scenario
from tests.dst.world import World
from tests.machines.budget import budget
from tests.pull_requests import pull_request

POINTS = sorted(faults.POINTS)
OF_AGENTS = frozenset(
    {
        faults.REPOSITORY_LEASED_AGENT,
        faults.REPOSITORY_BEFORE_TELLING,
        faults.GOVERNOR_BEFORE_COUNTING,
        faults.GOVERNOR_COUNTED,
    }
)
"""Reached only where there are sessions."""


def scenario_of(
    *,
    sizes: list[int],
    refused: frozenset[int] = frozenset(),
    unseeded: frozenset[int] = frozenset(),
    workers: int = 1,
    max_active: int = 1,
    hosts: int = 1,
    seconds: float = 2.0,
    neighbor_cap: int = 40,
) -> Scenario:
    """A sweep of ``len(sizes)`` repositories of so many PRs. ``refused``: numbers of those that no context builds."""
    rows = [
        pull_request(repository, number, seed=number == 1 or number not in unseeded)
        for repository, size in enumerate(sizes)
        for number in range(1, size + 1)
    ]
    return Scenario(
        rows=rows,
        refused=frozenset(one.name for one in rows if one.issue_number in refused),
        workers=workers,
        max_active=max_active,
        hosts=hosts,
        seconds=seconds,
        infra=0.0,
        policy=CascadePolicy(stock_context=STOCK, neighbor_cap=neighbor_cap),
    )


Ended = dict[str, dict[int, tuple[str, list[tuple[str | None, FailureClass | None]]]]]


def ended(world: World) -> Ended:
    """What each PR came to: its state, and contexts and verdicts of the attempts that counted, in their order."""
    contexts: dict[str, str | None] = {}
    verdicts: dict[tuple[str, int], list[tuple[str | None, FailureClass | None]]] = {}
    for one in world.log.read_all():
        event = codec.decode(one.type, one.schema, one.data)
        if isinstance(event, AttemptStarted):
            contexts[event.attempt_id] = event.context
        elif isinstance(event, (AttemptSucceeded, AttemptFailed)):
            cls = event.outcome.failure_class
            if cls is not FailureClass.INFRA:
                where = (one.stream.removeprefix("repository:"), event.issue_number)
                verdicts.setdefault(where, []).append((contexts[event.attempt_id], cls))
    return {
        name: {number: (str(pr.state), verdicts.get((name, number), [])) for number, pr in state.prs.items()}
        for name, state in world.observer.repositories.items()
    }


def states(given: Ended) -> Ended:
    """Only what each came to."""
    return {name: {number: (state, []) for number, (state, _) in prs.items()} for name, prs in given.items()}


def run(seed: int, scenario: Scenario, plan: Faults) -> World:
    world = World(seed, None, scenario=scenario, given=plan)
    world.run()
    return world


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    logger.disable("actors")
    yield
    logger.enable("actors")


numbers = st.frozensets(st.integers(1, 5), max_size=3)
scenarios = st.builds(
    scenario_of,
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    refused=numbers,
    unseeded=numbers,
    workers=st.integers(1, 3),
    max_active=st.integers(1, 3),
    hosts=st.integers(1, 2),
    seconds=st.sampled_from([0.05, 2.0, 60.0]),
    neighbor_cap=st.sampled_from([1, 40]),
)
deaths = st.lists(st.tuples(st.sampled_from(POINTS), st.integers(1, 8)), max_size=6, unique=True)
plans = st.builds(
    Faults,
    lose=st.sampled_from([0.0, 0.01, 0.05]),
    repeat=st.sampled_from([0.0, 0.05, 0.3]),
    delay_s=st.sampled_from([0.002, 0.02, 0.2]),
    cut_off=st.sampled_from([0.0, 0.3]),
    at=deaths,
)


@budget(60)
@given(seed=st.integers(0, 2**16), scenario=scenarios, plan=plans)
def test_a_sweep_ends_as_one_without_faults_whoever_dies_wherever(seed: int, scenario: Scenario, plan: Faults) -> None:
    """The world's own checks hold at every append and at the end (:mod:`tests.dst.checks`)."""
    run(seed, scenario, plan)


@budget(25)
@given(seed=st.integers(0, 2**16), size=st.integers(1, 5), refused=numbers, at=deaths)
def test_after_recovery_the_log_says_of_every_pull_request_what_the_crash_free_one_says(
    seed: int, size: int, refused: frozenset[int], at: list[tuple[str, int]]
) -> None:
    scenario = scenario_of(sizes=[size, size], refused=refused, workers=2, max_active=2)
    assert ended(run(seed, scenario, Faults(at=at))) == ended(run(seed, scenario, Faults()))


@pytest.mark.parametrize("point", POINTS)
def test_every_fault_point_is_reached_and_its_death_changes_nothing(point: str) -> None:
    """Twice in one sweep, each time another process."""
    scenario = scenario_of(sizes=[3, 2], refused=frozenset({2}))
    if point in OF_AGENTS:
        account = Account(name="claude", slots=2, agent="claude")
        agents = Agents(agents=(SimAgent(account=account),), hard=frozenset(one.name for one in scenario.rows))
        policy = msgspec.structs.replace(scenario.policy, generate=True)
        scenario = msgspec.structs.replace(scenario, agents=agents, policy=policy)
    dying = "repository.before_interrupt"  # reached only when a runner's death interrupted an attempt
    first = [("runner.before_report", 1), ("runner.before_work", 3)] if point == dying else []
    world = run(7, scenario, Faults(at=[*first, (point, 1), (point, 2)]))
    assert world.cluster.killed >= 2
    found, crash_free = ended(world), ended(run(7, scenario, Faults()))
    if point in OF_AGENTS:  # which pull request is the pivot, and what a context is called, depends on the moment
        found, crash_free = states(found), states(crash_free)
    assert found == crash_free


def test_a_plan_replays_exactly() -> None:
    scenario = scenario_of(sizes=[3], refused=frozenset({2}))
    plan = Faults(lose=0.05, repeat=0.3, at=[("governor.granted", 1), ("runner.before_report", 2)])
    one, other = (World(5, None, scenario=scenario, given=msgspec.structs.replace(plan)).run() for _ in range(2))
    assert one == other
    assert one.deaths == 2
