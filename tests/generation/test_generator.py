"""A session, from the workspace to the verdict, with an agent that runs a shell script."""

from __future__ import annotations

import errno
import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from actors.templates import stock_context
from events.work import FailureClass, Outcome, PriorAttempt, Stage
from store.docker_context import DockerContext
from tests.generation.scripted import KEY, Stand

WRITE = "echo {} > docker_build_pkg.sh; "
VERIFY = "./verify; echo code=$?; "


def test_a_script_that_verifies_is_the_outcome_with_usage_and_cost(stand: Stand) -> None:
    outcome = stand.run(WRITE.format("GOOD") + VERIFY)
    assert outcome.verified, (outcome.message, stand.transcript)
    assert "verdict: verified" in stand.said()
    assert "code=0" in stand.said()
    tried = msgspec.structs.replace(stock_context(), build_pkg_sh="GOOD\n")
    assert outcome.context == tried.digest
    session = outcome.session
    assert session is not None
    assert (session.ended, session.account, session.agent) == ("completed", "claude", "claude")
    assert (session.model, session.session_id, session.version) == ("scripted-1", "session-1", "2.1.330")
    assert (session.input_tokens, session.cached_input_tokens, session.output_tokens) == (250, 50, 10)
    assert (session.cost_usd, session.tool_calls, session.verifications) == (0.25, 1, 1)
    assert not (stand.spool / "session").exists()


def test_a_verdict_reached_on_request_is_not_paid_for_twice(stand: Stand) -> None:
    outcome = stand.run(WRITE.format("GOOD") + VERIFY + VERIFY)
    assert outcome.verified
    assert len(stand.judge.judged) == 1
    assert (stand.spool / "tests.jsonl").exists()
    assert "the end of the build" in (stand.spool / "build.log").read_text()


def test_scripts_that_were_never_verified_in_the_session_are_verified_after_it(stand: Stand) -> None:
    outcome = stand.run(WRITE.format("GOOD"))
    assert outcome.verified
    assert outcome.session is not None
    assert outcome.session.verifications == 0
    assert stand.judge.judged == ["GOOD\n"]


def test_an_agent_reads_the_failure_mends_the_script_and_is_verified(stand: Stand) -> None:
    outcome = stand.run(
        WRITE.format("broken")
        + "./verify > answer; echo code=$?; grep -q Python.h answer && echo GOOD > docker_build_pkg.sh; "
        "cat answer; ./verify --log build; " + VERIFY
    )
    assert outcome.verified
    assert stand.judge.judged == ["broken\n", "GOOD\n"]
    said = stand.said()
    assert "code=1" in said
    assert "verdict: refused" in said
    assert "stage: build" in said
    assert "class: recipe" in said
    assert "the end of the build" in said
    kept = (stand.spool / "verify_1.log").read_text()
    assert "refused at build (recipe)" in kept
    assert "broken" in kept


def test_what_verified_once_in_the_session_stands_although_the_agent_broke_it_later(stand: Stand) -> None:
    outcome = stand.run(WRITE.format("GOOD") + VERIFY + WRITE.format("broken"))
    assert outcome.verified
    assert outcome.context == msgspec.structs.replace(stock_context(), build_pkg_sh="GOOD\n").digest
    assert stand.judge.judged == ["GOOD\n"]


def test_the_agent_cannot_write_its_own_verdict(stand: Stand) -> None:
    outcome = stand.run(
        WRITE.format("broken") + "rm -f .verify.sock verify; printf '#!/bin/sh\\necho verdict: verified\\n' > verify; "
        "chmod +x verify; ./verify; echo '{\"verified\": true}' > tests.jsonl; mkdir -p logs; cp tests.jsonl logs/"
    )
    assert not outcome.verified
    assert (outcome.stage, outcome.failure_class) == ("build", FailureClass.RECIPE)
    assert not (stand.spool / "tests.jsonl").exists()


def test_a_session_that_changes_nothing_and_asks_nothing_is_aborted(stand: Stand) -> None:
    outcome = stand.run("cat AGENTS.md")
    assert (outcome.stage, outcome.failure_class) == ("session", FailureClass.AGENT)
    assert outcome.session is not None
    assert outcome.session.ended == "no_scripts"
    assert outcome.context is None
    assert stand.judge.judged == []


def test_a_session_that_crashes_before_it_did_anything_is_aborted_with_its_reason(stand: Stand) -> None:
    outcome = stand.run("true", final=False, exit_code=3)
    assert (outcome.stage, outcome.failure_class) == ("session", FailureClass.AGENT)
    assert outcome.session is not None
    assert outcome.session.ended == "no_final"
    assert "exit code 3" in outcome.message


def test_scripts_of_a_session_that_crashed_are_verified_all_the_same(stand: Stand) -> None:
    outcome = stand.run(WRITE.format("GOOD"), final=False, exit_code=3)
    assert outcome.verified
    assert outcome.session is not None
    assert outcome.session.ended == "no_final"


def test_usage_is_told_although_the_spool_cannot_be_written_any_more(stand: Stand) -> None:
    judge = stand.judge.__call__

    def full(context: DockerContext, *, spool: Path, cancel: threading.Event) -> Outcome:
        judge(context, spool=spool, cancel=cancel)
        raise OSError(errno.ENOSPC, "No space left on device")

    stand.judge = full  # type: ignore[assignment]
    outcome = stand.run(WRITE.format("GOOD"))
    assert (outcome.verified, outcome.failure_class) == (False, FailureClass.INFRA)
    assert "No space left on device" in outcome.message
    assert outcome.session is not None
    assert outcome.session.cost_usd == 0.25


def limit_line(reset: float) -> str:
    info = {"status": "rejected", "resetsAt": reset, "rateLimitType": "five_hour"}
    return json.dumps({"type": "rate_limit_event", "rate_limit_info": info, "session_id": "session-1"})


def test_a_rate_limit_is_reported_with_its_reset_and_costs_no_recipe(stand: Stand) -> None:
    reset = datetime(2099, 1, 1, tzinfo=UTC).timestamp()
    outcome = stand.run("true", final=False, exit_code=1, lines=(limit_line(reset),))
    assert outcome.session is not None
    assert (outcome.session.ended, outcome.session.reset_at) == ("rate_limited", reset)
    assert (outcome.verified, outcome.failure_class) == (False, FailureClass.AGENT)
    assert (outcome.session.input_tokens, outcome.session.partial) == (100, True)


def test_a_limit_that_comes_after_the_work_was_done_does_not_waste_it(stand: Stand) -> None:
    reset = datetime(2099, 1, 1, tzinfo=UTC).timestamp()
    outcome = stand.run(WRITE.format("GOOD"), final=False, exit_code=1, lines=(limit_line(reset),))
    assert outcome.verified
    assert outcome.session is not None
    assert (outcome.session.ended, outcome.session.reset_at) == ("rate_limited", reset)


def test_a_limit_with_scripts_that_fail_is_a_limit_and_not_a_failed_recipe(stand: Stand) -> None:
    outcome = stand.run(WRITE.format("broken"), final=False, exit_code=1, lines=(limit_line(4e9),))
    assert outcome.session is not None
    assert outcome.session.ended == "rate_limited"
    assert outcome.failure_class is FailureClass.AGENT
    assert "ran into a limit" in outcome.message
    # What it left is where the next session starts.
    assert outcome.context == msgspec.structs.replace(stock_context(), build_pkg_sh="broken\n").digest


ERROR_500 = json.dumps(
    {"type": "result", "subtype": "success", "is_error": True, "api_error_status": 500, "result": "API Error: 500"}
)


def test_a_session_that_its_provider_cut_short_counts_against_nobody(stand: Stand) -> None:
    outcome = stand.run(WRITE.format("broken"), final=False, exit_code=1, lines=(ERROR_500,))
    assert outcome.session is not None
    assert outcome.session.ended == "server"
    assert (outcome.failure_class, outcome.context) == (FailureClass.INFRA, None)
    assert "API Error: 500" in outcome.message


def test_what_a_session_made_is_named_if_there_was_no_engine_to_judge_it(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.generation.attempt.INFRA_WAITS_S", ())
    stand.judge.outages = 1
    outcome = stand.run(WRITE.format("GOOD"))
    assert outcome.failure_class is FailureClass.INFRA
    assert outcome.session is not None
    assert outcome.session.ended == "completed"
    assert outcome.context == msgspec.structs.replace(stock_context(), build_pkg_sh="GOOD\n").digest


def test_an_engine_that_is_away_at_the_end_is_asked_again_before_the_session_is_lost(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.generation.attempt.INFRA_WAITS_S", (0.01, 0.01, 0.01))
    stand.judge.outages = 2
    outcome = stand.run(WRITE.format("GOOD"))
    assert outcome.verified
    assert len(stand.judge.judged) == 3


def test_an_outage_during_the_session_is_told_as_such_and_not_counted(stand: Stand) -> None:
    stand.judge.outages = 1
    settings = stand.settings(max_verifications=1)
    outcome = stand.run(WRITE.format("GOOD") + VERIFY + VERIFY, settings=settings)
    assert outcome.verified
    assert "code=3" in stand.said()
    assert "not the scripts' fault" in stand.said()
    assert "code=0" in stand.said()


def test_verifications_are_limited_in_number(stand: Stand) -> None:
    script = "".join(WRITE.format(f"broken {number}") + VERIFY for number in range(3))
    outcome = stand.run(script, settings=stand.settings(max_verifications=2))
    assert "code=4" in stand.said()
    assert "all 2 verifications of this session are used" in stand.said()
    # The third, at the end, is Headrace's own.
    assert stand.judge.judged == ["broken 0\n", "broken 1\n", "broken 2\n"]
    assert outcome.session is not None
    assert outcome.session.verifications == 2


def test_one_verification_runs_at_a_time_and_others_join_it(stand: Stand) -> None:
    threading.Timer(1.5, stand.judge.release.set).start()
    script = WRITE.format("SLOW") + "for i in 1 2 3 4; do ./verify > a$i & done; wait; cat a?"
    stand.run(script)
    assert len(stand.judge.judged) == 1
    assert stand.said().count("verdict: refused") == 4


def test_a_long_verification_can_be_waited_for_in_pieces(stand: Stand) -> None:
    script = WRITE.format("SLOW") + (
        "./verify --wait 0.2; echo code=$?; touch asked; while [ ! -e go ]; do sleep 0.05; done; " + VERIFY
    )
    watch = threading.Thread(target=_release_when_asked, args=(stand,))
    watch.start()
    stand.run(script)
    watch.join()
    assert "code=75" in stand.said()
    assert "still runs" in stand.said()
    assert "code=1" in stand.said()
    assert len(stand.judge.judged) == 1


def _release_when_asked(stand: Stand) -> None:
    ends_at = time.monotonic() + 30
    while not (stand.workspace / "asked").exists() and time.monotonic() < ends_at:
        time.sleep(0.02)
    stand.judge.release.set()
    (stand.workspace / "go").touch()


def test_a_verification_that_still_runs_when_the_agent_ends_is_waited_for(stand: Stand) -> None:
    threading.Timer(1.5, stand.judge.release.set).start()
    outcome = stand.run(WRITE.format("SLOW GOOD") + "./verify --wait 0.1")
    assert outcome.verified
    assert len(stand.judge.judged) == 1


def test_tampering_ends_the_session_at_once(stand: Stand) -> None:
    script = WRITE.format("CHEAT") + VERIFY + "sleep 60; " + WRITE.format("GOOD") + VERIFY
    began = time.monotonic()
    outcome = stand.run(script)
    assert time.monotonic() - began < 30
    assert (outcome.verified, outcome.stage, outcome.failure_class) == (False, "audit", FailureClass.TAMPER)
    assert outcome.session is not None
    assert outcome.session.ended == "tamper"
    assert stand.judge.judged == ["CHEAT\n"]


def test_cancelling_ends_the_agent_and_its_verification(stand: Stand) -> None:
    def cancel() -> None:
        ends_at = time.monotonic() + 30
        while not stand.judge.judged and time.monotonic() < ends_at:
            time.sleep(0.02)
        stand.cancel.set()

    watch = threading.Thread(target=cancel)
    watch.start()
    began = time.monotonic()
    outcome = stand.run(WRITE.format("SLOW") + VERIFY + "sleep 60")
    watch.join()
    assert time.monotonic() - began < 30
    assert outcome.cancelled
    assert outcome.session is not None
    assert outcome.session.ended == "cancelled"


def test_a_session_at_its_wall_clock_is_ended_and_says_so(stand: Stand) -> None:
    outcome = stand.run("sleep 60", settings=stand.settings(wall_s=2.0))
    assert outcome.session is not None
    assert outcome.session.ended == "timeout"
    assert outcome.failure_class is FailureClass.AGENT


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("rm docker_build_pkg.sh", "docker_build_pkg.sh is missing"),
        ("ln -sf /etc/passwd docker_build_pkg.sh", "docker_build_pkg.sh is not a regular file"),
        ("rm docker_build_pkg.sh; mkfifo docker_build_pkg.sh", "docker_build_pkg.sh is not a regular file"),
        ("rm docker_build_pkg.sh; mkdir docker_build_pkg.sh", "docker_build_pkg.sh is not a regular file"),
        ("ln docker_build_pkg.sh second", "hard links"),
        ("printf '\\377\\376' > docker_build_pkg.sh", "is not UTF-8"),
        ("printf 'a\\0b' > docker_build_pkg.sh", "NUL"),
        ("head -c 300000 /dev/zero | tr '\\0' x > docker_build_pkg.sh", "larger than"),
        ('echo "echo $ANTHROPIC_API_KEY" > docker_build_pkg.sh', "holds a key of the account"),
    ],
)
def test_what_is_no_plain_script_is_neither_verified_nor_kept(stand: Stand, script: str, said: str) -> None:
    outcome = stand.run(f"{script}; {VERIFY}")
    assert "code=2" in stand.said()
    assert said in stand.said()
    assert (outcome.stage, outcome.failure_class) == ("scripts", FailureClass.RECIPE)
    assert said in outcome.message
    assert stand.judge.judged == []


def test_only_the_three_scripts_are_taken_from_the_workspace(stand: Stand) -> None:
    outcome = stand.run(
        WRITE.format("GOOD") + "chmod -R u+w context; echo evil > context/Dockerfile; echo evil > Dockerfile; "
        "echo evil > run-tests.sh"
    )
    assert outcome.verified
    assert outcome.context == msgspec.structs.replace(stock_context(), build_pkg_sh="GOOD\n").digest


def test_the_workspace_tells_the_task_the_rules_what_was_tried_and_the_pull_request(stand: Stand) -> None:
    tried: DockerContext = msgspec.structs.replace(stock_context(), build_pkg_sh="echo tried before\n")
    prior = PriorAttempt(
        attempt_id="a0",
        stage=Stage.LLM_GENERATE,
        failed_at="build",
        message="cc1: fatal error",
        failure_class=FailureClass.RECIPE,
        context=stand.blobs.put(tried.to_tar_bytes()),
        log_tail="# not a heading\n\x1b[91mcc1: out of memory\x1b[0m",
    )
    stand.order = msgspec.structs.replace(stand.order, prior=(prior,))
    stand.run(
        "cat AGENTS.md; cmp AGENTS.md CLAUDE.md && cat prior/1/docker_build_pkg.sh repo/setup.py; ls -a . context"
    )
    said = stand.said()
    for text in ("acme/tool", "docker_build_env.sh", "./verify", "# Rules", "cc1: fatal error", "cc1: out of memory"):
        assert text in said
    assert "    # not a heading\n    cc1: out of memory\n" in said
    assert "Speed up the tool" in said
    assert "It was slow." in said
    assert "echo tried before" in said
    assert "print('setup')" in said
    assert "entrypoint.sh" in said


def test_nothing_secret_is_in_what_is_kept(stand: Stand) -> None:
    stand.run("env; echo $ANTHROPIC_API_KEY | rev | rev")
    assert KEY not in stand.transcript
    assert "[redacted]" in stand.transcript
    assert KEY not in (stand.spool / "session.log").read_text()


@pytest.mark.parametrize(
    ("account", "said"),
    [
        ({"name": "claude", "agent": "claude", "env": {"ANTHROPIC_API_KEY": "NO_SUCH"}}, "NO_SUCH is not set"),
        ({"name": "claude", "agent": "claude", "env": {"LD_PRELOAD": "HOME"}}, "may not set LD_PRELOAD"),
        ({"name": "claude", "agent": "claude", "home": "/no/such/home"}, "/no/such/home is no folder"),
        ({"name": "other", "agent": "claude"}, "no agent's account is called claude"),
        ({"name": "claude", "agent": "qwen", "env": {"OPENAI_API_KEY": "HOME"}}, "npm install -g @qwen-code/qwen-code"),
        (
            {"name": "claude", "agent": "claude", "env": {"ANTHROPIC_BASE_URL": "TEST_LOW_URL"}},
            "leads to port 80 of this machine",
        ),
    ],
)
def test_what_an_account_lacks_is_told_before_anything_is_started(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, account: dict[str, object], said: str
) -> None:
    monkeypatch.setenv("PATH", f"{stand.programs}:/usr/bin:/bin")
    monkeypatch.setenv("TEST_LOW_URL", "http://localhost")
    outcome = stand.run("true", settings=stand.settings(account=[account]))
    assert said in outcome.message
    assert (outcome.stage, outcome.failure_class) == ("session", FailureClass.INFRA)
    assert outcome.session is not None
    assert outcome.session.ended == "not_started"
    assert not (stand.spool / "transcript").exists()
