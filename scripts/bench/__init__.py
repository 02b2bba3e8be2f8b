"""Benchmarks: ``python -m scripts.bench`` measures side by side and prints a table and JSON. Timed figures live here,
never in tests."""
