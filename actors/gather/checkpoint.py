"""Results as bytes and as files, and a gather that may be interrupted anywhere and is finished once.

A file is replaced as a whole or not at all, and is durable when ``save_result`` returns.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from actors.gather.results import SynthesisResult
from actors.gather.synthesizer import ResultSynthesizer
from events.errors import InputError

__all__ = ["load_result", "result_from_bytes", "result_to_bytes", "save_result", "synthesize_checkpointed"]


def result_to_bytes(result: SynthesisResult) -> bytes:
    """A result as JSON: equal results give equal bytes, read back they give equal results.

    >>> result_from_bytes(result_to_bytes(SynthesisResult("batch_0", sheets=[7]))).sheets
    [7]
    """
    outputs = {str(sheet): text for sheet, text in result.sheet_outputs.items()}
    return json.dumps(result.to_dict() | {"sheet_outputs": outputs}, sort_keys=True).encode()


def result_from_bytes(data: bytes, *, source: str = "a gather's result") -> SynthesisResult:
    """Reads what ``result_to_bytes`` wrote; ``source`` is how messages name it.

    Raises:
        InputError: it is no such result.
    """
    try:
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")  # noqa: TRY004, TRY301 - told with the others
        return SynthesisResult.from_dict(found)
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{source}: {exc}; gather it again") from exc


def save_result(path: str | Path, result: SynthesisResult) -> None:
    """Writes a result to a file, whose folder is made if need be.

    Raises:
        InputError: the file cannot be written; what was there before is still there.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(result_to_bytes(result))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as exc:
        raise InputError(f"{target}: cannot be written ({exc.strerror}); name a file that can be") from exc
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def load_result(path: str | Path) -> SynthesisResult:
    """Reads what ``save_result`` wrote.

    Raises:
        InputError: the file is missing, cannot be read, or holds something else.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as exc:
        raise InputError(f"{path}: cannot be read ({exc.strerror}); name the file of a saved result") from exc
    return result_from_bytes(data, source=str(path))


def synthesize_checkpointed(
    path: str | Path, prepare: Callable[[ResultSynthesizer], SynthesisResult], synthesizer: ResultSynthesizer
) -> SynthesisResult:
    """A gather with a checkpoint between its two steps: call it again after a crash, and it goes on where it was.

    Args:
        path: of the checkpoint. What it holds counts: a batch that was prepared is not prepared again, one that is
            complete is returned as it is.
        prepare: makes the result to execute, by ``prepare_synthesis``; called only when there is no checkpoint.
        synthesizer: executes it.

    Raises:
        InputError: the checkpoint cannot be read or written.
    """
    if Path(path).exists():
        result = load_result(path)
    else:
        result = prepare(synthesizer)
        save_result(path, result)
    if result.status == "ready":
        synthesizer.execute_synthesis(result)
        save_result(path, result)
    return result


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
