"""What a build comes to: an image, a failure with its reason and class, or a cancellation.

``BuildFailed`` and ``BuildCancelled`` are outcomes and no errors of Headrace: whoever runs a work order turns them
into its ``Outcome``. What is nobody's fault is an ``InfraError`` instead.
"""

from __future__ import annotations

import msgspec

from events.work import FailureClass
from store.sources import Mirror

__all__ = ["BuildCancelled", "BuildFailed", "BuiltImage"]


class BuiltImage(msgspec.Struct, frozen=True, kw_only=True):
    """A pull request's image on the engine.

    ``build_s``: seconds that its own build took, without the shared tiers and waiting; 0.0 when ``reused``.
    ``image_bytes``: its size with all layers. ``parent_id``: the image of the repository tier that it was built on,
    which no script of the context has touched. ``mirror`` and ``commit``: where its source comes from, on this host.
    """

    image_id: str
    tag: str
    image_bytes: int
    build_s: float
    reused: bool
    parent_id: str
    mirror: Mirror
    commit: str


class BuildFailed(Exception):
    """A build ended without an image, for a reason that lies in the context, the source or a limit.

    ``stage`` is ``source``, ``base``, ``repository`` or ``build``; ``message`` is the error of the compiler, of pip or
    of whatever failed, in one line; ``log_tail`` holds the last lines of output; ``exit_code`` is that of the step that
    failed, if it ended by itself.
    """

    def __init__(
        self,
        *,
        stage: str,
        message: str,
        failure_class: FailureClass,
        log_tail: str = "",
        exit_code: int | None = None,
    ) -> None:
        super().__init__(f"{stage}: {message}")
        self.stage, self.message, self.failure_class, self.log_tail = stage, message, failure_class, log_tail
        self.exit_code = exit_code


class BuildCancelled(Exception):
    """The build was ended from outside; its container is gone from the engine.

    ``stage`` tells how far it had come.
    """

    def __init__(self, *, stage: str) -> None:
        super().__init__(f"{stage}: cancelled")
        self.stage = stage
