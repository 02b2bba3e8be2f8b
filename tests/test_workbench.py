"""The workbench performs orders to outcomes, and clears up after itself and after those that were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from actors.images import Engine
from actors.settings import BuildSettings, Settings, SweepSettings, VerifySettings
from actors.templates import stock_context
from actors.workbench import DockerWorkbench
from events.errors import LogUnavailable
from events.work import Check, FailureClass, TestCounts, WorkOrder
from store.blobs import BlobStore, FileBlobs, MemoryBlobs
from store.docker_context import DockerContext
from tests.engine_fixtures import TestBench
from tests.verifier.images import order_for

BEGUN = "the package step has begun"


def settings_of(build: BuildSettings, cache_dir: Path) -> Settings:
    return Settings(
        sweep=SweepSettings(cache_dir=str(cache_dir)),
        build=build,
        verify=VerifySettings(memory_mb=512, smoke_timeout_s=60, test_timeout_s=60),
    )


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path / "blobs")


@pytest.fixture
def settings(build_settings: BuildSettings, bench_cache: Path) -> Settings:
    return settings_of(build_settings, bench_cache)


@pytest.fixture
def workbench(settings: Settings, blobs: FileBlobs) -> DockerWorkbench:
    return DockerWorkbench(settings=settings, blobs=blobs)


@pytest.fixture
def order(bench: TestBench, bench_cache: Path) -> WorkOrder:
    return order_for(bench, bench_cache)


def with_package_step(order: WorkOrder, blobs: BlobStore, script: str) -> WorkOrder:
    """The order with a context whose package step is this script."""
    context: DockerContext = msgspec.structs.replace(stock_context(), build_pkg_sh=script)
    return msgspec.structs.replace(order, context=blobs.put(context.to_tar_bytes()))


def spool_of(bench_cache: Path, order: WorkOrder) -> Path:
    return bench_cache / "spool" / order.attempt_id


def wait_for_text(path: Path, text: str, *, timeout_s: float = 120) -> None:
    ends_at = time.monotonic() + timeout_s
    while not (path.exists() and text in path.read_text(errors="replace")):
        assert time.monotonic() < ends_at, f"{path} never had {text!r}"
        threading.Event().wait(0.05)


@pytest.mark.engine
def test_an_honest_project_is_verified_and_everything_about_it_is_kept(
    workbench: DockerWorkbench, order: WorkOrder, blobs: FileBlobs, bench_cache: Path
) -> None:
    outcome = workbench.perform(order, cancel=threading.Event())
    assert outcome.verified, outcome.message
    assert (outcome.stage, outcome.failure_class, outcome.tests) == ("tests", None, TestCounts(passed=1))
    assert outcome.checks[0].name == "build"
    assert {"audit", "tree", "origin", "import", "tests", "control"} <= {check.name for check in outcome.checks}
    assert outcome.context == stock_context().digest
    assert DockerContext.from_tar_bytes(blobs.get(outcome.context)) == stock_context()
    assert set(outcome.blobs) == {"build_log", "smoke_log", "test_log", "control_tests_log", "control_log", "tests"}
    assert b"1 passed" in blobs.get(outcome.blobs["test_log"])
    assert outcome.image is not None
    assert outcome.metrics.image_bytes is not None
    assert outcome.metrics.test_s is not None
    assert outcome.metrics.peak_memory_bytes is not None
    assert not spool_of(bench_cache, order).exists()
    again = workbench.perform(
        msgspec.structs.replace(order, attempt_id=f"{order.attempt_id}-again"), cancel=threading.Event()
    )
    assert again.verified
    assert again.metrics.build_reused


@pytest.mark.engine
def test_scripts_that_give_themselves_away_are_refused_before_anything_is_built(
    workbench: DockerWorkbench, order: WorkOrder, blobs: FileBlobs
) -> None:
    script = "cat >/workspace/repo/conftest.py <<EOF\nEOF\n"
    outcome = workbench.perform(with_package_step(order, blobs, script), cancel=threading.Event())
    assert (outcome.verified, outcome.stage, outcome.failure_class) == (False, "audit", FailureClass.TAMPER)
    assert "docker_build_pkg.sh, line 1" in outcome.message
    assert (outcome.image, outcome.blobs) == (None, {})


@pytest.mark.engine
def test_a_failed_build_has_its_reason_its_tail_and_its_whole_log(
    workbench: DockerWorkbench, order: WorkOrder, blobs: FileBlobs, bench_cache: Path
) -> None:
    script = f"echo '{BEGUN}'; echo 'native/core.c:3:10: fatal error: Python.h: No such file' >&2; exit 1\n"
    outcome = workbench.perform(with_package_step(order, blobs, script), cancel=threading.Event())
    assert (outcome.verified, outcome.stage, outcome.failure_class) == (False, "build", FailureClass.RECIPE)
    assert "fatal error: Python.h" in outcome.message
    assert outcome.checks == [Check("build", False, outcome.message)]
    assert "fatal error: Python.h" in outcome.log_tail
    assert BEGUN.encode() in blobs.get(outcome.blobs["build_log"])
    assert not spool_of(bench_cache, order).exists()


@pytest.mark.engine
def test_cancelling_a_build_ends_it_and_keeps_what_it_printed(
    workbench: DockerWorkbench, order: WorkOrder, blobs: FileBlobs, bench: TestBench, bench_cache: Path
) -> None:
    endless = with_package_step(order, blobs, f"echo '{BEGUN}' \"$$\"; sleep 600\n")
    cancel = threading.Event()
    began: list[float] = []

    def when_it_runs() -> None:
        wait_for_text(spool_of(bench_cache, order) / "build.log", f"{BEGUN} ")
        began.append(time.monotonic())
        cancel.set()

    watcher = threading.Thread(target=when_it_runs)
    watcher.start()
    outcome = workbench.perform(endless, cancel=cancel)
    watcher.join()
    assert time.monotonic() - began[0] < 5
    assert (outcome.verified, outcome.cancelled, outcome.failure_class) == (False, True, FailureClass.INFRA)
    assert f"{BEGUN} ".encode() in blobs.get(outcome.blobs["build_log"])
    assert bench.engine.containers({"headrace.log": order.log_id}) == []


RUNNER = """
import sys, threading
from pathlib import Path
import msgspec
from actors.settings import Settings
from actors.workbench import DockerWorkbench
from events.work import WorkOrder
from store.blobs import FileBlobs

settings = msgspec.json.decode(sys.argv[1], type=Settings)
order = msgspec.json.decode(sys.argv[2], type=WorkOrder)
DockerWorkbench(settings=settings, blobs=FileBlobs(sys.argv[3])).perform(order, cancel=threading.Event())
"""


@pytest.mark.engine
def test_what_a_killed_runner_had_spooled_is_salvaged_and_its_containers_reaped(
    settings: Settings, order: WorkOrder, blobs: FileBlobs, bench: TestBench, bench_cache: Path
) -> None:
    workbench = DockerWorkbench(settings=settings, blobs=blobs)
    endless = with_package_step(order, blobs, f"echo '{BEGUN}' \"$$\"; sleep 600\n")
    arguments = [msgspec.json.encode(settings).decode(), msgspec.json.encode(endless).decode(), str(blobs.root)]
    with subprocess.Popen([sys.executable, "-c", RUNNER, *arguments]) as runner:
        wait_for_text(spool_of(bench_cache, order) / "build.log", f"{BEGUN} ")
        os.kill(runner.pid, signal.SIGKILL)
    workbench.reap(log_id=order.log_id, keep=frozenset())
    assert bench.engine.containers({"headrace.log": order.log_id}) == []
    salvaged = workbench.salvage(order.attempt_id)
    assert set(salvaged) == {"build_log"}
    assert f"{BEGUN} ".encode() in blobs.get(salvaged["build_log"])
    assert not spool_of(bench_cache, order).exists()
    assert workbench.salvage(order.attempt_id) == {}


def start_container(engine: Engine, image: str, labels: dict[str, str]) -> str:
    api = engine.api
    made = str(
        api.create_container(
            image,
            ["600"],
            entrypoint=["/bin/sleep"],
            labels=labels,
            host_config=api.create_host_config(network_mode="none"),
            stop_signal="SIGKILL",
        )["Id"]
    )
    api.start(made)
    return made


@pytest.mark.engine
def test_reap_ends_only_what_interrupted_attempts_of_the_given_log_left(
    workbench: DockerWorkbench, order: WorkOrder, bench: TestBench, bench_cache: Path
) -> None:
    built = bench.build(order)[0]

    def test_container(log_id: str, attempt: str) -> str:
        labels = {"headrace.log": log_id, "headrace.tier": "test", "headrace.attempt": attempt}
        return start_container(bench.engine, built.image_id, labels)

    def build_container(log_id: str, pull_request: str) -> str:
        labels = {"headrace.log": log_id, "headrace.tier": "building", "headrace.pr": pull_request}
        return start_container(bench.engine, built.image_id, labels)

    other_log = f"{order.log_id}-other"
    spools = [
        spool_of(bench_cache, msgspec.structs.replace(order, attempt_id=name)) for name in ("reap-dead", "reap-live")
    ]
    for spool, number in zip(spools, (1, 2), strict=True):
        request = msgspec.structs.replace(order.pull_request, issue_number=number)
        spool.mkdir(parents=True)
        spooled = msgspec.structs.replace(order, attempt_id=spool.name, pull_request=request)
        (spool / "order.json").write_bytes(msgspec.json.encode(spooled))
    repository = order.pull_request.repository
    dead = {test_container(order.log_id, "reap-dead"), build_container(order.log_id, f"{repository}#1")}
    live = {test_container(order.log_id, "reap-live"), build_container(order.log_id, f"{repository}#2")}
    foreign = {test_container(other_log, "reap-dead"), build_container(other_log, f"{repository}#1")}
    try:
        assert set(workbench.reap(log_id=order.log_id, keep=frozenset({"reap-live"}))) == dead
        left = {found["Id"] for found in bench.engine.api.containers(all=True, filters={"label": "headrace.log"})}
        assert live | foreign <= left
        assert not dead & left
        assert set(workbench.reap(log_id=order.log_id, keep=frozenset())) == live
        assert {found["Id"] for found in bench.engine.containers({"headrace.log": other_log})} == foreign
    finally:
        for container in dead | live | foreign:
            bench.engine.remove_container(container)
        for spool in spools:
            (spool / "order.json").unlink()
            spool.rmdir()


class FullBlobs(MemoryBlobs):
    """A store that takes contexts and has no room for logs."""

    def put_file(self, path: str | os.PathLike[str]) -> str:
        raise LogUnavailable(f"no room for {Path(path).name}")


@pytest.mark.engine
def test_logs_stay_in_the_spool_until_they_are_stored(
    settings: Settings, order: WorkOrder, workbench: DockerWorkbench, blobs: FileBlobs
) -> None:
    outcome = DockerWorkbench(settings=settings, blobs=FullBlobs()).perform(order, cancel=threading.Event())
    assert (outcome.verified, outcome.failure_class, outcome.blobs) == (False, FailureClass.INFRA, {})
    assert "no room for build.log" in outcome.message
    salvaged = workbench.salvage(order.attempt_id)
    assert b"1 passed" in blobs.get(salvaged["test_log"])


@pytest.fixture
def dead_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The socket path of an engine that is not there."""
    path = tmp_path / "no-engine.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    return str(path)


@pytest.mark.engine  # the order is one of a bench
@pytest.mark.usefixtures("dead_engine")
def test_an_engine_that_is_away_makes_an_infra_outcome(tmp_path: Path, order: WorkOrder, blobs: FileBlobs) -> None:
    settings = settings_of(BuildSettings(), tmp_path / "cache")
    outcome = DockerWorkbench(settings=settings, blobs=blobs).perform(order, cancel=threading.Event())
    assert (outcome.verified, outcome.cancelled, outcome.failure_class) == (False, False, FailureClass.INFRA)
    assert "Docker engine" in outcome.message
    assert outcome.context == stock_context().digest
    assert "build_log" in outcome.blobs


@pytest.mark.usefixtures("dead_engine")
def test_waiting_for_an_engine_that_is_away_ends_in_time_with_the_reason(settings: Settings, blobs: FileBlobs) -> None:
    began = time.monotonic()
    reason = DockerWorkbench(settings=settings, blobs=blobs).wait_ready(timeout_s=1.0)
    assert 1.0 <= time.monotonic() - began < 5
    assert reason is not None
    assert "DOCKER_HOST" in reason


@pytest.mark.engine
def test_an_engine_that_answers_is_ready_at_once(workbench: DockerWorkbench, engine: Engine) -> None:
    assert workbench.wait_ready(timeout_s=30.0) is None


@pytest.mark.engine
def test_a_context_that_the_store_does_not_have_is_an_infra_failure(tmp_path: Path, order: WorkOrder) -> None:
    settings = settings_of(BuildSettings(), tmp_path / "cache")
    missing = msgspec.structs.replace(order, context="0" * 64)
    outcome = DockerWorkbench(settings=settings, blobs=MemoryBlobs()).perform(missing, cancel=threading.Event())
    assert (outcome.stage, outcome.failure_class, outcome.context) == ("source", FailureClass.INFRA, "0" * 64)
    assert "it is missing" in outcome.message


@pytest.mark.engine
def test_a_context_that_is_no_tar_is_refused_as_a_recipe(tmp_path: Path, order: WorkOrder) -> None:
    blobs = MemoryBlobs()
    broken = msgspec.structs.replace(order, context=blobs.put(b"no tar"))
    settings = settings_of(BuildSettings(), tmp_path / "cache")
    outcome = DockerWorkbench(settings=settings, blobs=blobs).perform(broken, cancel=threading.Event())
    assert (outcome.stage, outcome.failure_class) == ("source", FailureClass.RECIPE)
    assert "no readable tar" in outcome.message


@pytest.mark.engine
def test_an_attempt_id_never_leads_out_of_the_spool_folder(tmp_path: Path, order: WorkOrder) -> None:
    cache = tmp_path / "cache"
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "build.log").write_text("mine")
    workbench = DockerWorkbench(settings=settings_of(BuildSettings(), cache), blobs=MemoryBlobs())
    assert workbench.salvage("../../victim") == {}
    assert workbench.salvage("..") == {}
    assert (tmp_path / "victim" / "build.log").read_text() == "mine"
