"""Gather: the outputs of work that was done in parallel, brought together (CONTRACTS.md section 3).

A *sheet* is one unit of parallel work (a pull request's synthesis, one of several agents racing on a pull request); its
output is text. Gathering is two steps, so that it can be interrupted between them: :meth:`ResultSynthesizer.
prepare_synthesis` decides what goes in and whether it may, :meth:`ResultSynthesizer.execute_synthesis` makes the
content. What lies between is a :class:`SynthesisResult`, which round-trips through JSON.

Equal outputs give equal content, whatever the order in which they arrived. All work grows linearly in the sheets.
"""

from actors.gather.checkpoint import (
    load_result,
    result_from_bytes,
    result_to_bytes,
    save_result,
    synthesize_checkpointed,
)
from actors.gather.conflicts import (
    ConflictDetectionResult,
    ConflictDetector,
    KeyVariable,
    KeyVariableExtractor,
    OutputConflict,
    detect_parallel_conflicts,
)
from actors.gather.results import Sheet, SheetOutputs, SynthesisConfig, SynthesisResult, SynthesisStrategy
from actors.gather.synthesizer import ResultSynthesizer, Summarizer, synthesize_batch

__all__ = [
    "ConflictDetectionResult",
    "ConflictDetector",
    "KeyVariable",
    "KeyVariableExtractor",
    "OutputConflict",
    "ResultSynthesizer",
    "Sheet",
    "SheetOutputs",
    "Summarizer",
    "SynthesisConfig",
    "SynthesisResult",
    "SynthesisStrategy",
    "detect_parallel_conflicts",
    "load_result",
    "result_from_bytes",
    "result_to_bytes",
    "save_result",
    "synthesize_batch",
    "synthesize_checkpointed",
]
