"""Pull requests read off a clone's history."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from events.errors import InputError
from events.work import PullRequest
from scripts.ingest import command
from scripts.ingest_git import is_test_file, owner_and_repo, split_patch
from store.timeline import read_timeline
from tests.scripts.repositories import Repository

ORIGIN = "https://user:secret@example.invalid/acme/tool.git"


@pytest.fixture
def clone(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "tool", origin=ORIGIN)
    repository.commit("start", {"tool.py": "x = 1\n"})
    repository.merge(
        1, {"tool.py": "x = 2\n", "tests/test_tool.py": "y = 1\n"}, title="Merge me", date="2021-02-01T00:00:00Z"
    )
    repository.commit("Squash me (#2)\n\nThe body.", {"tool.py": "x = 3\n"}, date="2021-03-01T10:00:00+02:00")
    repository.commit("no pull request", {"tool.py": "x = 4\n"}, date="2021-03-02T00:00:00Z")
    repository.commit('Revert "Squash me (#2)" (#3)', {"tool.py": "x = 2\n"}, date="2021-04-01T00:00:00Z")
    return repository


def ingested(tmp_path: Path, *arguments: str) -> list[PullRequest]:
    out = tmp_path / "prs.jsonl"
    result = CliRunner().invoke(command, ["git", *arguments, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return read_timeline(out)


def refusal(tmp_path: Path, *arguments: str) -> str:
    with pytest.raises(InputError) as caught:
        CliRunner().invoke(command, ["git", *arguments, "--out", str(tmp_path / "no.jsonl")], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "no.jsonl").exists()
    return str(caught.value)


def test_merge_commits_and_squash_titles_are_pull_requests_and_nothing_else_is(
    clone: Repository, tmp_path: Path
) -> None:
    rows = ingested(tmp_path, str(clone.path))
    assert [(row.issue_number, row.title, row.body) for row in rows] == [
        (1, "Merge me", "Why it is so."),
        (2, "Squash me", "The body."),
        (3, 'Revert "Squash me (#2)"', None),
    ]
    assert {(row.owner, row.repo, row.clone_url) for row in rows} == {
        ("acme", "tool", "https://example.invalid/acme/tool.git")
    }
    assert rows[1].created_at == "2021-03-01T08:00:00Z"


def test_the_base_is_the_first_parent_and_the_patch_leads_from_it_to_the_commit(
    clone: Repository, tmp_path: Path
) -> None:
    row = ingested(tmp_path, str(clone.path))[0]
    assert clone.git("rev-parse", f"{row.sha}^1") == row.base_sha
    assert row.patch is not None
    assert row.test_patch is not None
    assert "tool.py" in row.patch
    assert "tests/" not in row.patch
    assert row.test_patch.startswith("diff --git a/tests/test_tool.py")
    clone.git("checkout", "--quiet", str(row.base_sha))
    (clone.path.parent / "all.diff").write_text(row.patch + row.test_patch)
    clone.git("apply", "--index", str(clone.path.parent / "all.diff"))
    assert clone.git("write-tree") == clone.git("rev-parse", f"{row.sha}^{{tree}}")


def test_of_a_repeated_number_the_last_is_kept_and_the_rest_counted(clone: Repository, tmp_path: Path) -> None:
    last = clone.commit("Squash me (#2)", {"tool.py": "x = 5\n"}, date="2021-05-01T00:00:00Z")
    out = tmp_path / "prs.jsonl"
    result = CliRunner().invoke(command, ["git", str(clone.path), "--out", str(out)])
    assert "1 numbers occurred again" in result.stdout
    assert [row.sha for row in read_timeline(out) if row.issue_number == 2] == [last]


def test_the_window_includes_the_whole_last_day_and_max_takes_the_newest(clone: Repository, tmp_path: Path) -> None:
    window = ["--since", "2021-02-01", "--until", "2021-03-01"]
    assert [row.issue_number for row in ingested(tmp_path, str(clone.path), *window)] == [1, 2]
    assert [row.issue_number for row in ingested(tmp_path, str(clone.path), "--max", "2")] == [2, 3]


def test_a_root_commit_has_no_base(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r")
    repository.commit("First (#1)", {"a.py": "1\n"})
    row = ingested(tmp_path, str(repository.path), "--owner", "o", "--repo", "r")[0]
    assert (row.base_sha, row.clone_url) == (None, str(repository.path))
    assert row.patch is not None


def test_history_is_read_without_the_configuration_of_the_user(
    clone: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ingested(tmp_path, str(clone.path))
    for name, value in (("diff.noprefix", "true"), ("diff.renames", "copies"), ("log.showSignature", "true")):
        clone.git("config", name, value)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert ingested(tmp_path, str(clone.path)) == before


def test_what_is_no_repository_is_refused(tmp_path: Path) -> None:
    assert "no git repository" in refusal(tmp_path, str(tmp_path))
    assert "no git repository" in refusal(tmp_path, str(tmp_path / "absent"))


def test_an_unknown_branch_is_refused(clone: Repository, tmp_path: Path) -> None:
    assert "--branch" in refusal(tmp_path, str(clone.path), "--branch", "nowhere")


def test_without_an_origin_owner_and_repository_must_be_given(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r")
    repository.commit("First (#1)", {"a.py": "1\n"})
    assert "--owner and --repo" in refusal(tmp_path, str(repository.path))


def test_a_history_without_pull_requests_is_refused(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", origin=ORIGIN)
    repository.commit("start", {"a.py": "1\n"})
    assert "no merged pull request" in refusal(tmp_path, str(repository.path))


@pytest.mark.parametrize(
    "window", [["--since", "soon"], ["--until", "2021-02-30"], ["--since", "2022-01-01", "--until", "2021-01-01"]]
)
def test_a_wrong_window_is_refused(clone: Repository, tmp_path: Path, window: list[str]) -> None:
    assert window[0] in refusal(tmp_path, str(clone.path), *window)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("git@example.invalid:acme/tool.git", ("acme", "tool")),
        ("ssh://git@example.invalid:22/acme/tool", ("acme", "tool")),
        ("https://example.invalid/group/acme/tool.git/", ("acme", "tool")),
        ("/srv/acme/tool.git", ("acme", "tool")),
        ("tool", None),
    ],
)
def test_owner_and_repository_are_the_last_parts_of_an_address(url: str, expected: tuple[str, str] | None) -> None:
    assert owner_and_repo(url) == expected


@pytest.mark.parametrize(
    "path", ["tests/data/x.txt", "a/test_x.py", "a/x_test.py", "conftest.py", "pkg/tests/__init__.py"]
)
def test_files_of_tests_are_known_by_folder_or_name(path: str) -> None:
    assert is_test_file(path)


@pytest.mark.parametrize("path", ["src/contest.py", "latest/x.py", "src/testimony.py", "pkg/attest.py"])
def test_files_that_only_sound_like_tests_are_none(path: str) -> None:
    assert not is_test_file(path)


def test_a_line_that_looks_like_a_header_inside_a_hunk_does_not_split_it() -> None:
    diff = "diff --git a/x.py b/x.py\n@@ -1 +1 @@\n-a\n+diff --git a/tests/t.py b/tests/t.py\n"
    assert split_patch(diff) == (diff, "")
