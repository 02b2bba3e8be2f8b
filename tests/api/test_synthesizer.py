"""``Synthesizer``: CONTRACTS.md section 1, sentence by sentence, with scripted verifiers and real stores."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from actors import DockerContext, RateLimitError, SynthesisState, Synthesizer
from actors.admission import admissions, rows_to_bytes
from actors.agent_settings import AgentAccount, AgentSettings
from actors.agents.adapters import ADAPTERS
from actors.api import Verification
from actors.api.agents import chosen_accounts
from actors.api.items import checked_item
from actors.api.plain import PlainRepository
from actors.log_client import new_event
from actors.settings import Settings, SweepSettings
from actors.templates import stock_context
from events.commands import FillSlots, Slot
from events.errors import EnvironmentNotReady, InfraError, InputError, LogLocked, ResolutionRequired
from events.types import AttemptInterrupted, AttemptStarted, Event, OutcomeReported
from events.work import FailureClass, Outcome, PriorAttempt, PullRequest, WorkOrder
from store.blobs import BlobStore
from store.log import Append
from store.opening import open_store
from store.read_models import AttemptRow, AttemptState
from tests.actors.harness import check_events, read_events
from tests.api.items import Inventive, Refusing, accepts, item
from tests.scripted import Script, ScriptedWorkbench, scripted

S = SynthesisState


def synthesizer(folder: Path, verifier: object = accepts, **options: object) -> Synthesizer:
    store = f"sqlite:///{folder}/log.db"
    return Synthesizer(store=store, verifier=verifier, settings=Settings(), **options)  # type: ignore[arg-type]


def run(synth: Synthesizer, number: int = 7, **changes: object) -> DockerContext | None:
    return synth.run(**item(number, **changes))  # type: ignore[arg-type]


def events_of(folder: Path) -> list[Event]:
    return [event for _, event in read_events(f"sqlite:///{folder}/log.db")]


def states(rows: Sequence[AttemptRow]) -> list[str]:
    return [row.state.value for row in rows]


# ---------------------------------------------------------------- verified


def test_a_context_that_passed_is_returned_and_the_trace_tells_the_way(tmp_path: Path) -> None:
    synth = synthesizer(tmp_path)
    assert run(synth) == stock_context()
    assert synth.trace == [S.CHECK_CACHE, S.FIND_SIMILAR, S.TRY_DEFAULT]
    check_events(read_events(f"sqlite:///{tmp_path}/log.db"))


def test_the_context_of_a_neighbour_comes_first(tmp_path: Path) -> None:
    synth = synthesizer(tmp_path)
    run(synth, 7)
    assert run(synth, 8) == stock_context()
    assert synth.trace == [S.CHECK_CACHE, S.FIND_SIMILAR, S.TRY_SIMILAR]


def test_what_is_verified_already_is_not_verified_again(tmp_path: Path) -> None:
    verifier = Refusing()
    synth = synthesizer(tmp_path, verifier)
    run(synth)
    assert run(synth) == stock_context()
    assert synth.trace == [S.CHECK_CACHE]
    assert verifier.asked == [7]


def test_other_requirements_are_another_job(tmp_path: Path) -> None:
    verifier = Refusing()
    synth = synthesizer(tmp_path, verifier)
    run(synth)
    run(synth, env_payload='["numpy==2.0.0"]')
    assert verifier.asked == [7, 7]


@pytest.mark.parametrize("where", ["of the object", "of the call"])
def test_forced_neither_an_earlier_success_nor_the_cache_counts(tmp_path: Path, where: str) -> None:
    verifier = Refusing()
    run(synthesizer(tmp_path, verifier))
    synth = synthesizer(tmp_path, verifier, force=where == "of the object")
    assert run(synth, force=None if synth.force else True) == stock_context()
    assert synth.trace == [S.CHECK_CACHE, S.FIND_SIMILAR, S.TRY_DEFAULT]
    assert verifier.asked == [7, 7]
    assert run(synth, force=False) == stock_context()
    assert verifier.asked == [7, 7], "the call's own word counts"


def test_what_the_cache_has_for_exactly_these_inputs_is_not_verified_again(tmp_path: Path) -> None:
    run(synthesizer(tmp_path))
    other = synthesizer(tmp_path, Inventive())
    context = run(other, env_payload='["other==1.0"]')
    assert context != stock_context()
    refusing = Refusing(7)
    synth = synthesizer(tmp_path, refusing)
    assert run(synth) == stock_context()
    assert synth.trace == [S.CHECK_CACHE]
    assert refusing.asked == []


# ---------------------------------------------------------------- refused


def test_none_is_returned_when_every_attempt_failed_and_all_are_in_the_store(tmp_path: Path) -> None:
    synth = synthesizer(tmp_path, Refusing(7))
    assert run(synth) is None
    assert synth.trace == [S.CHECK_CACHE, S.FIND_SIMILAR, S.TRY_DEFAULT, S.FAIL]
    with open_store(f"sqlite:///{tmp_path}/log.db", write=False) as store:
        (attempt,) = store.models.attempts(owner="o", repo="r", issue_number=7)
        (error,) = store.models.errors(owner="o", repo="r", issue_number=7)
        assert (attempt.state, attempt.failure_class) == (AttemptState.FAILED, FailureClass.RECIPE)
        assert (error.attempt_id, error.message) == (attempt.attempt_id, "refused by the test")
        assert error.log_tail == "line 1\nverdict on 7"
        assert store.blobs.get(error.blobs["test_log"]) == b"line 1\nverdict on 7\n"
    assert synth.attempts() == [attempt]


def test_what_failed_can_be_tried_again_later(tmp_path: Path) -> None:
    assert run(synthesizer(tmp_path, Refusing(7))) is None
    later = synthesizer(tmp_path)
    assert run(later) == stock_context()
    assert states(later.attempts()) == ["failed", "succeeded"]
    check_events(read_events(f"sqlite:///{tmp_path}/log.db"))


def test_only_the_pull_request_that_was_asked_for_is_worked_on(tmp_path: Path) -> None:
    verifier = Refusing(7)
    synth = synthesizer(tmp_path, verifier)
    run(synth, 7)
    run(synth, 9)
    assert verifier.asked == [7, 9]


# ---------------------------------------------------------------- input


@pytest.mark.parametrize("field", ["env_payload", "python_version"])
def test_what_is_not_resolved_is_refused_before_anything_is_built_or_written(tmp_path: Path, field: str) -> None:
    verifier = Refusing()
    with pytest.raises(ResolutionRequired, match=r"o/r#7.*headrace resolve"):
        run(synthesizer(tmp_path, verifier), **{field: None})  # type: ignore[arg-type]
    assert verifier.asked == []
    assert list(tmp_path.iterdir()) == []


def test_a_date_may_be_a_moment(tmp_path: Path) -> None:
    run(synthesizer(tmp_path), created_at=datetime(2024, 1, 7, tzinfo=UTC))


@pytest.mark.parametrize("options", [{"max_attempts": 0}, {"agent": "copilot"}])
def test_options_that_cannot_be_used_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        synthesizer(tmp_path, **options)


def test_the_default_store_is_the_one_of_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(Synthesizer(verifier=accepts))
    assert (tmp_path / "headrace.db").exists()


def test_a_store_in_memory_lives_as_long_as_the_synthesizer() -> None:
    synth = Synthesizer(store="memory:", verifier=Refusing(), settings=Settings())
    run(synth, 7)
    run(synth, 8)
    assert synth.trace[-1] is S.TRY_SIMILAR
    assert len(synth.attempts(issue_number=8)) == 1


def test_a_store_that_is_given_open_stays_open(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/log.db", write=True) as store:
        run(Synthesizer(store=store, verifier=accepts, settings=Settings()))
        assert len(store.models.attempts()) == 1


def test_a_store_that_another_process_writes_is_refused(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/log.db", write=True, holder="somebody"), pytest.raises(LogLocked):
        run(synthesizer(tmp_path))


# ---------------------------------------------------------------- dry runs


def test_a_dry_run_starts_and_writes_nothing_and_tells_what_would_come(tmp_path: Path) -> None:
    verifier = Refusing()
    synth = synthesizer(tmp_path, verifier, dry_run=True)
    assert run(synth) is None
    assert synth.trace == [S.CHECK_CACHE, S.FIND_SIMILAR, S.TRY_DEFAULT]
    assert verifier.asked == []
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_sees_what_the_store_has_and_leaves_it_as_it_is(tmp_path: Path) -> None:
    run(synthesizer(tmp_path), 7)
    before = events_of(tmp_path)
    synth = synthesizer(tmp_path, dry_run=True)
    assert run(synth, 7) == stock_context()
    assert synth.trace == [S.CHECK_CACHE]
    assert run(synth, 8) is None
    assert synth.trace == [S.CHECK_CACHE, S.FIND_SIMILAR, S.TRY_SIMILAR]
    assert run(synth, 7, force=True) is None
    assert events_of(tmp_path) == before


# ---------------------------------------------------------------- sessions


def test_a_session_is_paid_when_nothing_that_is_there_fits(tmp_path: Path) -> None:
    verifier = Inventive()
    synth = synthesizer(tmp_path, verifier)
    context = run(synth)
    assert context is not None
    assert context.build_env_sh == "# good\n"
    assert synth.trace == [S.CHECK_CACHE, S.FIND_SIMILAR, S.TRY_DEFAULT, S.LLM_GENERATE]
    ((prior,),) = verifier.sessions
    assert (prior.stage.value, prior.message) == ("try_default", "looked at its text")
    assert run(synth, 8) == context
    assert synth.trace == [S.CHECK_CACHE, S.FIND_SIMILAR, S.TRY_SIMILAR]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_at_most_so_many_sessions_are_paid_for_one_pull_request(tmp_path: Path, most: int) -> None:
    verifier = Inventive(succeeds_at=99)
    synth = synthesizer(tmp_path, verifier, max_attempts=most)
    assert run(synth) is None
    assert len(verifier.sessions) == most
    assert synth.trace.count(S.LLM_GENERATE) == most
    assert synth.trace[-1] is S.FAIL
    assert [len(prior) for prior in verifier.sessions] == list(range(1, most + 1))


def test_without_an_agent_no_session_is_paid_and_the_other_stages_still_run(tmp_path: Path) -> None:
    verifier = Inventive()
    synth = synthesizer(tmp_path, verifier, agent="none")
    assert run(synth) is None
    assert verifier.sessions == []
    assert synth.trace == [S.CHECK_CACHE, S.FIND_SIMILAR, S.TRY_DEFAULT, S.FAIL]


def test_an_exhausted_account_is_an_error_with_its_reset_time_and_the_attempt_is_in_the_store(tmp_path: Path) -> None:
    reset_at = datetime(2030, 1, 1, tzinfo=UTC)

    class Exhausted(Inventive):
        def generate(self, pull_request: PullRequest, prior: Sequence[PriorAttempt]) -> NoReturn:
            raise RateLimitError(pull_request=pull_request.name, account="a", reset_at=reset_at)

    synth = synthesizer(tmp_path, Exhausted(), agent="codex")
    with pytest.raises(RateLimitError) as found:
        run(synth)
    assert (found.value.pull_request, found.value.account, found.value.reset_at) == ("o/r#7", "codex", reset_at)
    assert synth.trace[-1] is S.LLM_GENERATE
    assert states(synth.attempts()) == ["failed", "rate_limited"]
    later = synthesizer(tmp_path, Inventive(), max_attempts=1)
    assert run(later) is not None, "the limit cost no attempt"


def test_while_one_account_is_exhausted_the_next_one_is_paid(tmp_path: Path) -> None:
    accounts = [AgentAccount(name="claude:work", agent="claude"), AgentAccount(name="mine", agent="codex")]

    class Limited(Inventive):
        def generate(self, pull_request: PullRequest, prior: Sequence[PriorAttempt]) -> DockerContext | None:
            made = super().generate(pull_request, prior)
            if len(self.sessions) == 1:
                raise RateLimitError(pull_request=pull_request.name, account="a")
            return made

    settings = Settings(agents=AgentSettings(account=accounts))
    synth = Synthesizer(store=f"sqlite:///{tmp_path}/log.db", verifier=Limited(), settings=settings)
    assert run(synth) is not None
    started = [one for one in events_of(tmp_path) if isinstance(one, AttemptStarted)]
    assert [(one.agent, one.account) for one in started] == [
        (None, None),
        ("claude", "claude:work"),
        ("codex", "mine"),
    ]


def test_an_agent_that_is_named_is_that_of_the_settings_or_else_one_of_its_own() -> None:
    accounts = [AgentAccount(name="claude:work", agent="claude"), AgentAccount(name="mine", agent="codex")]
    settings = Settings(agents=AgentSettings(account=accounts))
    verifier = Inventive()
    for agent, names in ((None, ["claude:work", "mine"]), ("codex", ["mine"]), ("qwen", ["qwen"]), ("none", [])):
        found = chosen_accounts(agent, settings=settings, verifier=verifier, slots=3)
        assert [one.name for one in found] == names
    assert chosen_accounts(None, settings=settings, verifier=accepts) == [], "who only judges holds no session"


def test_without_accounts_the_first_installed_cli_is_taken_and_without_any_none(tmp_path: Path) -> None:
    def install(name: str, version: str) -> None:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho {version}\n")
        program.chmod(0o755)

    path = f"{tmp_path}:/usr/bin:/bin"
    assert chosen_accounts(None, settings=Settings(), search_path=path) == []
    with pytest.raises(EnvironmentNotReady, match="agent='qwen': qwen is not installed; run: npm install"):
        chosen_accounts("qwen", settings=Settings(), search_path=path)
    for name in ("qwen", "gemini"):
        install(name, ".".join(map(str, ADAPTERS[name].measured)))
    (found,) = chosen_accounts(None, settings=Settings(), slots=4, search_path=path)
    assert (found.name, found.agent, found.slots) == ("gemini", "gemini", 4)


def test_a_session_that_makes_nothing_is_a_failed_attempt(tmp_path: Path) -> None:
    class Idle(Inventive):
        def generate(self, pull_request: PullRequest, prior: Sequence[PriorAttempt]) -> None:
            super().generate(pull_request, prior)

    synth = synthesizer(tmp_path, Idle(), max_attempts=1)
    assert run(synth) is None
    assert synth.attempts()[-1].message == "the session made no context"


# ---------------------------------------------------------------- what goes wrong


def test_a_verifier_that_raises_ends_the_run_and_its_attempt_is_marked(tmp_path: Path) -> None:
    def broken(pull_request: PullRequest, context: DockerContext) -> bool:
        raise TimeoutError("a defect")

    with pytest.raises(TimeoutError, match="a defect"):
        run(synthesizer(tmp_path, broken))
    assert [one.reason for one in events_of(tmp_path) if isinstance(one, AttemptInterrupted)] == [
        "it raised TimeoutError: a defect"
    ]
    assert run(synthesizer(tmp_path)) == stock_context()


def test_an_infra_failure_counts_against_nobody_and_is_tried_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def away(pull_request: PullRequest, context: DockerContext) -> bool:
        asked.append(1)
        if len(asked) == 1:
            raise InfraError("the engine is away")
        return True

    synth = synthesizer(tmp_path, away)
    assert run(synth) == stock_context()
    assert [row.failure_class for row in synth.attempts()] == [FailureClass.INFRA, None]


def test_nothing_but_infra_failures_ends_the_run_after_a_while(tmp_path: Path) -> None:
    def away(pull_request: PullRequest, context: DockerContext) -> Verification:
        return Verification(verified=False, failure_class=FailureClass.INFRA, message="the disk is full")

    settings = Settings(sweep=SweepSettings(infra_patience_s=0.001))
    synth = Synthesizer(store=f"sqlite:///{tmp_path}/log.db", verifier=away, settings=settings)
    with pytest.raises(EnvironmentNotReady, match=r"o/r#7: nothing but infra failures.*the disk is full"):
        run(synth)


class CtrlC(ScriptedWorkbench):
    """Interrupts the caller while it works, as Ctrl-C does."""

    def perform(self, order: WorkOrder, *, cancel: threading.Event) -> Outcome:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return super().perform(order, cancel=cancel)


def test_ctrl_c_cancels_the_attempt_marks_it_and_is_raised(tmp_path: Path) -> None:
    scripted(tmp_path, Script(seconds=60.0))
    with open_store(f"sqlite:///{tmp_path}/log.db", write=True) as store:
        synth = Synthesizer(store=store, verifier=CtrlC(tmp_path, store.blobs), settings=Settings())
        with pytest.raises(KeyboardInterrupt):
            run(synth)
        assert states(store.models.attempts()) == ["interrupted"]
    check_events(read_events(f"sqlite:///{tmp_path}/log.db"))


def test_a_workbench_can_be_injected_whole(tmp_path: Path) -> None:
    scripted(tmp_path, Script(seconds=0.0, refuse=["o/r#8"]))
    with open_store(f"sqlite:///{tmp_path}/log.db", write=True) as store:
        store.blobs.put(stock_context().to_tar_bytes())
        bench = ScriptedWorkbench(tmp_path, store.blobs)
        synth = Synthesizer(store=store, verifier=bench, agent="none", settings=Settings())
        assert run(synth, 7) == stock_context()
        assert run(synth, 8) is None


def left_in_flight(folder: Path) -> str:
    """A log whose writer died right after an intent; the id of that attempt."""
    with open_store(f"sqlite:///{folder}/log.db", write=True) as store:
        row = checked_item(item(7))
        repository = PlainRepository(store, "o/r")
        settings, policy = Synthesizer(store=store, settings=Settings(), agent="none").policy([])
        assert admissions([row], rows_blob=store.blobs.put(rows_to_bytes([row])))
        repository.admit(row, sweep="run-7", rules=settings.verify.rules, policy=policy, forced=False)
        slot = Slot(attempt_id="lost", lease="plain:lost", runner="plain")
        (started,) = [one for one in repository._decide(FillSlots(slots=[slot])) if isinstance(one, AttemptStarted)]
        return started.attempt_id


def test_an_attempt_that_a_dead_process_left_is_marked_before_anything_new_starts(tmp_path: Path) -> None:
    lost = left_in_flight(tmp_path)
    assert run(synthesizer(tmp_path)) == stock_context()
    kinds = [
        (type(one).__name__, one.attempt_id == lost)
        for one in events_of(tmp_path)
        if isinstance(one, AttemptStarted | AttemptInterrupted)
    ]
    assert kinds == [("AttemptStarted", True), ("AttemptInterrupted", True), ("AttemptStarted", False)]
    check_events(read_events(f"sqlite:///{tmp_path}/log.db"))


class Watched(ScriptedWorkbench):
    """Notes what it is asked to end and to salvage."""

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        super().__init__(folder, blobs)
        self.asked: list[tuple[str, str]] = []

    def end(self, attempt_id: str) -> None:
        self.asked.append(("end", attempt_id))

    def salvage(self, attempt_id: str) -> dict[str, str]:
        self.asked.append(("salvage", attempt_id))
        return {"build_log": self._blobs.put(b"so far")}


def test_what_a_dead_process_left_on_the_engine_is_ended_and_then_salvaged(tmp_path: Path) -> None:
    lost = left_in_flight(tmp_path)
    scripted(tmp_path, Script(seconds=0.0))
    with open_store(f"sqlite:///{tmp_path}/log.db", write=True) as store:
        bench = Watched(tmp_path, store.blobs)
        run(Synthesizer(store=store, verifier=bench, agent="none", settings=Settings()))
        (attempt,) = store.models.attempts(state=AttemptState.INTERRUPTED)
        assert store.blobs.get(attempt.blobs["build_log"]) == b"so far"
    assert bench.asked == [("end", lost), ("salvage", lost)]


def test_an_outcome_that_a_runner_left_in_the_mailbox_counts(tmp_path: Path) -> None:
    lost = left_in_flight(tmp_path)
    with open_store(f"sqlite:///{tmp_path}/log.db", write=True) as store:
        digest = store.blobs.put(stock_context().to_tar_bytes())
        outcome = Outcome(verified=True, level=Settings().verify.rules.level, stage="tests", context=digest)
        mail = OutcomeReported(attempt_id=lost, outcome=outcome)
        store.log.append(Append(f"attempt:{lost}", 0, [new_event(mail, "mail")], 1.0))
    verifier = Refusing(7)
    assert run(synthesizer(tmp_path, verifier)) == stock_context()
    assert verifier.asked == []


def test_an_engine_that_does_not_answer_is_told_and_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    monkeypatch.setattr("actors.api.synthesizer.READY_S", 0.2)
    synth = Synthesizer(store=f"sqlite:///{tmp_path}/log.db", agent="none", settings=Settings())
    with pytest.raises(EnvironmentNotReady, match="headrace doctor"):
        run(synth)
    assert synth.attempts() == []


def test_what_a_verdict_leaves_out_is_filled_in() -> None:
    assert Verification(verified=True, failure_class=FailureClass.AGENT).failure_class is None
    assert Verification(verified=False).failure_class is FailureClass.RECIPE
    assert msgspec.structs.replace(Verification(verified=False), verified=True).failure_class is None
