"""Three tiers of images, base → repository → pull request, built through the Docker engine's API.

Shared tiers are built once on a node, however many threads, processes and sweeps ask; a finished image is never built
again; all output is streamed; a cancelled or timed-out build leaves no container behind.
"""

from actors.images.builder import ImageBuilder
from actors.images.engine import Engine, attempt_labels, reap
from actors.images.outcomes import BuildCancelled, BuildFailed, BuiltImage

__all__ = ["BuildCancelled", "BuildFailed", "BuiltImage", "Engine", "ImageBuilder", "attempt_labels", "reap"]
