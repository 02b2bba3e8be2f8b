"""Byte code of genuine files, compiled once and mounted: what uses it, and what it cannot hide."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from actors.images import BuiltImage, Engine
from actors.verifier.containers.bytecode import Bytecode, Sources, genuine_sources
from tests.engine_fixtures import TestBench
from tests.verifier.commands import Commands
from tests.verifier.images import Altered

pytestmark = pytest.mark.engine


@pytest.fixture
def run(bench: TestBench, sample: BuiltImage, tmp_path: Path) -> Commands:
    labels = {"headrace.log": bench.log_id, "headrace.tier": "test", "headrace.attempt": "a"}
    return Commands(bench.engine, image=sample.image_id, labels=labels, folder=tmp_path)


def folders(engine: Engine, run: Commands, cache: Path, genuine: list[Sources]) -> dict[str, Path]:
    made = Bytecode(engine=engine, cache_dir=cache)
    return made.folders(run.image, genuine, labels=run.labels, cancel=threading.Event())


def test_commands_load_genuine_code_compiled_and_compile_the_rest_themselves(
    run: Commands, engine: Engine, altered: Altered, tmp_path: Path
) -> None:
    with altered.files() as files:
        genuine = genuine_sources(files, without=())
    compiled = folders(engine, run, tmp_path, genuine)
    assert set(compiled) == {"stdlib", "runner"}
    code = (
        "import json, os, _pytest.config, probe\n"
        "for module in (json, _pytest.config, probe):\n"
        "    print(os.path.realpath(module.__cached__), os.path.exists(module.__cached__))\n"
    )
    run.python(code, files={"/tmp/probe.py": b""}, bytecode=compiled)
    json, config, probe = run.output.splitlines()
    assert json.startswith("/headrace/bytecode/stdlib/usr/")
    assert config.startswith("/headrace/bytecode/runner/opt/venv/")
    assert probe.startswith("/tmp/headrace-pycache/tmp/probe.")
    assert {line.split()[1] for line in (json, config, probe)} == {"True"}
    run.python("open('/headrace/bytecode/stdlib/x', 'w')", bytecode=compiled)
    assert "Read-only file system" in run.output


def test_it_is_compiled_once_for_equal_contents(
    run: Commands, engine: Engine, altered: Altered, tmp_path: Path
) -> None:
    with altered.files() as files, altered.files({"opt/venv/lib/python3.11/site-packages/pluggy/more.py": ""}) as more:
        first, again, other = (genuine_sources(one, without=()) for one in (files, files, more))
    assert first == again
    assert [one.digest == two.digest for one, two in zip(first, other, strict=True)] == [True, False]
    made = folders(engine, run, tmp_path, first)
    run.image = "sha256:" + "0" * 64  # nothing can be run in it
    assert folders(engine, run, tmp_path, again) == made


def test_what_a_run_may_lay_over_is_not_compiled(altered: Altered) -> None:
    path = "opt/venv/lib/python3.11/site-packages/pluggy/_manager.py"
    with altered.files() as files:
        found = {one.name: one.paths for one in genuine_sources(files, without={path})}
        everything = {one.name: one.paths for one in genuine_sources(files, without=())}
    assert f"/{path}" in everything["runner"]
    assert f"/{path}" not in found["runner"]


def test_byte_code_that_cannot_be_made_costs_time_and_nothing_else(
    run: Commands, engine: Engine, tmp_path: Path
) -> None:
    run.image = "sha256:" + "0" * 64
    assert folders(engine, run, tmp_path, [Sources("stdlib", "d", ["/usr/lib/python3.11/json/__init__.py"])]) == {}
    assert list((tmp_path / "bytecode").iterdir()) == []


def test_what_does_not_compile_is_left_out(run: Commands, engine: Engine, altered: Altered, tmp_path: Path) -> None:
    with altered.files({"usr/lib/python3.11/json/old.py": "print 'old'\n"}) as files:
        paths = ["/usr/lib/python3.11/json/old.py", "/usr/lib/python3.11/json/tool.py"]
        assert set(paths) <= set(genuine_sources(files, without=())[0].paths)
        run.image = altered.image
        made = folders(engine, run, tmp_path, [Sources("stdlib", "d", paths)])["stdlib"]
    assert [path.name for path in made.rglob("*") if path.is_file()] == ["tool.cpython-311.pyc"]
