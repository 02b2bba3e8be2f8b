"""What crosses Ray's border: errors arrive as themselves."""

from __future__ import annotations

from typing import Any, cast

import pytest
import ray.exceptions

from actors.gateway import ActorFailed, ActorGone, _translated
from events.errors import InfraError, VersionConflict


def raised(cause: Exception) -> Exception:
    """What ``ray.get`` raises when an actor's method raised ``cause``."""
    task_error: Any = cast(Any, ray.exceptions.RayTaskError)("method", "a remote traceback\nof many lines", cause)
    return cast(Exception, task_error.as_instanceof_cause())


@pytest.mark.parametrize("cause", [InfraError("the engine is away"), VersionConflict(stream="s", expected=1, actual=2)])
def test_an_error_of_ours_arrives_as_itself(cause: Exception) -> None:
    found = _translated(raised(cause), "actor.method")
    assert type(found) is type(cause)
    assert str(found) == str(cause)


def test_a_foreign_error_arrives_as_one_line_that_names_it() -> None:
    found = _translated(raised(KeyError("x")), "runner.perform")
    assert isinstance(found, ActorFailed)
    assert str(found) == "runner.perform failed: KeyError: 'x'"


@pytest.mark.parametrize(
    "error",
    [
        ray.exceptions.ActorDiedError(),
        ray.exceptions.WorkerCrashedError(),
        ray.exceptions.LocalRayletDiedError(),
        cast(Any, ray.exceptions.OutOfMemoryError)("no memory"),
    ],
)
def test_whatever_else_ray_raises_means_that_the_call_may_not_have_happened(error: Exception) -> None:
    assert isinstance(_translated(error, "actor.method"), ActorGone)


def test_a_timeout_stays_one() -> None:
    assert isinstance(_translated(ray.exceptions.GetTimeoutError(), "actor.method"), TimeoutError)
