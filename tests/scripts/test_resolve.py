"""``headrace resolve``: environments as of a date, from local repositories and an index on 127.0.0.1.

The index serves empty wheels under the names of the real tools; uv is the real one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from events.errors import EnvironmentNotReady, HeadraceError, SettingError, TimelineError, UnknownCommit
from events.work import PullRequest
from scripts.ingest import command as ingest
from scripts.resolve import command
from store.timeline import parse_env_payload, read_timeline, require_resolved, write_timeline
from tests.scripts.repositories import Repository
from tests.scripts.simple_index import SimpleIndex, sdist, wheel

DATE = "2023-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def index() -> Iterator[SimpleIndex]:
    with SimpleIndex() as index:
        for name in ("pytest", "setuptools", "wheel"):
            add(index, name, "1.0", "2015-01-01T00:00:00Z")
        yield index


def add(index: SimpleIndex, name: str, version: str, uploaded: str, *requires: str, requires_python: str = "") -> None:
    content = wheel(name.replace("-", "_"), version, requires=requires, requires_python=requires_python)
    index.add(name, f"{name.replace('-', '_')}-{version}-py3-none-any.whl", content, uploaded=uploaded)


def timeline(tmp_path: Path, *files: dict[str, str], date: str = DATE) -> Path:
    """One pull request for each set of files, numbered from 1."""
    repository = Repository(tmp_path / "tool")
    rows = [
        PullRequest(
            owner="acme",
            repo="tool",
            issue_number=number,
            sha=repository.commit(f"change {number}", tree),
            created_at=date,
            clone_url=str(repository.path),
        )
        for number, tree in enumerate(files, start=1)
    ]
    write_timeline(tmp_path / "prs.jsonl", rows)
    return tmp_path / "prs.jsonl"


def pyproject(*dependencies: str, more: str = "") -> dict[str, str]:
    return {
        "pyproject.toml": f'[project]\nname = "tool"\nversion = "1"\ndependencies = {json.dumps(dependencies)}\n{more}'
    }


def run(index: SimpleIndex, path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, [str(path), "--index-url", index.url, *arguments], catch_exceptions=False)


def resolved(index: SimpleIndex, path: Path, *arguments: str) -> list[list[str]]:
    result = run(index, path, *arguments)
    assert result.exit_code == 0, result.output
    rows = read_timeline(path)
    require_resolved(rows, path)
    return [parse_env_payload(row.env_payload or "") for row in rows]


def test_versions_are_those_of_the_date_the_very_moment_included(index: SimpleIndex, tmp_path: Path) -> None:
    for version, uploaded in (("1.0", "2022-01-01T00:00:00Z"), ("2.0", DATE), ("3.0", "2023-01-01T00:00:02Z")):
        add(index, "dep", version, uploaded)
    assert resolved(index, timeline(tmp_path, pyproject("dep"))) == [
        ["dep==2.0", "pytest==1.0", "setuptools==1.0", "wheel==1.0"]
    ]


def test_what_runs_builds_and_tests_the_project_is_pinned_together(index: SimpleIndex, tmp_path: Path) -> None:
    for name in ("dep", "backend", "plugin", "deeper"):
        add(index, name, "1.0", "2020-01-01T00:00:00Z", *(("deeper",) if name == "dep" else ()))
    more = '[project.optional-dependencies]\ntest = ["plugin"]\n[build-system]\nrequires = ["backend"]\n'
    assert resolved(index, timeline(tmp_path, pyproject("dep", more=more))) == [
        ["backend==1.0", "deeper==1.0", "dep==1.0", "plugin==1.0", "pytest==1.0"]
    ]


def test_the_metadata_is_that_of_the_commit_and_of_the_primary_root(index: SimpleIndex, tmp_path: Path) -> None:
    for name in ("old", "new"):
        add(index, name, "1.0", "2020-01-01T00:00:00Z")
    inner = {f"packages/core/{name}": text for name, text in pyproject("old").items()}
    path = timeline(tmp_path, {**pyproject("old"), **inner}, pyproject("new"))
    first, second = read_timeline(path)
    write_timeline(path, [first, second, _with(second, issue_number=3, primary_root="packages/core")])
    names = [[pin for pin in pins if pin in {"old==1.0", "new==1.0"}] for pins in resolved(index, path)]
    assert names == [["old==1.0"], ["new==1.0"], ["old==1.0"]]


def test_of_a_merged_pull_request_the_base_is_read(index: SimpleIndex, tmp_path: Path) -> None:
    add(index, "old", "1.0", "2020-01-01T00:00:00Z")
    path = timeline(tmp_path, pyproject("old"), pyproject("new"))
    first, second = read_timeline(path)
    write_timeline(path, [_with(second, base_sha=first.sha)])
    assert "old==1.0" in resolved(index, path)[0]


def test_filled_rows_stay_untouched_and_need_no_index(index: SimpleIndex, tmp_path: Path) -> None:
    path = timeline(tmp_path, pyproject())
    resolved(index, path)
    before, asked = path.read_bytes(), len(index.requests)
    resolved(index, path)
    assert path.read_bytes() == before
    assert len(index.requests) == asked


def test_what_was_resolved_before_comes_from_the_cache(index: SimpleIndex, tmp_path: Path) -> None:
    path = timeline(tmp_path, pyproject())
    first = resolved(index, path)
    asked = len(index.requests)
    assert resolved(index, path, "--force") == first
    assert len(index.requests) == asked


def test_a_python_or_payload_that_is_given_is_kept(index: SimpleIndex, tmp_path: Path) -> None:
    path = timeline(tmp_path, pyproject(), pyproject())
    first, second = read_timeline(path)
    payload = '{"dependencies":["mine==1"],"notes":"kept"}'
    write_timeline(path, [_with(first, env_payload=payload), _with(second, python_version="3.8")])
    resolved(index, path)
    rows = read_timeline(path)
    assert (rows[0].env_payload, rows[0].python_version) == (payload, "3.10")
    assert rows[1].python_version == "3.8"


def test_the_output_may_be_another_file(index: SimpleIndex, tmp_path: Path) -> None:
    path = timeline(tmp_path, pyproject())
    before = path.read_bytes()
    run(index, path, "--out", "out.parquet")
    assert path.read_bytes() == before
    require_resolved(read_timeline("out.parquet"), "out.parquet")


def test_an_unresolvable_row_stays_unfilled_and_is_named_with_uvs_reason(index: SimpleIndex, tmp_path: Path) -> None:
    add(index, "dep", "1.0", "2020-01-01T00:00:00Z")
    path = timeline(tmp_path, pyproject("dep"), pyproject("dep>=2"), pyproject("absent"))
    result = run(index, path)
    assert result.exit_code == 1
    assert "1 resolved, 0 were already, 2 unresolved" in result.stdout
    lines = {line.split()[1]: line for line in result.stdout.splitlines() if line.startswith("unresolved")}
    assert "dep" in lines["acme/tool#2"]
    assert ">=2" in lines["acme/tool#2"]
    assert "absent was not found" in lines["acme/tool#3"]
    assert [row.env_payload is None for row in read_timeline(path)] == [False, True, True]


def test_test_requirements_that_do_not_fit_are_given_up_and_the_report_says_so(
    index: SimpleIndex, tmp_path: Path
) -> None:
    path = timeline(tmp_path, pyproject(more='[project.optional-dependencies]\ntests = ["absent"]\n'))
    result = run(index, path)
    assert result.exit_code == 0
    assert "test requirements do not fit" in result.stderr
    assert parse_env_payload(read_timeline(path)[0].env_payload or "") == [
        "pytest==1.0",
        "setuptools==1.0",
        "wheel==1.0",
    ]


def test_a_python_that_the_project_forbids_is_not_chosen(index: SimpleIndex, tmp_path: Path) -> None:
    path = timeline(
        tmp_path, pyproject(more='requires-python = ">=3.8,<3.10"\n'), pyproject(more='requires-python = "<3.3"\n')
    )
    result = run(index, path, "--provider", "debootstrap")
    assert result.exit_code == 1
    assert "'<3.3' allows none of 3.9, 3.11, 3.13" in result.stdout
    assert [row.python_version for row in read_timeline(path)] == ["3.9", None]


def test_when_every_python_is_younger_the_tools_are_of_its_time_and_the_rest_of_the_date(
    index: SimpleIndex, tmp_path: Path
) -> None:
    for version, uploaded in (("1.0", "2015-01-01T00:00:00Z"), ("2.0", "2020-12-01T00:00:00Z")):
        add(index, "dep", version, uploaded)
    add(index, "pytest", "6.0", "2020-12-01T00:00:00Z")
    path = timeline(tmp_path, pyproject("dep"), date="2016-01-01T00:00:00Z")
    result = run(index, path, "--python-versions", "3.9")
    assert "younger than this pull request" in result.stderr
    pins = parse_env_payload(read_timeline(path)[0].env_payload or "")
    assert {"dep==1.0", "pytest==6.0"} <= set(pins)


def test_with_wheels_only_no_source_distribution_is_built(index: SimpleIndex, tmp_path: Path) -> None:
    text = f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom setuptools import setup\nsetup(name='dep', version='1.0')\n"
    index.add("dep", "dep-1.0.tar.gz", sdist("dep", "1.0", {"setup.py": text}), uploaded="2020-01-01T00:00:00Z")
    assert run(index, timeline(tmp_path, pyproject("dep")), "--wheels-only").exit_code == 1
    assert not (tmp_path / "ran").exists()


def test_the_projects_own_code_is_never_run(index: SimpleIndex, tmp_path: Path) -> None:
    add(index, "dep", "1.0", "2020-01-01T00:00:00Z")
    text = f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom setuptools import setup\nsetup(install_requires=['dep'])\n"
    assert "dep==1.0" in resolved(index, timeline(tmp_path, {"setup.py": text}))[0]
    assert not (tmp_path / "ran").exists()


def test_uvs_configuration_of_the_user_does_not_matter(
    index: SimpleIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uv.toml").write_text('exclude-newer = "2001-01-01T00:00:00Z"\n')
    for name, value in (
        ("UV_EXCLUDE_NEWER", "2001-01-01T00:00:00Z"),
        ("UV_FIND_LINKS", "/nowhere"),
        ("UV_OFFLINE", "1"),
    ):
        monkeypatch.setenv(name, value)
    assert resolved(index, timeline(tmp_path, pyproject()))


def test_an_unknown_commit_is_one_line_and_nothing_is_written(index: SimpleIndex, tmp_path: Path) -> None:
    path = timeline(tmp_path, pyproject(), pyproject("dep"))
    first, second = read_timeline(path)
    write_timeline(path, [first, _with(second, sha="f" * 40)])
    before = path.read_bytes()
    with pytest.raises(UnknownCommit, match=r"prs\.jsonl:2: acme/tool#2: field 'sha': commit f{40}"):
        run(index, path)
    assert path.read_bytes() == before


def test_a_repository_that_cannot_be_reached_leaves_its_rows_unresolved(index: SimpleIndex, tmp_path: Path) -> None:
    path = timeline(tmp_path, pyproject())
    write_timeline(
        path, [*read_timeline(path), _with(read_timeline(path)[0], repo="gone", clone_url=str(tmp_path / "gone"))]
    )
    result = run(index, path)
    assert result.exit_code == 1
    assert "unresolved  acme/gone#1" in result.stdout
    assert "1 resolved" in result.stdout


@pytest.mark.parametrize(("field", "value"), [("env_payload", '["a=b"]'), ("python_version", "three")])
def test_a_malformed_row_is_refused_unless_forced(index: SimpleIndex, tmp_path: Path, field: str, value: str) -> None:
    path = timeline(tmp_path, pyproject())
    write_timeline(path, [_with(read_timeline(path)[0], **{field: value})])
    with pytest.raises(TimelineError, match=rf"prs\.jsonl:1: field '{field}': of acme/tool#1 .*--force"):
        run(index, path)
    assert resolved(index, path, "--force")


def test_an_index_that_is_away_ends_the_command_and_keeps_the_file(tmp_path: Path) -> None:
    with SimpleIndex() as gone:
        pass
    path = timeline(tmp_path, pyproject())
    before = path.read_bytes()
    with pytest.raises(EnvironmentNotReady) as caught:
        run(gone, path)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("versions", ["3", "3.9;3.10", "latest", ""])
def test_a_wrong_list_of_pythons_is_refused(index: SimpleIndex, tmp_path: Path, versions: str) -> None:
    with pytest.raises(SettingError, match="--python-versions"):
        run(index, timeline(tmp_path, pyproject()), f"--python-versions={versions}")


def test_errors_of_the_timeline_come_before_anything_is_asked(index: SimpleIndex, tmp_path: Path) -> None:
    (tmp_path / "prs.jsonl").write_text("{")
    with pytest.raises(HeadraceError, match=r"prs\.jsonl:1"):
        run(index, tmp_path / "prs.jsonl")
    assert index.requests == []


def test_real_releases_are_resolved_with_the_configured_index(tmp_path: Path) -> None:
    arguments = ["pypi", "tabulate", "--since", "2021-01-01", "--until", "2022-12-31", "--max", "1"]
    assert CliRunner().invoke(ingest, arguments, catch_exceptions=False).exit_code == 0
    result = CliRunner().invoke(command, ["prs.jsonl", "--provider", "debootstrap"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (row,) = read_timeline("prs.jsonl")
    assert (row.title, row.python_version) == ("tabulate 0.9.0", "3.9")
    pins = parse_env_payload(row.env_payload or "")
    assert "pytest==7.1.3" in pins
    assert any(pin.startswith("setuptools-scm==7.0") for pin in pins)


def _with(row: PullRequest, **changes: object) -> PullRequest:
    return msgspec.structs.replace(row, **changes)
