"""Build contexts for tests that need no environment: their base tier does nothing and takes a second."""

import msgspec

from actors.templates import stock_context
from store.docker_context import DockerContext

__all__ = ["bare_context"]


def bare_context(*instructions: str, base: str = "true\n") -> DockerContext:
    """A context whose Dockerfile is these instructions after ``FROM headrace-source``."""
    text = "\n".join(["FROM headrace-source", *instructions, ""])
    return msgspec.structs.replace(stock_context(), dockerfile=text, build_base_sh=base)
