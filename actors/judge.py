"""Builds a context for a work order and verifies the image: every end of it is an outcome."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import msgspec

from actors.images import BuildCancelled, BuildFailed, ImageBuilder
from actors.verifier import Verifier
from actors.verifier.trial import tail_of
from actors.work_outcomes import failed, judged, refused_unbuilt
from events.errors import HeadraceError, InputError
from events.work import FailureClass, Outcome, WorkOrder
from store.blobs import BlobStore
from store.docker_context import DockerContext

__all__ = ["BUILD_LOG", "ContextJudge"]

BUILD_LOG = "build.log"


class ContextJudge:
    """Judges contexts on one engine. Threads may share it.

    Success and failure are outcomes without blobs, a failure of engine, disk or network too; the context itself is a
    blob by then, the logs are in the spool. A crash leaves containers, which carry the order's labels.
    """

    def __init__(self, *, builder: ImageBuilder, verifier: Verifier, blobs: BlobStore) -> None:
        self._builder, self._verifier, self._blobs = builder, verifier, blobs

    def judge(self, order: WorkOrder, context: DockerContext, *, spool: Path, cancel: threading.Event) -> Outcome:
        """Audits, builds and verifies a context.

        Args:
            order: the pull request and the rules; not its ``context``, which is the one that is given.
            context: what is judged.
            spool: existing folder for logs.
            cancel: ends it soon; the outcome is then ``cancelled``.
        """
        stage, digest = "source", order.context
        try:
            digest = self._blobs.put(context.to_tar_bytes())
            stage = "build"
            audited = self._verifier.audit(context)
            if not audited.verified:
                return refused_unbuilt(order, audited, context=digest)
            with ExitStack() as keep:
                return self._built(order, context, digest=digest, spool=spool, cancel=cancel, keep=keep)
        except InputError as exc:
            return failed(order, stage="source", message=exc.message, failure_class=FailureClass.RECIPE, context=digest)
        except HeadraceError as exc:
            return failed(
                order,
                stage=stage,
                message=exc.message,
                failure_class=FailureClass.INFRA,
                context=digest,
                log_tail=tail_of(spool / BUILD_LOG),
            )
        except OSError as exc:
            message = f"cannot write the attempt's spool {spool}: {exc.strerror}; see to the disk of this node"
            return failed(order, stage=stage, message=message, failure_class=FailureClass.INFRA, context=digest)

    def _built(
        self,
        order: WorkOrder,
        context: DockerContext,
        *,
        digest: str,
        spool: Path,
        cancel: threading.Event,
        keep: ExitStack,
    ) -> Outcome:
        """The outcome after the audit; its images are not evicted before ``keep`` is closed."""
        log_path = spool / BUILD_LOG
        try:
            with log_path.open("wb", buffering=0) as log:
                image = self._builder.build(order, context, log=log, cancel=cancel, keep=keep)
        except BuildFailed as exc:
            return failed(
                order,
                stage=exc.stage,
                message=exc.message,
                failure_class=exc.failure_class,
                context=digest,
                log_tail=exc.log_tail or tail_of(log_path),
                exit_code=exc.exit_code,
            )
        except BuildCancelled as exc:
            outcome = failed(
                order,
                stage=exc.stage,
                message=f"{exc.stage}: cancelled",
                failure_class=FailureClass.INFRA,
                context=digest,
            )
            return msgspec.structs.replace(outcome, cancelled=True)
        known = self._blobs.get(order.known_failures) if order.known_failures else b""
        verdict = self._verifier.verify(order, image, context=context, spool=spool, cancel=cancel, known_failures=known)
        return judged(order, image=image, verdict=verdict, context=digest)
