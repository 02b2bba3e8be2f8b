"""Reads the rows of ``headrace store import``: JSON Lines, or CSV (by the suffix ``.csv``), one row a line.

What is wrong is a ``TimelineError`` that names file, line, field, problem and remedy; nothing is returned then. Columns
that nobody asks for are passed over with one warning that names them.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
from loguru import logger

from actors.importing import Claimed, EarlierAttempt
from actors.templates import stock_context
from events.errors import TimelineError
from events.work import FailureClass, PullRequest, Stage
from store.docker_context import FILE_NAMES, DockerContext
from store.timeline import checked_row

__all__ = ["ATTEMPT_COLUMNS", "CONTEXT_COLUMNS", "read_attempts", "read_contexts"]

T = TypeVar("T")
ROW_COLUMNS = (
    "owner",
    "repo",
    "issue_number",
    "sha",
    "created_at",
    "base_sha",
    "clone_url",
    "env_payload",
    "python_version",
)
ATTEMPT_COLUMNS = (*ROW_COLUMNS, "state", "stage", "agent", "message", "log", "failure_class", "finished_at")
CONTEXT_COLUMNS = (*ROW_COLUMNS, *FILE_NAMES)
STATES = {"succeeded": True, "failed": False}


def read_attempts(path: Path) -> list[EarlierAttempt]:
    """The rows of ``--build-attempts``, in their order."""
    return [_attempt(raw, path, line) for line, raw in _rows(path, ATTEMPT_COLUMNS)]


def read_contexts(path: Path) -> list[Claimed]:
    """The rows of ``--contexts``; a file of a context that a row leaves out is the stock template's."""
    return [
        Claimed(row=_pull_request(raw, path, line), context=_context(raw, path, line))
        for line, raw in _rows(path, CONTEXT_COLUMNS)
    ]


def _attempt(raw: Mapping[str, object], path: Path, line: int) -> EarlierAttempt:
    state = raw.get("state")
    if state not in STATES:
        raise _wrong(path, line, "state", f"{state!r} is no end of an attempt", "write succeeded or failed")
    agent = _text(raw, "agent", path, line)
    stage = _text(raw, "stage", path, line) or (Stage.LLM_GENERATE if agent else Stage.TRY_DEFAULT).value
    attempted = (Stage.TRY_SIMILAR, Stage.TRY_DEFAULT, Stage.LLM_GENERATE)
    if stage not in attempted:
        names = ", ".join(attempted)
        raise _wrong(path, line, "stage", f"{stage!r} is no stage of an attempt", f"write one of {names}")
    failure = _text(raw, "failure_class", path, line) or FailureClass.RECIPE.value
    if failure not in list(FailureClass):
        names = ", ".join(FailureClass)
        raise _wrong(path, line, "failure_class", f"{failure!r} is none", f"write one of {names}, or leave it out")
    return EarlierAttempt(
        row=_pull_request(raw, path, line),
        stage=Stage(stage),
        succeeded=STATES[str(state)],
        agent=agent or None,
        message=_text(raw, "message", path, line),
        log=_text(raw, "log", path, line),
        failure_class=FailureClass(failure),
        finished_at=_text(raw, "finished_at", path, line),
    )


def _context(raw: Mapping[str, object], path: Path, line: int) -> DockerContext:
    given = {name: _text(raw, name, path, line) for name in FILE_NAMES if raw.get(name)}
    if not given:
        names = ", ".join(FILE_NAMES)
        raise _wrong(path, line, "build_pkg_sh", "no file of a context is given", f"give at least one of {names}")
    return msgspec.structs.replace(stock_context(), **given)


def _pull_request(raw: Mapping[str, object], path: Path, line: int) -> PullRequest:
    given = {name: raw[name] for name in ROW_COLUMNS if raw.get(name) is not None}
    number = given.get("issue_number")
    if isinstance(number, str) and number.isdecimal():
        given["issue_number"] = int(number)
    return checked_row(given, source=str(path), line=line)


def _text(raw: Mapping[str, object], name: str, path: Path, line: int) -> str:
    value = raw.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(path, line, name, f"is no text but {type(value).__name__}", "write it as text")
    return value


def _wrong(path: Path, line: int, field: str, problem: str, remedy: str) -> TimelineError:
    return TimelineError(path=str(path), line=line, field=field, problem=problem, remedy=remedy)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, object]]]:
    """The rows of a file with the numbers of their lines, empty cells left out."""
    unknown: set[str] = set()
    try:
        for line, raw in _csv_rows(path) if path.suffix == ".csv" else _json_rows(path):
            unknown.update(raw.keys() - set(columns))
            yield line, {name: value for name, value in raw.items() if value not in (None, "")}
    except OSError as exc:
        problem = f"cannot be read ({exc.strerror})"
        raise TimelineError(path=str(path), problem=problem, remedy="name a readable file") from exc
    except UnicodeDecodeError as exc:
        raise TimelineError(path=str(path), problem="is not UTF-8", remedy="save it as UTF-8") from exc
    if unknown:
        logger.warning("{}: ignored unknown columns: {}", path, ", ".join(sorted(unknown)))


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            try:
                yield number, msgspec.json.decode(text, type=dict[str, object])
            except (msgspec.DecodeError, RecursionError) as exc:
                problem, remedy = f"is no JSON object ({exc})", "write one JSON object a line"
                raise TimelineError(path=str(path), line=number, problem=problem, remedy=remedy) from exc


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        line = 2
        try:
            for row in reader:
                if None in row or None in row.values():
                    problem = f"has not the {len(reader.fieldnames or [])} cells of the head line"
                    remedy = "put cells with commas or line breaks into double quotes"
                    raise TimelineError(path=str(path), line=line, problem=problem, remedy=remedy)
                yield line, dict(row)
                line = reader.line_num + 1
        except csv.Error as exc:
            problem, remedy = f"is no CSV ({exc})", "write it anew, or use JSON Lines"
            raise TimelineError(path=str(path), line=reader.line_num, problem=problem, remedy=remedy) from exc
