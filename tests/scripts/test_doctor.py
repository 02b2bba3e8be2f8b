"""``headrace doctor`` says what a machine lacks, how to mend it, and ends with the exit code that says so."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any

import pytest
from click.testing import CliRunner

from actors.images.engine import Engine
from actors.settings import Settings, load_settings
from events.errors import EnvironmentNotReady, SettingError
from scripts import doctor
from scripts.doctor import Finding, Status, command, diagnose, engine_problem

ABLE = {"MemoryLimit": True, "CpuCfsQuota": True, "PidsLimit": True}


def settings(tmp_path: Path, **build: object) -> Settings:
    return load_settings(environ={}, overrides={"build": build, "sweep": {"cache_dir": str(tmp_path / "cache")}})


def found(name: str, findings: list[Finding]) -> Finding:
    return next(finding for finding in findings if finding.name == name)


@pytest.fixture
def no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    return f"unix://{tmp_path}/nobody.sock"


@pytest.fixture
def limited_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """An engine that answers with the returned description of itself: ones that no test machine has."""
    about: dict[str, Any] = {"ServerVersion": "20.10.24", "Driver": "overlay2", "DockerRootDir": str(tmp_path), **ABLE}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers = {"info": about, "json": []}
            body = json.dumps(
                answers.get(self.path.partition("?")[0].rpartition("/")[2], {"ApiVersion": "1.41"})
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Keeps the test's output clean."""

    class Server(UnixStreamServer):
        def get_request(self) -> tuple[Any, Any]:
            return self.socket.accept()[0], ("engine", 0)

    socket = f"/tmp/headrace-{uuid.uuid4().hex[:12]}.sock"
    with Server(socket, Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
        yield about
        server.shutdown()
    Path(socket).unlink()


def test_without_an_engine_it_fails_with_code_3_and_names_the_socket_and_the_remedy(no_engine: str) -> None:
    result = CliRunner().invoke(command, [])
    assert isinstance(result.exception, EnvironmentNotReady)
    assert result.exception.exit_code == 3
    assert "docker engine" in result.exception.message
    assert f"no Docker on {no_engine}" in result.output
    assert "→ start Docker" in result.output


def test_json_tells_the_same_to_a_program_and_still_ends_with_code_3(no_engine: str) -> None:
    result = CliRunner().invoke(command, ["--json"])
    assert result.exit_code == 3
    report = json.loads(result.output)
    assert report["ready"] is False
    engine = next(check for check in report["checks"] if check["name"] == "docker engine")
    assert engine["status"] == "fail"
    assert set(engine) == {"name", "status", "seen", "mend"}
    assert {"python", "packages", "git", "uv", "store", "ray"} <= {check["name"] for check in report["checks"]}


def test_what_a_sweep_is_told_without_an_engine_is_one_line_with_the_remedy(no_engine: str, tmp_path: Path) -> None:
    problem = engine_problem(settings(tmp_path))
    assert problem is not None
    assert no_engine in problem
    assert "scripts/setup.sh" in problem
    assert "\n" not in problem


def test_an_engine_that_cannot_limit_processes_is_refused(limited_engine: dict[str, Any], tmp_path: Path) -> None:
    assert engine_problem(settings(tmp_path)) is None
    limited_engine["PidsLimit"] = False
    problem = engine_problem(settings(tmp_path))
    assert problem is not None
    assert "pids" in problem


def test_a_storage_driver_that_copies_every_layer_is_warned_of(limited_engine: dict[str, Any], tmp_path: Path) -> None:
    limited_engine["Driver"] = "vfs"
    findings = diagnose(settings(tmp_path, provider="debootstrap"))
    assert found("docker engine", findings).status is Status.WARN


def test_an_engine_that_filters_no_system_calls_is_warned_of(limited_engine: dict[str, Any], tmp_path: Path) -> None:
    assert found("system calls", diagnose(settings(tmp_path))).status is Status.WARN
    limited_engine["SecurityOptions"] = ["name=seccomp,profile=unconfined"]
    assert found("system calls", diagnose(settings(tmp_path))).status is Status.WARN
    limited_engine["SecurityOptions"] = ["name=seccomp,profile=default"]
    assert found("system calls", diagnose(settings(tmp_path))).status is Status.OK


def test_budget_use_and_free_space_are_shown_and_nothing_is_made(
    limited_engine: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = found("disk budget", diagnose(settings(tmp_path)))
    assert shown.seen.startswith("own images take 0.0 GiB, no budget, ")
    assert shown.seen.endswith(" GiB free")
    overrides: dict[str, dict[str, object]] = {"disk": {"budget_gb": 5, "min_free_mb": 4_000_000}}
    overrides["sweep"] = {"cache_dir": str(tmp_path / "cache")}
    short = found("disk budget", diagnose(load_settings(environ={}, overrides=overrides)))
    assert short.status is Status.WARN
    assert "of a budget of 5 GiB" in short.seen
    assert "needed for a build" in short.seen
    assert not (tmp_path / "cache").exists()


def test_debootstrap_is_asked_for_only_by_the_provider_that_needs_it(
    limited_engine: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(doctor, "SYSTEM_FOLDERS", str(tmp_path))
    assert engine_problem(settings(tmp_path)) is None
    problem = engine_problem(settings(tmp_path, provider="debootstrap"))
    assert problem is not None
    assert "debootstrap is not installed" in problem


def test_git_is_missed(no_engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("git", diagnose(settings(tmp_path))).status is Status.OK
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found("git", diagnose(settings(tmp_path))).status is Status.FAIL


def test_a_cache_folder_below_a_file_is_refused_and_a_missing_one_is_not(no_engine: str, tmp_path: Path) -> None:
    assert found("cache folder", diagnose(settings(tmp_path))).status is not Status.FAIL
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache").touch()
    assert found("cache folder", diagnose(settings(tmp_path))).status is Status.FAIL


def test_a_store_may_be_missing_but_not_be_another_programs_file(no_engine: str, tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    assert found("store", diagnose(settings(tmp_path), store=f"sqlite:///{path}")).status is Status.OK
    assert not path.exists()
    path.write_text("not a database\n" * 100, encoding="utf-8")
    assert found("store", diagnose(settings(tmp_path), store=f"sqlite:///{path}")).status is Status.FAIL
    assert path.read_text(encoding="utf-8").startswith("not a database")


def test_a_store_url_that_means_nothing_is_named(no_engine: str, tmp_path: Path) -> None:
    store = found("store", diagnose(settings(tmp_path), store="postgres://x"))
    assert store.status is Status.FAIL
    assert "postgres://x" in store.seen


def test_a_bundle_that_holds_no_certificate_is_refused(no_engine: str, tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    assert found("ca bundle", diagnose(settings(tmp_path, ca_bundle=str(bundle)))).status is Status.FAIL
    bundle.write_text("nothing\n", encoding="utf-8")
    assert found("ca bundle", diagnose(settings(tmp_path, ca_bundle=str(bundle)))).status is Status.FAIL


def test_a_host_with_certificates_of_its_own_is_told_that_builds_do_not_get_them(
    no_engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/own.pem")
    bundle = found("ca bundle", diagnose(settings(tmp_path)))
    assert bundle.status is Status.WARN
    assert "/etc/own.pem" in bundle.mend


def test_a_bad_setting_is_an_input_error_before_anything_is_looked_at(no_engine: str, tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text("[verify]\npids = 1\n", encoding="utf-8")
    result = CliRunner().invoke(command, [])
    assert isinstance(result.exception, SettingError)
    assert result.output == ""


@pytest.mark.engine
def test_a_base_image_on_the_engine_is_enough_and_an_unreachable_registry_is_not(tmp_path: Path) -> None:
    engine = Engine()
    name = f"127.0.0.1:9/headrace-doctor-{uuid.uuid4().hex[:8]}"
    build = {"base_image": name + ":{python_version}", "python_versions": ["3.11"]}
    image = found("base image", diagnose(settings(tmp_path, **build)))
    assert image.status is Status.FAIL
    assert "debootstrap" in image.mend

    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    engine.api.import_image_from_data(empty.getvalue(), repository=name, tag="3.11")
    try:
        findings = diagnose(settings(tmp_path, **build))
    finally:
        engine.api.remove_image(f"{name}:3.11")
    assert found("base image", findings).status is Status.OK
    assert found("docker engine", findings).status is Status.OK
    assert found("container limits", findings).status is Status.OK
