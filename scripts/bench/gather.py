"""Gathering 10,000 sheets of 10 kB, conflicts looked for in all of them: one process, one thread, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

from actors.gather import SynthesisConfig, SynthesisStrategy, synthesize_batch
from scripts.bench.figures import Figure
from scripts.bench.options import Options
from scripts.bench.sampling import median

__all__ = ["measure"]

GOAL_S = 5.0
SHEET_BYTES = 10_000
KEYS = 20
LINE = "tests/test_module.py::test_something PASSED after 0.01 s\n"


def measure(options: Options) -> list[Figure]:
    """Each strategy on the same sheets."""
    count = 100 if options.quick else 10_000
    outputs = _sheets(count)
    return [_of_strategy(strategy, outputs) for strategy in SynthesisStrategy]


def _of_strategy(strategy: SynthesisStrategy, outputs: Mapping[int, str]) -> Figure:
    config = SynthesisConfig(strategy=strategy, detect_conflicts=True, max_content_bytes=2**30)
    seconds = []
    for _ in range(3):
        begun = perf_counter()
        result = synthesize_batch(list(outputs), list(outputs), [], outputs, config)
        seconds.append(perf_counter() - begun)
        if not result.is_success:
            raise RuntimeError(f"the batch failed: {result.error_message}")
    return Figure(
        group="gather",
        name=f"{len(outputs)} sheets of {SHEET_BYTES // 1000} kB, {strategy.value}",
        value=median(seconds),
        unit="s",
        goal=GOAL_S,
        at_least=False,
        percentiles={"best": min(seconds), "worst": max(seconds)},
        note=f"{len(seconds)} times; {KEYS} keys a sheet, one of them in conflict in each second sheet",
    )


def _sheets(count: int) -> dict[int, str]:
    sheets = {}
    for number in range(count):
        keys = (
            "".join(f"KEY_{key}: value {key}\n" for key in range(KEYS - 1)) + f"PYTHON_VERSION: 3.{number % 2 + 10}\n"
        )
        lines = (SHEET_BYTES - len(keys)) // len(LINE)
        sheets[number] = keys + LINE * lines
    return sheets
