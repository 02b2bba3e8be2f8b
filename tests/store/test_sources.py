"""Mirrors with real git: cloned once, fetched when needed, whole or absent, and honest about what is missing."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from events.errors import InfraError, UnknownCommit
from events.work import PullRequest
from store.locks import file_lock
from store.sources import SourceCancelled, Sources, clone_url_of, git_environment, public_url
from tests.engine_fixtures import GitProject

NAME = "o/r#1"


@pytest.fixture
def project(tmp_path: Path) -> GitProject:
    return GitProject(tmp_path / "upstream")


def test_a_mirror_has_the_commits_and_reads_their_files(project: GitProject, tmp_path: Path) -> None:
    first = project.commit({"a.txt": "one", "folder/b.txt": "b"})
    second = project.commit({"a.txt": "two", "naïve file.txt": "x"})
    mirror = Sources(tmp_path / "cache").mirror(project.clone_url, [first, second], pull_request=NAME)
    assert mirror.read_file(first, "a.txt") == b"one"
    assert mirror.read_file(second, "a.txt") == b"two"
    assert mirror.read_file(first, "missing.txt") is None
    assert mirror.read_file(first, "folder") is None
    assert mirror.list_files(second) == ["a.txt", "folder/b.txt", "naïve file.txt"]
    assert mirror.resolve(first[:10]) == first
    assert mirror.is_ancestor(first, second)
    assert not mirror.is_ancestor(second, first)


def test_a_file_url_is_as_good_as_a_path(project: GitProject, tmp_path: Path) -> None:
    commit = project.commit({"a": "1"})
    mirror = Sources(tmp_path / "cache").mirror(f"file://{project.path}", [commit], pull_request=NAME)
    assert mirror.read_file(commit, "a") == b"1"


def test_a_known_commit_needs_no_remote_at_all(project: GitProject, tmp_path: Path) -> None:
    commit = project.commit({"a": "1"})
    sources = Sources(tmp_path / "cache")
    sources.mirror(project.clone_url, [commit], pull_request=NAME)
    shutil.rmtree(project.path)
    assert sources.mirror(project.clone_url, [commit], pull_request=NAME).has(commit)


def test_a_missing_commit_makes_the_mirror_fetch(project: GitProject, tmp_path: Path) -> None:
    first = project.commit({"a": "1"})
    sources = Sources(tmp_path / "cache")
    sources.mirror(project.clone_url, [first], pull_request=NAME)
    second = project.commit({"a": "2"}, tag="v2")
    assert sources.mirror(project.clone_url, [second], pull_request=NAME).read_file(second, "a") == b"2"


def test_a_commit_that_no_branch_reaches_is_asked_for_by_its_hash(project: GitProject, tmp_path: Path) -> None:
    project.commit({"a": "1"})
    squashed = project.commit({"a": "2"})
    project.git("reset", "--quiet", "--hard", "HEAD~1")
    project.git("config", "uploadpack.allowAnySHA1InWant", "true")
    mirror = Sources(tmp_path / "cache").mirror(f"file://{project.path}", [squashed], pull_request=NAME)
    assert mirror.read_file(squashed, "a") == b"2"


def test_an_unknown_commit_names_the_pull_request_and_the_repository(project: GitProject, tmp_path: Path) -> None:
    project.commit({"a": "1"})
    with pytest.raises(UnknownCommit) as caught:
        Sources(tmp_path / "cache").mirror(project.clone_url, ["f" * 40], pull_request=NAME)
    assert caught.value.pull_request == NAME
    assert project.clone_url in str(caught.value)


@pytest.mark.parametrize("text", ["HEAD", "main", "--upload-pack=touch /tmp/x", "", "g" * 40])
def test_only_hashes_count_as_commits(project: GitProject, tmp_path: Path, text: str) -> None:
    project.commit({"a": "1"})
    with pytest.raises(UnknownCommit):
        Sources(tmp_path / "cache").mirror(project.clone_url, [text], pull_request=NAME)


def test_a_remote_that_is_away_is_nobodys_fault_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match=r"git clone failed: .*does not exist|not appear to be a git repository"):
        Sources(tmp_path / "cache").mirror(str(tmp_path / "nowhere"), ["a" * 40], pull_request=NAME)
    assert not [path for path in (tmp_path / "cache" / "mirrors").iterdir() if path.is_dir()]


def test_an_interrupted_clone_leaves_no_mirror_and_its_remains_are_removed(project: GitProject, tmp_path: Path) -> None:
    commit = project.commit({"a": "1"})
    sources = Sources(tmp_path / "cache")
    path = sources.mirror(project.clone_url, [commit], pull_request=NAME).path
    half_made = path.parent / f".clone-{path.name}-dead"
    path.rename(half_made)
    (half_made / "HEAD").unlink()
    mirror = sources.mirror(project.clone_url, [commit], pull_request=NAME)
    assert mirror.read_file(commit, "a") == b"1"
    assert not half_made.exists()


def _mirror_in_process(cache: Path, url: str, commit: str, answers: multiprocessing.Queue[str]) -> None:
    answers.put(str(Sources(cache).mirror(url, [commit], pull_request=NAME).path.stat().st_ino))


def test_processes_that_ask_at_once_share_one_clone(project: GitProject, tmp_path: Path) -> None:
    commit = project.commit({"a": "1"})
    spawn = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[str] = spawn.Queue()
    arguments = (tmp_path / "cache", project.clone_url, commit, answers)
    processes = [spawn.Process(target=_mirror_in_process, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    inodes = {answers.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(inodes) == 1


def test_waiting_for_another_clone_ends_when_cancelled(project: GitProject, tmp_path: Path) -> None:
    commit = project.commit({"a": "1"})
    sources = Sources(tmp_path / "cache")
    path = sources.mirror(project.clone_url, [commit], pull_request=NAME).path
    shutil.rmtree(path)
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    started_s = time.monotonic()
    with file_lock(path.with_suffix(".lock")), pytest.raises(SourceCancelled):
        sources.mirror(project.clone_url, [commit], pull_request=NAME, cancel=cancel)
    assert time.monotonic() - started_s < 5


def test_a_clone_that_hangs_ends_at_its_time_limit(tmp_path: Path) -> None:
    fifo_remote = tmp_path / "hanging"
    fifo_remote.mkdir()
    os.mkfifo(fifo_remote / "HEAD")
    (fifo_remote / "objects").mkdir()
    (fifo_remote / "refs").mkdir()
    with pytest.raises(InfraError, match="git clone took longer than 1 s"):
        Sources(tmp_path / "cache", timeout_s=1).mirror(f"file://{fifo_remote}", ["a" * 40], pull_request=NAME)


def test_git_sees_nothing_of_the_users_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    environment = git_environment()
    assert "GIT_DIR" not in environment
    assert "SECRET_TOKEN" not in environment
    assert environment["GIT_TERMINAL_PROMPT"] == "0"


def test_the_default_clone_url_is_the_repository_on_github() -> None:
    request = PullRequest(owner="o", repo="r", issue_number=1, sha="a" * 40, created_at="2023-01-01T00:00:00Z")
    assert clone_url_of(request) == "https://github.com/o/r.git"


def test_a_shown_url_has_no_password_and_no_path_of_this_machine() -> None:
    assert public_url("https://user:token@example.org:8443/o/r.git") == "https://example.org:8443/o/r.git"
    assert public_url("/srv/git/r.git") == ""
    assert public_url("file:///srv/git/r.git") == ""
