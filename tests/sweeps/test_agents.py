"""Whole sweeps with coding agents, by the command line, on the real engine: contexts that somebody has to write."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.agents.adapters import ADAPTERS
from actors.images import Engine
from events.types import AccountPaused, AttemptInterrupted, AttemptSucceeded, GovernorClaimed
from events.work import Stage
from scripts.accounts import clock
from tests.actors.harness import wait_for
from tests.agents.models import SERVERS
from tests.agents.real import KEY, install_programs
from tests.generation.scripted import write_agent
from tests.sweeps.agents import (
    BUILD,
    SESSION,
    AgentBench,
    OneSession,
    TurnedAway,
    writing_first_a_broken_script,
)

pytestmark = [pytest.mark.engine, pytest.mark.ray, pytest.mark.slow]

AGENTS = list(ADAPTERS)


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of the pinned programs, installed on first use."""
    return install_programs()


def finish(bench: AgentBench, engine: Engine) -> str:
    """Waits until the sweep has verified everything, and checks its log; its output."""
    code, output = bench.finish()
    assert code == 0, output
    bench.check()
    assert bench.containers(engine) == []
    assert {str(pr.state) for pr in bench.pull_requests()} == {"succeeded"}
    return output


def test_an_agent_writes_one_context_an_environment_and_the_cascade_serves_the_rest(
    tmp_path: Path, bench_cache: Path, engine: Engine
) -> None:
    programs = tmp_path / "programs"
    write_agent(programs, f"{BUILD} && ./verify")
    bench = AgentBench(tmp_path, cache_dir=bench_cache, programs=programs)
    bench.add_account("claude", "http://127.0.0.1:40009", slots=2)
    bench.environment["ANTHROPIC_API_KEY"] = KEY
    bench.write_environments(little=["red"] * 3 + ["blue"] * 2)
    bench.start("sweep", "--agent", "claude:2")
    output = finish(bench, engine)
    assert len(bench.sessions()) == 2, "one session an environment"
    assert bench.ways() == Counter({Stage.TRY_SIMILAR: 3, Stage.LLM_GENERATE: 2})
    assert {report.ended for report in bench.reports().values()} == {"completed"}
    contexts = {one.context for one in bench.of(AttemptSucceeded) if isinstance(one, AttemptSucceeded)}
    assert len(contexts) == 2
    assert "verified by llm_generate" in output


@pytest.mark.agents
@pytest.mark.parametrize("agent", AGENTS)
def test_each_cli_mends_a_broken_script_by_what_verify_says_and_the_cascade_serves_the_rest(
    agent: str, tmp_path: Path, bench_cache: Path, engine: Engine, programs: Path
) -> None:
    bench = AgentBench(tmp_path, cache_dir=bench_cache, programs=programs)
    with SERVERS[agent](writing_first_a_broken_script()) as model:
        bench.add_account(agent, model.url)
        bench.configure(sandbox="required")
        bench.write_environments(little=["red"] * 2 + ["blue"] * 2)
        bench.start()
        finish(bench, engine)
    assert len(bench.sessions()) == 2, "one session an environment"
    assert bench.ways() == Counter({Stage.TRY_SIMILAR: 2, Stage.LLM_GENERATE: 2})
    for report in bench.reports().values():
        assert (report.ended, report.agent, report.verifications) == ("completed", agent, 2)
        assert report.output_tokens
        assert (report.cost_usd is not None) == ADAPTERS[agent].tells_cost


@pytest.mark.agents
def test_while_one_account_is_exhausted_the_others_go_on_and_after_its_reset_it_is_probed_once(
    tmp_path: Path, bench_cache: Path, engine: Engine, programs: Path
) -> None:
    bench = AgentBench(tmp_path, cache_dir=bench_cache, programs=programs)
    script = {"session": SESSION, "turns": [{"run": f"{BUILD} && ./verify"}, {"say": "done"}]}
    with TurnedAway(script) as claude, OneSession(script) as codex:
        bench.add_account("claude", claude.url, slots=2, oauth=True)
        bench.add_account("codex", codex.url)
        bench.configure()
        bench.write_environments(one=["red"] * 2, two=["blue"] * 2, three=["green"] * 2, four=["grey"] * 2)
        bench.start()
        bench.wait_for_events(AccountPaused, 2)
        told = bench.status()
        shown = bench.run("status", bench.name, "--store", bench.store)[1]
        output = finish(bench, engine)
    until = clock(claude.reset_at)
    assert told["agents_paused_until"] == until
    assert f"all agents are paused until {until}" in shown
    assert f"all agents are paused until {until}; what needs none goes on" in output
    assert [one["paused_until"] is not None for one in told["accounts"]] == [True, True]
    assert bench.ways() == Counter({Stage.TRY_SIMILAR: 4, Stage.LLM_GENERATE: 4})
    used = Counter((one.agent, one.ended) for one in bench.reports().values())
    assert used[("codex", "completed")] == 1
    assert used[("claude", "completed")] == 3
    assert used[("codex", "rate_limited")] == 1
    assert 1 <= used[("claude", "rate_limited")] <= 2, "those that were under way when it ran out"
    granted = bench.grants_of("claude")
    assert "paused" in granted
    after = granted[granted.index("paused") :]
    assert after[:4] == ["paused", "probed", "granted", "reopened"], "nothing between the pause and its one probe"
    assert after[4:] == ["granted", "granted"], "then it is used as before"


HANGING = """
(setsid env -i /bin/bash -c 'exec -a {mark} /bin/sleep 600' >/dev/null 2>&1 </dev/null &)
bash -c 'exec -a {mark} sleep 600' >/dev/null 2>&1 </dev/null &
while [ ! -e go ]; do sleep 0.1; done
"""
"""A session with two processes of its own, one of them a daemon without a trace of whose it is, until file ``go``."""


class Standing:
    """The scripted agent of a sweep: what the next session does, and what is left of each."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.mark = ""

    def hangs(self) -> str:
        """From now on a session waits until it is let go, and then writes what is asked; its mark."""
        self.mark = f"left-{uuid.uuid4().hex[:12]}"
        write_agent(self._programs, HANGING.replace("{mark}", self.mark) + f"{BUILD} && ./verify")
        return self.mark

    def works(self) -> None:
        """From now on a session writes what is asked."""
        write_agent(self._programs, f"{BUILD} && ./verify")

    @staticmethod
    def left(mark: str) -> list[int]:
        """The processes with a mark."""
        found = subprocess.run(["pgrep", "-f", mark], check=False, capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def wait_for_session(self, mark: str) -> None:
        """Waits until a session with this mark is under way."""
        wait_for("a session is under way", lambda: len(self.left(mark)) >= 3)


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    """An agent whose leftovers are ended with the test."""
    made = Standing(tmp_path / "programs")
    yield made
    for pid in made.left("left-[0-9a-f]{12}" if not made.mark else made.mark):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("sandbox", ["required", "off"])
def test_runner_governor_and_the_whole_sweep_are_killed_in_mid_session_and_nothing_is_left_or_done_twice(
    sandbox: str, tmp_path: Path, bench_cache: Path, engine: Engine, standing: Standing
) -> None:
    bench = AgentBench(tmp_path, cache_dir=bench_cache, programs=tmp_path / "programs")
    bench.add_account("claude", "http://127.0.0.1:40009")
    bench.configure(sandbox=sandbox)
    bench.write_environments(one=["red"] * 2, two=["blue"] * 2)
    first = standing.hangs()
    bench.start()
    standing.wait_for_session(first)

    second = standing.hangs()
    bench.kill_runner_of(standing.left(first)[0])
    wait_for("nothing is left of the dead runner's session", lambda: not standing.left(first), deadline_s=30)
    standing.wait_for_session(second)
    assert bench.count(AttemptInterrupted) == 1

    bench.kill("ray::RateLimitGovernor")
    wait_for("another governor took over", lambda: bench.count(GovernorClaimed) == 2)
    assert standing.left(second), "the session knows nothing of it"
    third = standing.hangs()
    bench.let_go()
    bench.wait_for_events(AttemptSucceeded, 1)
    standing.wait_for_session(third)
    finished = {one.attempt_id for one in bench.of(AttemptSucceeded) if isinstance(one, AttemptSucceeded)}

    standing.works()
    bench.kill_everything_but(standing.left(third))
    if sandbox == "off":
        assert standing.left(third), "nobody is there to end them"
    bench.start("resume")
    finish(bench, engine)
    assert not any(standing.left(one) for one in (first, second, third))
    assert finished
    ended = Counter(report.ended for report in bench.reports().values())
    assert ended["completed"] == 2
    assert len(bench.sessions()) == 4, "one that its runner lost, one that the sweep lost, and one an environment"
    assert bench.ways() == Counter({Stage.TRY_SIMILAR: 2, Stage.LLM_GENERATE: 2})
    assert bench.left_of_sessions() == []
