"""Fixtures that every folder of tests may use."""

from tests.engine_fixtures import bench, bench_cache, build_settings, engine
from tests.supabase.fixtures import project, projects

__all__ = ["bench", "bench_cache", "build_settings", "engine", "project", "projects"]
