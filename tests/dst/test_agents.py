"""A cascade while an account is exhausted, in virtual time: others go on, nothing is spent on it, then one probe."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from loguru import logger

from events import codec
from events.types import (
    Account,
    AccountPaused,
    AccountProbed,
    AccountReopened,
    AttemptRateLimited,
    AttemptStarted,
    Event,
    LeasesGranted,
)
from events.work import CascadePolicy, Stage
from tests.dst.agents import Agents, SimAgent
from tests.dst.cluster import Faults
from tests.dst.scenario import STOCK, Scenario
from tests.dst.world import EPOCH_S, World
from tests.pull_requests import pull_request

HOUR_S = 3600.0
SLOTS = 4
CLAUDE = SimAgent(account=Account(name="claude", slots=SLOTS, agent="claude"), sessions=6, window_s=HOUR_S)
SHORT = msgspec.structs.replace(CLAUDE, window_s=HOUR_S / 4)
CODEX = SimAgent(account=Account(name="codex", slots=1, agent="codex"))


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    logger.disable("actors")
    yield
    logger.enable("actors")


def swept(seed: int, repositories: int, *agents: SimAgent, faults: Faults | None = None) -> World:
    """Each repository needs a session for one of its two pull requests, but for three larger ones that need none."""
    rows = [pull_request(repository, number) for repository in range(repositories) for number in (1, 2)]
    easy = [pull_request(repository, number) for repository in range(90, 93) for number in range(1, 9)]
    scenario = Scenario(
        rows=[*rows, *easy],
        refused=frozenset(),
        workers=8,
        max_active=repositories + 3,
        hosts=2,
        seconds=100.0,
        infra=0.0,
        policy=CascadePolicy(stock_context=STOCK, generate=True),
        agents=Agents(agents=agents, hard=frozenset(one.name for one in rows), seconds=300.0),
    )
    world = World(seed, None, scenario=scenario, given=faults or Faults())
    world.run()
    return world


def recorded(world: World) -> list[tuple[float, Event]]:
    """Every event with the virtual second at which it was recorded."""
    return [(one.recorded_at - EPOCH_S, codec.decode(one.type, one.schema, one.data)) for one in world.log.read_all()]


def test_while_claude_is_exhausted_codex_and_verifications_go_on_and_claude_comes_back_by_one_probe() -> None:
    world = swept(1, 28, CLAUDE, CODEX)
    events = recorded(world)
    paused_at, paused = next((at, one) for at, one in events if isinstance(one, AccountPaused))
    probed_at = next(at for at, one in events if isinstance(one, AccountProbed))
    reopened_at = next(at for at, one in events if isinstance(one, AccountReopened))
    until = paused.until - EPOCH_S
    assert paused.account == "claude"
    assert until - paused_at > HOUR_S / 2, "it is exhausted for long"
    assert until - 0.001 <= probed_at < until + 10.0, "it is probed as soon as its pause is over"

    def granted(start: float, end: float) -> list[str]:
        return [
            lease.account
            for at, one in events
            if isinstance(one, LeasesGranted) and start < at < end
            for lease in one.leases
        ]

    assert "claude" not in granted(paused_at, until), "no lease while it is paused"
    assert granted(probed_at - 0.001, reopened_at).count("claude") == 1, "one lease goes first"
    assert granted(reopened_at - 0.001, reopened_at + 60.0).count("claude") == SLOTS, "then all slots are used"

    provider = world.bench.provider
    assert provider is not None
    began = [at - EPOCH_S for at in provider.began["claude"]]
    assert not [at for at in began if paused_at + 1.0 < at < until], "no session is burnt on it meanwhile"
    first = [at for at in provider.limited["claude"] if at - EPOCH_S < until]
    assert len(first) <= SLOTS, "only those that were under way when the limit came"

    meanwhile = [one for at, one in events if isinstance(one, AttemptStarted) and paused_at < at < until]
    assert {one.account for one in meanwhile if one.stage is Stage.LLM_GENERATE} == {"codex"}
    assert len([one for one in meanwhile if one.stage is Stage.LLM_GENERATE]) >= 8, "codex is never idle"
    assert [one for one in meanwhile if one.stage is Stage.TRY_SIMILAR], "nor is what needs no agent"
    counts = [state.counts("s") for state in world.observer.repositories.values()]
    assert all(set(one) == {"succeeded"} for one in counts)


def test_a_pause_survives_the_death_of_governor_and_sweep() -> None:
    """Whoever dies: what each limited session cost is bounded by what was under way, pause by pause."""
    deaths = [("governor.before_turn", 40), ("governor.counted", 6), ("repository.before_telling", 8)]
    world = swept(3, 16, SHORT, CODEX, faults=Faults(at=deaths))
    assert world.cluster.killed >= 2
    events = recorded(world)
    pauses = [(at, one.until - EPOCH_S) for at, one in events if isinstance(one, AccountPaused)]
    limits = [at for at, one in events if isinstance(one, AttemptRateLimited)]
    provider = world.bench.provider
    assert provider is not None
    for at, until in pauses:
        began = [one - EPOCH_S for one in provider.began["claude"]]
        assert not [one for one in began if at + 1.0 < one < until], f"a session on claude in the pause from {at}"
    assert len(limits) <= SLOTS * len(pauses)


def test_when_every_account_is_exhausted_what_needs_none_goes_on_and_all_comes_to_its_end() -> None:
    world = swept(4, 10, SHORT)
    events = recorded(world)
    paused_at, paused = next((at, one) for at, one in events if isinstance(one, AccountPaused))
    meanwhile = [
        one for at, one in events if isinstance(one, AttemptStarted) and paused_at + 1.0 < at < paused.until - EPOCH_S
    ]
    assert meanwhile
    assert not [one for one in meanwhile if one.account is not None]
