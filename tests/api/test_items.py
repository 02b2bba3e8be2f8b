"""What is wrong with a pull request is told before anything is built."""

from __future__ import annotations

import msgspec
import pytest

from actors.api.items import checked_item
from events.errors import InputError, ResolutionRequired, TimelineError
from store.timeline import checked_row
from tests.api.items import item


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("env_payload", None),
        ("env_payload", "{"),
        ("env_payload", "{}"),
        ("env_payload", '{"dependencies": [1]}'),
        ("env_payload", '{"dependencies": ["no requirement!"]}'),
        ("python_version", None),
        ("python_version", "three"),
        ("python_version", "3.11.2"),
    ],
)
def test_missing_or_malformed_requirements_name_the_pull_request_and_the_command(field: str, value: object) -> None:
    with pytest.raises(ResolutionRequired) as found:
        checked_item(item(7, **{field: value}))
    assert found.value.field == field
    assert "o/r#7" in str(found.value)
    assert "headrace resolve" in str(found.value)


@pytest.mark.parametrize("payload", ['{"dependencies": ["numpy==1.26.0"]}', '["numpy==1.26.0"]', "[]"])
def test_requirements_are_an_object_with_dependencies_or_a_list_of_them(payload: str) -> None:
    assert checked_item(item(7, env_payload=payload)).env_payload == payload


@pytest.mark.parametrize(
    ("field", "value"),
    [("sha", "main"), ("owner", "../x"), ("issue_number", 0), ("created_at", "soon"), ("primary_root", "/etc")],
)
def test_another_value_that_cannot_be_used_is_named(field: str, value: object) -> None:
    with pytest.raises(TimelineError, match=f"^Python API: field '{field}'"):
        checked_item(item(7, **{field: value}))


def test_a_field_that_there_is_not_is_named_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match="issue; there are owner, repo, issue_number"):
        checked_item(item(7, issue=7))


def test_a_row_of_a_timeline_is_an_item_too() -> None:
    row = checked_row(item(7), source="x")
    assert checked_item(row) == row
    with pytest.raises(ResolutionRequired):
        checked_item(msgspec.structs.replace(row, env_payload=None))


def test_without_a_date_it_is_of_this_moment() -> None:
    assert checked_item(item(7, created_at=None), now=0.0).created_at == "1970-01-01T00:00:00Z"
    given = item(7)
    del given["created_at"]
    assert checked_item(given, now=86_400.0).created_at == "1970-01-02T00:00:00Z"
