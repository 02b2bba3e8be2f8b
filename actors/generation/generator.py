"""One session of a coding agent for one pull request, from the workspace to the verdict.

The agent edits three scripts in a folder of its own; the verdict is Headrace's, on what was read back from there. What
a session costs is spent once: a verdict that this process reached on the agent's request counts at the end, a session
that was cut short (by a limit, a crash, a watchdog) still has its scripts verified, and a verification that fails for
want of engine or network is tried again here, before anybody thinks of another session.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec

from actors.agent_settings import AgentSettings
from actors.agents.adapters import ADAPTERS
from actors.agents.base import Adapter
from actors.agents.leftovers import end_marked
from actors.agents.redact import secrets_of
from actors.generation.accounts import Accounts, Means
from actors.generation.attempt import Attempt, session_name, without_verdict
from actors.generation.briefing import briefing
from actors.generation.cage import Limits, end_group
from actors.generation.records import (
    Notes,
    collect_rulings,
    unstarted,
)
from actors.generation.referee import Judge
from actors.generation.workspace import SESSION_FOLDER, Workspace, checkout, remove_tree
from events.errors import EnvironmentNotReady, ResolutionRequired
from events.work import Outcome, WorkOrder
from store.blobs import BlobStore
from store.docker_context import DockerContext
from store.sources import SourceCancelled, Sources, clone_url_of

__all__ = ["Generator", "clear_session", "end_session"]


class Generator:
    """Runs sessions on one node. Threads may share it.

    Success and failure are outcomes; their ``session`` says how the session ended and what it used. After a crash in
    here :func:`end_session` ends what is left of the session; its notes and transcript are in the spool.
    """

    def __init__(
        self,
        *,
        settings: AgentSettings,
        blobs: BlobStore,
        sources: Sources,
        adapters: Mapping[str, Adapter] = ADAPTERS,
        limits: Limits | None = None,
    ) -> None:
        self._settings, self._blobs, self._sources = settings, blobs, sources
        self._limits = limits or Limits()
        self._accounts = Accounts(settings, adapters=adapters)

    def perform(
        self, order: WorkOrder, *, base: DockerContext, spool: Path, judge: Judge, cancel: threading.Event
    ) -> Outcome:
        """Runs the session of an order, and verifies what came of it.

        Args:
            order: of stage ``llm_generate``, with ``agent`` and ``account``.
            base: the context that the session starts from.
            spool: existing folder of the attempt; logs, transcript and notes stay there for the caller.
            judge: builds and verifies a context.
            cancel: ends the session, or the verification, soon.

        Returns:
            The outcome without its blobs.

        Raises:
            HeadraceError: the session was not begun, because of the pull request's inputs or of its source.
            OSError: the spool cannot be written. Nothing is left running.
        """
        request = order.pull_request
        for field, value in (("env_payload", request.env_payload), ("python_version", request.python_version)):
            if not value:
                raise ResolutionRequired(pull_request=request.name, field=field, problem="is missing")
        try:
            means = self._accounts.means(order.account or "")
        except EnvironmentNotReady as exc:
            return _unstarted(order, exc.message)
        notes = Notes(spool)
        try:
            with Workspace(spool, secrets=secrets_of(means.access.environment)) as workspace:
                self._fill(workspace, order, base=base, means=means, cancel=cancel)
                attempt = Attempt(
                    order,
                    means=means,
                    workspace=workspace,
                    base=base,
                    spool=spool,
                    judge=judge,
                    settings=self._settings,
                    limits=self._limits,
                    notes=notes,
                    cancel=cancel,
                )
                return attempt.run()
        except SourceCancelled:
            return without_verdict(order, "source: cancelled", stage="source", cancelled=True)

    def _fill(
        self, workspace: Workspace, order: WorkOrder, *, base: DockerContext, means: Means, cancel: threading.Event
    ) -> None:
        request = order.pull_request
        mirror = self._sources.mirror(clone_url_of(request), [request.commit], pull_request=request.name, cancel=cancel)
        with_scripts_of = frozenset(
            number for number, prior in enumerate(order.prior, 1) if prior.context and self._blobs.has(prior.context)
        )
        text = briefing(order, max_verifications=self._settings.max_verifications, prior_with_scripts=with_scripts_of)
        names = {"AGENTS.md", means.adapter.briefing_file}
        workspace.fill(base, briefings=dict.fromkeys(names, text), payload=request.env_payload or "")
        for number in with_scripts_of:
            digest = order.prior[number - 1].context or ""
            tried = DockerContext.from_tar_bytes(self._blobs.get(digest), source=f"context {digest[:12]}")
            workspace.add_prior(number, tried)
        checkout(mirror, mirror.resolve(request.commit), workspace.folder / "repo")


def end_session(order: WorkOrder) -> int:
    """Ends what is left of the session of an order whose runner was killed; returns how many processes were killed."""
    return end_group(session_name(order)) + end_marked(session_name(order))


def clear_session(spool: Path) -> None:
    """Of an interrupted session makes what is to be kept ready, and removes the rest; nothing of it runs any more.

    Raises:
        OSError: the spool cannot be written.
    """
    collect_rulings(spool)
    remove_tree(spool / SESSION_FOLDER)


def _unstarted(order: WorkOrder, message: str) -> Outcome:
    outcome = without_verdict(order, message)
    report = unstarted(order.account or "", order.agent or "", message)
    return msgspec.structs.replace(outcome, session=report)
