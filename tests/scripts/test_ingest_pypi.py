"""Releases of a package as a repository and a timeline: one index on 127.0.0.1, source distributions made here."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from events.errors import EnvironmentNotReady, HeadraceError, InputError
from events.work import PullRequest
from scripts.ingest import command
from store.package_index import PackageIndex, default_index_url, index_url_without_secrets
from store.sources import git_environment
from store.timeline import read_timeline
from tests.scripts.simple_index import SimpleIndex, sdist

RELEASES = [
    ("1.0", "2019-01-01T00:00:00.500000Z"),
    ("1.1", "2020-01-01T00:00:00Z"),
    ("2.0rc1", "2020-06-01T00:00:00Z"),
    ("2.0", "2021-01-01T00:00:00Z"),
    ("2.1", "2022-01-01T00:00:00Z"),
]


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def index() -> Iterator[SimpleIndex]:
    with SimpleIndex() as index:
        yield index


@pytest.fixture
def tool(index: SimpleIndex) -> SimpleIndex:
    for version, uploaded in RELEASES:
        release(index, version, uploaded)
    return index


def release(index: SimpleIndex, version: str, uploaded: str, **more: object) -> None:
    content = sdist("my_tool", version, {"my_tool.py": f"v = '{version}'\n", "tests/test_it.py": ""})
    index.add("my-tool", f"my_tool-{version}.tar.gz", content, uploaded=uploaded, **more)


def run(index: SimpleIndex, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["pypi", *arguments, "--index-url", index.url], catch_exceptions=False)


def rows(index: SimpleIndex, *arguments: str) -> list[PullRequest]:
    result = run(index, *arguments)
    assert result.exit_code == 0, result.output
    return read_timeline("prs.jsonl")


def refusal(index: SimpleIndex, *arguments: str) -> HeadraceError:
    with pytest.raises(HeadraceError) as caught:
        run(index, *arguments)
    assert "\n" not in str(caught.value)
    return caught.value


def git(repository: str | None, *arguments: str) -> str:
    assert repository is not None
    command = ["git", "-C", repository, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=git_environment()).stdout.strip()


def test_each_release_is_a_commit_a_tag_and_a_pull_request(tool: SimpleIndex) -> None:
    found = rows(tool, "My.Tool")
    assert [(row.issue_number, row.title, row.created_at) for row in found] == [
        (1, "my-tool 1.0", "2019-01-01T00:00:00Z"),
        (2, "my-tool 1.1", "2020-01-01T00:00:00Z"),
        (4, "my-tool 2.0", "2021-01-01T00:00:00Z"),
        (5, "my-tool 2.1", "2022-01-01T00:00:00Z"),
    ]
    repository = found[0].clone_url
    assert repository == str(Path("repositories/my-tool.git").absolute())
    assert {(row.owner, row.repo, row.clone_url) for row in found} == {("pypi", "my-tool", repository)}
    for row in found:
        version = (row.title or "").partition(" ")[2]
        assert git(repository, "rev-parse", f"refs/tags/{version}") == row.sha
        assert git(repository, "show", f"{row.sha}:my_tool.py") == f"v = '{version}'"
        assert f"Version: {version}" in git(repository, "show", f"{row.sha}:PKG-INFO")
        assert git(repository, "show", "-s", "--format=%an %cn %cI", row.sha) == (
            f"Headrace Headrace {(row.created_at or '').replace('Z', '+00:00')}"
        )
    assert git(repository, "rev-list", "--count", "HEAD") == "4"
    git(repository, "fsck", "--strict")


def test_equal_input_gives_equal_commits_on_any_machine(tool: SimpleIndex) -> None:
    first = [row.sha for row in rows(tool, "my-tool", "--into", "a")]
    assert [row.sha for row in rows(tool, "my-tool", "--into", "b")] == first


def test_running_again_downloads_nothing_and_changes_nothing(tool: SimpleIndex) -> None:
    rows(tool, "my-tool")
    before, asked = Path("prs.jsonl").read_bytes(), len(tool.requests)
    rows(tool, "my-tool")
    assert Path("prs.jsonl").read_bytes() == before
    assert tool.requests[asked:] == ["/simple/my-tool/"]


def test_new_releases_are_appended_and_keep_the_numbers_and_commits_of_the_old(tool: SimpleIndex) -> None:
    before = rows(tool, "my-tool")
    release(tool, "2.2", "2023-01-01T00:00:00Z")
    after = rows(tool, "my-tool")
    assert after[:-1] == before
    assert (after[-1].issue_number, git(after[-1].clone_url, "rev-parse", "HEAD~1")) == (6, before[-1].sha)


def test_releases_selected_later_keep_what_is_there_whatever_their_date(tool: SimpleIndex) -> None:
    newest = rows(tool, "my-tool", "--max", "1")
    everything = rows(tool, "my-tool")
    assert everything[-1] == newest[0]
    assert [row.issue_number for row in everything] == [1, 2, 4, 5]


def test_a_tag_lost_in_a_crash_is_made_again(tool: SimpleIndex) -> None:
    row = rows(tool, "my-tool")[0]
    git(row.clone_url, "tag", "--delete", "1.0")
    release(tool, "2.2", "2023-01-01T00:00:00Z")
    rows(tool, "my-tool")
    assert git(row.clone_url, "rev-parse", "refs/tags/1.0") == row.sha


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--pre"], [1, 2, 3, 4, 5]),
        (["--since", "2020-01-01", "--until", "2021-01-01"], [2, 4]),
        (["--max", "2"], [4, 5]),
        (["--max", "3", "--spread"], [1, 4, 5]),
        (["--max", "1", "--spread"], [5]),
    ],
)
def test_the_selection_does_not_change_the_numbers(tool: SimpleIndex, options: list[str], numbers: list[int]) -> None:
    assert [row.issue_number for row in rows(tool, "my-tool", *options)] == numbers


@pytest.mark.parametrize("reason", [True, "broken metadata", ""])
def test_yanked_releases_are_taken_only_when_asked_for(tool: SimpleIndex, reason: bool | str) -> None:
    release(tool, "3.0", "2024-01-01T00:00:00Z", yanked=reason)
    assert 6 not in [row.issue_number for row in rows(tool, "my-tool")]
    assert 6 in [row.issue_number for row in rows(tool, "my-tool", "--yanked")]


def test_of_two_source_distributions_of_a_release_the_first_uploaded_counts(index: SimpleIndex) -> None:
    for filename, uploaded in (
        ("my-tool-1.0.tar.gz", "2020-01-01T00:00:00Z"),
        ("my-tool-1.0.zip", "2021-01-01T00:00:00Z"),
    ):
        index.add("my-tool", filename, sdist("my-tool", "1.0", {}), uploaded=uploaded)
    assert [row.created_at for row in rows(index, "my-tool")] == ["2020-01-01T00:00:00Z"]


def test_wheels_and_files_of_other_names_are_no_releases(tool: SimpleIndex) -> None:
    for filename in ("my_tool-9.0-py3-none-any.whl", "my-tool-extra-9.0.tar.gz", "my-tool-latest.tar.gz"):
        tool.add("my-tool", filename, b"", uploaded="2023-01-01T00:00:00Z")
    assert len(rows(tool, "my-tool")) == 4


def test_a_package_named_twice_is_taken_once(tool: SimpleIndex) -> None:
    assert len(rows(tool, "my-tool", "My_Tool")) == 4


def test_progress_goes_to_stderr_and_what_to_do_next_to_stdout(tool: SimpleIndex) -> None:
    result = run(tool, "my-tool")
    assert "my-tool [4/4] 2.1" in result.stderr
    assert result.stdout.splitlines() == ["4 pull requests in prs.jsonl", "next: headrace resolve prs.jsonl"]


def test_a_release_that_cannot_be_taken_is_left_out_by_name(tool: SimpleIndex) -> None:
    release(tool, "3.0", "2024-01-01T00:00:00Z", hashes={"sha256": "0" * 64})
    tool.add("my-tool", "my-tool-4.0.tar.gz", b"no archive", uploaded="2025-01-01T00:00:00Z")
    release(tool, "5.0", "2026-01-01T00:00:00Z", hashes={})
    result = run(tool, "my-tool")
    assert "left out: my-tool 3.0: my_tool-3.0.tar.gz: sha256 is" in result.stderr
    assert "left out: my-tool 4.0: my-tool-4.0.tar.gz: is damaged" in result.stderr
    assert "left out: my-tool 5.0: my_tool-5.0.tar.gz: the index gives no hash" in result.stderr
    assert "4 pull requests in prs.jsonl; 3 releases left out" in result.stdout
    assert len(read_timeline("prs.jsonl")) == 4


def test_a_damaged_file_in_the_cache_is_downloaded_again(tool: SimpleIndex, tmp_path: Path) -> None:
    first = rows(tool, "my-tool", "--into", "a")
    for kept in (tmp_path / "cache").rglob("*.tar.gz"):
        kept.write_bytes(b"damaged")
    assert [row.sha for row in rows(tool, "my-tool", "--into", "b")] == [row.sha for row in first]


def test_a_busy_index_is_asked_again(tool: SimpleIndex) -> None:
    tool.failures = [503, 429]
    assert len(rows(tool, "my-tool")) == 4


def test_an_unknown_package_is_one_line(index: SimpleIndex) -> None:
    error = refusal(index, "absent")
    assert isinstance(error, InputError)
    assert "absent is not on" in str(error)


@pytest.mark.parametrize("name", ["../x", "a b", ""])
def test_what_is_no_package_name_is_not_asked_for(index: SimpleIndex, name: str) -> None:
    assert "no package name" in str(refusal(index, name))
    assert index.requests == []


def test_a_package_without_source_distributions_is_refused(index: SimpleIndex) -> None:
    index.add("my-tool", "my_tool-1.0-py3-none-any.whl", b"", uploaded="2020-01-01T00:00:00Z")
    assert "no source distribution" in str(refusal(index, "my-tool"))


def test_a_selection_of_nothing_tells_the_span_of_the_releases(tool: SimpleIndex) -> None:
    message = str(refusal(tool, "my-tool", "--since", "2030-01-01"))
    assert "2019-01-01 to 2022-01-01" in message


def test_when_no_release_can_be_taken_the_first_reason_is_told(index: SimpleIndex) -> None:
    index.add("my-tool", "my-tool-1.0.tar.gz", b"no archive", uploaded="2020-01-01T00:00:00Z")
    assert "is damaged" in str(refusal(index, "my-tool"))
    assert not Path("prs.jsonl").exists()


def test_an_index_that_does_not_tell_upload_times_is_refused(index: SimpleIndex) -> None:
    index.add("my-tool", "my-tool-1.0.tar.gz", sdist("my-tool", "1.0", {}), uploaded=None)
    assert "PEP 700" in str(refusal(index, "my-tool"))


def test_an_index_that_speaks_only_html_is_refused(tool: SimpleIndex) -> None:
    tool.media_type = "text/html"
    error = refusal(tool, "my-tool")
    assert isinstance(error, EnvironmentNotReady)
    assert "PEP 691" in str(error)


def test_an_index_that_refuses_access_is_not_asked_again(tool: SimpleIndex) -> None:
    tool.failures = [403]
    assert "HTTP 403" in str(refusal(tool, "my-tool"))
    assert len(tool.requests) == 1


def test_an_index_that_is_away_is_an_environment_not_ready_and_shows_no_password() -> None:
    with SimpleIndex() as gone:
        url = gone.url.replace("http://", "http://user:secret@")
    with pytest.raises(EnvironmentNotReady) as caught:
        CliRunner().invoke(command, ["pypi", "my-tool", "--index-url", url], catch_exceptions=False)
    assert caught.value.exit_code == 3
    assert "secret" not in str(caught.value)
    assert "--index-url" in str(caught.value)


def test_an_index_that_is_no_web_address_is_refused() -> None:
    with pytest.raises(InputError, match="no http"):
        CliRunner().invoke(command, ["pypi", "x", "--index-url", "/srv/index"], catch_exceptions=False)


def test_spread_without_max_is_refused(tool: SimpleIndex) -> None:
    assert "--max" in str(refusal(tool, "my-tool", "--spread"))


def test_a_folder_of_something_else_is_not_written_into(tool: SimpleIndex) -> None:
    other = Path("repositories/my-tool.git")
    other.mkdir(parents=True)
    (other / "notes.txt").write_text("mine")
    assert "--into" in str(refusal(tool, "my-tool"))
    assert [path.name for path in other.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("variable", ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"])
def test_the_default_index_is_that_of_the_installers(variable: str) -> None:
    assert default_index_url({variable: "https://index.invalid/simple"}) == "https://index.invalid/simple"


def test_pips_configuration_file_names_the_default_index(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://index.invalid/simple\n")
    environ = {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "HOME": str(tmp_path)}
    assert default_index_url(environ) == "https://index.invalid/simple"


def test_an_address_is_shown_without_user_and_password() -> None:
    assert index_url_without_secrets("https://u:p@index.invalid/simple/") == "https://index.invalid/simple/"


def test_a_real_package_comes_from_the_configured_index(tmp_path: Path) -> None:
    out = tmp_path / "real.jsonl"
    arguments = ["pypi", "inflection", "--until", "2020-12-31", "--max", "2", "--out", str(out)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = read_timeline(out)
    assert [row.title for row in found] == ["inflection 0.5.0", "inflection 0.5.1"]
    assert "def camelize" in git(found[1].clone_url, "show", f"{found[1].sha}:inflection/__init__.py") or (
        "def camelize" in git(found[1].clone_url, "show", f"{found[1].sha}:inflection.py")
    )


def test_a_client_closes_its_connections(index: SimpleIndex, tmp_path: Path) -> None:
    release(index, "1.0", "2020-01-01T00:00:00Z")
    with PackageIndex(url=index.url, cache_dir=tmp_path) as client:
        (known,) = client.sdists("my-tool")
    with pytest.raises(RuntimeError, match="closed"):
        client.fetch(known)
    assert httpx.URL(known.url).host == "127.0.0.1"
