"""A node's workbench: performs one work order at a time a call, and clears up after interrupted ones.

``perform`` builds and verifies, and turns every expected failure into an ``Outcome``: whoever called it records an
outcome and needs no error handling of its own. What an attempt has produced so far lies in its spool folder,
``<cache_dir>/spool/<attempt_id>``, as it comes; the folder goes only after its content is in the blob store. So after
a crash of this process ``reap`` finds the containers of the attempt (by label) and ``salvage`` its logs.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import msgspec

from actors.generation.generator import Generator, clear_session, end_session
from actors.generation.records import TRANSCRIPT_FILE
from actors.generation.workspace import remove_tree
from actors.images import Engine, ImageBuilder, reap
from actors.images.engine import LABEL_ATTEMPT, LABEL_LOG, LABEL_TIER, TIER_TEST
from actors.judge import ContextJudge
from actors.settings import Settings
from actors.templates import stock_context
from actors.verifier import Verifier
from actors.work_outcomes import failed
from events.errors import EnvironmentNotReady, HeadraceError, InfraError, InputError
from events.work import FailureClass, Outcome, Stage, WorkOrder
from store.blobs import BlobStore
from store.docker_context import DockerContext

__all__ = ["DockerWorkbench", "Workbench"]

READY_POLL_S = 0.5

TESTS_FILE = "tests.jsonl"
ORDER_FILE = "order.json"


class Workbench(Protocol):
    """Where work orders are performed. Threads may share one."""

    def perform(self, order: WorkOrder, *, cancel: threading.Event) -> Outcome:
        """Performs an order to its end.

        Success and failure are outcomes, a failure of engine, disk or network too (``FailureClass.INFRA``); its blobs
        are stored when this returns. Setting ``cancel`` ends the work soon, with ``cancelled`` in the outcome. After a
        crash in here the same attempt must not be performed again: ``reap`` and ``salvage`` it.
        """

    def reap(self, *, log_id: str, keep: frozenset[str]) -> list[str]:
        """Ends the containers, and the processes of agents, that attempts of one log left behind.

        Args:
            log_id: only containers of this log are looked at.
            keep: attempts that may still be running; theirs stay.

        Returns:
            Ids of the containers that were ended.

        Raises:
            InfraError: the engine is away; call it again, it may have ended some.
        """

    def end(self, attempt_id: str) -> None:
        """Ends containers and processes of one interrupted attempt of this node, before it is salvaged; others stay.

        Raises:
            InfraError: the engine is away; call it again.
        """

    def salvage(self, attempt_id: str) -> dict[str, str]:
        """Puts what an interrupted attempt had spooled on this node into blobs, and returns kind to digest.

        The attempt must not be running any more. Afterwards its spool is gone; a second call finds nothing and returns
        an empty dictionary.

        Raises:
            HeadraceError: the blob store cannot be written or the spool cannot be read; it stays, call it again.
        """

    def wait_ready(self, *, timeout_s: float) -> str | None:
        """Waits for the engine for at most ``timeout_s`` seconds: ``None`` as soon as it answers, else why not."""


class DockerWorkbench:
    """The workbench of a node with a Docker engine."""

    def __init__(self, *, settings: Settings, blobs: BlobStore) -> None:
        """Contacts nobody: an engine that is away shows in what the methods return."""
        self._blobs = blobs
        self._spools = settings.cache_dir / "spool"
        self._engine = Engine()
        self._builder = ImageBuilder(
            engine=self._engine, settings=settings.build, cache_dir=settings.cache_dir, disk=settings.disk
        )
        self._verifier = Verifier(
            engine=self._engine, settings=settings.verify, build=settings.build, cache_dir=settings.cache_dir
        )
        self._judge = ContextJudge(builder=self._builder, verifier=self._verifier, blobs=blobs)
        self._generator = Generator(settings=settings.agents, blobs=blobs, sources=self._builder.sources)

    def perform(self, order: WorkOrder, *, cancel: threading.Event) -> Outcome:
        """See ``Workbench``."""
        spool = self._spool(order.attempt_id)
        outcome = self._perform(order, spool=spool, cancel=cancel)
        try:
            blobs = self.salvage(order.attempt_id)
        except HeadraceError as exc:
            unstored = failed(
                order,
                stage=outcome.stage,
                message=exc.message,
                failure_class=FailureClass.INFRA,
                context=outcome.context,
            )
            # What a session has used was used, whatever becomes of its logs.
            return msgspec.structs.replace(unstored, session=outcome.session)
        return msgspec.structs.replace(outcome, blobs=blobs)

    def reap(self, *, log_id: str, keep: frozenset[str]) -> list[str]:
        """See ``Workbench``.

        Containers of build steps carry their pull request and no attempt. With nothing to keep, all of the log's go;
        otherwise those of pull requests whose interrupted attempt has a spool here, but none of a kept attempt.
        """
        orders = [order for order in self._spooled_orders() if order.log_id == log_id]
        for order in orders:
            if order.attempt_id not in keep:
                end_session(order)
        found = self._engine.containers({LABEL_LOG: log_id, LABEL_TIER: TIER_TEST})
        attempts = {str(container["Labels"].get(LABEL_ATTEMPT)) for container in found} - keep
        if not keep:
            return self._builder.reap_orphans() + reap(self._engine, log_id=log_id, attempts=attempts)
        running = {order.pull_request.name for order in orders if order.attempt_id in keep}
        interrupted = {order.pull_request.name for order in orders if order.attempt_id not in keep}
        return reap(self._engine, log_id=log_id, attempts=attempts, pull_requests=interrupted - running)

    def end(self, attempt_id: str) -> None:
        """See ``Workbench``. An attempt without a spool here has made nothing here."""
        try:
            order = msgspec.json.decode((self._spool(attempt_id) / ORDER_FILE).read_bytes(), type=WorkOrder)
        except (OSError, msgspec.DecodeError):
            return
        end_session(order)
        reap(self._engine, log_id=order.log_id, attempts={attempt_id}, pull_requests={order.pull_request.name})

    def salvage(self, attempt_id: str) -> dict[str, str]:
        """See ``Workbench``."""
        spool = self._spool(attempt_id)
        try:
            clear_session(spool)
        except OSError as exc:
            raise InfraError(
                f"cannot read or write the attempt's spool {spool}: {exc.strerror}; see to the disk"
            ) from exc
        stored = self._store(spool)
        remove_tree(spool)
        return stored

    def wait_ready(self, *, timeout_s: float) -> str | None:
        """See ``Workbench``."""
        ends_at = time.monotonic() + timeout_s
        while True:
            try:
                self._engine.require()
            except EnvironmentNotReady as exc:
                reason = exc.message
            else:
                return None
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                return reason
            time.sleep(min(READY_POLL_S, left_s))

    def _perform(self, order: WorkOrder, *, spool: Path, cancel: threading.Event) -> Outcome:
        """The outcome without its blobs, which lie in the spool folder."""
        try:
            spool.mkdir(parents=True, exist_ok=True)
            (spool / ORDER_FILE).write_bytes(msgspec.json.encode(order))
            context = self._context(order)
            if order.stage is not Stage.LLM_GENERATE or order.agent is None:
                return self._judge.judge(order, context, spool=spool, cancel=cancel)
            judge = partial(self._judge.judge, order)
            return self._generator.perform(order, base=context, spool=spool, judge=judge, cancel=cancel)
        except InputError as exc:
            message, failure_class = exc.message, FailureClass.RECIPE
        except HeadraceError as exc:
            message, failure_class = exc.message, FailureClass.INFRA
        except OSError as exc:
            message = f"cannot write the attempt's spool {spool}: {exc.strerror}; see to the disk of this node"
            failure_class = FailureClass.INFRA
        return failed(order, stage="source", message=message, failure_class=failure_class, context=order.context)

    def _context(self, order: WorkOrder) -> DockerContext:
        if order.context is None:
            return stock_context()
        return DockerContext.from_tar_bytes(self._blobs.get(order.context), source=f"context {order.context[:12]}")

    def _store(self, spool: Path) -> dict[str, str]:
        """Puts the logs of a spool folder (``NAME.log`` is kind ``NAME_log``), outcomes and transcript."""
        present = {f"{path.stem}_log": path for path in sorted(spool.glob("*.log")) if path.is_file()}
        present |= {"tests": spool / TESTS_FILE, "transcript": spool / TRANSCRIPT_FILE}
        return {
            kind: self._blobs.put_file(path)
            for kind, path in present.items()
            if path.is_file() and (kind == "build_log" or path.stat().st_size > 0)
        }

    def _spool(self, attempt_id: str) -> Path:
        return self._spools / quote(attempt_id, safe="").replace(".", "%2E")

    def _spooled_orders(self) -> list[WorkOrder]:
        """The orders of attempts that run or were interrupted on this node; one that is half written is not there."""
        orders = []
        for path in self._spools.glob(f"*/{ORDER_FILE}"):
            try:
                orders.append(msgspec.json.decode(path.read_bytes(), type=WorkOrder))
            except (OSError, msgspec.DecodeError):
                continue
        return orders
