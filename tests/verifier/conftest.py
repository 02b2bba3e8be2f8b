"""Fixtures of the verifier's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.images import BuiltImage, Engine
from actors.settings import BuildSettings
from tests.engine_fixtures import TestBench
from tests.verifier.images import Altered, Judge, order_for


@pytest.fixture(scope="session")
def sample(
    engine: Engine, build_settings: BuildSettings, bench_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> BuiltImage:
    """The sample project's image."""
    folder = tmp_path_factory.mktemp("sample")
    bench = TestBench(engine=engine, settings=build_settings, cache_dir=bench_cache, folder=folder)
    return bench.build(order_for(bench, bench_cache))[0]


@pytest.fixture
def judge(bench: TestBench, bench_cache: Path, sample: BuiltImage, tmp_path: Path) -> Iterator[Judge]:
    """Verifies variants of the sample for one test."""
    spool = tmp_path / "spool"
    spool.mkdir()
    made = Judge(bench=bench, sample=sample, order=order_for(bench, bench_cache), spool=spool)
    yield made
    made.close()


@pytest.fixture
def altered(engine: Engine, sample: BuiltImage, tmp_path: Path) -> Iterator[Altered]:
    """Images laid over the sample's, seen from outside, for one test."""
    made = Altered(engine=engine, sample=sample, cache_dir=tmp_path)
    yield made
    made.close()
