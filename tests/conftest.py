"""Fixtures that every folder of tests may use."""

from tests.engine_fixtures import bench, bench_cache, build_settings, engine

__all__ = ["bench", "bench_cache", "build_settings", "engine"]
