"""What a shell may ask of a repository's core. Ids come with the command; times come beside it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from events.types import Admission, ImportedContext
from events.work import CascadePolicy, Outcome, VerificationRules

__all__ = [
    "Admit",
    "AwaitLease",
    "Claim",
    "Command",
    "FillSlots",
    "ImportContexts",
    "Interrupt",
    "Reopen",
    "Revoke",
    "Slot",
    "TakeOutcome",
]


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """An actor takes the stream over for a sweep."""

    incarnation: str
    sweep: str


class Admit(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep's pull requests of this repository."""

    sweep: str
    rules: VerificationRules
    policy: CascadePolicy
    pull_requests: list[Admission]


class ImportContexts(msgspec.Struct, frozen=True, kw_only=True):
    """What the build-context cache knows of this repository."""

    contexts: list[ImportedContext]


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A leased place on a runner, and the id that an attempt in it would get.

    ``agent``: may pay that backend, with the lease ``agent_lease`` on ``account``; ``issue_number``: if set, only for a
    session for that pull request.
    """

    attempt_id: str
    lease: str
    runner: str
    agent: str | None = None
    account: str | None = None
    agent_lease: str | None = None
    issue_number: int | None = None


class FillSlots(msgspec.Struct, frozen=True, kw_only=True):
    """Slots are free: what shall run in them? ``awaits``: whose session is due and finds no agent waits for a lease."""

    slots: Sequence[Slot]
    awaits: bool = True


class AwaitLease(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions for these pull requests were asked for and none is granted; ``until``: POSIX seconds, if it is known."""

    issue_numbers: Sequence[int]
    reason: str
    until: float | None = None


class TakeOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt has ended."""

    attempt_id: str
    outcome: Outcome


class Interrupt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's processes are gone and it left no outcome."""

    attempt_id: str
    reason: str
    blobs: dict[str, str] = msgspec.field(default_factory=dict)
    runner_died: bool = False


class Revoke(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody does not trust a context any more. ``why``: a sentence for people."""

    context: str
    why: str


class Reopen(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep's pull requests are to be worked on again; those that have not failed are passed over."""

    sweep: str
    issue_numbers: Sequence[int]
    reason: str


Command = Claim | Admit | ImportContexts | FillSlots | AwaitLease | TakeOutcome | Interrupt | Revoke | Reopen
