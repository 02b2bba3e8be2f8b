"""Builds forgeries on a real engine and has them judged, with all defences, without some, or with none."""

from __future__ import annotations

import tempfile
import threading
import uuid
from pathlib import Path

from actors.images import BuiltImage, Engine, ImageBuilder, reap
from actors.images.engine import TIER_TEST, attempt_labels
from actors.settings import BuildSettings, VerifySettings
from actors.templates import stock_context
from actors.verifier import Verdict, Verifier
from actors.verifier.defences import Defence
from events.work import Stage, WorkOrder
from store.docker_context import DockerContext
from tests.forged.forgery import Forgery, Naive
from tests.forged.loose import naive_means
from tests.forged.victims import ENDLESS, Victim

__all__ = ["EVERY", "Trials"]

EVERY = frozenset(Defence)
HASTY_S = 8.0
PATIENT_S = 90.0


class Trials:
    """One run of the suite: a log of its own on the engine, images shared with other runs. Threads may share it."""

    def __init__(self, *, engine: Engine, settings: BuildSettings, cache_dir: Path, folder: Path) -> None:
        self._engine, self._settings, self._folder, self._cache_dir = engine, settings, folder, cache_dir
        self._shared = (cache_dir / "rootfs").resolve().parent
        self._builder = ImageBuilder(engine=engine, settings=settings, cache_dir=cache_dir)
        self.log_id = f"log-{uuid.uuid4().hex[:12]}"

    def honest(self, victim: Victim, number: int) -> Verdict:
        """The verdict on the stock context by the clock alone, with no other defence: what a victim is worth itself."""
        return self.verdict(victim, stock_context(), number=number, without=EVERY - {Defence.DEADLINE})

    def forged(self, forgery: Forgery, *, without: frozenset[Defence] = frozenset(), loose: bool = False) -> Verdict:
        """The verdict on a forgery without these defences; ``loose``: judged naively where the forgery asks for it."""
        return self.verdict(
            forgery.victim,
            forgery.context,
            number=forgery.pull_request,
            stage=forgery.stage,
            without=without,
            naive=forgery.naive if loose else None,
            hasty=forgery.defence is Defence.DEADLINE,
        )

    def verdict(
        self,
        victim: Victim,
        context: DockerContext,
        *,
        number: int,
        stage: Stage = Stage.TRY_DEFAULT,
        without: frozenset[Defence] = frozenset(),
        naive: Naive | None = None,
        hasty: bool = False,
    ) -> Verdict:
        """Builds a context on one pull request and judges the image, with little patience if ``hasty``.

        Raises:
            BuildFailed: no image.
        """
        order = victim.order(
            self._shared,
            log_id=self.log_id,
            attempt_id=f"attempt-{uuid.uuid4().hex[:12]}",
            number=number,
            context=context.digest if stage is Stage.TRY_SIMILAR else None,
            stage=stage,
        )
        spool = Path(tempfile.mkdtemp(dir=self._folder, prefix="trial-"))
        with (spool / "build.log").open("wb") as log:
            image = self._builder.build(order, context, log=log, cancel=threading.Event())
        hasty = hasty or victim is ENDLESS
        return self._verify(order, image, context=context, spool=spool, without=without, naive=naive, hasty=hasty)

    def _verify(
        self,
        order: WorkOrder,
        image: BuiltImage,
        *,
        context: DockerContext,
        spool: Path,
        without: frozenset[Defence],
        naive: Naive | None,
        hasty: bool,
    ) -> Verdict:
        limit_s = HASTY_S if hasty else PATIENT_S
        labels = attempt_labels(order, tier=TIER_TEST, context_digest=context.digest)
        verifier = Verifier(
            engine=self._engine,
            settings=VerifySettings(memory_mb=512, test_timeout_s=limit_s, smoke_timeout_s=limit_s),
            build=self._settings,
            cache_dir=self._cache_dir,
            without=without,
            means=naive_means(naive, self._engine, image=image.image_id, labels=labels),
        )
        return verifier.verify(order, image, context=context, spool=spool, cancel=threading.Event())

    def close(self) -> None:
        """Ends what is left of this run on the engine."""
        reap(self._engine, log_id=self.log_id)
