"""Events as stored: round trips, unknown types, newer schemas."""

from __future__ import annotations

import pickle

import msgspec
import pytest

from events import codec, errors
from events.errors import HeadraceError, UnknownEventType, VersionConflict
from events.types import AttemptStarted, RepositoryClaimed
from events.work import Stage
from tests.events.worlds import Repository


def test_every_event_of_a_run_survives_encoding() -> None:
    repository = Repository(1, 2, 3)
    for attempt in repository.fill(2):
        repository.end(attempt, verified=attempt.issue_number == 1)
    assert len({type(one) for one in repository.events}) > 5
    for event in repository.events:
        name = type(event).__name__
        assert codec.decode(name, codec.schema_of(event), codec.encode(event)) == event


def test_the_payload_is_json_that_people_can_read() -> None:
    event = AttemptStarted(
        attempt_id="a", issue_number=7, stage=Stage.TRY_SIMILAR, sweep="s", lease="l", runner="r", reason="why"
    )
    payload = msgspec.json.decode(codec.encode(event))
    assert (payload["issue_number"], payload["stage"], payload["reason"]) == (7, "try_similar", "why")


@pytest.mark.parametrize(
    ("type_", "schema", "data"),
    [
        ("NeverHeardOf", 1, b"{}"),
        ("RepositoryClaimed", 99, b'{"incarnation":"i","sweep":"s"}'),
        ("RepositoryClaimed", 1, b'{"incarnation":7}'),
        ("RepositoryClaimed", 1, b"no json"),
    ],
)
def test_what_cannot_be_read_fails_loudly_and_names_its_type(type_: str, schema: int, data: bytes) -> None:
    with pytest.raises(UnknownEventType, match=type_):
        codec.decode(type_, schema, data)


def test_an_event_type_is_stored_under_its_class_name() -> None:
    assert codec.EVENT_TYPES["RepositoryClaimed"] is RepositoryClaimed


def example(cls: type[HeadraceError]) -> HeadraceError:
    """An error of this class, each field filled by its type."""
    numbers: dict[str, object] = {"line": 3, "expected": 3, "actual": 4, "found": 9, "known": 1}
    numbers |= {"schema": 2, "version": 5}
    fields = {name: numbers.get(name, name) for name in cls.__init__.__annotations__ if name != "return"}
    if cls is errors.UnknownSweep:
        fields["known"] = ("a", "b")
    return cls._rebuild(fields)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_survives_pickling_with_its_message_and_fields(name: str) -> None:
    cls = getattr(errors, name)
    before = example(cls)
    after = pickle.loads(pickle.dumps(before))  # noqa: S301
    assert type(after) is cls
    assert (str(after), after.__dict__) == (str(before), before.__dict__)


def test_error_codes_are_unique_and_drawn_in_the_tree() -> None:
    codes = {getattr(errors, name).code: name for name in errors.__all__}
    assert len(codes) == len(errors.__all__)
    assert errors.__doc__ is not None
    for code, name in codes.items():
        assert any(name in line and code in line for line in errors.__doc__.splitlines()), name


def test_exports_are_sorted() -> None:
    assert sorted(errors.__all__) == errors.__all__


def test_a_conflict_names_stream_and_versions() -> None:
    assert "stream s: expected version 1, found 4" in str(VersionConflict(stream="s", expected=1, actual=4))
