"""``headrace verify`` on a real engine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from actors.images import Engine
from actors.settings import BuildSettings
from actors.templates import stock_context
from events.work import PullRequest
from scripts.verify import command
from tests.engine_fixtures import TestBench
from tests.verifier.images import order_for

Verify = Callable[..., Result]


@pytest.fixture
def timeline(bench: TestBench, bench_cache: Path, tmp_path: Path) -> Path:
    """A timeline with one pull request of the sample project."""
    return write(tmp_path / "prs.jsonl", order_for(bench, bench_cache).pull_request)


def write(path: Path, *rows: PullRequest) -> Path:
    path.write_bytes(msgspec.json.Encoder().encode_lines(list(rows)))
    return path


@pytest.fixture
def verify(build_settings: BuildSettings, bench_cache: Path, tmp_path: Path) -> Verify:
    """Runs the command with the test bench's settings."""
    config = tmp_path / "headrace.toml"
    config.write_text(
        f'[sweep]\ncache_dir = "{bench_cache}"\n'
        f'[build]\nprovider = "debootstrap"\nca_bundle = "{build_settings.ca_bundle}"\n'
        "[verify]\ntest_timeout_s = 60\n"
    )

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(command, [*map(str, arguments), "--config", str(config)], standalone_mode=False)

    return run


@pytest.mark.engine
def test_an_honest_context_is_verified_and_every_check_is_told(verify: Verify, timeline: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    done = verify(timeline, "--issue-number", 1, "--json", "--logs", logs)
    assert done.return_value == 0, done.output
    report = json.loads(done.stdout)
    assert (report["verified"], report["level"], report["stage"], report["failure_class"]) == (
        True,
        "tests",
        "tests",
        None,
    )
    names = [check["name"] for check in report["checks"]]
    assert names[0] == "build"
    assert {"audit", "tools", "tree", "origin", "import", "collection", "canaries", "tests", "control"} <= set(names)
    assert all(check["ok"] and set(check) == {"name", "ok", "detail"} for check in report["checks"])
    assert report["tests"]["passed"] == 1
    assert b"1 passed" in (logs / "test.log").read_bytes()
    assert (logs / "tests.jsonl").exists()


@pytest.mark.engine
def test_a_forged_context_is_refused_with_its_reason_and_exit_code_1(
    verify: Verify, timeline: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "context"
    stock_context().to_directory(folder)
    with (folder / "docker_build_run.sh").open("a") as script:
        script.write("f=conf\ncp /dev/null /workspace/repo/${f}test.py\n")
    done = verify(timeline, "--issue-number", 1, "--context", folder, "--json")
    assert done.return_value == 1
    report = json.loads(done.stdout)
    assert (report["verified"], report["failure_class"]) == (False, "tamper")
    assert "conftest.py" in report["message"]
    shown = verify(timeline, "--issue-number", 1, "--context", folder)
    assert shown.return_value == 1
    assert "refused (tamper" in shown.stdout


@pytest.mark.engine
def test_ctrl_c_ends_the_build_and_its_container(
    verify: Verify, timeline: Path, tmp_path: Path, engine: Engine
) -> None:
    folder = tmp_path / "context"
    stock_context().to_directory(folder)
    with (folder / "docker_build_env.sh").open("a") as script:
        script.write(f"sleep 600 # {tmp_path.name}\n")
    command = [sys.executable, "-m", "scripts.cli", "verify", str(timeline), "--issue-number", "1"]
    command += ["--context", str(folder), "--config", str(tmp_path / "headrace.toml")]
    name = f"headrace.pr={msgspec.json.decode(timeline.read_bytes(), type=PullRequest).name}"

    def running() -> list[object]:
        return [one for one in engine.api.containers(filters={"label": name}) if one["State"] == "running"]

    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as process:
        ends_at = time.monotonic() + 60
        while not running():
            assert time.monotonic() < ends_at, "no build began"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert running() == []


def test_what_is_asked_for_has_to_exist(verify: Verify, tmp_path: Path) -> None:
    rows = [
        PullRequest(
            owner=owner,
            repo="r",
            issue_number=1,
            sha="a" * 40,
            created_at="2023-01-01T00:00:00Z",
            env_payload="[]",
            python_version="3.11",
        )
        for owner in ("one", "two")
    ]
    path = write(tmp_path / "two.jsonl", *rows)
    assert "no such pull request" in str(verify(path, "--issue-number", 7).exception)
    assert "name one with --repo" in str(verify(path, "--issue-number", 1).exception)
    missing = verify(path, "--issue-number", 1, "--repo", "one/r", "--context", tmp_path / "nowhere")
    assert "Dockerfile: is missing" in str(missing.exception)
    assert "one of build, f2p, smoke, tests" in str(verify(path, "--issue-number", 1, "--level", "all").exception)


def test_an_unresolved_row_names_the_command_that_resolves_it(verify: Verify, tmp_path: Path) -> None:
    row = PullRequest(owner="o", repo="r", issue_number=1, sha="a" * 40, created_at="2023-01-01T00:00:00Z")
    done = verify(write(tmp_path / "raw.jsonl", row), "--issue-number", 1)
    assert "headrace resolve" in str(done.exception)
