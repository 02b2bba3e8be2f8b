"""The events of stream ``gather:OWNER/REPO``: the reports of a repository, wave by wave."""

from __future__ import annotations

import msgspec

from events.base_event import BaseEvent

__all__ = ["Drift", "GatherEvent", "GatherFinished", "GatherPrepared"]


class Drift(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Two neighbours in time that disagree on a key of their environments: evidence that it changed between them."""

    key: str
    earlier: int
    earlier_value: str
    later: int
    later_value: str


class GatherPrepared(BaseEvent, frozen=True):
    """What goes into a repository's next report is settled, and durable.

    ``upto``: the version of stream ``repository:OWNER/REPO`` that it covers; ``issue_numbers``: the pull requests that
    were finished since the report before, ordered by time; ``prepared``: the blob of the result to execute.
    """

    batch_id: str
    upto: int
    issue_numbers: list[int]
    prepared: str


class GatherFinished(BaseEvent, frozen=True):
    """A report was made, or could not be (``failed``, with a message). ``report``, ``result``: blobs of its text and of
    the whole result."""

    batch_id: str
    status: str
    result: str
    report: str | None = None
    message: str = ""
    drifts: list[Drift] = msgspec.field(default_factory=list)


GatherEvent = GatherPrepared | GatherFinished
