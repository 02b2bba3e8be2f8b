"""The engine's disk on a daemon whose disk is small: what is evicted, what never is, and what a full disk comes to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from actors.images import BuildFailed, BuiltImage, Engine, ImageBuilder
from actors.images.disk import DiskBudget
from actors.images.engine import LABEL_KEY, node_of
from actors.settings import BuildSettings, DiskSettings
from actors.verifier.containers.container import Limits, run_in_container
from events.errors import InfraError
from events.work import FailureClass, WorkOrder
from scripts.cli import main
from store.locks import LockWaitCancelled
from tests.actors.harness import wait_for
from tests.engine_fixtures import TestBench
from tests.images.contexts import bare_context
from tests.images.small_engine import small_engine

pytestmark = [pytest.mark.engine, pytest.mark.slow]

MIB = 1 << 20
DISK_MB = 2600
UNBOUND = DiskSettings(reserve_mb=0, min_free_mb=0)
PYTHON = "RUN mkdir -p /opt/venv/bin && ln -sf /usr/bin/python3 /opt/venv/bin/python"


class Node:
    """Builds on the small engine with a cache folder of its own; ``last_use`` sets back the clock of an image."""

    def __init__(self, engine: Engine, *, settings: BuildSettings, cache_dir: Path, folder: Path) -> None:
        self.engine, self.cache_dir = engine, cache_dir
        self.bench = TestBench(engine=engine, settings=settings, cache_dir=cache_dir, folder=folder)
        self.project = self.bench.project(f"p{uuid.uuid4().hex[:8]}")
        self.commit = self.project.commit({"a": "1"})

    def build(
        self, *instructions: str, disk: DiskSettings = UNBOUND, number: int = 1, keep: ExitStack | None = None
    ) -> BuiltImage:
        builder = ImageBuilder(engine=self.engine, settings=self.bench.settings, cache_dir=self.cache_dir, disk=disk)
        with (self.bench.folder / "build.log").open("wb") as log:
            return builder.build(
                self.order(number), bare_context(*instructions), log=log, cancel=threading.Event(), keep=keep
            )

    def order(self, number: int = 1) -> WorkOrder:
        return self.bench.order(self.project, self.commit, number=number)

    @property
    def log(self) -> str:
        return (self.bench.folder / "build.log").read_text()

    def disk(self, settings: DiskSettings = UNBOUND) -> DiskBudget:
        return DiskBudget(self.engine, settings=settings, cache_dir=self.cache_dir, node=node_of(self.cache_dir))

    def has(self, *images: BuiltImage) -> list[bool]:
        return [self.engine.image(image.image_id) is not None for image in images]

    def key(self, image: BuiltImage) -> str:
        found = self.engine.image(image.image_id)
        assert found is not None
        return str(found["Config"]["Labels"][LABEL_KEY])

    def last_use(self, image: BuiltImage, *, ago_s: float) -> None:
        then = time.time() - ago_s
        os.utime(self.cache_dir / "disk" / "images" / self.key(image), (then, then))


@pytest.fixture(scope="module")
def small(bench_cache: Path) -> Iterator[Engine]:
    with small_engine(size_mb=DISK_MB) as engine:
        yield engine


@pytest.fixture(scope="module")
def cache_dir(bench_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk-cache")
    (folder / "rootfs").symlink_to((bench_cache / "rootfs").resolve())
    return folder


@pytest.fixture
def node(small: Engine, cache_dir: Path, build_settings: BuildSettings, tmp_path: Path) -> Iterator[Node]:
    """A node without images but for the root image, which takes long to import."""
    settings = msgspec.structs.replace(build_settings, network="host", ca_bundle="")
    made = Node(small, settings=settings, cache_dir=cache_dir, folder=tmp_path)
    yield made
    roots = small.api.images(filters={"label": "headrace.tier=root"})
    with ExitStack() as held:
        for root in roots:
            held.enter_context(made.disk().held(root["Labels"][LABEL_KEY], cancel=threading.Event()))
        made.disk().evict()


def big(size_mb: int) -> str:
    return f"RUN head -c {size_mb}M /dev/urandom >/big && : {uuid.uuid4()}"


def test_the_image_that_was_used_longest_ago_goes_first_and_children_before_parents(node: Node) -> None:
    first, second, third = (node.build(big(20), number=number) for number in (1, 2, 3))
    node.last_use(first, ago_s=10)
    node.last_use(third, ago_s=1000)
    node.last_use(second, ago_s=100)
    done = node.disk().evict(free_bytes=10 * MIB)
    assert done.evicted[0].tags == [third.tag]
    assert done.freed_bytes >= 20 * MIB
    assert node.has(first, second, third) == [True, True, False]
    everything = node.disk().evict()
    order = [image.tier for image in everything.evicted if image.tags]
    assert order == ["pr", "pr", "repository", "base", "root"]
    assert [image.tags[0] for image in everything.evicted if image.tier == "pr"] == [second.tag, first.tag]
    assert node.engine.api.images(all=True) == []
    assert node.disk().use().own_bytes == 0


def test_a_dry_run_says_the_same_and_changes_nothing(node: Node) -> None:
    node.build(big(20))
    before = sorted(node.engine.api.images(all=True, quiet=True))
    said = node.disk().evict(dry_run=True)
    assert sorted(node.engine.api.images(all=True, quiet=True)) == before
    root_free = node.disk().use().free_bytes
    assert node.disk().evict() == said
    now_free = node.disk().use().free_bytes
    assert root_free is not None
    assert now_free is not None
    assert now_free - root_free == pytest.approx(said.freed_bytes, rel=0.2)


def test_what_is_not_ours_or_in_use_stays_with_all_that_it_needs(node: Node) -> None:
    foreign = node.engine.api.import_image_from_data(b"\0" * 10240, repository="somebody", tag="else")
    derived, tagged, used, held = (node.build(big(1), number=number) for number in (1, 2, 3, 4))
    child = node.engine.api.commit(node.engine.api.create_container(derived.image_id, ["true"])["Id"])["Id"]
    (container,) = node.engine.api.containers(all=True)
    node.engine.remove_container(container["Id"])
    node.engine.api.tag(tagged.image_id, "mine", "kept")
    container = node.engine.api.create_container(used.image_id, ["true"])["Id"]
    with node.disk().held(node.key(held), cancel=threading.Event()):
        done = node.disk().evict()
    node.engine.remove_container(container)
    assert node.has(derived, tagged, used, held) == [True, True, True, True]
    assert node.engine.image("somebody:else") is not None
    assert node.engine.image(child) is not None
    assert node.engine.image(derived.parent_id) is not None
    assert [image for image in done.evicted if image.tags] == []
    node.engine.api.remove_image(child)
    node.engine.api.remove_image("mine:kept")
    node.engine.api.remove_image("somebody:else")
    assert "sha256" in foreign


def test_another_nodes_images_are_left_to_it(node: Node, tmp_path: Path) -> None:
    built = node.build(big(1))
    other = DiskBudget(node.engine, settings=UNBOUND, cache_dir=tmp_path, node=node_of(tmp_path))
    assert (other.evict().evicted, other.use().own_bytes) == ([], 0)
    assert node.has(built) == [True]


def test_leftovers_of_failed_builds_are_build_cache(node: Node) -> None:
    with pytest.raises(BuildFailed):
        node.build(big(50), "RUN exit 3")
    done = node.disk().evict(free_bytes=40 * MIB)
    assert {image.tier for image in done.evicted} == {"building"}
    assert done.freed_bytes >= 40 * MIB


def test_the_budget_holds_over_several_builds_and_an_evicted_image_is_built_again(node: Node) -> None:
    shared = node.build().parent_id
    root_bytes = node.disk().use().own_bytes
    budget = DiskSettings(budget_gb=(root_bytes + 500 * MIB) / (1 << 30), reserve_mb=220, min_free_mb=0)
    built = []
    for number in (1, 2, 3, 4):
        built.append(node.build(big(200), disk=budget, number=number))
        assert node.disk().use().own_bytes <= root_bytes + 500 * MIB
    assert node.has(*built)[0] is False
    assert node.has(*built)[-1] is True
    again = node.build("RUN echo the same", disk=budget, number=9)
    node.last_use(again, ago_s=1000)
    node.disk().evict(free_bytes=1)
    assert node.has(again) == [False]
    once_more = node.build("RUN echo the same", disk=budget, number=9)
    assert (once_more.tag, once_more.parent_id, once_more.reused) == (again.tag, shared, False)


def test_a_build_that_meets_a_full_disk_is_made_again_after_an_eviction(node: Node) -> None:
    old = [node.build(big(350), number=number) for number in (1, 2, 3)]
    free = node.disk().use().free_bytes
    assert free is not None
    new = node.build(big(free * 7 // 10 // MIB), number=4)  # which the engine writes twice, to commit it
    assert "no space left on device" in node.log.lower()
    assert "### the disk was full" in node.log
    assert node.has(new) == [True]
    assert node.has(*old)[0] is False


def test_a_full_disk_that_cannot_be_mended_is_nobodys_fault(node: Node) -> None:
    node.build()
    free = node.disk().use().free_bytes
    assert free is not None
    with pytest.raises(InfraError, match="No space left on device"):
        node.build(big(free // MIB + 100), number=2)


def test_a_recipe_that_only_says_so_answers_for_itself(node: Node) -> None:
    old = node.build(number=1)
    with pytest.raises(BuildFailed, match="No space left on device") as caught:
        node.build("RUN echo 'tee: x: No space left on device'; exit 1", number=2)
    assert caught.value.failure_class is FailureClass.RECIPE
    assert node.has(old) == [True]


def test_a_full_disk_at_verification_is_nobodys_fault_and_the_next_build_mends_it(node: Node, tmp_path: Path) -> None:
    old = node.build(big(300), number=1)
    node.last_use(old, ago_s=1000)
    image = node.build(PYTHON, number=2)
    free = node.disk().use().free_bytes
    assert free is not None
    ballast = node.engine.data_folder / "ballast" if node.engine.data_folder else tmp_path
    ballast.write_bytes(b"")
    os.posix_fallocate(os.open(ballast, os.O_WRONLY), 0, free - 100 * MIB)
    try:
        with pytest.raises(InfraError, match="disk was full"):
            run_in_container(
                node.engine,
                image=image.image_id,
                command=["/bin/bash", "-c", "cat /dev/zero >/tmp/big; sleep 5"],
                folder="/",
                limits=Limits(wall_s=60, memory_bytes=256 * MIB, cpus=1, pids=64),
                labels={"headrace.tier": "test"},
                results={},
                log=tmp_path / "out.log",
                cancel=threading.Event(),
            )
        assert node.build(PYTHON, number=2, disk=DiskSettings(reserve_mb=0, min_free_mb=300)).reused
    finally:
        ballast.unlink()
    assert node.has(old, image) == [False, True]


RESERVE = """
import sys, threading, time
from pathlib import Path
from actors.images import Engine
from actors.images.disk import DiskBudget
from actors.settings import DiskSettings

disk = DiskBudget(Engine(), settings=DiskSettings(reserve_mb=700, min_free_mb=0), cache_dir=Path(sys.argv[1]), node="n")
with disk.reserved("a build", cancel=threading.Event()):
    print("reserved", flush=True)
    time.sleep(600)
"""


def test_a_reservation_is_waited_for_and_vanishes_with_its_process(node: Node) -> None:
    node.disk().evict()
    free = node.disk().use().free_bytes
    assert free is not None
    disk = node.disk(DiskSettings(reserve_mb=free // MIB - 500, min_free_mb=0))
    got = threading.Event()

    def reserve() -> None:
        with disk.reserved("mine", cancel=threading.Event()):
            got.set()

    command = [sys.executable, "-c", RESERVE, str(node.cache_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"reserved\n"
            assert disk.use().reserved_bytes == 700 * MIB
            cancel = threading.Event()
            threading.Timer(2, cancel.set).start()
            with pytest.raises(LockWaitCancelled), disk.reserved("mine", cancel=cancel):
                pass
            thread = threading.Thread(target=reserve)
            thread.start()
            assert not got.wait(2)
        finally:
            os.kill(other.pid, signal.SIGKILL)
    wait_for("the reservation of the dead process is dropped", got.is_set, deadline_s=30)
    thread.join()
    assert disk.use().reserved_bytes == 0


def test_no_room_is_said_with_what_to_do(node: Node) -> None:
    with pytest.raises(InfraError, match=r"no room to build .*: .* GiB are missing .*disk\.reserve_mb"):
        node.build(disk=DiskSettings(reserve_mb=1_000_000))


def evict(*arguments: str) -> int:
    return main(["evict", *arguments])


def test_the_command_says_what_would_go_and_what_went(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_SWEEP_CACHE_DIR", str(node.cache_dir))
    built = node.build(big(50))
    assert evict("--free", "20M", "--dry-run", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["dry_run"] is True
    assert said["freed_bytes"] >= 20 * MIB
    assert node.has(built) == [True]
    assert evict("--free", "20M") == 0
    assert built.tag in capsys.readouterr().out
    assert node.has(built) == [False]
    assert evict("--to", "100G") == 0
    assert "freed 0.00 of" in capsys.readouterr().out


def test_the_command_refuses_what_it_cannot_do(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_SWEEP_CACHE_DIR", str(node.cache_dir))
    for arguments, words in (
        (["--free", "much"], "is no size"),
        (["--free", "1G", "--all"], "exclude each other"),
        ([], "--free SIZE, --to SIZE or --all"),
    ):
        assert evict(*arguments) == 2
        assert words in capsys.readouterr().err
    assert evict("--free", "100T", "--dry-run") == 3
    assert "in use" in capsys.readouterr().err
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    assert evict("--all") == 3
    assert "doctor" in capsys.readouterr().err
