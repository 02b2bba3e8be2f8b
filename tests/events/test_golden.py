"""Golden logs decode and fold today as when they were written; old schemas are lifted; changed code is reported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events import attempt_folding, codec, repository, sweep
from events.errors import ReplayDivergence, UnknownEventType
from events.replay import StreamFold, check_digests
from events.repository_state import RepositoryState
from events.types import AttemptFailed, RepositoryRetired
from store.log import RecordedEvent, verify_chain
from tests.golden import logs

ROOT = Path(__file__).parents[2]
NAMES = logs.names()


def check_golden(name: str, events: list[RecordedEvent] | None = None) -> int:
    """Folds a golden log and compares the state after every event with what was recorded; returns how many."""
    _, recorded = logs.read_states(name)
    folds: dict[str, StreamFold] = {}
    compared = 0
    for event, line in zip(events or logs.read_log(name), recorded, strict=True):
        fold = folds.setdefault(event.stream, StreamFold(event.stream))
        fold.take(event.version, event.type, event.schema, event.data)
        assert (line.stream, line.version) == (event.stream, event.version)
        check_digests(event.stream, recorded=line.fields, replayed=fold.state)
        compared += 1
    return compared


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_log_is_what_was_written(name: str) -> None:
    assert verify_chain(logs.read_log(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_states_of_a_golden_log_were_recorded_with_the_shapes_of_today(name: str) -> None:
    assert logs.read_states(name)[0] == logs.shapes(), f"delete {name}.states.jsonl and run python -m tests.golden.logs"


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_log_decodes_and_folds_to_what_it_did(name: str) -> None:
    assert check_golden(name) == len(logs.read_log(name))


def test_every_event_type_is_in_a_golden_log_under_its_schema_of_today() -> None:
    found = {(event.type, event.schema) for name in NAMES for event in logs.read_log(name)}
    assert set(codec.SCHEMAS.items()) <= found


@pytest.mark.parametrize("seed", ["0", "1", "77"])
def test_it_folds_to_the_same_in_every_process(seed: str) -> None:
    """Hash seeds order sets of strings anew in every process; no digest may notice."""
    script = "from tests.events.test_golden import NAMES, check_golden; print(sum(map(check_golden, NAMES)))"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert int(run.stdout) == sum(len(logs.read_log(name)) for name in NAMES)


def first(type_: str, *, nth: int = 0) -> RecordedEvent:
    return [event for event in logs.read_log("schema-1") if event.type == type_][nth]


def test_changed_transition_code_is_reported_with_stream_version_and_field(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(state: RepositoryState, event: AttemptFailed) -> None:
        attempt_folding.attempt_failed(state, event)
        state.prs[event.issue_number].tried.clear()

    monkeypatch.setitem(repository._HANDLERS, AttemptFailed, forgetful)
    with pytest.raises(ReplayDivergence) as found:
        check_golden("schema-1")
    culprit = first("AttemptFailed", nth=1)  # the first one was infra and refuted nothing
    assert (found.value.stream, found.value.version, found.value.field) == (culprit.stream, culprit.version, "prs")


def test_a_transition_that_is_no_longer_allowed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sweep.TRANSITIONS, sweep.RepositoryPhase.ACTIVE, {})
    with pytest.raises(ReplayDivergence) as found:
        check_golden("schema-1")
    culprit = first("RepositoryRetired")
    assert (found.value.stream, found.value.version) == (culprit.stream, culprit.version)
    assert "not allowed in state 'active'" in str(found.value)


@pytest.mark.parametrize(("type_", "schema"), [("Vanished", 1), ("StageEntered", 2)])
def test_an_unknown_type_or_a_newer_schema_in_a_golden_log_fails_loudly(type_: str, schema: int) -> None:
    log = logs.read_log("schema-1")
    place = log.index(first("StageEntered"))
    log[place] = msgspec.structs.replace(log[place], type=type_, schema=schema)
    with pytest.raises(UnknownEventType) as found:
        check_golden("schema-1", log)
    where = f"stream {log[place].stream} version {log[place].version}"
    assert (found.value.where, found.value.type_, found.value.schema) == (where, type_, schema)
    assert where in str(found.value)
    assert type_ in str(found.value)


OLD = b'{"repository":"o/r","ok":3,"failed":1}'
NOW = RepositoryRetired(repository="o/r", succeeded=3, failed=1, unreached=0)


@pytest.fixture
def lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    """``RepositoryRetired`` as if it were at schema 3: 2 renamed a field, 3 added one."""

    def renamed(payload: dict[str, Any]) -> dict[str, Any]:
        payload["succeeded"] = payload.pop("ok")
        return payload

    monkeypatch.setitem(codec.SCHEMAS, "RepositoryRetired", 3)
    monkeypatch.setitem(codec.UPCASTERS, ("RepositoryRetired", 1), renamed)
    monkeypatch.setitem(
        codec.UPCASTERS,
        ("RepositoryRetired", 2),
        lambda payload: payload | {"unreached": 0},
    )


@pytest.mark.usefixtures("lifted")
def test_upcasters_lift_every_older_schema_step_by_step() -> None:
    assert codec.decode("RepositoryRetired", 1, OLD) == NOW
    assert codec.decode("RepositoryRetired", 2, OLD.replace(b"ok", b"succeeded")) == NOW
    assert codec.decode("RepositoryRetired", 3, codec.encode(NOW)) == NOW
    assert codec.schema_of(NOW) == 3


@pytest.mark.usefixtures("lifted")
def test_an_older_log_folds_through_the_upcasters() -> None:
    log = [event for event in logs.read_log("schema-1") if event.stream == "sweep:demo"]
    place = log.index(first("RepositoryRetired"))
    log[place] = msgspec.structs.replace(log[place], data=OLD)
    fold = StreamFold("sweep:demo")
    fold.take_all((event.version, event.type, event.schema, event.data) for event in log)
    assert fold.state.repositories["o/r"].succeeded == 3


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize(
    ("schema", "data", "why"),
    [
        (4, OLD, "this program knows up to schema 3"),
        (0, OLD, "no upcaster from schema 0"),
        (1, b"{}", "the upcaster from schema 1 failed"),
        (2, b'{"repository":7}', "Expected `str`"),
        (2, b"no json", "malformed"),
    ],
)
def test_what_no_upcaster_can_lift_fails_loudly(schema: int, data: bytes, why: str) -> None:
    with pytest.raises(UnknownEventType, match=why):
        codec.decode("RepositoryRetired", schema, data)
