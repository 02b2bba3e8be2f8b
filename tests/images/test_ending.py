"""Builds that are ended: cancelled, out of time, or with their builder killed. No container outlives them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from actors.images import BuildCancelled, BuildFailed, Engine, ImageBuilder, reap
from actors.images.engine import LABEL_ATTEMPT, LABEL_KEY, LABEL_LOG, LABEL_NODE, LABEL_TIER, TIER_BUILDING
from actors.images.running import RUNNING_IN
from actors.settings import BuildSettings
from events.errors import EnvironmentNotReady, InfraError
from events.work import FailureClass, WorkOrder
from store.docker_context import DockerContext
from store.locks import file_lock
from tests.engine_fixtures import TestBench
from tests.images.contexts import bare_context

pytestmark = pytest.mark.engine


def eventually(condition: Callable[[], bool], *, within_s: float = 30.0) -> bool:
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def sleeping_context() -> DockerContext:
    return bare_context(f"RUN echo started {uuid.uuid4()} && sleep 300")


def is_sleeping(bench: TestBench, order: WorkOrder) -> bool:
    return "\nstarted " in bench.output(order)


def own_containers(bench: TestBench) -> list[str]:
    return [found["Id"] for found in bench.engine.containers({LABEL_LOG: bench.log_id})]


def test_cancelling_ends_the_container_on_the_engine(bench: TestBench) -> None:
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    cancel = threading.Event()
    outcomes: list[BaseException] = []

    def build() -> None:
        try:
            bench.build(order, sleeping_context(), cancel=cancel)
        except BuildCancelled as exc:
            outcomes.append(exc)

    thread = threading.Thread(target=build)
    thread.start()
    assert eventually(lambda: is_sleeping(bench, order))
    assert len(own_containers(bench)) == 1
    cancelled_s = time.monotonic()
    cancel.set()
    thread.join(timeout=30)
    assert time.monotonic() - cancelled_s < 10
    assert [str(outcome) for outcome in outcomes] == ["build: cancelled"]
    assert own_containers(bench) == []


def test_a_build_beyond_its_time_limit_is_ended_with_its_container(bench: TestBench) -> None:
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    bench.build(order, bare_context())
    short = msgspec.structs.replace(bench.settings, timeout_s=3)
    with pytest.raises(BuildFailed, match=r"longer than 3 s \(setting build\.timeout_s\)") as caught:
        bench.build(order, sleeping_context(), settings=short)
    assert caught.value.failure_class is FailureClass.TIMEOUT
    assert "started" in caught.value.log_tail
    assert own_containers(bench) == []


def test_a_cancelled_build_can_be_built_afterwards(bench: TestBench) -> None:
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(BuildCancelled):
        bench.build(order, bare_context("RUN sleep 1"), cancel=cancel)
    assert not bench.build(order, bare_context("RUN sleep 1"))[0].reused


def _build_in_process(
    settings: BuildSettings, cache_dir: Path, order: WorkOrder, context: DockerContext, log: Path
) -> None:
    with log.open("wb") as file:
        ImageBuilder(engine=Engine(), settings=settings, cache_dir=cache_dir).build(
            order, context, log=file, cancel=threading.Event()
        )


def test_a_killed_builder_leaves_nothing_after_reaping_and_its_lock_is_free(bench: TestBench) -> None:
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    context = sleeping_context()
    arguments = (bench.settings, bench.cache_dir, order, context, bench.folder / f"build-{order.attempt_id}.log")
    process = multiprocessing.get_context("spawn").Process(target=_build_in_process, args=arguments)
    process.start()
    assert eventually(lambda: is_sleeping(bench, order))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    reap(bench.engine, log_id=bench.log_id, pull_requests={order.pull_request.name})
    assert own_containers(bench) == []
    short = msgspec.structs.replace(bench.settings, timeout_s=2)
    with pytest.raises(BuildFailed, match="longer than 2 s"):
        bench.build(order, context, settings=short)


def make_container(bench: TestBench, labels: dict[str, str]) -> str:
    project = bench.project(f"project-{uuid.uuid4().hex[:6]}")
    built, _ = bench.build(bench.order(project, project.commit({"a": "1"})), bare_context())
    made = bench.engine.api.create_container(built.image_id, ["sleep", "300"], entrypoint=[], labels=labels)
    bench.engine.api.start(made["Id"])
    return str(made["Id"])


def test_reaping_takes_the_named_attempts_of_one_log_and_nothing_else(bench: TestBench) -> None:
    test_labels = {LABEL_TIER: "test", LABEL_LOG: bench.log_id}
    dead = make_container(bench, {**test_labels, LABEL_ATTEMPT: "dead"})
    alive = make_container(bench, {**test_labels, LABEL_ATTEMPT: "alive"})
    foreign = make_container(bench, {LABEL_TIER: "test", LABEL_LOG: "another-log", LABEL_ATTEMPT: "dead"})
    try:
        assert reap(bench.engine, log_id=bench.log_id, attempts={"dead"}, pull_requests=set()) == [dead]
        assert own_containers(bench) == [alive]
        assert reap(bench.engine, log_id=bench.log_id) == [alive]
        assert foreign in [found["Id"] for found in bench.engine.containers({LABEL_LOG: "another-log"})]
    finally:
        bench.engine.remove_container(foreign)


def test_orphans_of_shared_tiers_go_only_when_nobody_holds_their_lock_and_no_pull_requests_build(
    bench: TestBench,
) -> None:
    builder = bench.builder()
    key = uuid.uuid4().hex
    labels = {LABEL_TIER: TIER_BUILDING, LABEL_KEY: key, LABEL_NODE: builder.node}
    of_a_pull_request = make_container(bench, {**labels, LABEL_LOG: bench.log_id})
    base, *_ = bench.engine.api.images(filters={"label": f"{LABEL_TIER}=base"})
    made = bench.engine.api.create_container(base["Id"], ["sleep", "300"], entrypoint=[], labels=labels)
    bench.engine.api.start(made["Id"])
    try:
        with file_lock(bench.cache_dir / "locks" / f"{key}.lock"):
            assert builder.reap_orphans() == []
        assert builder.reap_orphans() == [made["Id"]]
        assert own_containers(bench) == [of_a_pull_request]
    finally:
        bench.engine.remove_container(made["Id"])


def test_removing_a_container_that_is_gone_is_no_error(bench: TestBench) -> None:
    bench.engine.remove_container("0" * 64)


def test_an_engine_that_is_away_is_infra_for_a_build_and_not_ready_for_a_command(
    bench: TestBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    away = Engine()
    assert not away.answers()
    with pytest.raises(EnvironmentNotReady, match="start Docker or set DOCKER_HOST"):
        away.require()
    builder = ImageBuilder(engine=away, settings=bench.settings, cache_dir=bench.cache_dir)
    with (tmp_path / "log").open("wb") as log, pytest.raises(InfraError, match="No such file"):
        builder.build(order, bare_context(), log=log, cancel=threading.Event())


def test_the_output_announces_the_container_of_each_step() -> None:
    assert RUNNING_IN.findall(" ---> Running in 0123456789ab\n") == ["0123456789ab"]
