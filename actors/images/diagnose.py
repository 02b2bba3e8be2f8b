"""Finds in a failed build's output what went wrong: the compiler's or pip's own words, and who has to answer for it.

Pure: text in, verdict out. An infra verdict needs evidence in the last lines of the step that failed: the disk was
full, a name did not resolve, an index turned the build away. A warning that a later success made good is no evidence,
and an error of a compiler outweighs all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from events.work import FailureClass

__all__ = ["FULL_BYTES", "Diagnosis", "diagnose", "exit_code_of", "is_disk_full", "is_unresolved", "tail_of"]

FULL_BYTES = 512 * 1024 * 1024
"""A disk that was never seen with less free was not full, whatever a build printed. It is looked at ten times a second,
and a step that failed gives back at once what it wrote."""

KILLED = 137
MAX_MESSAGE_CHARS = 600
MAX_LINES = 2
EVIDENCE_LINES = 40
TAIL_LINES, TAIL_BYTES = 60, 8000

VERSION_LIST = re.compile(r"\(from versions: [^)]{40,}\)")
STEP = re.compile(r"^Step \d+/\d+ : (?P<instruction>.*)$")
ATTEMPT = re.compile(r"^==> ")
"""Headings that the stock scripts write before each way of building they try."""
PROBE = re.compile(r"\b(_configtest|conftest|CMakeTmp|CMakeScratch)\b|\.tmp\.c:")
NOISE = re.compile(
    r"subprocess-exited-with-error|did not run successfully|Failed building (wheel|editable) for|This error originates"
    r"|Failed to build installable wheels|Could not build wheels|[Ff]ailed to build '?\S+'?( when|$)"
    r"|legacy-install-failure|metadata-generation-failed|Encountered error while|returned non-zero exit status"
    r"|command '.*' failed with exit"
    r"|See above for output|^ERROR: Failed to build |dependency resolver does not currently take"
    r"|^\[end of output\]$|^(note|hint): |^[│╰]|: (started|finished with status '\w+')$"
)

COMPILER = re.compile(
    r"^\S[^\s:]*:\d+(:\d+)?: (fatal |internal compiler )?error:|^error\[E\d+\]"
    r"|: undefined reference to |^\S*ld: cannot find"
    r"|^(cc1|gcc|g\+\+|clang|collect2|nvcc)\S*: (fatal )?error:|^Error: .*Fortran|^\S+\.f\d*:\d+.*Error:|^CMake Error",
)
EXCEPTION = re.compile(r"^([A-Za-z_][\w.]*\.)?\w*(Error|Exception|NotFound|Conflict|Exit|Interrupt)\b: \S")
TOOL = re.compile(
    r"^(ERROR: |error: |fatal: |E: |× |headrace: error: |npm ERR! )|: command not found$|: No such file or directory$"
    r"|: Permission denied$|^make(\[\d+\])?: \*\*\* |^Killed$|: cannot execute"
)

DISK = re.compile(r"No space left on device|\bENOSPC\b|Disk quota exceeded", re.IGNORECASE)
REFUSED = re.compile(r"\b429\b.*Too Many Requests|Too Many Requests.*\b429\b|\b429 Client Error|toomanyrequests")
UNRESOLVED = re.compile(
    r"Temporary failure (in name resolution|resolving)|Could not resolve (host|proxy|'\S+')|Name or service not known"
    r"|failed to lookup address information|dns error"
)
UNREACHABLE = re.compile(
    r"Retry\(total=0|Max retries exceeded with url|Failed to connect to \S+ port|Connection timed out"
    r"|(Could not|Failed to) fetch.*(timed out|refused|unreachable)|Could not connect to \S+|Unable to connect to \S+"
    r"|HTTP error 50[234]|\b50[234] (Server Error|Bad Gateway|Service Unavailable|Gateway Time-?out)"
    r"|Read timed out|Network is unreachable|error sending request for url"
)
ENGINE = re.compile(
    r"failed to create (endpoint|shim|task)|OCI runtime|error creating overlay|failed to register layer|failed to mount"
    r"|containerd|cgroup|driver failed|context canceled|Cannot connect to the Docker daemon|layer does not exist"
)
"""Words of the engine about itself; a step that failed by itself is reported as ``returned a non-zero code``."""
NO_PROGRAM = re.compile(r"executable file not found|no such file or directory", re.IGNORECASE)
NOTHING_FOUND = re.compile(
    r"\(from versions: none\)|No matching distribution found|Unable to (locate|fetch)|Failed to fetch"
)


class Diagnosis(msgspec.Struct, frozen=True):
    """What a failed build comes to: a message in one line, and ``INFRA`` or ``RECIPE``."""

    message: str
    failure_class: FailureClass


def is_disk_full(message: str) -> bool:
    """Whether an error speaks of a disk without space."""
    return DISK.search(message) is not None


def is_unresolved(message: str) -> bool:
    """Whether an error speaks of a name that did not resolve."""
    return UNRESOLVED.search(message) is not None


def diagnose(output: str, *, engine_error: str, lowest_free_bytes: int | None = None) -> Diagnosis:
    """Reads the end of a build's output.

    Args:
        output: what the build printed, or the last megabyte of it.
        engine_error: what the engine said in the end, as a last resort and for evidence.
        lowest_free_bytes: the least that the engine's disk had free during the build, if that is known. A build that
            was told "no space" with plenty of it filled something of its own (``/dev/shm``), or only says so.
    """
    found = _diagnose(output, engine_error=engine_error)
    had_space = lowest_free_bytes is not None and lowest_free_bytes >= FULL_BYTES
    if found.failure_class is FailureClass.INFRA and is_disk_full(found.message) and had_space:
        return Diagnosis(found.message, FailureClass.RECIPE)
    return found


def _diagnose(output: str, *, engine_error: str) -> Diagnosis:
    instruction, lines = _failed_step(output)
    compiler = [line for line in lines if COMPILER.search(line) and not PROBE.search(line)]
    if compiler:
        return Diagnosis(_message(compiler, instruction), FailureClass.RECIPE)
    if "non-zero code" not in engine_error:
        own_fault = ENGINE.search(engine_error) and not NO_PROGRAM.search(engine_error)
        blame = FailureClass.INFRA if own_fault or DISK.search(engine_error) else FailureClass.RECIPE
        return Diagnosis(_message([engine_error], instruction), blame)
    evidence = [*lines[-EVIDENCE_LINES:], engine_error]
    infra = _first(DISK, evidence) or _first(REFUSED, evidence)
    if infra is None:
        infra = _network_evidence(lines, engine_error)
    if infra is not None:
        return Diagnosis(_message([infra], instruction), FailureClass.INFRA)
    if exit_code_of(engine_error) == KILLED:
        killed = "the step was killed, as happens beyond the build's memory limit (setting build.memory_mb)"
        return Diagnosis(_message([killed], instruction), FailureClass.RECIPE)
    last = _last_attempt(lines)
    for pattern, newest in ((EXCEPTION, True), (TOOL, False)):
        found = [line for line in last if pattern.search(line) and not NOISE.search(line)]
        if found:
            return Diagnosis(_message(found[-1:] if newest else found[-MAX_LINES:], instruction), FailureClass.RECIPE)
    spoken = [line for line in last if not NOISE.search(line)] or last
    return Diagnosis(_message(spoken[-1:] or [engine_error], instruction), FailureClass.RECIPE)


def exit_code_of(engine_error: str) -> int | None:
    """The exit code of the step that failed, if the engine tells one."""
    found = re.search(r"non-zero code: (\d+)", engine_error)
    return int(found[1]) if found else None


def tail_of(output: str) -> str:
    """The last lines of output, as an attempt keeps them: at most 60 lines and 8,000 bytes."""
    kept = "\n".join(output.rstrip("\n").splitlines()[-TAIL_LINES:])
    return kept.encode()[-TAIL_BYTES:].decode("utf-8", "ignore")


def _failed_step(output: str) -> tuple[str, list[str]]:
    instruction = ""
    lines: list[str] = []
    for raw in output.splitlines():
        line = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", raw).rpartition("\r")[2].strip()
        match = STEP.match(line)
        if match:
            instruction, lines = match["instruction"], []
        elif line and not line.startswith(("---> ", "Removing intermediate container")):
            lines.append(line)
    return instruction, lines


def _network_evidence(lines: Sequence[str], engine_error: str) -> str | None:
    last = _last_attempt(lines)[-EVIDENCE_LINES:]
    nothing = _first(NOTHING_FOUND, last)
    ended_by_it = [*last[-6:], engine_error]
    for pattern in (UNRESOLVED, UNREACHABLE):
        found = _first(pattern, last if nothing else ended_by_it)
        if found:
            return found
    return None


def _last_attempt(lines: Sequence[str]) -> list[str]:
    starts = [number for number, line in enumerate(lines) if ATTEMPT.search(line)]
    return list(lines[starts[-1] + 1 :] if starts else lines)


def _first(pattern: re.Pattern[str], lines: Iterable[str]) -> str | None:
    return next((line for line in lines if pattern.search(line)), None)


def _message(lines: Sequence[str], instruction: str) -> str:
    text = "; ".join(list(dict.fromkeys(VERSION_LIST.sub("(from versions: …)", line) for line in lines))[:MAX_LINES])
    if len(text) > MAX_MESSAGE_CHARS:
        text = text[: MAX_MESSAGE_CHARS - 1] + "…"
    return f"{text} (in {instruction})" if instruction else text
