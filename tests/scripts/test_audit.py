"""``headrace audit``: which attempts it shows, in lines and as JSON, and what it sums up."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from events.errors import InputError, UnknownSweep
from events.types import AttemptFailed, Event, SweepDefined
from events.work import CascadePolicy
from scripts.audit import command, moment
from store.opening import open_store
from tests.store.test_read_models import FAILURE, REPORT, RULES, admitted, append, limited, session, started

TUESDAY = moment("2026-11-24")
HOUR = 3600.0


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Of o/r a failure and two limits on Tuesday and one on Wednesday; of o/q a limit on Tuesday."""
    url = f"sqlite:///{tmp_path}/log.db"
    with open_store(url, write=True) as opened:
        append(opened, admitted(1, 2), started("plain", 1), at=TUESDAY)
        append(opened, AttemptFailed(attempt_id="plain", issue_number=1, outcome=FAILURE), at=TUESDAY + 1)
        for attempt, number, at in (("first", 1, 2 * HOUR), ("second", 2, 23.99 * HOUR), ("late", 2, 24 * HOUR)):
            append(opened, session(attempt, number), at=TUESDAY + at - 1)
            append(opened, limited(attempt, number), at=TUESDAY + at)
        append(opened, *other(), stream="repository:o/q", at=TUESDAY + HOUR)
        append(opened, session("under way", 1), at=TUESDAY + 30 * HOUR)
        defined = SweepDefined(
            sweep="demo", timeline="", timeline_digest="", rules=RULES, policy=CascadePolicy(stock_context="stock")
        )
        append(opened, defined, stream="sweep:demo")
    return url


def other() -> list[Event]:
    codex = msgspec.structs.replace(REPORT, account="codex", agent="codex", cost_usd=None, output_tokens=None)
    begun = msgspec.structs.replace(session("elsewhere", 7), account="codex", agent="codex")
    return [begun, msgspec.structs.replace(limited("elsewhere", 7), account="codex", session=codex)]


def audit(*arguments: str) -> str:
    done = CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)
    return done.stdout


def attempts(*arguments: str) -> list[str]:
    return [one["attempt_id"] for one in json.loads(audit(*arguments, "--json"))["attempts"]]


def test_the_limits_of_a_repository_on_a_day_are_one_command_with_what_each_cost(store: str) -> None:
    asked = ["--store", store, "--repository", "o/r", "--ended", "rate_limited", "--on", "2026-11-24"]
    found = json.loads(audit(*asked, "--json"))
    assert [one["attempt_id"] for one in found["attempts"]] == ["first", "second"]
    assert [(one["usd"], one["input_tokens"], one["output_tokens"]) for one in found["attempts"]] == [
        (0.25, 1200, 84)
    ] * 2
    total = {"of": "claude:work", "sessions": 2, "input_tokens": 2400, "output_tokens": 168, "usd": 0.5}
    assert found["usage"] == [{**total, "unpriced_sessions": 0, "uncounted_sessions": 0}]
    shown, blob = audit(*asked), f"{store.removeprefix('sqlite:///')}.blobs/dd/{'d' * 62}"
    assert "2026-11-24T02:00:00Z o/r#1 llm_generate rate_limited claude:work (claude-opus-5-5), rate_limited" in shown
    assert "exit code 1, at least 1,200 tokens in, 84 out, 0.2500 USD, 12 s" in shown
    assert "why: nearest on the left" in shown
    assert "ended: claude ran into a limit" in shown
    assert "the limit ends: 2023-11-14T22:14:20Z" in shown
    assert "transcript: " not in shown
    assert f"transcript: {blob}" in audit(*asked, "--logs")
    assert "claude:work: 2 sessions, 2,400 tokens in, 168 out; 0.5000 USD" in shown


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (["--repository", "o/r", "--issue-number", "1"], ["plain", "first", "under way"]),
        (["--account", "codex"], ["elsewhere"]),
        (["--since", "2026-11-24T23:00Z", "--until", "2026-11-25"], ["second"]),
        (["--since", "2026-11-25T01:00+01:00"], ["late", "under way"]),
        (["--ended", "failed", "--ended", "running"], ["plain", "under way"]),
        (["demo"], ["plain", "elsewhere", "first", "second", "late", "under way"]),
        (["--repository", "o/nothing"], []),
    ],
)
def test_attempts_are_those_that_match_everything_asked_by_their_ends(
    store: str, asked: list[str], wanted: list[str]
) -> None:
    assert attempts("--store", store, *asked) == wanted


def test_a_failed_build_is_told_with_its_stage_class_and_exit_code(store: str) -> None:
    shown = audit("--store", store, "--ended", "failed")
    assert "o/r#1 try_similar failed\n" in shown
    assert "ended at build (recipe, exit code 2): error: no such header Python.h" in shown


def test_usage_is_summed_up_by_repository_or_pull_request_and_says_what_was_not_told(store: str) -> None:
    by_repository = json.loads(audit("--store", store, "--by", "repository", "--json"))["usage"]
    assert [(one["of"], one["sessions"], one["unpriced_sessions"]) for one in by_repository] == [
        ("o/q", 1, 1),
        ("o/r", 4, 1),
    ]
    by_pr = json.loads(audit("--store", store, "--by", "pr", "--json"))["usage"]
    assert [(one["of"], one["usd"]) for one in by_pr] == [("o/q#7", 0.0), ("o/r#1", 0.25), ("o/r#2", 0.5)]
    assert "codex: 1 session, 1,200 tokens in, 0 out and 1 not told; 0.0000 USD and 1 without a price" in audit(
        "--store", store
    )


def test_nothing_found_is_said_and_wrong_input_names_what_to_write(store: str) -> None:
    assert audit("--store", store, "--repository", "o/nothing") == "no attempt matches\n"
    with pytest.raises(InputError, match="write OWNER/REPO"):
        audit("--store", store, "--repository", "nothing")
    with pytest.raises(InputError, match=r"'Tuesday' is no time; write 2026-01-31"):
        audit("--store", store, "--on", "Tuesday")
    with pytest.raises(InputError, match="leave --since and --until out"):
        audit("--store", store, "--on", "2026-11-24", "--since", "2026-11-23")
    with pytest.raises(UnknownSweep):
        audit("nowhere", "--store", store)
