"""Sweeps on a Ray cluster that runs already (``--address``): they use it, and leave it as it was."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.actors.harness import ACTORS, Sweep, descendants, rows, wait_for
from tests.scripted import Script

pytestmark = [pytest.mark.ray, pytest.mark.slow]

OURS = tuple(f"ray::{name}" for name in ACTORS)
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


class Cluster:
    """A head node on 127.0.0.1, in the foreground of a process of its own."""

    def __init__(self, folder: Path, resources: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        ray = Path(sys.executable).with_name("ray")
        options = [f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={folder}"]
        self._log = folder / "start.log"
        self.process = subprocess.Popen(
            [str(ray), "start", "--head", "--block", f"--resources={resources}", *options],
            env={**os.environ, **LOOPBACK},
            stdout=self._log.open("wb"),
            stderr=subprocess.STDOUT,
        )
        wait_for("the cluster is up", lambda: b"runtime started" in self._log.read_bytes())

    def actors(self) -> list[str]:
        """Titles of the processes of this project's actors that run on it."""
        titles = (title for _, title in descendants(self.process.pid))
        return sorted(title for title in titles if title.startswith(OURS))

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("ray"), getattr(request, "param", '{"docker": 2}'))
    try:
        yield made
    finally:
        made.end()


def test_a_sweep_runs_on_a_running_cluster_and_leaves_it_without_actors(tmp_path: Path, cluster: Cluster) -> None:
    sweep = Sweep(tmp_path, pull_requests=rows(2, 4), script=Script(seconds=0.5))
    sweep.start(address=cluster.address, environment=LOOPBACK)
    wait_for("runners are at work on the cluster", lambda: any("AgentRunner" in one for one in cluster.actors()))
    assert sweep.finish() == 0
    sweep.check()
    assert [one.counts("s") for one in sweep.repositories()] == [{"succeeded": 4}] * 2
    assert cluster.process.poll() is None, "the cluster goes on"
    wait_for("its actors are gone", lambda: not cluster.actors())


@pytest.mark.parametrize("cluster", ['{"gpu": 1}'], indirect=True)
def test_a_cluster_whose_nodes_run_no_work_orders_is_refused_with_the_remedy(tmp_path: Path, cluster: Cluster) -> None:
    sweep = Sweep(tmp_path, pull_requests=rows(1, 1), script=Script())
    sweep.start(address=cluster.address, environment=LOOPBACK)
    assert sweep.process is not None
    output, _ = sweep.process.communicate(timeout=120)
    assert sweep.process.returncode == 1
    assert f"no node of the Ray cluster at {cluster.address} has the resource 'docker'" in output
    assert not (tmp_path / "log.db").exists(), "nothing is begun"
