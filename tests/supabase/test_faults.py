"""A store that is away, late, or cut off: nothing is lost or there twice, and what cannot be mended is said."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from loguru import logger

from events.errors import EnvironmentNotReady, LogCorrupt, LogUnavailable, VersionConflict
from store.log import Append, Appended, EventLog, NewEvent
from store.opening import open_store
from store.supabase import rest
from store.supabase.log import MAX_EVENTS_PER_CALL, SupabaseLog
from store.supabase.opening import open_project
from tests.actors.harness import wait_for
from tests.supabase.gateway import key_of
from tests.supabase.project import Project, Projects

AT = 1_700_000_000.0


def batch(stream: str, expected: int, *ids: str) -> Append:
    return Append(stream, expected, [NewEvent(one, "Happened", 1, f'{{"id":"{one}"}}'.encode()) for one in ids], AT)


@pytest.fixture
def log(project: Project) -> Iterator[EventLog]:
    with project.open() as store:
        yield store.log


def test_an_answer_that_is_lost_after_the_commit_is_got_by_asking_again(project: Project, log: EventLog) -> None:
    log.append(batch("s", 0, "a"))
    project.faults(cut_after=2)
    before = project.calls()["headrace_append"]
    assert log.append(batch("s", 1, "b", "c")) == Appended("s", 3, 3, duplicate=True)
    assert project.calls()["headrace_append"] == before + 3
    assert [event.event_id for event in log.read_all()] == ["a", "b", "c"]
    log.verify()


def test_a_call_that_never_arrived_is_made_again(project: Project, log: EventLog) -> None:
    project.faults(cut_before=3)
    assert log.append(batch("s", 0, "a")) == Appended("s", 1, 1)


def test_503_is_waited_for_whatever_is_asked(project: Project, log: EventLog) -> None:
    project.faults(unavailable=3)
    assert log.append(batch("s", 0, "a")) == Appended("s", 1, 1)
    project.faults(unavailable=3)
    assert [event.event_id for event in log.read_all()] == ["a"]


def test_what_is_cut_off_again_and_again_is_recorded_once(project: Project) -> None:
    """Everything that a store does, with every third answer lost after the commit."""
    project.faults(cut_every=3, row_cap=100)
    with project.open(holder="sweep demo") as store:
        for n in range(0, 40, 2):
            store.log.append(batch("s", n, f"e{n}", f"e{n + 1}"))
        data = bytes(range(256)) * 12_000
        digest = store.blobs.put(data)
        assert store.blobs.get(digest) == data
        store.models.rebuild()
        assert [event.event_id for event in store.log.read_stream("s")] == [f"e{n}" for n in range(40)]
        assert [info.version for info in store.log.verify()] == [40]


@pytest.mark.parametrize("row_cap", [1000, 100])
def test_2500_events_are_read_complete_under_any_row_cap(project: Project, log: EventLog, row_cap: int) -> None:
    project.faults(row_cap=row_cap)
    log.append_many([batch("s", start, *(f"e{n}" for n in range(start, start + 50))) for start in range(0, 2500, 50)])
    assert [event.version for event in log.read_stream("s")] == list(range(1, 2501))
    assert [event.seq for event in log.read_all()] == list(range(1, 2501))
    assert [version for version, *_ in log.payloads("s")] == list(range(1, 2501))
    assert [event.seq for event in log.read_all(after=40, limit=1900)] == list(range(41, 1941))
    log.append_many([batch(f"stream-{n:04d}", 0, f"x{n}") for n in range(row_cap + 50)])
    assert len(log.streams()) == row_cap + 51
    assert len(log.streams("stream-")) == row_cap + 50


def test_a_conflict_costs_one_execution(project: Project, log: EventLog) -> None:
    log.append(batch("s", 0, "a"))
    before = project.calls()["headrace_append"]
    with pytest.raises(VersionConflict) as conflict:
        log.append(batch("s", 0, "b"))
    assert conflict.value.actual == 1
    assert project.calls()["headrace_append"] == before + 1


def test_a_statement_that_took_too_long_is_asked_again(project: Project, log: EventLog) -> None:
    project.faults(statement_timeout_ms=2000)
    log.append(batch("s", 0, "a"))
    with project.raw() as other:
        other.execute("BEGIN")
        other.execute("SELECT 1 FROM headrace_meta FOR UPDATE")
        with ThreadPoolExecutor(1) as pool:
            appending = pool.submit(log.append, batch("s", 1, "b"))
            wait_for("the first try was given up", lambda: timeouts(project) > 0, deadline_s=20)
            other.execute("COMMIT")
            assert appending.result(timeout=30) == Appended("s", 2, 2)


def timeouts(project: Project) -> int:
    text = (project.postgres.folder / "log").read_text()
    return text.count("canceling statement due to statement timeout")


def test_large_groups_stay_within_a_time_out_of_2_s(project: Project, log: EventLog) -> None:
    project.faults(statement_timeout_ms=2000)
    before = timeouts(project)
    each = MAX_EVENTS_PER_CALL // 2
    count = 8 * each
    text = "x" * 500
    new = [NewEvent(f"e{n}", "Happened", 1, f'{{"n":{n},"text":"{text}"}}'.encode()) for n in range(count)]
    group = [Append("s", start, new[start : start + each], AT) for start in range(0, count, each)]
    assert [one.version for one in log.append_many(group) if isinstance(one, Appended)] == list(
        range(each, count + 1, each)
    )
    log.verify()
    assert timeouts(project) == before


@pytest.mark.slow
def test_postgresql_stopped_and_started_again_and_again_loses_and_doubles_nothing(projects: Projects) -> None:
    """Six writers; the server dies as in a power cut four times, and what was acknowledged is there each time."""
    project = projects.new()
    acknowledged: dict[str, list[str]] = {f"s{n}": [] for n in range(6)}
    stop = threading.Event()

    def write(stream: str) -> None:
        with project.open() as store:
            version = 0
            while not stop.is_set():
                ids = [f"{stream}-{version + n}" for n in range(3)]
                version = store.log.append(batch(stream, version, *ids)).version
                acknowledged[stream] += ids

    with project.in_environment(), ThreadPoolExecutor(6) as pool:
        writers = [pool.submit(write, stream) for stream in acknowledged]
        for _ in range(4):
            had = sum(map(len, acknowledged.values()))
            wait_for(
                "writers go on",
                lambda had=had: sum(map(len, acknowledged.values())) > had + 60,  # type: ignore[misc]
                deadline_s=60,
            )
            projects.postgres.stop(how="immediate")
            before = {stream: len(ids) for stream, ids in acknowledged.items()}
            projects.postgres.start()
            with project.raw() as raw:
                for stream, count in before.items():
                    found = raw.execute("SELECT count(*) FROM events WHERE stream = %s", (stream,)).fetchone()
                    assert found is not None
                    assert int(str(found[0])) >= count, "what was acknowledged is gone"
        stop.set()
        for one in writers:
            one.result(timeout=60)
    with project.open(write=False) as store:
        for stream, ids in acknowledged.items():
            assert [event.event_id for event in store.log.read_stream(stream)] == ids
        store.log.verify()
    projects.remove(project)


def test_an_append_is_on_the_disk_whatever_the_database_defaults_to(project: Project) -> None:
    with project.raw() as raw:
        raw.execute("SET synchronous_commit = off")
        raw.execute("BEGIN")
        raw.execute("SELECT headrace_append('{\"batches\": []}')")
        assert raw.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_a_database_without_fsync_is_read_and_not_written(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with project.open() as store:
        store.log.append(batch("s", 0, "a"))
    with project.raw() as raw:  # as it would answer there
        definition = str(raw.execute("SELECT pg_get_functiondef('headrace_state'::regproc)").fetchone()[0])  # type: ignore[index]
        raw.execute(definition.replace("current_setting('fsync') = 'on'", "false").encode())
    with pytest.raises(LogUnavailable, match=r"runs with fsync off.*switch it on"):
        project.open()
    with project.open(write=False) as reader:
        assert reader.log.last_seq() == 1


def test_a_store_that_stays_away_is_given_up_after_a_while(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with project.in_environment():
        log, _, _ = open_project(write=True, holder="", patience_s=1.0)
    with log:
        project.faults(unavailable=10_000)
        began = time.monotonic()
        with pytest.raises(LogUnavailable, match=r"it cannot answer now \(HTTP 503.*may be repeated"):
            log.append(batch("s", 0, "a"))
        assert 0.4 < time.monotonic() - began < 5
        project.faults()
        assert log.append(batch("s", 0, "a")).version == 1


def test_pauses_grow_and_differ(project: Project, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def wait(_: threading.Event, timeout: float) -> bool:
        pauses.append(timeout)
        return False

    monkeypatch.setattr(threading.Event, "wait", wait)
    project.faults(unavailable=9)
    log.append(batch("s", 0, "a"))
    assert len(pauses) == 9
    for number, pause in enumerate(pauses):
        longest = min(rest.FIRST_PAUSE_S * 2**number, rest.LONGEST_PAUSE_S)
        assert longest / 2 <= pause <= longest
    assert len({pause / rest.FIRST_PAUSE_S for pause in pauses}) == 9


OTHER_SECRET = "a secret of another project, just as long as ours"  # noqa: S105
KEYS = {
    "wrong": (key_of("service_role", secret=OTHER_SECRET), "refuses SUPABASE_KEY"),
    "no-token": ("eyJhbGciOi", "refuses SUPABASE_KEY"),
    "expired": (key_of("service_role", expires_in_s=-60), "SUPABASE_KEY has expired at"),
    "anon": (key_of("anon"), "SUPABASE_KEY is a key of the role anon"),
    "authenticated": (key_of("authenticated"), "SUPABASE_KEY is a key of the role authenticated"),
    "publishable": ("sb_publishable_abcdefgh", "SUPABASE_KEY is a key of the role anon"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_that_is_of_no_use_is_told_with_a_remedy_and_never_shown(
    project: Project, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    key, message = KEYS[kind]
    lines: list[str] = []
    sink = logger.add(lines.append, level=0)
    try:
        with caplog.at_level(logging.DEBUG), project.in_environment(SUPABASE_KEY=key):
            for write in (False, True):
                with pytest.raises(EnvironmentNotReady, match=message) as refused:
                    open_store("supabase", write=write, holder="sweep demo")
                assert "service_role key" in str(refused.value)
                assert key not in f"{refused.value!r}{refused.value}{refused.value.__cause__!r}"
    finally:
        logger.remove(sink)
    assert key not in caplog.text + "".join(lines)


def test_a_key_that_expires_meanwhile_is_told_at_once(project: Project) -> None:
    with project.in_environment(SUPABASE_KEY=key_of("service_role", expires_in_s=2)):
        store = open_store("supabase", write=True)
    with store:
        store.log.append(batch("s", 0, "a"))

        def append_on(until: float) -> None:
            version = 1
            while time.monotonic() < until:
                version = store.log.append(batch("s", version, f"e{version}")).version

        with pytest.raises(EnvironmentNotReady, match="JWT expired"):
            append_on(time.monotonic() + 20)


def test_the_key_is_in_no_log_line_and_no_message_of_a_store_at_work(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, level=0)
    try:
        with caplog.at_level(logging.DEBUG), project.open(holder="sweep demo") as store:
            project.faults(unavailable=2, cut_after=1)
            store.log.append(batch("s", 0, "a"))
            store.blobs.put(b"blob")
            assert project.key not in repr(vars(store.log)) + repr(vars(store))
    finally:
        logger.remove(sink)
    assert "rest/v1" in caplog.text  # the client's own log was listened to
    assert project.key not in caplog.text + "".join(lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SUPABASE_URL": ""}, "SUPABASE_URL is not set; set it to https://PROJECT.supabase.co"),
        ({"SUPABASE_KEY": " "}, "SUPABASE_KEY is not set"),
        ({"SUPABASE_URL": "project.supabase.co"}, "SUPABASE_URL='project.supabase.co' is no address"),
    ],
)
def test_what_is_not_set_is_told_before_anything_is_asked(
    project: Project, changes: dict[str, str], message: str
) -> None:
    with project.in_environment(**changes), pytest.raises(EnvironmentNotReady, match=message):
        open_store("supabase", write=False)


def test_an_address_where_nobody_answers_is_told_within_seconds(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.supabase.opening.OPEN_FOR_S", 1.0)
    with (
        project.in_environment(SUPABASE_URL="http://127.0.0.1:9"),
        pytest.raises(LogUnavailable, match=r"127.0.0.1:9 gives no answer .*check SUPABASE_URL and the network"),
    ):
        open_store("supabase", write=False)


def test_an_address_that_is_no_project_is_told(project: Project, projects: Projects) -> None:
    with (
        project.in_environment(SUPABASE_URL=f"{project.url}/elsewhere"),
        pytest.raises(EnvironmentNotReady, match=r"does not understand what it is asked .*check SUPABASE_URL"),
    ):
        open_store("supabase", write=False)


def test_a_database_that_was_never_migrated_is_told(projects: Projects) -> None:
    empty = projects.new(empty=True)
    with pytest.raises(EnvironmentNotReady, match=r"PGRST202.*run `headrace store migrate`"):
        empty.open(write=False)
    projects.remove(empty)


def test_a_closed_store_says_so(project: Project) -> None:
    store = project.open()
    store.close()
    store.close()
    with pytest.raises(LogUnavailable, match="the store is closed"):
        store.log.append(batch("s", 0, "a"))


def test_events_that_postgresql_cannot_hold_are_refused_before_they_are_sent(log: EventLog) -> None:
    for unusable in (batch("s\0", 0, "a"), batch("s", 0, "a\0")):
        with pytest.raises(ValueError, match=r"U\+0000"):
            log.append_many([batch("t", 0, "b"), unusable])
    assert log.last_seq() == 0


def test_a_flipped_byte_is_found_by_stream_and_version(project: Project, log: EventLog) -> None:
    assert isinstance(log, SupabaseLog)
    log.append(batch("repository:o/r", 0, "a", "b", "c"))
    with project.raw(role="postgres") as raw:
        raw.execute("SET session_replication_role = replica")  # a superuser, behind the triggers' back
        raw.execute("UPDATE events SET data = replace(data, 'b', 'x') WHERE version = 2")
    with pytest.raises(LogCorrupt, match="repository:o/r version 2 is damaged"):
        log.verify()
