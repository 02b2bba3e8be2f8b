"""Judges an image: is it what its commit says, does the package import from it, and do the commit's own tests pass?

The verdict is computed here, from what this host knows (the commit, the index, the image's files seen from outside) and
from reports that are read from files made outside the image. No text that the image prints counts, and no file that the
build wrote. ``docs/trust.md`` draws this boundary; :mod:`actors.verifier.defences` names what guards each line of it.

A failure says whose it is: what a limit of time ended is ``timeout``; what forges or hides something is ``tamper``;
what else the image did wrong (memory, disk, crash, import, tests) is ``recipe``; a test that says now this, now that at
level f2p is ``flake``; what engine, disk or index did wrong is ``infra``.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from actors.images.engine import TIER_TEST, Engine, attempt_labels
from actors.images.outcomes import BuiltImage
from actors.settings import BuildSettings, VerifySettings
from actors.verifier.checks.audit import audit
from actors.verifier.checks.template import check_template
from actors.verifier.containers.bytecode import Bytecode
from actors.verifier.containers.container import CHECKOUT
from actors.verifier.defences import Defence
from actors.verifier.f2p import f2p
from actors.verifier.inspection import Inspector
from actors.verifier.lanes import side_by_side
from actors.verifier.levels import Subject, smoke, tests
from actors.verifier.session import Means, Session
from actors.verifier.suite.commit import CommitTree
from actors.verifier.suite.report import TestOutcome, decode_outcomes
from actors.verifier.trial import Refused, Trial, Verdict
from events.errors import InfraError
from events.work import FailureClass, Level, Stage, WorkOrder
from store.docker_context import DockerContext

__all__ = ["Verifier"]

RUNS_TESTS = frozenset({Level.TESTS, Level.F2P})


class Verifier:
    """Verifies images on one engine. Holds no state between calls but a cache of what is provably the same; threads may
    share it."""

    def __init__(
        self,
        *,
        engine: Engine,
        settings: VerifySettings,
        build: BuildSettings,
        cache_dir: Path,
        without: frozenset[Defence] = frozenset(),
        means: Means | None = None,
    ) -> None:
        """``without`` and ``means`` are for tests, which show that each defence is needed; no setting leads here."""
        self._engine, self._settings, self._without = engine, settings, without
        self._means = means or Means()
        self._bytecode = Bytecode(engine=engine, cache_dir=cache_dir)
        self._inspector = Inspector(engine=engine, build=build, cache_dir=cache_dir)

    def audit(self, context: DockerContext) -> Verdict:
        """The verdict on a context's text alone, before anything of it is built."""
        trial = Trial(without=self._without)
        trial.stage = "audit"
        try:
            self._audit(trial, context)
        except Refused as refused:
            return trial.verdict(refused)
        return trial.verdict(None)

    def verify(
        self,
        order: WorkOrder,
        image: BuiltImage,
        *,
        context: DockerContext,
        spool: Path,
        cancel: threading.Event,
        known_failures: bytes = b"",
    ) -> Verdict:
        """Goes as far as ``order.rules.level`` asks, or to the first defence or level that refuses.

        Args:
            order: the attempt; its rules decide, its names label the containers.
            image: what was built for it.
            context: what it was built from.
            spool: existing folder for logs and reports of this attempt; they stay there for the caller.
            cancel: ends the verification within about a second; the verdict is then ``cancelled``.
            known_failures: the ``tests`` blob of the verification that is being built on; tests that failed there may
                fail here, if the rules allow it, and tests that passed there may not be skipped here.

        Returns:
            The verdict; of class ``infra`` when the engine is away or failed, with what was found until then.

        Raises:
            OSError: the spool cannot be written. Nothing is left running.
        """
        trial = Trial(without=self._without)
        if order.stage is Stage.TRY_SIMILAR and not trial.applies(Defence.REUSE):
            trial = Trial(without=frozenset(Defence))
        try:
            self._judge(trial, order, image, context=context, spool=spool, cancel=cancel, known=known_failures)
        except Refused as refused:
            return trial.verdict(refused)
        except InfraError as exc:
            return trial.verdict(Refused(exc.message, failure_class=FailureClass.INFRA))
        return trial.verdict(None)

    def _audit(self, trial: Trial, context: DockerContext) -> None:
        if trial.applies(Defence.TEMPLATE):
            found = check_template(context, trusted_files=self._settings.trusted_files)
            trial.record(Defence.TEMPLATE, found, detail="only what an agent may edit differs from trusted files")
        if trial.applies(Defence.AUDIT):
            trial.record(Defence.AUDIT, audit(context), detail="the scripts show no tampering")

    def _judge(
        self,
        trial: Trial,
        order: WorkOrder,
        image: BuiltImage,
        *,
        context: DockerContext,
        spool: Path,
        cancel: threading.Event,
        known: bytes,
    ) -> None:
        rules, request = order.rules, order.pull_request
        self._audit(trial, context)
        tree = CommitTree(image.mirror, image.commit)
        trial.stage = "inspect"
        labels = attempt_labels(order, tier=TIER_TEST, context_digest=context.digest)
        inspection = self._inspector.inspect(trial, image, tree=tree, request=request, level=rules.level, labels=labels)
        if rules.level is Level.BUILD:
            trial.stage = "build"
            return
        session = Session(
            trial,
            engine=self._engine,
            settings=self._settings,
            means=self._means,
            image=image,
            folder=f"{CHECKOUT}/{request.primary_root or '.'}",
            labels=labels,
            bytecode=self._bytecode.folders(image.image_id, inspection.genuine, labels=labels, cancel=cancel),
            spool=spool,
            cancel=cancel,
        )
        before = _outcomes(known)
        subject = Subject(
            rules=rules,
            inspection=inspection,
            primary_root=request.primary_root or ".",
            seed=zlib.crc32(order.attempt_id.encode()),
            known_failures=frozenset(one.test for one in before if one.failed and rules.allow_known_failures),
            passed_before=frozenset(one.test for one in before if one.outcome == "passed"),
        )
        parts: list[Callable[[Session], object]] = [lambda branch: smoke(branch, subject)]
        if rules.level in RUNS_TESTS:
            parts.append(lambda branch: tests(branch, subject))
        side_by_side(session, parts)
        if rules.level is Level.F2P:
            f2p(session, subject, request=request, tree=tree, context=context)


def _outcomes(blob: bytes) -> list[TestOutcome]:
    """The tests of an earlier verification; none if what it left cannot be read."""
    try:
        return decode_outcomes(blob)
    except msgspec.DecodeError:
        return []
