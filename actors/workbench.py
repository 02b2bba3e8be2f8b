"""A node's workbench: performs one work order at a time a call, and clears up after interrupted ones.

``perform`` builds and verifies, and turns every expected failure into an ``Outcome``: whoever called it records an
outcome and needs no error handling of its own. What an attempt has produced so far lies in its spool folder,
``<cache_dir>/spool/<attempt_id>``, as it comes; the folder goes only after its content is in the blob store. So after
a crash of this process ``reap`` finds the containers of the attempt (by label) and ``salvage`` its logs.
"""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import msgspec

from actors.images import BuildCancelled, BuildFailed, BuiltImage, Engine, ImageBuilder, reap
from actors.images.engine import LABEL_ATTEMPT, LABEL_LOG, LABEL_TIER, TIER_TEST
from actors.settings import Settings
from actors.templates import stock_context
from actors.verifier import Verdict, Verifier
from actors.verifier.trial import tail_of
from events.errors import EnvironmentNotReady, HeadraceError, InputError
from events.work import Check, FailureClass, Metrics, Outcome, WorkOrder
from store.blobs import BlobStore
from store.docker_context import DockerContext

__all__ = ["DockerWorkbench", "Workbench"]

READY_POLL_S = 0.5

BUILD_LOG = "build.log"
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
        """Ends the containers that attempts of one log left behind.

        Args:
            log_id: only containers of this log are looked at.
            keep: attempts that may still be running; theirs stay.

        Returns:
            Ids of the containers that were ended.

        Raises:
            InfraError: the engine is away; call it again, it may have ended some.
        """

    def end(self, attempt_id: str) -> None:
        """Ends the containers of one interrupted attempt of this node, before it is salvaged; others stay.

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

    def perform(self, order: WorkOrder, *, cancel: threading.Event) -> Outcome:
        """See ``Workbench``."""
        spool = self._spool(order.attempt_id)
        outcome = self._perform(order, spool=spool, cancel=cancel)
        try:
            blobs = self.salvage(order.attempt_id)
        except HeadraceError as exc:
            return _failed(
                order,
                stage=outcome.stage,
                message=exc.message,
                failure_class=FailureClass.INFRA,
                context=outcome.context,
            )
        return msgspec.structs.replace(outcome, blobs=blobs)

    def reap(self, *, log_id: str, keep: frozenset[str]) -> list[str]:
        """See ``Workbench``.

        Containers of build steps carry their pull request and no attempt. With nothing to keep, all of the log's go;
        otherwise those of pull requests whose interrupted attempt has a spool here, but none of a kept attempt.
        """
        found = self._engine.containers({LABEL_LOG: log_id, LABEL_TIER: TIER_TEST})
        attempts = {str(container["Labels"].get(LABEL_ATTEMPT)) for container in found} - keep
        if not keep:
            return self._builder.reap_orphans() + reap(self._engine, log_id=log_id, attempts=attempts)
        orders = [order for order in self._spooled_orders() if order.log_id == log_id]
        running = {order.pull_request.name for order in orders if order.attempt_id in keep}
        interrupted = {order.pull_request.name for order in orders if order.attempt_id not in keep}
        return reap(self._engine, log_id=log_id, attempts=attempts, pull_requests=interrupted - running)

    def end(self, attempt_id: str) -> None:
        """See ``Workbench``. An attempt without a spool here has made nothing here."""
        try:
            order = msgspec.json.decode((self._spool(attempt_id) / ORDER_FILE).read_bytes(), type=WorkOrder)
        except (OSError, msgspec.DecodeError):
            return
        reap(self._engine, log_id=order.log_id, attempts={attempt_id}, pull_requests={order.pull_request.name})

    def salvage(self, attempt_id: str) -> dict[str, str]:
        """See ``Workbench``."""
        spool = self._spool(attempt_id)
        stored = self._store(spool)
        shutil.rmtree(spool, ignore_errors=True)
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
        stage, context = "source", order.context
        try:
            spool.mkdir(parents=True, exist_ok=True)
            (spool / ORDER_FILE).write_bytes(msgspec.json.encode(order))
            template = self._context(order)
            context = self._blobs.put(template.to_tar_bytes())
            stage = "build"
            return self._attempt(order, template=template, digest=context, spool=spool, cancel=cancel)
        except InputError as exc:
            return _failed(
                order, stage="source", message=exc.message, failure_class=FailureClass.RECIPE, context=context
            )
        except HeadraceError as exc:
            return _failed(
                order,
                stage=stage,
                message=exc.message,
                failure_class=FailureClass.INFRA,
                context=context,
                log_tail=tail_of(spool / BUILD_LOG),
            )
        except OSError as exc:
            message = f"cannot write the attempt's spool {spool}: {exc.strerror}; see to the disk of this node"
            return _failed(order, stage=stage, message=message, failure_class=FailureClass.INFRA, context=context)

    def _context(self, order: WorkOrder) -> DockerContext:
        if order.context is None:
            return stock_context()
        return DockerContext.from_tar_bytes(self._blobs.get(order.context), source=f"context {order.context[:12]}")

    def _attempt(
        self, order: WorkOrder, *, template: DockerContext, digest: str, spool: Path, cancel: threading.Event
    ) -> Outcome:
        """Builds and verifies; the outcome lacks its blobs. What the text of the scripts gives away is not built."""
        audited = self._verifier.audit(template)
        if not audited.verified:
            return _refused_unbuilt(order, audited, context=digest)
        with ExitStack() as keep:
            return self._kept_attempt(order, template=template, digest=digest, spool=spool, cancel=cancel, keep=keep)

    def _kept_attempt(
        self,
        order: WorkOrder,
        *,
        template: DockerContext,
        digest: str,
        spool: Path,
        cancel: threading.Event,
        keep: ExitStack,
    ) -> Outcome:
        """The same after the audit; its images are not evicted before ``keep`` is closed."""
        log_path = spool / BUILD_LOG
        try:
            with log_path.open("wb", buffering=0) as log:
                image = self._builder.build(order, template, log=log, cancel=cancel, keep=keep)
        except BuildFailed as failed:
            tail = failed.log_tail or tail_of(log_path)
            return _failed(
                order,
                stage=failed.stage,
                message=failed.message,
                failure_class=failed.failure_class,
                context=digest,
                log_tail=tail,
            )
        except BuildCancelled as cancelled:
            message = f"{cancelled.stage}: cancelled"
            outcome = _failed(
                order, stage=cancelled.stage, message=message, failure_class=FailureClass.INFRA, context=digest
            )
            return msgspec.structs.replace(outcome, cancelled=True)
        known = self._blobs.get(order.known_failures) if order.known_failures else b""
        verdict = self._verifier.verify(
            order, image, context=template, spool=spool, cancel=cancel, known_failures=known
        )
        return _judged(order, image=image, verdict=verdict, context=digest)

    def _store(self, spool: Path) -> dict[str, str]:
        """Puts the logs of a spool folder (``NAME.log`` is kind ``NAME_log``) and its outcomes into blobs."""
        present = {f"{path.stem}_log": path for path in sorted(spool.glob("*.log")) if path.is_file()}
        present["tests"] = spool / TESTS_FILE
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


def _failed(
    order: WorkOrder,
    *,
    stage: str,
    message: str,
    failure_class: FailureClass,
    context: str | None,
    log_tail: str = "",
) -> Outcome:
    """The outcome of an attempt that came to no image."""
    return Outcome(
        verified=False,
        level=order.rules.level,
        stage=stage,
        failure_class=failure_class,
        message=message,
        checks=[Check("build", False, message)],
        context=context,
        log_tail=log_tail,
    )


def _refused_unbuilt(order: WorkOrder, verdict: Verdict, *, context: str) -> Outcome:
    """The outcome of an attempt whose scripts were refused as they stand."""
    return Outcome(
        verified=False,
        level=order.rules.level,
        stage=verdict.stage,
        failure_class=verdict.failure_class,
        message=verdict.message,
        checks=verdict.checks,
        context=context,
    )


def _judged(order: WorkOrder, *, image: BuiltImage, verdict: Verdict, context: str) -> Outcome:
    """The outcome of an attempt whose image was verified or refused."""
    built = "reused" if image.reused else f"built in {image.build_s:.1f} s"
    return Outcome(
        verified=verdict.verified,
        level=order.rules.level,
        stage=verdict.stage,
        failure_class=verdict.failure_class,
        message=verdict.message,
        checks=[Check("build", True, f"{image.tag} {built}"), *verdict.checks],
        context=context,
        image=image.tag,
        tests=verdict.tests,
        metrics=Metrics(
            build_s=image.build_s,
            test_s=verdict.test_s,
            peak_memory_bytes=verdict.peak_memory_bytes,
            image_bytes=image.image_bytes,
            build_reused=image.reused,
        ),
        log_tail=verdict.log_tail,
        cancelled=verdict.cancelled,
    )
