"""The stages that a pull request went through, read off the events of its repository."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from events.types import AttemptStarted, PullRequestFailed, RepositoryEvent, StageEntered

__all__ = ["SynthesisState", "trace_of"]


class SynthesisState(str, Enum):  # noqa: UP042 - as text it reads like CONTRACTS.md's names
    """A step of ``Synthesizer.trace``. The value is the name that events and read models use.

    >>> SynthesisState("try_similar")
    <SynthesisState.TRY_SIMILAR: 'try_similar'>
    """

    CHECK_CACHE = "check_cache"
    FIND_SIMILAR = "find_similar"
    TRY_SIMILAR = "try_similar"
    TRY_DEFAULT = "try_default"
    LLM_GENERATE = "llm_generate"
    FAIL = "fail"


def trace_of(events: Iterable[RepositoryEvent], issue_number: int) -> list[SynthesisState]:
    """The steps of one pull request, in order: each stage that it came to, each attempt, and ``FAIL`` at the end.

    Coming back to the stage that it was in, after it was held for instance, is no step.
    """
    trace: list[SynthesisState] = []
    for event in events:
        if isinstance(event, StageEntered) and (event.issue_number == issue_number or issue_number in event.others):
            state = SynthesisState(event.stage.value)
            if trace[-1:] != [state]:
                trace.append(state)
        elif isinstance(event, AttemptStarted) and event.issue_number == issue_number:
            trace.append(SynthesisState(event.stage.value))
        elif isinstance(event, PullRequestFailed) and event.issue_number == issue_number:
            trace.append(SynthesisState.FAIL)
    return trace
