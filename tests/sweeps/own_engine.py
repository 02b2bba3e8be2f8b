"""A Docker daemon of a test's own, which it may stop and start again.

It has its own data folder, socket and bridge, and leaves the firewall alone; so the engine that the other tests use,
and its bridge, stay as they are. Builds on it use the host's network.
"""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path
from tempfile import mkdtemp

import docker
import docker.errors

from tests.actors.harness import wait_for


class OwnEngine:
    """See the module; a context manager."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="hr-own-", dir="/tmp"))
        self.bridge = f"hr{uuid.uuid4().hex[:8]}"
        self.host = f"unix://{self.folder}/docker.sock"
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> OwnEngine:
        octet = 16 + int(self.bridge[2:4], 16) % 200
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("addr", "add", f"10.213.{octet}.1/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        _ip("link", "delete", self.bridge)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Starts the daemon and waits until it answers."""
        command = ["dockerd", "--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        command += ["-H", self.host, "--pidfile", f"{self.folder}/pid", f"--bridge={self.bridge}"]
        command += ["--iptables=false", "--ip-masq=false"]
        with (self.folder / "log").open("ab") as log:
            self._daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_for("the daemon answers", self._answers, deadline_s=60)

    def stop(self) -> None:
        """Ends the daemon, and with it the containers, and waits until it is gone."""
        assert self._daemon is not None
        self._daemon.terminate()
        self._daemon.wait(timeout=60)

    def _answers(self) -> bool:
        assert self._daemon is not None
        assert self._daemon.poll() is None, (self.folder / "log").read_text()
        try:
            return bool(docker.APIClient(base_url=self.host, version="auto", timeout=5).ping())
        except docker.errors.DockerException:
            return False


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
