"""What acts. The names of the Python API are here too; see :mod:`actors.api` and CONTRACTS.md section 1.

They are imported when they are first used: every process of a sweep imports from this package, and few need them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.api import (
        DockerContext,
        RateLimitError,
        ResolutionRequired,
        SynthesisState,
        SynthesizeImagesRunner,
        Synthesizer,
    )

__all__ = [
    "DockerContext",
    "RateLimitError",
    "ResolutionRequired",
    "SynthesisState",
    "SynthesizeImagesRunner",
    "Synthesizer",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module("actors.api"), name)
    raise AttributeError(f"module 'actors' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
