"""Pull requests as callers give them, checked before anything is built."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime

from events.errors import InputError, ResolutionRequired
from events.work import PullRequest
from store.timeline import check_env_payload, check_python_version, checked_row, format_moment

__all__ = ["SOURCE", "Item", "checked_item"]

SOURCE = "Python API"
"""What messages name where a file's messages name the file."""

Item = PullRequest | Mapping[str, object]
"""A pull request: a row of a timeline, or the keywords of ``Synthesizer.run``."""


def checked_item(item: Item, *, now: float | None = None) -> PullRequest:
    """A pull request as the core takes it.

    Without ``created_at`` it is of this moment: contexts are looked for around that, so say it where it is known.

    Raises:
        InputError: a field is unknown.
        TimelineError: a field is missing, or its value cannot be used.
        ResolutionRequired: ``env_payload`` or ``python_version`` is missing or malformed.
    """
    if isinstance(item, PullRequest):
        given: Mapping[str, object] = {name: getattr(item, name) for name in PullRequest.__struct_fields__}
    else:
        given = item
    unknown = given.keys() - set(PullRequest.__struct_fields__)
    if unknown:
        known = ", ".join(PullRequest.__struct_fields__)
        raise InputError(f"{SOURCE}: no such field of a pull request: {', '.join(sorted(unknown))}; there are {known}")
    if given.get("created_at") is None:
        moment = datetime.fromtimestamp(time.time() if now is None else now, UTC)
        given = {**given, "created_at": format_moment(moment)}
    row = checked_row(given, source=SOURCE)
    for field, problem in (
        ("env_payload", check_env_payload(row.env_payload)),
        ("python_version", check_python_version(row.python_version)),
    ):
        if problem:
            raise ResolutionRequired(pull_request=row.name, field=field, problem=problem)
    return row
