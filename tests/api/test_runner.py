"""``SynthesizeImagesRunner``: real sweeps on a local Ray, with verifiers that were handed in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from actors import SynthesisState, SynthesizeImagesRunner, Synthesizer
from actors.api import RunnerProgress, SynthesisCancelled
from actors.api.items import checked_item
from actors.api.runner import _require_end
from actors.api.sweeping import by_repository, sweep_name
from actors.settings import Settings, SweepSettings
from actors.supervisor import SweepProgress
from actors.templates import stock_context
from events.errors import EnvironmentNotReady, InputError, ResolutionRequired
from events.types import SweepRunEnded
from store.opening import open_store
from tests.actors.harness import check_events, read_events, wait_for
from tests.api.items import Inventive, Patient, Refusing, accepts, item

S = SynthesisState
FAST = Settings(sweep=SweepSettings(drain_s=0.2))


def runner(
    folder: Path, verifier: object = accepts, *, options: dict[str, object] | None = None, **how: object
) -> SynthesizeImagesRunner:
    synth = Synthesizer(store=url(folder), verifier=verifier, settings=FAST, **(options or {}))  # type: ignore[arg-type]
    return SynthesizeImagesRunner(synth, n_concurrent=2, **how)  # type: ignore[arg-type]


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/log.db"


def attempts(folder: Path) -> list[tuple[int, str]]:
    with open_store(url(folder), write=False) as store:
        return [(one.issue_number, one.state.value) for one in store.models.attempts()]


# ---------------------------------------------------------------- without Ray


@pytest.mark.parametrize("n_concurrent", [0, -1])
def test_at_least_one_attempt_at_once(tmp_path: Path, n_concurrent: int) -> None:
    synth = Synthesizer(store=url(tmp_path), settings=FAST)
    with pytest.raises(InputError, match="n_concurrent"):
        SynthesizeImagesRunner(synth, n_concurrent=n_concurrent)


def test_one_item_that_is_not_resolved_stops_all_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(ResolutionRequired, match=r"o/r#2.*headrace resolve"):
        runner(tmp_path).run_sync([item(1), item(2, env_payload=None)])
    assert list(tmp_path.iterdir()) == []


def test_no_items_give_no_results(tmp_path: Path) -> None:
    assert asyncio.run(runner(tmp_path).run([])) == []
    assert list(tmp_path.iterdir()) == []


def test_one_pull_request_with_two_different_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="o/r#1 is among the items twice"):
        runner(tmp_path).run_sync([item(1), item(1, python_version="3.12")])


def test_the_same_pull_requests_are_the_same_sweep_in_any_order() -> None:
    one, two = checked_item(item(1)), checked_item(item(2))
    assert sweep_name([one, two]) == sweep_name([two, one, one]) != sweep_name([one])
    assert by_repository([two, one, two]) == {"o/r": [two, one]}, "each of them once"


@pytest.mark.parametrize("opened", [True, False])
def test_a_store_that_other_processes_cannot_share_is_refused(opened: bool) -> None:
    with open_store("memory:", write=True) as store:
        synth = Synthesizer(store=store if opened else "memory:", verifier=accepts, settings=FAST)
        with pytest.raises(InputError, match="sqlite:///PATH"):
            SynthesizeImagesRunner(synth).run_sync([item(1)])


def test_a_dry_run_starts_nothing_and_tells_what_would_come(tmp_path: Path) -> None:
    dry = runner(tmp_path, options={"dry_run": True})
    assert dry.run_sync([item(1), item(2)]) == [None, None]
    assert dry.traces == [[S.CHECK_CACHE, S.FIND_SIMILAR, S.TRY_DEFAULT]] * 2
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_did_not_come_to_its_end_is_an_error_that_says_how_to_go_on() -> None:
    def ended(phase: str, message: str = "") -> SweepProgress:
        return SweepProgress(phase=phase, repositories={}, pending=0, active=[], message=message)

    _require_end(ended("finished"), "s")
    with pytest.raises(SynthesisCancelled, match="sweep s was cancelled; run the same items again"):
        _require_end(ended("interrupted"), "s")
    for phase in ("environment", "failed"):
        with pytest.raises(EnvironmentNotReady, match="the disk is full; the log is intact, run the same items again"):
            _require_end(ended(phase, "the disk is full"), "s")


# ---------------------------------------------------------------- with Ray


@pytest.mark.ray
def test_results_are_in_the_order_of_the_items_and_none_where_synthesis_failed(tmp_path: Path) -> None:
    loops: set[int] = set()
    told: list[RunnerProgress] = []

    def on_progress(progress: RunnerProgress) -> None:
        loops.add(threading.get_ident())
        told.append(progress)

    async def notebook() -> None:
        one = runner(tmp_path, Refusing(2), on_progress=on_progress)
        items = [item(3), item(2), item(1), item(3)]
        assert await one.run(items) == [stock_context(), None, stock_context(), stock_context()]
        assert one.traces[1][-1] is S.FAIL
        assert one.traces[0] == one.traces[3]
        assert S.FAIL not in one.traces[2]

    asyncio.run(notebook())
    assert loops == {threading.get_ident()}, "progress is told in the loop that runs it"
    assert (told[-1].phase, told[-1].total, told[-1].succeeded, told[-1].failed) == ("finished", 3, 2, 1)
    assert told[-1].waiting == 0
    check_events(read_events(url(tmp_path)))

    again = runner(tmp_path, accepts)
    assert again.run_sync([item(3), item(2), item(1)]) == [stock_context()] * 3
    assert again.traces[0] == [S.CHECK_CACHE], "what is verified is not verified again"
    assert again.traces[1][-1] is S.TRY_SIMILAR, "what had failed is tried again"
    assert sum(state == "failed" for _, state in attempts(tmp_path)) == 1
    before = len(attempts(tmp_path))
    check_events(read_events(url(tmp_path)))

    forced = runner(tmp_path, accepts, options={"force": True})
    assert forced.run_sync([item(1)]) == [stock_context()]
    assert forced.traces == [[S.CHECK_CACHE, S.FIND_SIMILAR, S.TRY_SIMILAR]]
    assert len(attempts(tmp_path)) == before + 1


@pytest.mark.ray
def test_a_cancelled_task_leaves_nothing_running_and_the_same_items_go_on(tmp_path: Path) -> None:
    one = runner(tmp_path, Patient(tmp_path))
    items = [item(number) for number in (1, 2, 3)]

    async def cancelled() -> None:
        task = asyncio.create_task(one.run(items))
        await asyncio.to_thread(wait_for, "a verifier is asked", lambda: any(tmp_path.glob("asked-*")))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    ends = [event for _, event in read_events(url(tmp_path)) if isinstance(event, SweepRunEnded)]
    assert [one.how for one in ends] == ["interrupted"]
    assert {state for _, state in attempts(tmp_path)} == {"interrupted"}
    (tmp_path / "go").touch()
    assert one.run_sync(items) == [stock_context()] * 3
    check_events(read_events(url(tmp_path)))


@pytest.mark.ray
def test_cancelling_a_runner_ends_its_run_with_an_error_and_leaving_its_block_does_too(tmp_path: Path) -> None:
    def in_thread(one: SynthesizeImagesRunner) -> tuple[threading.Thread, list[BaseException]]:
        errors: list[BaseException] = []

        def work() -> None:
            try:
                one.run_sync([item(1), item(2)])
            except BaseException as exc:
                errors.append(exc)

        thread = threading.Thread(target=work)
        thread.start()
        wait_for("a verifier is asked", lambda: any(tmp_path.glob("asked-*")))
        return thread, errors

    def ends_cancelled(stop: Callable[[SynthesizeImagesRunner], None]) -> None:
        one = runner(tmp_path, Patient(tmp_path))
        thread, errors = in_thread(one)
        with pytest.raises(RuntimeError, match="running already"):
            one.run_sync([item(3)])
        stop(one)
        thread.join(timeout=60)
        (error,) = errors
        assert isinstance(error, SynthesisCancelled)
        for path in tmp_path.glob("asked-*"):
            path.unlink()

    ends_cancelled(lambda one: one.cancel())
    ends_cancelled(lambda one: one.__exit__(None, None, None))
    check_events(read_events(url(tmp_path)))


@pytest.mark.ray
def test_a_blocking_run_works_inside_of_a_running_event_loop(tmp_path: Path) -> None:
    async def cell() -> list[object]:
        async with runner(tmp_path) as one:
            return list(one.run_sync([item(1)]))

    assert asyncio.run(cell()) == [stock_context()]


@pytest.mark.ray
def test_a_generator_plays_the_agent_one_session_for_an_environment(tmp_path: Path) -> None:
    one = runner(tmp_path, Inventive())
    found = one.run_sync([item(number) for number in range(1, 7)])
    assert {context.build_env_sh for context in found if context is not None} == {"# good\n"}
    assert None not in found
    assert sum(trace.count(S.LLM_GENERATE) for trace in one.traces) == 1
