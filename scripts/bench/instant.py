"""A workbench that verifies at once: what is left of a sweep's time is its orchestration.

It builds nothing and has no engine. Every context is verified on every pull request, and no blob is stored.
"""

from __future__ import annotations

import threading

from actors.settings import Settings
from events.work import Metrics, Outcome, TestCounts, WorkOrder
from store.blobs import BlobStore

__all__ = ["InstantWorkbench", "instant_workbench"]


class InstantWorkbench:
    """See the module; the methods are those of ``actors.workbench.Workbench``."""

    def perform(self, order: WorkOrder, *, cancel: threading.Event) -> Outcome:
        """Verifies, unless the order was cancelled before it began."""
        return Outcome(
            verified=not cancel.is_set(),
            level=order.rules.level,
            stage="tests",
            message="verified at once",
            context=order.context,
            image=f"none:{order.pull_request.name}",
            tests=TestCounts(passed=1),
            metrics=Metrics(build_s=0.0, test_s=0.0),
            cancelled=cancel.is_set(),
        )

    def reap(self, *, log_id: str, keep: frozenset[str]) -> list[str]:  # noqa: ARG002 - there is nothing to end
        """Nothing is ever left behind."""
        return []

    def end(self, attempt_id: str) -> None:
        """Nothing is ever left behind."""

    def salvage(self, attempt_id: str) -> dict[str, str]:  # noqa: ARG002 - there is nothing to save
        """Nothing is ever logged."""
        return {}

    def wait_ready(self, *, timeout_s: float) -> str | None:  # noqa: ARG002 - there is nothing to wait for
        """Always ready."""
        return None


def instant_workbench(settings: Settings, blobs: BlobStore) -> InstantWorkbench:  # noqa: ARG001 - a WorkbenchFactory
    """The factory that runners are given."""
    return InstantWorkbench()
