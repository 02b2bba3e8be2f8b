"""The three tiers on the real engine: what is in an image, what is not, and what reaches a build."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from actors.images import BuildFailed
from actors.templates import stock_context
from events.errors import InfraError, InputError, ResolutionRequired
from events.work import FailureClass
from tests.engine_fixtures import TestBench
from tests.images.contexts import bare_context
from tests.images.projects import BROKEN_EXTENSION_PROJECT, EXTENSION_PROJECT, SCM_PROJECT, SCM_REQUIREMENTS

pytestmark = pytest.mark.engine


def test_version_from_tags_works_in_the_image_and_later_commits_are_absent(bench: TestBench) -> None:
    project = bench.project()
    first = project.commit(SCM_PROJECT, tag="v1.0")
    wanted = project.commit({"tagged/__init__.py": "def answer():\n    return 42  # the second\n"})
    future = project.commit({"tagged/fix.py": "FIX = True\n"}, tag="v2.0")
    built, _ = bench.build(bench.order(project, wanted, anchor=first, dependencies=SCM_REQUIREMENTS))
    code, text = bench.run(
        built.image_id,
        "git describe --tags --dirty --long && git status --porcelain && git log --format=%H && git tag && "
        "python -c 'import tagged, importlib.metadata as m; print(tagged.__file__, m.version(\"tagged\"))' && "
        "test ! -e .git/shallow && python -m pytest -q -p no:cacheprovider",
    )
    assert code == 0, text
    lines = text.splitlines()
    assert lines[0] == f"v1.0-1-g{wanted[:7]}"
    assert lines[1:3] == [wanted, first]
    assert lines[3] == "v1.0"
    assert lines[4].startswith("/workspace/repo/tagged/__init__.py 1.1.dev")
    assert "1 passed" in lines[-1]
    assert bench.run(built.image_id, f"git cat-file -e {future}")[0] != 0


def test_an_anchor_that_came_after_the_commit_is_not_in_the_image(bench: TestBench) -> None:
    project = bench.project()
    wanted = project.commit({"a.txt": "old\n"}, tag="v1")
    anchor = project.commit({"a.txt": "fixed\n", "b.txt": "new\n"}, tag="v2")
    built, _ = bench.build(bench.order(project, wanted, anchor=anchor), bare_context())
    code, text = bench.run(built.image_id, "cat a.txt; ls; git describe --tags; git tag; git status --porcelain")
    assert (code, text.split()) == (0, ["old", "a.txt", "v1", "v1"])
    assert bench.run(built.image_id, f"git cat-file -e {anchor}")[0] != 0


def test_old_versions_of_files_are_not_in_the_image(bench: TestBench) -> None:
    project = bench.project()
    project.commit({"a.txt": "first\n"})
    old = project.git("rev-parse", "HEAD:a.txt")
    anchor = project.commit({"a.txt": "second\n"})
    wanted = project.commit({"a.txt": "third\n"})
    built, _ = bench.build(bench.order(project, wanted, anchor=anchor), bare_context())
    assert bench.run(built.image_id, f"git cat-file -e {old}")[0] != 0
    assert bench.run(built.image_id, "git log --oneline | wc -l") == (0, "3")


def test_a_c_extension_is_compiled_and_imported_from_the_checkout(bench: TestBench) -> None:
    project = bench.project()
    commit = project.commit(EXTENSION_PROJECT)
    built, _ = bench.build(bench.order(project, commit, dependencies=("setuptools==75.8.0",)))
    code, text = bench.run(built.image_id, "cd / && python -c 'import native; print(native.answer(), native.__file__)'")
    assert (code, text) == (0, "42 /workspace/repo/native/__init__.py")


def test_a_package_in_a_subfolder_is_built_there(bench: TestBench) -> None:
    project = bench.project()
    commit = project.commit({f"python/{name}": text for name, text in EXTENSION_PROJECT.items()})
    order = bench.order(project, commit, dependencies=("setuptools==75.8.0",), primary_root="python")
    built, _ = bench.build(order)
    assert bench.run(built.image_id, "cd / && python -c 'import native; print(native.answer())'") == (0, "42")


def test_a_build_that_does_not_compile_fails_with_the_compilers_error(bench: TestBench) -> None:
    project = bench.project()
    commit = project.commit(BROKEN_EXTENSION_PROJECT)
    order = bench.order(project, commit, dependencies=("setuptools==75.8.0",))
    with pytest.raises(BuildFailed) as caught:
        bench.build(order)
    assert caught.value.stage == "build"
    assert caught.value.failure_class is FailureClass.RECIPE
    assert "native/core.c:5:" in caught.value.message
    assert "METH_OF_NO_PYTHON" in caught.value.message
    assert "non-zero code" not in caught.value.message
    assert "METH_OF_NO_PYTHON" in bench.output(order)
    assert caught.value.log_tail.strip()


def test_a_requirement_that_does_not_exist_fails_with_pips_error(bench: TestBench) -> None:
    project = bench.project()
    commit = project.commit(SCM_PROJECT)
    with pytest.raises(BuildFailed) as caught:
        bench.build(bench.order(project, commit, dependencies=("setuptools==1.999",)))
    assert "No matching distribution found for setuptools==1.999" in caught.value.message


def test_a_project_without_metadata_is_told_so(bench: TestBench) -> None:
    project = bench.project()
    commit = project.commit({"readme.txt": "nothing here\n"})
    with pytest.raises(BuildFailed, match=r"neither pyproject\.toml nor setup\.py"):
        bench.build(bench.order(project, commit))


def test_an_index_that_cannot_be_reached_is_nobodys_fault(bench: TestBench) -> None:
    project = bench.project()
    commit = project.commit({"a": "1"})
    away = msgspec.structs.replace(
        bench.settings, index_url="http://127.0.0.1:9/simple", build_args={"PIP_RETRIES": "1"}
    )
    install = bare_context("RUN python3 -m venv /tmp/v && /tmp/v/bin/pip install tabulate")
    with pytest.raises(InfraError, match="Connection refused"):
        bench.build(bench.order(project, commit), install, settings=away)


def test_settings_reach_the_build_and_the_hosts_environment_does_not(
    bench: TestBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = {"proxies": {"default": {"httpProxy": "http://from-the-host:1"}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOST_SECRET", "hush")
    monkeypatch.setenv("PIP_FIND_LINKS", "/host/wheels")
    project = bench.project()
    commit = project.commit({"a": "1"})
    settings = msgspec.structs.replace(
        bench.settings,
        index_url="http://index.example/simple",
        extra_index_urls=["http://more.example/simple"],
        build_args={"FLAVOUR": "vanilla $x"},
        https_proxy="http://proxy.example:3128",
    )
    built, output = bench.build(
        bench.order(project, commit), bare_context("RUN env | sort | sed 's/^/SEEN /'"), settings=settings
    )
    seen = dict(line.removeprefix("SEEN ").split("=", 1) for line in output.splitlines() if line.startswith("SEEN "))
    assert seen["PIP_INDEX_URL"] == seen["UV_DEFAULT_INDEX"] == "http://index.example/simple"
    assert seen["PIP_EXTRA_INDEX_URL"] == seen["UV_INDEX"] == "http://more.example/simple"
    assert seen["FLAVOUR"] == "vanilla $x"
    assert seen["HTTPS_PROXY"] == seen["https_proxy"] == "http://proxy.example:3128"
    assert not {"HTTP_PROXY", "http_proxy", "HOST_SECRET", "PIP_FIND_LINKS"} & seen.keys()
    _, left = bench.run(built.image_id, "env")
    assert "proxy.example" not in left
    assert "FLAVOUR" not in left


def test_env_payload_and_the_pull_requests_facts_travel_as_files(bench: TestBench) -> None:
    project = bench.project()
    commit = project.commit({"a": "1"})
    order = bench.order(project, commit, dependencies=("numpy==1.26.0",), number=7, primary_root="sub")
    built, output = bench.build(order, bare_context())
    _, text = bench.run(built.image_id, "cat /opt/headrace/env_payload.json")
    assert json.loads(text) == {"dependencies": ["numpy==1.26.0"]}
    _, text = bench.run(built.image_id, "cat /opt/headrace/pull_request.json")
    facts = json.loads(text)
    assert (facts["issue_number"], facts["commit"], facts["primary_root"]) == (7, commit, "sub")
    assert "numpy" not in output


def test_a_step_beyond_the_memory_limit_says_so(bench: TestBench) -> None:
    project = bench.project()
    commit = project.commit({"a": "1"})
    small = msgspec.structs.replace(bench.settings, memory_mb=64)
    with pytest.raises(BuildFailed, match=r"build\.memory_mb"):
        bench.build(
            bench.order(project, commit),
            bare_context("RUN exec python3 -c 'print(len(bytearray(200_000_000)))'"),
            settings=small,
        )


def test_processes_and_processors_of_a_build_are_limited(bench: TestBench) -> None:
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    limited = msgspec.structs.replace(bench.settings, pids=32, cpus=0.5)
    quota = "RUN echo quota $(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null)"
    bomb = "RUN for n in $(seq 64); do sleep 3 & done; wait; echo survived"
    with pytest.raises(BuildFailed, match="Cannot fork"):
        bench.build(order, bare_context(quota, bomb), settings=limited)
    assert "quota 50000" in bench.output(order)
    assert "\nsurvived" not in bench.output(order)
    assert [*Path("/sys/fs/cgroup").glob(f"**/headrace-build-{os.getpid()}-*")] == []


def test_a_build_sees_neither_the_hosts_secrets_nor_its_docker_socket(
    bench: TestBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    canary = "canary-3f1c"
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_TOKEN",
        "ANTHROPIC_API_KEY",
        "http_proxy",
        "SSH_AUTH_SOCK",
        "PIP_CONFIG",
    ):
        monkeypatch.setenv(name, canary)
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"registry.example": {"auth": "Y2FuYXJ5OmNhbmFyeQ=="}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    look = [
        "RUN echo environment: $(env | grep -c canary)",
        "RUN echo files: $(grep -rlE 'canary|Y2FuYXJ5' /root /opt /etc /workspace /run 2>/dev/null | wc -l)",
        "RUN echo sockets: $(find / -xdev -type s 2>/dev/null | wc -l) $(cat /proc/net/unix | tail -n +2 | wc -l)",
    ]
    _, output = bench.build(order, bare_context(*look))
    lines = output.splitlines()
    assert {"environment: 0", "files: 0", "sockets: 0 0"} <= set(lines)


def test_a_build_without_network_has_none(bench: TestBench) -> None:
    project = bench.project()
    commit = project.commit({"a": "1"})
    alone = msgspec.structs.replace(bench.settings, network="none")
    _, output = bench.build(
        bench.order(project, commit), bare_context("RUN echo links: $(ls /sys/class/net)"), settings=alone
    )
    assert "links: lo\n" in output


@pytest.mark.parametrize("dockerfile", ["FROM scratch\n", "RUN true\n", "FROM headrace-source\nNONSENSE x\n"])
def test_a_dockerfile_that_does_not_build_on_the_source_stage_is_refused(bench: TestBench, dockerfile: str) -> None:
    project = bench.project()
    commit = project.commit({"a": "1"})
    context = msgspec.structs.replace(bare_context(), dockerfile=dockerfile)
    with pytest.raises(BuildFailed) as caught:
        bench.build(bench.order(project, commit), context)
    assert caught.value.failure_class is FailureClass.RECIPE
    assert "Dockerfile" in caught.value.message or "NONSENSE" in caught.value.message


def test_an_unknown_commit_fails_in_stage_source(bench: TestBench) -> None:
    project = bench.project()
    project.commit({"a": "1"})
    with pytest.raises(BuildFailed, match=r"commit e{40} is not in") as caught:
        bench.build(bench.order(project, "e" * 40))
    assert caught.value.stage == "source"


def test_a_base_script_that_fails_fails_in_stage_base(bench: TestBench) -> None:
    project = bench.project()
    commit = project.commit({"a": "1"})
    broken = bare_context(base="echo 'headrace: error: no such compiler' >&2; exit 3\n")
    with pytest.raises(BuildFailed, match="no such compiler") as caught:
        bench.build(bench.order(project, commit), broken)
    assert caught.value.stage == "base"


def test_a_python_version_without_a_base_image_is_refused_with_those_there_are(bench: TestBench) -> None:
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    request = msgspec.structs.replace(order.pull_request, python_version="2.7")
    with pytest.raises(InputError, match=r"'2\.7'.*3\.9, 3\.11, 3\.13"):
        bench.build(msgspec.structs.replace(order, pull_request=request))


@pytest.mark.parametrize("field", ["env_payload", "python_version"])
def test_an_unresolved_pull_request_is_refused_before_anything_runs(bench: TestBench, field: str) -> None:
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    request = msgspec.structs.replace(order.pull_request, **{field: None})
    with pytest.raises(ResolutionRequired, match=field):
        bench.build(msgspec.structs.replace(order, pull_request=request), stock_context())
    assert bench.output(order) == ""


def test_a_registry_that_refuses_is_nobodys_fault(bench: TestBench) -> None:
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    elsewhere = msgspec.structs.replace(bench.settings, provider="registry", base_image="127.0.0.1:9/none:latest")
    with pytest.raises(InfraError, match=r"cannot pull 127\.0\.0\.1:9/none:latest: .*connection refused"):
        bench.build(order, settings=elsewhere)


def test_any_image_on_the_engine_can_be_the_base(bench: TestBench) -> None:
    project = bench.project()
    commit = project.commit({"a": "1"})
    first, _ = bench.build(bench.order(project, commit), bare_context("RUN touch /mark-of-the-first"))
    another = msgspec.structs.replace(bench.settings, provider="registry", base_image=first.tag)
    second, _ = bench.build(bench.order(project, commit), bare_context(), settings=another)
    assert bench.run(second.image_id, "ls /mark-of-the-first")[0] == 0
