"""The command ``headrace`` run as its users run it, on small projects in git, with the real engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

from actors.images.engine import LABEL_LOG, LABEL_TIER, TIER_TEST, Engine
from events.errors import InputError
from events.types import Event
from events.work import PullRequest
from store.opening import open_store
from store.timeline import write_timeline
from tests.actors.harness import read_events, wait_for
from tests.engine_fixtures import GitProject

HEADRACE = str(Path(sys.executable).with_name("headrace"))
PINS = ["pytest==8.3.5", "iniconfig==2.1.0", "packaging==25.0", "pluggy==1.6.0", "setuptools==80.9.0", "wheel==0.45.1"]

PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "little"
version = "1.{version}"
[tool.setuptools]
packages = ["little"]
"""
BROKEN_C = """\
from setuptools import Extension, setup
setup(ext_modules=[Extension("little._fast", ["fast.c"])])
"""


def little(version: int, *, test_s: float = 0.0, answer: int = 42) -> dict[str, str]:
    """The files of one commit of a small package whose one test takes ``test_s`` seconds."""
    test = [
        "import time",
        "import little",
        "def test_answer():",
        f"    time.sleep({test_s})",
        f"    assert little.ANSWER == {answer}",
    ]
    return {
        "pyproject.toml": PYPROJECT.format(version=version),
        "little/__init__.py": f"ANSWER = 42\nVERSION = {version}\n",
        "tests/test_little.py": "\n".join(test) + "\n",
    }


class SweepBench:
    """One sweep in a folder with caches of its own; its owner is named anew, so nothing is shared by accident."""

    def __init__(self, folder: Path, *, cache_dir: Path, name: str = "s", owner: str = "") -> None:
        self.folder, self.name = folder, name
        self.owner = owner or f"bench-{uuid.uuid4().hex[:12]}"
        self.store = f"sqlite:///{folder}/log.db"
        self.timeline = folder / "prs.jsonl"
        self.environment = {
            **os.environ,
            "HEADRACE_BUILD_PROVIDER": "debootstrap",
            "HEADRACE_BUILD_CA_BUNDLE": os.environ.get("SSL_CERT_FILE", ""),
            "HEADRACE_SWEEP_CACHE_DIR": str(cache_dir),
        }
        self.process: subprocess.Popen[str] | None = None

    def row(self, project: GitProject, number: int, commit: str) -> PullRequest:
        """A resolved row for one commit."""
        return PullRequest(
            owner=self.owner,
            repo=project.path.name,
            issue_number=number,
            sha=commit,
            created_at=f"2024-01-{number:02d}T00:00:00Z",
            clone_url=project.clone_url,
            env_payload=json.dumps({"dependencies": PINS}),
            python_version="3.11",
        )

    def write(self, rows: list[PullRequest]) -> None:
        write_timeline(self.timeline, rows)

    def start(self, command: str = "sweep", *options: str) -> None:
        """Starts ``headrace sweep`` (or ``resume``) in the background."""
        target = str(self.timeline) if command == "sweep" else self.name
        named = ["--name", self.name] if command == "sweep" else []
        self.process = subprocess.Popen(
            [HEADRACE, command, target, *named, "--store", self.store, "--workers", "2", *options],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, *, timeout_s: float = 400.0) -> tuple[int, str]:
        """Waits for the command; exit code and all output."""
        assert self.process is not None
        output, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, output

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Any command; exit code, standard output, standard error."""
        done = subprocess.run(
            [HEADRACE, *arguments], env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def events(self) -> list[tuple[str, Event]]:
        return read_events(self.store)

    def count(self, kind: type) -> int:
        """How many events of a type the log has now; 0 while there is no log."""
        try:
            events = self.events()
        except InputError:  # no file yet, or no tables in it
            return 0
        return sum(isinstance(one, kind) for _, one in events)

    def log_id(self) -> str:
        with open_store(self.store, write=False) as store:
            return store.log.log_id

    def containers(self, engine: Engine, *, tests_only: bool = False) -> list[str]:
        """Ids of all containers of this log."""
        labels = {LABEL_LOG: self.log_id(), **({LABEL_TIER: TIER_TEST} if tests_only else {})}
        return [str(one["Id"]) for one in engine.containers(labels)]

    def wait_for_events(self, kind: type, number: int) -> None:
        """Waits until the log has that many events of a type."""

        def there() -> bool:
            assert self.process is not None
            ended = self.process.poll() is not None
            if self.count(kind) >= number:
                return True
            assert not ended, f"the command ended first: {self.process.communicate()[0]}"
            return False

        wait_for(f"{number} {kind.__name__} in the log", there, deadline_s=300)
