"""Whole sweeps with coding agents, by the command line, on the real engine: contexts that somebody has to write."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from actors.agents.adapters import ADAPTERS
from actors.images import Engine
from events.types import AttemptSucceeded
from events.work import Stage
from tests.agents.models import SERVERS
from tests.agents.real import install_programs
from tests.engine_fixtures import GitProject
from tests.generation.scripted import write_agent
from tests.sweeps.agents import BUILD, AgentBench, writing_first_a_broken_script

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
    assert set(bench.repository().counts(bench.name)) == {"succeeded"}
    return output


def test_an_agent_writes_one_context_an_environment_and_the_cascade_serves_the_rest(
    tmp_path: Path, bench_cache: Path, engine: Engine
) -> None:
    programs = tmp_path / "programs"
    write_agent(programs, f"{BUILD} && ./verify")
    bench = AgentBench(tmp_path, cache_dir=bench_cache, programs=programs)
    bench.add_account("claude", "http://127.0.0.1:40009", slots=2)
    bench.configure()
    bench.write_environments(GitProject(tmp_path / "little"), ["red"] * 3 + ["blue"] * 2)
    bench.start()
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
        bench.write_environments(GitProject(tmp_path / "little"), ["red"] * 2 + ["blue"] * 2)
        bench.start()
        finish(bench, engine)
    assert len(bench.sessions()) == 2, "one session an environment"
    assert bench.ways() == Counter({Stage.TRY_SIMILAR: 2, Stage.LLM_GENERATE: 2})
    for report in bench.reports().values():
        assert (report.ended, report.agent, report.verifications) == ("completed", agent, 2)
        assert report.output_tokens
        assert (report.cost_usd is not None) == ADAPTERS[agent].tells_cost
