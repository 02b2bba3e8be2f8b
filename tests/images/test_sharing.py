"""What is built once: shared tiers under concurrency, and finished images."""

from __future__ import annotations

import multiprocessing
import threading
import uuid
from pathlib import Path

import pytest

from actors.images import BuildCancelled, Engine, ImageBuilder
from actors.images.engine import LABEL_ATTEMPT, LABEL_KEY, LABEL_LOG, LABEL_TIER
from actors.settings import BuildSettings
from events.work import WorkOrder
from store.docker_context import DockerContext
from store.locks import file_lock
from tests.engine_fixtures import TestBench
from tests.images.contexts import bare_context

pytestmark = pytest.mark.engine


def _build_in_process(
    settings: BuildSettings, cache_dir: Path, order: WorkOrder, context: DockerContext, log: Path
) -> None:
    with log.open("wb") as file:
        ImageBuilder(engine=Engine(), settings=settings, cache_dir=cache_dir).build(
            order, context, log=file, cancel=threading.Event()
        )


def test_processes_of_two_sweeps_build_a_shared_tier_once(bench: TestBench, tmp_path: Path) -> None:
    project = bench.project()
    anchor = project.commit({"a": "1"})
    later = project.commit({"a": "2"})
    context = bare_context(base=f"sleep 2 # {uuid.uuid4()}\n")
    orders = [
        bench.order(project, anchor, number=1),
        bench.order(project, later, anchor=anchor, number=2, log_id="another-log"),
    ]
    logs = [tmp_path / f"{order.attempt_id}.txt" for order in orders]
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=_build_in_process, args=(bench.settings, bench.cache_dir, order, context, log))
        for order, log in zip(orders, logs, strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    text = "".join(log.read_text() for log in logs)
    assert {stage: text.count(f"### {stage}: ") for stage in ("base", "repository", "build")} == {
        "base": 1,
        "repository": 1,
        "build": 2,
    }


def test_a_finished_image_is_not_built_again_by_anybody(bench: TestBench) -> None:
    project = bench.project()
    commit = project.commit({"a": "1"})
    first, _ = bench.build(bench.order(project, commit), bare_context("RUN date +%N >/stamp"))
    again, output = bench.build(
        bench.order(project, commit, log_id="another-log"), bare_context("RUN date +%N >/stamp")
    )
    assert (first.reused, again.reused) == (False, True)
    assert (again.image_id, again.tag, again.build_s, output) == (first.image_id, first.tag, 0.0, "")
    assert first.build_s > 0
    assert first.image_bytes > 50_000_000


def test_another_context_commit_or_payload_is_another_image(bench: TestBench) -> None:
    project = bench.project()
    one = project.commit({"a": "1"})
    two = project.commit({"a": "2"})
    built = [
        bench.build(bench.order(project, one), bare_context()),
        bench.build(bench.order(project, one), bare_context("RUN true")),
        bench.build(bench.order(project, two, anchor=one), bare_context()),
        bench.build(bench.order(project, one, dependencies=("numpy==1.0",)), bare_context()),
    ]
    assert len({image.tag for image, _ in built}) == len(built)
    assert not any(image.reused for image, _ in built)


def test_an_edited_later_script_repeats_only_the_steps_from_there_on(bench: TestBench) -> None:
    project = bench.project()
    commit = project.commit({"a": "1"})
    bench.build(bench.order(project, commit), bare_context("RUN echo slow part", "RUN echo first try"))
    _, output = bench.build(bench.order(project, commit), bare_context("RUN echo slow part", "RUN echo second try"))
    assert "\nslow part" not in output
    assert "\nsecond try" in output


def test_the_image_tells_whose_it_is(bench: TestBench) -> None:
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    built, _ = bench.build(order, bare_context())
    image = bench.engine.image(built.tag)
    assert image is not None
    labels = image["Config"]["Labels"]
    assert (labels[LABEL_TIER], labels[LABEL_LOG], labels[LABEL_ATTEMPT]) == ("pr", bench.log_id, order.attempt_id)
    assert built.tag.endswith(labels[LABEL_KEY][:12])
    assert labels["headrace.context"] == bare_context().digest


def test_waiting_for_somebody_elses_build_ends_when_cancelled(bench: TestBench) -> None:
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    context = bare_context("RUN sleep 1")
    built, _ = bench.build(order, context)
    image = bench.engine.image(built.tag)
    assert image is not None
    bench.engine.api.remove_image(built.tag, noprune=True)
    cancel = threading.Event()
    threading.Timer(0.5, cancel.set).start()
    lock = bench.cache_dir / "locks" / f"{image['Config']['Labels'][LABEL_KEY]}.lock"
    with file_lock(lock), pytest.raises(BuildCancelled):
        bench.build(order, context, cancel=cancel)
