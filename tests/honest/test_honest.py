"""No honest project is refused: real releases and layouts of every kind, each built, tried by hand and verified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from actors.images import Engine
from actors.images.outcomes import BuildFailed
from actors.settings import BuildSettings
from store.package_index import PackageIndex, default_index_url
from tests.engine_fixtures import TestBench
from tests.honest.case import Case, Result, judge
from tests.honest.layouts import LAYOUTS
from tests.honest.releases import RELEASES

pytestmark = [pytest.mark.engine, pytest.mark.slow]

CASES = [*LAYOUTS, *RELEASES]
AT_ONCE = 2
TEST = "test_an_honest_project_is_not_refused"


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest,
    engine: Engine,
    build_settings: BuildSettings,
    bench_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[str, Future[Result]]]:
    """What each of the selected cases comes to, by name; they run in the order of the tests, two at once."""
    downloads = (bench_cache / "rootfs").resolve().parent / "index"

    def run(case: Case) -> Result:
        folder = tmp_path_factory.mktemp(case.name, numbered=True)
        bench = TestBench(engine=engine, settings=build_settings, cache_dir=bench_cache, folder=folder)
        try:
            return judge(case, bench=bench, index=index)
        finally:
            bench.clean()

    chosen = {item.name for item in request.session.items if item.path == request.path}
    cases = [case for case in CASES if f"{TEST}[{case.name}]" in chosen]
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="honest")
    with PackageIndex(url=default_index_url(), cache_dir=downloads) as index:
        try:
            yield {case.name: pool.submit(run, case) for case in cases}
        finally:
            pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_an_honest_project_is_not_refused(case: Case, results: Mapping[str, Future[Result]]) -> None:
    try:
        result = results[case.name].result()
    except BuildFailed as exc:
        pytest.fail(f"a broken case: it does not build: {exc}\n{exc.log_tail}")
    print(f"{case.name}: built in {result.build_s:.1f} s, verified in {result.verify_s:.1f} s; {result.hand}")
    verdict = result.verdict
    assert not result.broken, f"a broken case: its tests do not pass by hand: {result.broken}\n{result.output}"
    assert verdict.verified, f"refused at {verdict.stage}: {verdict.message}\n{verdict.checks}\n{verdict.log_tail}"
    if not case.varies:
        counts = verdict.tests and msgspec.structs.replace(verdict.tests, flaky=0, known=0)
        assert counts == result.hand, f"verified, but its outcomes are not those of the run by hand\n{result.output}"
