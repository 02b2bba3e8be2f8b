"""``headrace revoke``: which context is meant, what is re-opened where, and what a second call or a death changes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from events.commands import ImportContexts
from events.decide import decide
from events.sweep import RepositoryPhase
from events.types import ContextRevoked
from scripts.cli import main
from scripts.reading import read_repository, read_sweep
from store.log import RecordedEvent
from store.opening import open_store
from store.replay import check
from tests.events.worlds import known_context
from tests.scripts.finished_sweep import GOOD, OTHER, REPOSITORIES, make

ROOT = Path(__file__).resolve().parents[2]
WHY = ("--why", "its wheel is poisoned")


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/log.db"
    make(url)
    return url


def revoke(capsys: pytest.CaptureFixture[str], url: str, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["revoke", *arguments, "--store", url])
    said = capsys.readouterr()
    return code, said.out, said.err


def all_events(url: str) -> list[RecordedEvent]:
    with open_store(url, write=False) as store:
        check(store.log)
        return list(store.log.read_all())


def states(url: str, repository: str) -> list[str]:
    with open_store(url, write=False) as store:
        state = read_repository(store.log, repository)
    return [str(state.prs[number].state) for number in range(1, 7)]


def test_it_says_by_repository_what_is_revoked_and_re_opened_and_how_to_go_on(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = revoke(capsys, url, GOOD, *WHY)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "o/q: revoked ab12cd340000",
        "o/q: re-opened #1, #2, #3",
        "o/r: revoked ab12cd340000",
        "o/r: re-opened #1, #2, #3",
        f"go on with: headrace resume s --store {url}",
    ]
    for repository in REPOSITORIES:
        assert states(url, repository) == ["queued"] * 3 + ["succeeded", "failed", "failed"]


def test_the_sweep_that_had_retired_the_repositories_has_them_to_do_again(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    revoke(capsys, url, GOOD, *WHY)
    with open_store(url, write=False) as store:
        sweep = read_sweep(store.log, "s")
    assert sweep.in_phase(RepositoryPhase.PENDING) == list(REPOSITORIES)


def test_the_cache_says_that_it_is_revoked_and_another_stream_learns_it_from_there(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    revoke(capsys, url, GOOD, *WHY)
    with open_store(url, write=False) as store:
        rows = store.models.contexts_of("o", "r")
        state = read_repository(store.log, "o/r")
    assert {row.context for row in rows if row.revoked_why == "its wheel is poisoned"} == {GOOD}
    assert {row.context for row in rows if row.revoked_at is None} == {OTHER}
    assert decide(state, ImportContexts(contexts=[known_context(1, context=GOOD)]), 0.0) == []


def test_repeating_it_changes_nothing_and_says_so(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    revoke(capsys, url, GOOD, *WHY)
    before = all_events(url)
    code, out, _ = revoke(capsys, url, GOOD[:12], "--why", "another reason")
    assert (code, out.splitlines()) == (
        0,
        [f"{name}: ab12cd340000 was revoked before: its wheel is poisoned" for name in REPOSITORIES],
    )
    assert all_events(url) == before


def test_killed_between_two_repositories_it_finishes_when_run_again(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program = """
import os, signal, sys
from scripts.cli import main
from store.sqlite import SqliteLog
ordinary, calls = SqliteLog.append_many, []
def dying(self, batches):
    calls.append(batches)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return ordinary(self, batches)
SqliteLog.append_many = dying
main(sys.argv[1:])
"""
    command = [sys.executable, "-c", program, "revoke", GOOD, *WHY, "--store", url]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [states(url, name)[0] for name in REPOSITORIES] == ["queued", "succeeded"]
    code, out, _ = revoke(capsys, url, GOOD, *WHY)
    assert code == 0
    assert "o/q: ab12cd340000 was revoked before" in out
    assert "o/r: re-opened #1, #2, #3" in out
    assert f"go on with: headrace resume s --store {url}" in out
    revocations = [one for one in all_events(url) if one.type == ContextRevoked.__name__ and GOOD in one.data.decode()]
    assert len(revocations) == len(REPOSITORIES)
    with open_store(url, write=False) as store:
        assert read_sweep(store.log, "s").in_phase(RepositoryPhase.PENDING) == list(REPOSITORIES)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("ab12cd3", *WHY), 2, "'ab12cd3' is no context: give its digest, or at least the first 8"),
        (("not-a-digest", *WHY), 2, "is no context"),
        (("ab12cd34", *WHY), 2, f"ab12cd34: 2 contexts begin so: {GOOD}, {OTHER}; give more digits"),
        (("e" * 64, *WHY), 2, "knows a context that begins so"),
        ((GOOD,), 2, "Missing option '--why'"),
        ((GOOD, "--why", " "), 2, "--why is empty"),
    ],
)
def test_what_is_not_meant_clearly_is_refused_and_changes_nothing(
    url: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = all_events(url)
    found, out, err = revoke(capsys, url, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert all_events(url) == before


def test_beside_a_running_sweep_it_says_to_stop_that_first(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with open_store(url, write=True, holder="sweep s"):
        code, _, err = revoke(capsys, url, GOOD, *WHY)
    assert code == 3
    assert "(sweep s); stop that first (Ctrl-C), revoke, then go on with `headrace resume`" in err
    assert states(url, "o/r")[0] == "succeeded"


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = revoke(capsys, f"sqlite:///{tmp_path}/none.db", GOOD, *WHY)
    assert code == 2
    assert "there is no log to read" in err
    assert list(tmp_path.iterdir()) == []
