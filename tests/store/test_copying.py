"""Copies of stores: the same events with the same hashes, in every direction, however often they are cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from events.errors import InputError, LogUnavailable
from scripts.cli import main
from store.copying import Copied, copy_store
from store.log import Append, EventLog, NewEvent
from store.opening import Store, open_store
from store.pruning import prune
from store.replay import check
from tests.events.history import REPOSITORY, record
from tests.store.test_read_models import admitted, append, everything, started
from tests.store.test_snapshots import take
from tests.supabase.project import Project, Projects

Open = Callable[[], Store]


@pytest.fixture(params=["sqlite", "supabase"])
def source(request: pytest.FixtureRequest, tmp_path: Path, project: Project) -> Open:
    return opener(request.param, tmp_path / "from.db", project)


@pytest.fixture(params=["sqlite", "supabase"])
def target(request: pytest.FixtureRequest, tmp_path: Path, projects: Projects) -> Open:
    return opener(request.param, tmp_path / "to.db", projects.new())


def opener(kind: str, path: Path, project: Project) -> Open:
    if kind == "supabase":
        return lambda: project.open(holder="test")
    return lambda: open_store(f"sqlite:///{path}", write=True, holder="test")


def fill(store: Store) -> None:
    record(store.log)
    append(store, admitted(1), started("a", 1), stream="repository:x/y")
    take(store.log, REPOSITORY, version=10)
    for n in range(3):
        store.blobs.put(bytes([n]) * 1_500_000)


def silent(kind: str, count: int) -> None:
    """Shows nothing."""


def test_a_copy_is_the_same_event_by_event_and_row_by_row(source: Open, target: Open) -> None:
    with source() as one, target() as other:
        fill(one)
        copied = copy_store(one, other, on_progress=silent)
        assert copied == Copied(
            events=one.log.last_seq(), blobs=3, snapshots=1, streams=len(one.log.streams()), seq=one.log.last_seq()
        )
        assert list(other.log.read_all()) == list(one.log.read_all())
        assert other.log.verify() == one.log.verify()
        assert everything(other.models) == everything(one.models)
        assert other.log.snapshot(REPOSITORY) == one.log.snapshot(REPOSITORY)
        assert other.blobs.get(one.blobs.put(bytes([2]) * 1_500_000)) == bytes([2]) * 1_500_000
        check(other.log, stream=REPOSITORY)
        append(one, started("b", 1), stream="repository:x/y")
        again = copy_store(one, other, on_progress=silent)
        assert (again.events, again.blobs, again.snapshots, again.seq) == (1, 0, 0, one.log.last_seq())


def test_a_copy_that_was_cut_off_goes_on_where_it_was(
    source: Open, target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.copying.BATCHES_PER_APPEND", 3)
    with source() as one:
        fill(one)
        cuts = 0
        while True:
            with target() as other:
                calls = 0
                append_many = other.log.append_many

                def cut(batches: list[Append], append_many: Callable[..., object] = append_many) -> object:
                    nonlocal calls
                    calls += 1
                    if calls > 2:
                        raise LogUnavailable("cut off")
                    return append_many(batches)

                monkeypatch.setattr(other.log, "append_many", cut)
                try:
                    copy_store(one, other, on_progress=silent)
                except LogUnavailable:
                    cuts += 1
                    continue
                assert list(other.log.read_all()) == list(one.log.read_all())
                break
        assert cuts > 2


def claim(log: EventLog, stream: str, event_id: str) -> None:
    log.append(Append(stream, log.head(stream), [NewEvent(event_id, "Happened", 1, b"{}")], 1.0))


def test_a_target_with_other_events_is_refused_and_not_changed(source: Open, target: Open) -> None:
    with source() as one, target() as other:
        fill(one)
        claim(other.log, "other", "x")
        with pytest.raises(InputError, match="holds other events than"):
            copy_store(one, other, on_progress=silent)
        assert [event.event_id for event in other.log.read_all()] == ["x"]


def test_a_target_that_is_ahead_is_refused(source: Open, target: Open) -> None:
    with source() as one, target() as other:
        claim(one.log, "s", "a")
        copy_store(one, other, on_progress=silent)
        claim(other.log, "s", "b")
        with pytest.raises(InputError, match="holds other events than"):
            copy_store(one, other, on_progress=silent)


def test_a_pruned_store_is_not_copied(source: Open, target: Open) -> None:
    with source() as one, target() as other:
        fill(one)
        prune(one.log, REPOSITORY)
        with pytest.raises(InputError, match="events of 1 streams were pruned"):
            copy_store(one, other, on_progress=silent)


def test_the_command_copies_there_and_back(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, back = f"sqlite:///{tmp_path}/there.db", f"sqlite:///{tmp_path}/back.db"
    with open_store(there, write=True) as store:
        fill(store)
        events = list(store.log.read_all())
    with project.in_environment():
        assert main(["store", "copy", there, "supabase"]) == 0
        assert "streams have equal hashes" in capsys.readouterr().out
        assert main(["store", "copy", "supabase", back, "--json"]) == 0
        copied = msgspec.json.decode(capsys.readouterr().out, type=Copied)
        assert (copied.events, copied.blobs) == (len(events), 3)
        assert main(["store", "copy", "supabase", back, "--json"]) == 0
        assert msgspec.json.decode(capsys.readouterr().out, type=Copied).events == 0
        assert main(["store", "copy", there, there]) == 2
        assert "the same store" in capsys.readouterr().err
    with open_store(back, write=False) as store:
        assert list(store.log.read_all()) == events
        store.log.verify()
