"""Outcomes of work orders, made of what builds and verifications came to."""

from __future__ import annotations

from actors.images import BuiltImage
from actors.verifier import Verdict
from events.work import Check, FailureClass, Metrics, Outcome, WorkOrder

__all__ = ["failed", "judged", "refused_unbuilt"]


def failed(
    order: WorkOrder,
    *,
    stage: str,
    message: str,
    failure_class: FailureClass,
    context: str | None,
    log_tail: str = "",
    exit_code: int | None = None,
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
        exit_code=exit_code,
    )


def refused_unbuilt(order: WorkOrder, verdict: Verdict, *, context: str) -> Outcome:
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


def judged(order: WorkOrder, *, image: BuiltImage, verdict: Verdict, context: str) -> Outcome:
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
