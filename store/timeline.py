"""Pull-request timelines: files of JSON Lines or Parquet (by the suffix ``.parquet``), one pull request a row.

Guarantees: what ``read_timeline`` returns is valid as far as a file can tell — required fields are there, types and
forms are right, times are UTC, commits are lower-case hexadecimal, no pull request occurs twice. What is wrong raises a
``TimelineError`` that names file, line (the row number, from 1, for Parquet), field, problem and remedy. Unknown
columns are ignored with one warning that names them: datasets carry columns of their own. ``write_timeline`` replaces
the file as a whole or not at all, and what it wrote reads back equal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

import msgspec
from loguru import logger
from packaging.requirements import InvalidRequirement, Requirement

from events.errors import ResolutionRequired, TimelineError
from events.work import PullRequest

__all__ = [
    "check_env_payload",
    "check_python_version",
    "checked_row",
    "format_moment",
    "locate",
    "parse_env_payload",
    "parse_moment",
    "read_timeline",
    "require_resolved",
    "write_timeline",
]

FIELDS = frozenset(PullRequest.__struct_fields__)
REQUIRED = ("owner", "repo", "issue_number", "sha", "created_at")
NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,99}")
COMMIT = re.compile(r"[0-9a-f]{7,64}")
PYTHON_VERSION = re.compile(r"3\.\d{1,2}")
MISSING = re.compile(r"missing required field `(\w+)`")
AT_FIELD = re.compile(r" - at `\$\.(\w+)")


def read_timeline(path: str | Path) -> list[PullRequest]:
    """Reads and checks a timeline (CONTRACTS.md section 4).

    ``env_payload`` may be the JSON text or the JSON itself; whether it is there and well-formed is asked by
    ``require_resolved``, since ``headrace resolve`` reads files that lack it.

    Returns:
        The pull requests in the file's order, ``created_at`` as ISO 8601 in UTC with a ``Z``.

    Raises:
        TimelineError: the file cannot be read, holds nothing, or a row is wrong or occurs twice.
    """
    file = str(path)
    rows: list[PullRequest] = []
    lines: dict[tuple[str, str, int], int] = {}
    unknown: set[str] = set()
    parquet = Path(path).suffix == ".parquet"
    for line, raw in _parquet_rows(file) if parquet else _json_rows(file):
        unknown.update(raw.keys() - FIELDS)
        row = _checked_row(raw, file=file, line=line)
        first = lines.setdefault((row.owner, row.repo, row.issue_number), line)
        if first != line:
            raise TimelineError(
                path=file,
                line=line,
                field="issue_number",
                problem=f"{row.name} is already on {'row' if parquet else 'line'} {first}",
                remedy=f"remove one of {first} and {line}, or correct its number",
            )
        rows.append(row)
    if not rows:
        raise TimelineError(
            path=file, problem="holds no pull request", remedy="write one JSON object a line, or run `headrace ingest`"
        )
    if unknown:
        logger.warning("{}: ignored unknown columns: {}", file, ", ".join(sorted(unknown)))
    return rows


def write_timeline(path: str | Path, rows: Iterable[PullRequest]) -> None:
    """Writes a timeline: Parquet if ``path`` ends in ``.parquet``, else JSON Lines without empty optional fields.

    A crash leaves the old file or the new one, never a part.

    Raises:
        TimelineError: the file cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as out:
                if target.suffix == ".parquet":
                    _write_parquet(out, rows)
                else:
                    out.writelines(line + b"\n" for line in map(msgspec.json.Encoder().encode, rows))
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as exc:
        raise TimelineError(
            path=str(target), problem=f"cannot be written ({exc.strerror})", remedy="name a writable file"
        ) from exc


def require_resolved(rows: Iterable[PullRequest], path: str | Path) -> None:
    """Checks that every pull request says which environment to build (CONTRACTS.md section 1).

    Raises:
        ResolutionRequired: names the first pull request whose ``env_payload`` or ``python_version`` is missing or
            malformed.
    """
    for row in rows:
        problem = check_env_payload(row.env_payload)
        if problem:
            raise ResolutionRequired(
                pull_request=row.name, field="env_payload", problem=problem, where=locate(path, row)
            )
        problem = check_python_version(row.python_version)
        if problem:
            raise ResolutionRequired(
                pull_request=row.name, field="python_version", problem=problem, where=locate(path, row)
            )


def locate(path: str | Path, row: PullRequest) -> str:
    """Where a pull request stands, as messages name it: ``FILE:LINE``, or the file alone if it is not there (any more).

    Reads the file again: for messages only.
    """
    key = {"owner": row.owner, "repo": row.repo, "issue_number": row.issue_number}.items()
    try:
        for line, raw in _parquet_rows(str(path)) if Path(path).suffix == ".parquet" else _json_rows(str(path)):
            if all(raw.get(name) == value for name, value in key):
                return f"{path}:{line}"
    except TimelineError:
        pass
    return str(path)


def parse_env_payload(payload: str) -> list[str]:
    """The requirements of a well-formed ``env_payload``.

    Raises:
        ValueError: it is not well-formed; the message says how.
    """
    try:
        value = msgspec.json.decode(payload)
    except msgspec.DecodeError as exc:
        raise ValueError(f"is not JSON ({exc})") from exc
    if isinstance(value, dict):
        if "dependencies" not in value:
            raise ValueError("has no 'dependencies'")
        value = value["dependencies"]
    if not isinstance(value, list):
        raise ValueError("must be a JSON object with a list 'dependencies', or a list")  # noqa: TRY004 - one kind for the caller
    for entry in value:
        if not isinstance(entry, str):
            raise ValueError(f"dependency {entry!r} is no string")  # noqa: TRY004
        problem = _requirement_problem(entry)
        if problem:
            raise ValueError(f"{entry!r} is no PEP 508 requirement ({problem})")
    return value


def check_env_payload(payload: str | None) -> str | None:
    """What is wrong with an ``env_payload``; ``None``: nothing."""
    if payload is None:
        return "is missing"
    try:
        parse_env_payload(payload)
    except ValueError as exc:
        return str(exc)
    return None


def check_python_version(version: str | None) -> str | None:
    """What is wrong with a ``python_version``, which has the form ``3.11``; ``None``: nothing."""
    if version is None:
        return "is missing"
    return None if PYTHON_VERSION.fullmatch(version) else f"{version!r} does not have the form '3.11'"


def checked_row(raw: Mapping[str, object], *, source: str, line: int | None = None) -> PullRequest:
    """A pull request that comes from no timeline, checked as a row of one; ``source`` is what messages name.

    Raises:
        TimelineError: a field is missing, or its value cannot be used.
    """
    return _checked_row(raw, file=source, line=line)


def parse_moment(text: str) -> datetime:
    """A moment from ISO 8601, in UTC; one without a zone is in UTC already.

    Raises:
        ValueError: the text is no ISO 8601 date or time, or outside the years 1 to 9999 in UTC.
    """
    moment = datetime.fromisoformat(text)
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError(str(exc)) from exc


def format_moment(moment: datetime) -> str:
    """ISO 8601 in UTC with a ``Z``; fractions of a second only if there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _json_rows(file: str) -> Iterator[tuple[int, dict[str, object]]]:
    decoder = msgspec.json.Decoder()
    try:
        with Path(file).open("rb") as lines:
            for number, text in enumerate(lines, start=1):
                text = text.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else text.strip()  # noqa: PLW2901
                if text:
                    yield number, _json_object(decoder, text, file=file, line=number)
    except OSError as exc:
        _unreadable(file, str(exc.strerror), exc)


def _json_object(decoder: msgspec.json.Decoder[object], text: bytes, *, file: str, line: int) -> dict[str, object]:
    try:
        value = decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise TimelineError(
            path=file, line=line, problem=f"is not JSON ({exc})", remedy="write one JSON object a line"
        ) from exc
    if not isinstance(value, dict):
        raise TimelineError(
            path=file,
            line=line,
            problem=f"is a JSON {'array' if isinstance(value, list) else 'value'}, not an object",
            remedy="write one JSON object a line, without enclosing brackets",
        )
    return value


def _parquet_rows(file: str) -> Iterator[tuple[int, dict[str, object]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        start = 1
        for batch in table.iter_batches():
            yield from enumerate(map(_plain, batch.to_pylist()), start=start)
            start += batch.num_rows
    except OSError as exc:
        _unreadable(file, exc.strerror or str(exc), exc)
    except pyarrow.ArrowException as exc:
        raise TimelineError(
            path=file, problem=f"is not readable as Parquet ({exc})", remedy="write it again, or use JSON Lines"
        ) from exc


def _plain(row: dict[str, object]) -> dict[str, object]:
    """Parquet's own types as JSON has them: times as text, whole floats (nullable integers of data frames) as int."""
    for name, value in row.items():
        if isinstance(value, datetime | date):
            row[name] = value.isoformat()
        elif isinstance(value, float) and value.is_integer():
            row[name] = int(value)
    return row


def _unreadable(file: str, reason: str, exc: Exception) -> NoReturn:
    raise TimelineError(path=file, problem=f"cannot be read ({reason})", remedy="name a readable file") from exc


def _checked_row(raw: Mapping[str, object], *, file: str, line: int | None) -> PullRequest:
    given = {name: value for name, value in raw.items() if value is not None}
    if isinstance(given.get("env_payload"), dict | list):
        given["env_payload"] = msgspec.json.encode(given["env_payload"]).decode()
    try:
        row = msgspec.convert(given, PullRequest)
    except msgspec.ValidationError as exc:
        _bad_shape(str(exc), file=file, line=line, exc=exc)
    problem = _problem(row)
    if problem:
        field, what, remedy = problem
        raise TimelineError(path=file, line=line, field=field, problem=what, remedy=remedy)
    try:
        created_at = format_moment(parse_moment(row.created_at))
    except ValueError as exc:
        raise TimelineError(
            path=file,
            line=line,
            field="created_at",
            problem=f"{row.created_at!r} is no ISO 8601 date or time",
            remedy="write it like 2021-06-01T12:00:00Z",
        ) from exc
    return msgspec.structs.replace(
        row, created_at=created_at, sha=row.sha.lower(), base_sha=row.base_sha.lower() if row.base_sha else None
    )


def _bad_shape(message: str, *, file: str, line: int | None, exc: Exception) -> NoReturn:
    missing = MISSING.search(message)
    if missing:
        raise TimelineError(
            path=file,
            line=line,
            field=missing[1],
            problem="is missing",
            remedy=f"every row needs {', '.join(REQUIRED)}",
        ) from exc
    at = AT_FIELD.search(message)
    raise TimelineError(
        path=file,
        line=line,
        field=at[1] if at else None,
        problem=f"has the wrong type ({message.partition(' - at ')[0].replace('`', '')})",
        remedy="correct the value",
    ) from exc


def _problem(row: PullRequest) -> tuple[str, str, str] | None:
    """The first thing wrong with a row's values: field, problem, remedy."""
    for field, name in (("owner", row.owner), ("repo", row.repo)):
        if not NAME.fullmatch(name) or name in {".", ".."}:
            return field, f"{name!r} is no name", "use up to 100 letters, digits, '_', '.' and '-', not '-' first"
    if row.issue_number < 1:
        return "issue_number", f"{row.issue_number} is no number of a pull request", "use 1 or more"
    for field, commit in (("sha", row.sha), ("base_sha", row.base_sha)):
        if commit is not None and not COMMIT.fullmatch(commit.lower()):
            return field, f"{commit!r} is no commit", "write 7 to 64 hexadecimal digits"
    if row.primary_root is not None:
        root = PurePosixPath(row.primary_root)
        if root.is_absolute() or ".." in root.parts:
            return "primary_root", f"{row.primary_root!r} leaves the repository", "name a folder inside of it"
    if row.clone_url is not None and (not row.clone_url.strip() or row.clone_url.startswith("-")):
        return "clone_url", f"{row.clone_url!r} is no address", "give a URL or an absolute path, or leave it out"
    return None


@lru_cache(maxsize=100_000)
def _requirement_problem(text: str) -> str | None:
    try:
        Requirement(text)
    except InvalidRequirement as exc:
        return str(exc).partition("\n")[0]
    return None


def _write_parquet(out: IO[bytes], rows: Iterable[PullRequest]) -> None:
    import pyarrow
    import pyarrow.parquet

    types = {
        "issue_number": pyarrow.int64(),
        "seed": pyarrow.bool_(),
        "fail_to_pass": pyarrow.list_(pyarrow.string()),
        "pass_to_pass": pyarrow.list_(pyarrow.string()),
    }
    fields: Sequence[str] = PullRequest.__struct_fields__
    schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in fields])
    table = pyarrow.Table.from_pylist([msgspec.structs.asdict(row) for row in rows], schema=schema)
    pyarrow.parquet.write_table(table, out)
