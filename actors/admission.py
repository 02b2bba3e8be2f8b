"""From timeline rows to what enters a repository's stream."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import msgspec

from events.types import Admission, ImportedContext
from events.work import PullRequest
from store.read_models import CachedContext

__all__ = ["admissions", "imported", "inputs_digest", "rows_by_number", "rows_to_bytes"]


def inputs_digest(row: PullRequest) -> str:
    """SHA-256 over what decides a pull request's environment: equal digests under equal rules are the same job.

    That is its commit, Python version, requirements, project folder and where the commit comes from; its text, patch
    and date are not.
    """
    payload = msgspec.json.decode(row.env_payload or "null")
    what = [row.commit, row.python_version, payload, row.primary_root, row.clone_url]
    return sha256(msgspec.json.encode(what, order="deterministic")).hexdigest()


def admissions(rows: Iterable[PullRequest], *, rows_blob: str) -> list[Admission]:
    """The admissions of resolved rows, whose full text is in the blob ``rows_blob``."""
    return [
        Admission(
            issue_number=row.issue_number,
            created_at=row.created_at,
            commit=row.commit,
            python_version=row.python_version or "",
            row=rows_blob,
            inputs=inputs_digest(row),
            seed=row.seed,
        )
        for row in rows
    ]


def rows_to_bytes(rows: Iterable[PullRequest]) -> bytes:
    """Rows as JSON Lines."""
    return msgspec.json.Encoder().encode_lines(list(rows))


def rows_by_number(data: bytes) -> dict[int, PullRequest]:
    """Rows of one repository from JSON Lines, by issue number, in their order."""
    return {row.issue_number: row for row in msgspec.json.Decoder(PullRequest).decode_lines(data)}


def imported(one: CachedContext) -> ImportedContext:
    """What the build-context cache knows of a context, as it enters a repository's stream."""
    return ImportedContext(
        context=one.context,
        issue_number=one.issue_number,
        created_at=one.created_at,
        inputs=one.inputs,
        rules=one.rules,
        attempt_id=one.attempt_id,
        parent=one.parent,
        tests=one.tests,
        revoked=one.revoked_why if one.revoked_at is not None else None,
    )
