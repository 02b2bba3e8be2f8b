"""``headrace retry``: which pull requests it opens, that this is in the log before anything runs, and once only.

The run that follows is ``resume``'s, which has tests of its own: here it is cut off, but for one test on real actors.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from events.pull_request import PrState
from events.sweep import RepositoryPhase
from scripts import retry
from scripts.cli import main
from scripts.reading import read_repository, read_sweep
from store.opening import open_store
from tests.actors.harness import Sweep, rows
from tests.scripted import Script, scripted
from tests.scripts.finished_sweep import GOOD, REPOSITORIES, make


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/log.db"
    make(url)
    return url


@pytest.fixture(autouse=True)
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sweeps that would have been run."""
    asked: list[str] = []

    def noted(*_: object, sweep: str, **__: object) -> int:
        asked.append(sweep)
        return 0

    monkeypatch.setattr(retry, "run_and_report", noted)
    return asked


def run(capsys: pytest.CaptureFixture[str], url: str, *options: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["retry", "s", "--store", url, "--agent", "claude", *options])
    said = capsys.readouterr()
    return code, said.out, said.err


def opened(url: str) -> set[str]:
    """The pull requests of the sweep that are open."""
    with open_store(url, write=False) as store:
        found = [(name, read_repository(store.log, name)) for name in REPOSITORIES]
    return {
        f"{name}#{pr.issue_number}" for name, one in found for pr in one.of_sweep("s") if pr.state is PrState.QUEUED
    }


def test_all_that_failed_is_open_again_and_the_sweep_goes_on(
    url: str, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, url) == (0, "re-opened 4 pull requests of sweep s\n", "")
    assert opened(url) == {"o/q#5", "o/q#6", "o/r#5", "o/r#6"}
    assert runs == ["s"]
    with open_store(url, write=False) as store:
        assert read_sweep(store.log, "s").in_phase(RepositoryPhase.PENDING) == list(REPOSITORIES)
        pr = read_repository(store.log, "o/r").prs[6]
    assert (pr.generations, pr.generation_ended, pr.failure_class) == (0, False, None)


def test_run_again_it_opens_only_what_has_failed_since(
    url: str, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, url)
    with open_store(url, write=False) as store:
        seq = store.log.last_seq()
    assert run(capsys, url) == (0, "re-opened 0 pull requests of sweep s\n", "")
    with open_store(url, write=False) as store:
        assert store.log.last_seq() == seq
    assert runs == ["s", "s"]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--only", "tamper"), {"o/q#6", "o/r#6"}),
        (("--only", "tamper", "--only", "recipe"), {"o/q#5", "o/q#6", "o/r#5", "o/r#6"}),
        (("--only", "timeout"), set()),
        (("--pr", "o/r#5", "--pr", "o/q#6"), {"o/r#5", "o/q#6"}),
        (("--pr", "o/r#5", "--only", "tamper"), set()),
    ],
)
def test_only_those_asked_for_are_opened(
    url: str, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], wanted: set[str]
) -> None:
    assert run(capsys, url, *options)[0] == 0
    assert opened(url) == wanted


def test_a_repository_with_nothing_to_do_stays_retired(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, url, "--pr", "o/r#5")
    with open_store(url, write=False) as store:
        assert read_sweep(store.log, "s").in_phase(RepositoryPhase.RETIRED) == ["o/q"]


def test_one_that_has_not_failed_is_left_as_it_is_and_named(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, url, "--pr", "o/r#1")
    assert (code, out) == (0, "re-opened 0 pull requests of sweep s\n")
    assert "o/r#1 has not failed (succeeded): it is left as it is" in err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("o/r", "--pr 'o/r': name it as OWNER/REPO#N"),
        ("r#5", "--pr 'r#5': name it as OWNER/REPO#N"),
        ("o/r#five", "name it as OWNER/REPO#N"),
        ("o/z#5", "--pr o/z#5: sweep s has no repository o/z"),
        ("o/r#99", "--pr o/r#99: sweep s has no such pull request"),
    ],
)
def test_a_name_that_the_sweep_does_not_have_is_refused_and_nothing_runs(
    url: str, runs: list[str], capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    code, _, err = run(capsys, url, "--pr", "o/r#5", "--pr", name)
    assert code == 2
    assert message in err
    assert opened(url) == set()
    assert runs == []


def test_an_unknown_sweep_names_those_that_there_are(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retry", "other", "--store", url]) == 2
    assert "other" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
def test_what_failed_is_worked_on_again_and_what_is_revoked_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    sweep = Sweep(tmp_path, pull_requests=rows(2, 3), script=Script(refuse=["o/r0#2"]))
    sweep.start()
    assert sweep.finish() == 0
    scripted(tmp_path, Script())
    assert run(capsys, url)[1] == "re-opened 1 pull request of sweep s\n"
    sweep.start()
    assert sweep.finish() == 0
    assert {name.repository: name.counts("s") for name in sweep.repositories()} == {
        "o/r0": {"succeeded": 3},
        "o/r1": {"succeeded": 3},
    }
    (context,) = {pr.context for one in sweep.repositories() for pr in one.prs.values()}
    assert context is not None
    assert main(["revoke", context, "--why", "a test says so", "--store", url]) == 0
    began = sweep.began()
    sweep.start()
    assert sweep.finish() == 0
    sweep.check()
    assert sweep.began() == began, "there is nothing but the revoked template to try"
    assert all(one.counts("s") == {"failed": 3} for one in sweep.repositories())


def test_a_context_that_is_revoked_is_not_made_usable_by_a_retry(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["revoke", GOOD, "--why", "poisoned", "--store", url]) == 0
    run(capsys, url)
    with open_store(url, write=False) as store:
        assert all(GOOD in read_repository(store.log, name).revoked for name in REPOSITORIES)
