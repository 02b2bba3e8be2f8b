"""What verification costs over building an image and running its tests, on the demo's releases.

For each release, in turns: its image is built anew (no layer of the context's steps is reused), pytest runs in a plain
container of it, and the verifier judges it, on a cache that knows nothing of the image but has the index's files. Both
sides pay the same build. The second verification of the same image shows what is not done twice.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean

import msgspec

from actors.images import BuiltImage, Engine, ImageBuilder
from actors.images.engine import LABEL_TIER, TIER_TEST
from actors.settings import Settings, load_settings
from actors.templates import stock_context
from actors.verifier import Verifier
from events.records import posix
from events.work import PullRequest, Stage, VerificationRules, WorkOrder
from scripts.bench.figures import Figure
from scripts.bench.options import Options
from store.timeline import read_timeline

__all__ = ["measure"]

DEMO = Path(__file__).parents[2] / ".headrace" / "demo"
TIMELINE = Path(os.environ.get("HEADRACE_BENCH_TIMELINE") or DEMO / "prs.jsonl")
SETTINGS = Path(os.environ.get("HEADRACE_BENCH_SETTINGS") or DEMO / "headrace.toml")
GOAL = 0.25
QUICK = 2


class _Times(msgspec.Struct, frozen=True):
    build_s: float
    pytest_s: float
    verify_s: float
    again_s: float


def measure(options: Options) -> Sequence[Figure]:
    """The overhead over all releases of the demo's timeline that are verified; run ``scripts/demo.sh`` first."""
    settings = load_settings(SETTINGS)
    rows = read_timeline(TIMELINE)
    chosen = rows[:QUICK] if options.quick else rows
    found = [times for row in chosen if (times := _one(row, rows, settings, options.folder)) is not None]
    plain = sum(one.build_s + one.pytest_s for one in found)
    ours = sum(one.build_s + one.verify_s for one in found)
    each = sorted((one.build_s + one.verify_s) / (one.build_s + one.pytest_s) - 1.0 for one in found)
    spread = {"p50": round(each[len(each) // 2], 3), "max": round(each[-1], 3)}
    note = f"{len(found)} of {len(chosen)} releases; builds {sum(one.build_s for one in found):.0f} s"
    return [
        Figure(
            group="verification",
            name="overhead over docker build + pytest, all releases together",
            value=round(ours / plain - 1.0, 3),
            unit="x",
            goal=GOAL,
            at_least=False,
            percentiles=spread,
            note=note,
        ),
        Figure(group="verification", name="pytest alone", value=_mean(one.pytest_s for one in found), unit="s"),
        Figure(group="verification", name="verification", value=_mean(one.verify_s for one in found), unit="s"),
        Figure(
            group="verification",
            name="verification of the unchanged image again",
            value=_mean(one.again_s for one in found),
            unit="s",
        ),
    ]


def _mean(values: Iterable[float]) -> float:
    return round(mean(values), 3)


def _one(row: PullRequest, rows: Sequence[PullRequest], settings: Settings, folder: Path) -> _Times | None:
    """The times of one release; ``None`` if it is not verified."""
    engine = Engine()
    build = msgspec.structs.replace(settings.build, build_args={"HEADRACE_BENCH": str(time.time_ns())})
    builder = ImageBuilder(engine=engine, settings=build, disk=settings.disk, cache_dir=settings.cache_dir)
    order = _order(row, rows)
    with tempfile.TemporaryFile() as log:
        builder.build(order, stock_context(), log=log, cancel=threading.Event())  # the shared tiers, for both sides
        build = msgspec.structs.replace(build, build_args={"HEADRACE_BENCH": str(time.time_ns())})
        builder = ImageBuilder(engine=engine, settings=build, disk=settings.disk, cache_dir=settings.cache_dir)
        image = builder.build(order, stock_context(), log=log, cancel=threading.Event())
    pytest_s = _plain_pytest(engine, image, row)
    verifier = Verifier(engine=engine, settings=settings.verify, build=settings.build, cache_dir=settings.cache_dir)
    seconds = []
    for number in (1, 2):
        spool = folder / f"{row.repo}-{row.issue_number}-{number}"
        spool.mkdir()
        began = time.perf_counter()
        verdict = verifier.verify(order, image, context=stock_context(), spool=spool, cancel=threading.Event())
        seconds.append(time.perf_counter() - began)
    if not verdict.verified:
        return None
    return _Times(image.build_s, pytest_s, *seconds)


def _order(row: PullRequest, rows: Sequence[PullRequest]) -> WorkOrder:
    own = [one for one in rows if one.repository == row.repository]
    return WorkOrder(
        attempt_id=f"bench-{row.repo}-{row.issue_number}",
        log_id="bench",
        sweep="bench",
        stage=Stage.TRY_DEFAULT,
        pull_request=row,
        rules=VerificationRules(),
        anchor=min(own, key=lambda one: (posix(one.created_at), one.issue_number)).commit,
    )


def _plain_pytest(engine: Engine, image: BuiltImage, row: PullRequest) -> float:
    """Seconds that the image's tests take in a plain container, from creating it to removing it."""
    began = time.perf_counter()
    with engine.translated("run pytest in a plain container"):
        made = engine.api.create_container(
            image.image_id,
            ["-c", f"cd /workspace/repo/{row.primary_root or '.'} && python -m pytest -q"],
            entrypoint=["/bin/bash"],
            labels={LABEL_TIER: TIER_TEST},
            host_config=engine.api.create_host_config(network_mode="none"),
        )["Id"]
        try:
            engine.api.start(made)
            engine.api.wait(made)
        finally:
            engine.remove_container(made)
    return time.perf_counter() - began
