"""The Python API (CONTRACTS.md section 1): the core of a sweep, called from a script or a notebook.

:class:`Synthesizer` works on one pull request at a time in the calling process; :class:`SynthesizeImagesRunner` runs
many as a sweep, with a local Ray that it starts and ends. Both write the same log, so what one has verified the other
reuses, and ``headrace events``, ``replay`` and ``status`` show it.
"""

from actors.api.errors import RateLimitError, SynthesisCancelled
from actors.api.runner import RunnerProgress, SynthesizeImagesRunner
from actors.api.states import SynthesisState
from actors.api.synthesizer import Synthesizer
from actors.api.verifying import ContextGenerator, ContextVerifier, Verification
from events.errors import ResolutionRequired
from store.docker_context import DockerContext

__all__ = [
    "ContextGenerator",
    "ContextVerifier",
    "DockerContext",
    "RateLimitError",
    "ResolutionRequired",
    "RunnerProgress",
    "SynthesisCancelled",
    "SynthesisState",
    "SynthesizeImagesRunner",
    "Synthesizer",
    "Verification",
]
