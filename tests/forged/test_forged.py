"""The forgery suite: real contexts that fake their verification, on real projects, with the real engine.

For each it is shown that it is refused, by the check of the defence that it is aimed at; and that it is accepted once
that defence is off (and those behind it, where it has any), which is the proof that the refusal means something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from actors.images import Engine
from actors.images.outcomes import BuildFailed
from actors.settings import BuildSettings
from actors.verifier import Verdict
from actors.verifier.defences import Defence
from events.work import FailureClass
from tests.forged.contexts import FORGERIES, OPEN
from tests.forged.forgery import Forgery
from tests.forged.trial import Trials
from tests.forged.victims import VICTIMS, Victim

pytestmark = [pytest.mark.engine, pytest.mark.slow]

LINES = range(1, 15)
EACH_FORGERY = pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.name)
UNDECIDED = {Defence.TEMPLATE, Defence.PROVENANCE, Defence.COLLECTION}
CHECKS = {Defence.ORIGIN: {"origin", "import"}, Defence.PLUGINS: {"tests"}}
"""What fails instead of a check of the defence's own name: a plug-in that is not loaded makes no test pass."""
EACH_OPEN = pytest.mark.parametrize("forgery", OPEN, ids=lambda forgery: forgery.name)
EACH_REUSED = pytest.mark.parametrize("forgery", [f for f in FORGERIES if f.reused], ids=lambda forgery: forgery.name)


class Judged:
    """The verdicts on one forgery: with every defence, without its own, and without those behind it too."""

    def __init__(self, trials: Trials, forgery: Forgery) -> None:
        own = frozenset({forgery.defence})
        self.guarded = trials.forged(forgery)
        self.without_its_own = trials.forged(forgery, without=own, loose=True)
        self.without_all_of_its = self.without_its_own
        if forgery.behind and not self.without_its_own.verified:
            self.without_all_of_its = trials.forged(forgery, without=own | forgery.behind, loose=True)


@pytest.fixture(scope="session")
def trials(
    engine: Engine, build_settings: BuildSettings, bench_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trials]:
    """Builds and judges for this run."""
    made = Trials(
        engine=engine, settings=build_settings, cache_dir=bench_cache, folder=tmp_path_factory.mktemp("forged")
    )
    yield made
    made.close()


@pytest.fixture(scope="session")
def judged(trials: Trials, request: pytest.FixtureRequest) -> Iterator[Callable[[Forgery], Judged]]:
    """The verdicts on the forgeries that this run's tests ask for, found by two threads from the first test on."""
    asked = {}
    for item in request.session.items:
        found = item.callspec.params.get("forgery") if isinstance(item, pytest.Function) and _has(item) else None
        if isinstance(found, Forgery):
            asked[found.name] = found
    with ThreadPoolExecutor(2, thread_name_prefix="forged") as pool:
        futures: Mapping[str, Future[Judged]] = {
            name: pool.submit(Judged, trials, forgery) for name, forgery in asked.items()
        }
        yield lambda forgery: futures[forgery.name].result()
        for future in futures.values():
            future.cancel()


def _has(item: pytest.Function) -> bool:
    return hasattr(item, "callspec") and "judged" in item.fixturenames


def refusal(verdict: Verdict) -> str | None:
    """The name of the first check that failed."""
    return next((check.name for check in verdict.checks if not check.ok), None)


def test_every_line_has_three_forgeries_or_more_and_every_defence_has_one() -> None:
    lines = Counter(forgery.line for forgery in FORGERIES)
    assert len(FORGERIES) >= 44
    assert {line: lines[line] for line in LINES if lines[line] < 3} == {}
    assert set(Defence) - {forgery.defence for forgery in FORGERIES} == {Defence.REUSE}
    assert len({forgery.name for forgery in (*FORGERIES, *OPEN)}) == len(FORGERIES) + len(OPEN)


@pytest.mark.parametrize("victim", VICTIMS, ids=lambda victim: victim.name)
def test_a_victim_does_not_verify_honestly(trials: Trials, victim: Victim) -> None:
    for number in sorted({forgery.pull_request for forgery in FORGERIES if forgery.victim is victim}):
        assert not verifies(trials, victim, number)


def verifies(trials: Trials, victim: Victim, number: int) -> bool:
    """Whether the stock context verifies on a pull request of a victim; a build that fails does not."""
    try:
        return trials.honest(victim, number).verified
    except BuildFailed:
        return False


@EACH_FORGERY
def test_a_forgery_is_refused_by_the_defence_it_is_aimed_at(
    judged: Callable[[Forgery], Judged], forgery: Forgery
) -> None:
    verdict = judged(forgery).guarded
    assert not verdict.verified
    assert refusal(verdict) in checks_of(forgery), verdict.message
    assert verdict.failure_class in expected_classes(forgery)


def checks_of(forgery: Forgery) -> set[str]:
    """The checks that may be the first to fail. What a limit ended fails the check that was under way."""
    if forgery.powerless:
        return {"tests"}
    return {"import", "tests"} if forgery.defence is Defence.DEADLINE else {forgery.defence.value}


def expected_classes(forgery: Forgery) -> set[FailureClass]:
    """Whose failure it is; some defences leave open whether a context is dishonest or only wrong."""
    if forgery.powerless:
        return {FailureClass.RECIPE}
    if forgery.defence is Defence.DEADLINE:
        return {FailureClass.TIMEOUT}
    return {FailureClass.TAMPER} | ({FailureClass.RECIPE} if forgery.defence in UNDECIDED else set())


@EACH_FORGERY
def test_a_forgery_gets_through_without_that_defence(judged: Callable[[Forgery], Judged], forgery: Forgery) -> None:
    found = judged(forgery)
    if not found.without_its_own.verified:
        behind = {check for defence in forgery.behind for check in CHECKS.get(defence, {defence.value})}
        assert refusal(found.without_its_own) in behind
    assert found.without_all_of_its.verified, found.without_all_of_its.message


@EACH_REUSED
def test_a_context_that_forges_later_earned_its_trust_on_the_first_pull_request(
    trials: Trials, forgery: Forgery
) -> None:
    verdict = trials.verdict(forgery.victim, forgery.context, number=1)
    assert verdict.verified, verdict.message


@EACH_REUSED
def test_a_returning_context_would_get_through_if_its_past_were_trusted(trials: Trials, forgery: Forgery) -> None:
    verdict = trials.forged(forgery, without=frozenset({Defence.REUSE}))
    assert verdict.verified, verdict.message


@EACH_OPEN
def test_a_forgery_that_nothing_refuses_is_known(trials: Trials, forgery: Forgery) -> None:
    trials.forged(forgery)
