"""Every error that Headrace raises on purpose.

::

    HeadraceError                     HR000
    ├── InputError                    HR100  what the user handed in is wrong; exit code 2
    │   ├── TimelineError             HR101  a pull-request file: names file, line and field
    │   ├── ResolutionRequired        HR102  env_payload or python_version missing or malformed
    │   ├── SettingError              HR103  a knob or setting: names it and its range
    │   ├── StoreUrlError             HR104  a store URL that means nothing
    │   ├── UnknownSweep              HR105  no such sweep in this store
    │   └── UnknownCommit             HR106  a commit that its repository does not have
    ├── EnvironmentNotReady           HR200  the machine lacks something; exit code 3
    ├── CoreError                     HR300  the pure core refuses
    │   ├── IllegalTransition         HR301  an event that a state does not allow
    │   └── ReplayDivergence          HR302  replay does not give what was recorded
    ├── LogError                      HR400  the event log refuses
    │   ├── VersionConflict           HR401  somebody else appended first
    │   ├── EventIdReused             HR402  one event id, two payloads
    │   ├── UnknownEventType          HR403  an event that this version cannot read
    │   ├── LogLocked                 HR404  another process writes this log
    │   ├── LogUnavailable            HR405  the log cannot be written or read now
    │   ├── LogCorrupt                HR406  what is stored is not what was written
    │   └── LogTooNew                 HR407  the log's schema is newer than this program
    └── InfraError                    HR500  the engine, the disk, the network: nobody's fault

Codes are stable. Every error survives pickling (Ray carries them between processes): an error is made from
keyword fields alone and rebuilt from them. A message says what happened, to which file, PR or stream, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

__all__ = [
    "CoreError",
    "EnvironmentNotReady",
    "EventIdReused",
    "HeadraceError",
    "IllegalTransition",
    "InfraError",
    "InputError",
    "LogCorrupt",
    "LogError",
    "LogLocked",
    "LogTooNew",
    "LogUnavailable",
    "ReplayDivergence",
    "ResolutionRequired",
    "SettingError",
    "StoreUrlError",
    "TimelineError",
    "UnknownCommit",
    "UnknownEventType",
    "UnknownSweep",
    "VersionConflict",
]


class HeadraceError(Exception):
    """Root of the tree. ``code`` is stable; ``str()`` is one line for people."""

    code: ClassVar[str] = "HR000"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def _fields(self) -> Mapping[str, object]:
        return {"message": self.message}

    @classmethod
    def _rebuild(cls, fields: Mapping[str, object]) -> Self:
        return cls(**fields)  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self)._rebuild, (dict(self._fields()),))


class InputError(HeadraceError):
    """What the user handed in is wrong; nothing was started."""

    code = "HR100"
    exit_code = 2


class TimelineError(InputError):
    """A pull-request timeline cannot be used: names file, line and field."""

    code = "HR101"

    def __init__(
        self, *, path: str, problem: str, remedy: str, line: int | None = None, field: str | None = None
    ) -> None:
        self.path, self.line, self.field, self.problem, self.remedy = path, line, field, problem, remedy
        where = path + (f":{line}" if line is not None else "")
        super().__init__(f"{where}: {f'field {field!r}: ' if field else ''}{problem}; {remedy}")

    def _fields(self) -> Mapping[str, object]:
        return {
            "path": self.path,
            "line": self.line,
            "field": self.field,
            "problem": self.problem,
            "remedy": self.remedy,
        }


class ResolutionRequired(InputError):
    """``env_payload`` or ``python_version`` is missing or malformed for one pull request.

    >>> print(ResolutionRequired(pull_request="o/r#7", field="env_payload", problem="is missing"))
    o/r#7: field 'env_payload': is missing; run `headrace resolve` on the timeline to fill it
    """

    code = "HR102"

    def __init__(self, *, pull_request: str, field: str, problem: str, where: str = "") -> None:
        self.pull_request, self.field, self.problem, self.where = pull_request, field, problem, where
        super().__init__(
            f"{where + ': ' if where else ''}{pull_request}: field {field!r}: {problem}; "
            f"run `headrace resolve` on the timeline to fill it"
        )

    def _fields(self) -> Mapping[str, object]:
        return {"pull_request": self.pull_request, "field": self.field, "problem": self.problem, "where": self.where}


class SettingError(InputError):
    """A knob or setting does not parse or is out of range."""

    code = "HR103"

    def __init__(self, *, name: str, value: str, expected: str, source: str = "environment") -> None:
        self.name, self.value, self.expected, self.source = name, value, expected, source
        super().__init__(f"{source}: {name}={value!r} is refused; it must be {expected}")

    def _fields(self) -> Mapping[str, object]:
        return {"name": self.name, "value": self.value, "expected": self.expected, "source": self.source}


class StoreUrlError(InputError):
    """A store URL that names no store."""

    code = "HR104"

    def __init__(self, *, url: str, problem: str = "unknown store") -> None:
        self.url, self.problem = url, problem
        super().__init__(f"--store {url!r}: {problem}; use sqlite:///PATH, supabase or memory:")

    def _fields(self) -> Mapping[str, object]:
        return {"url": self.url, "problem": self.problem}


class UnknownSweep(InputError):
    """The store holds no sweep of that name."""

    code = "HR105"

    def __init__(self, *, sweep: str, store: str, known: tuple[str, ...] = ()) -> None:
        self.sweep, self.store, self.known = sweep, store, tuple(known)
        has = f"it holds {', '.join(self.known)}" if self.known else "it holds no sweep yet"
        super().__init__(f"no sweep {sweep!r} in {store}; {has}; start one with `headrace sweep PRS --store {store}`")

    def _fields(self) -> Mapping[str, object]:
        return {"sweep": self.sweep, "store": self.store, "known": self.known}


class UnknownCommit(InputError):
    """A repository does not have the commit that a pull request names."""

    code = "HR106"

    def __init__(self, *, pull_request: str, commit: str, clone_url: str, where: str = "") -> None:
        self.pull_request, self.commit, self.clone_url, self.where = pull_request, commit, clone_url, where
        super().__init__(
            f"{where + ': ' if where else ''}{pull_request}: field 'sha': commit {commit} is not in {clone_url}; "
            f"correct the commit or the clone_url"
        )

    def _fields(self) -> Mapping[str, object]:
        return {
            "pull_request": self.pull_request,
            "commit": self.commit,
            "clone_url": self.clone_url,
            "where": self.where,
        }


class EnvironmentNotReady(HeadraceError):
    """The machine lacks something that the command needs; `headrace doctor` says what and how to mend it."""

    code = "HR200"
    exit_code = 3


class CoreError(HeadraceError):
    """The pure core refuses a command or an event; its state is unchanged."""

    code = "HR300"


class IllegalTransition(CoreError):
    """An event that the transition table does not allow in this state."""

    code = "HR301"

    def __init__(self, *, machine: str, state: str, event: str, subject: str) -> None:
        self.machine, self.state, self.event, self.subject = machine, state, event, subject
        super().__init__(f"{machine} {subject}: {event} is not allowed in state '{state}'; nothing was changed")

    def _fields(self) -> Mapping[str, object]:
        return {"machine": self.machine, "state": self.state, "event": self.event, "subject": self.subject}


class ReplayDivergence(CoreError):
    """Replaying a stream gives another state than was recorded, or an event that its state does not allow."""

    code = "HR302"

    def __init__(self, *, stream: str, version: int, field: str, recorded: str = "", replayed: str = "") -> None:
        self.stream, self.version, self.field = stream, version, field
        self.recorded, self.replayed = recorded, replayed
        super().__init__(
            f"stream {stream} version {version}: {field}: recorded {recorded or 'nothing'}, replayed "
            f"{replayed or 'nothing'}; the transition code is not the one that wrote this log: replay it with that "
            f"version of Headrace, or mend the code"
        )

    def _fields(self) -> Mapping[str, object]:
        return {
            "stream": self.stream,
            "version": self.version,
            "field": self.field,
            "recorded": self.recorded,
            "replayed": self.replayed,
        }


class LogError(HeadraceError):
    """The event log refuses; what it acknowledged before stays."""

    code = "HR400"


class VersionConflict(LogError):
    """The stream is not at the version that the writer expected: somebody else appended first."""

    code = "HR401"

    def __init__(self, *, stream: str, expected: int, actual: int) -> None:
        self.stream, self.expected, self.actual = stream, expected, actual
        super().__init__(
            f"stream {stream}: expected version {expected}, found {actual}; reload the stream and decide again"
        )

    def _fields(self) -> Mapping[str, object]:
        return {"stream": self.stream, "expected": self.expected, "actual": self.actual}


class EventIdReused(LogError):
    """One event id was appended with two different payloads."""

    code = "HR402"

    def __init__(self, *, event_id: str, stream: str) -> None:
        self.event_id, self.stream = event_id, stream
        super().__init__(
            f"stream {stream}: event id {event_id} is already used for another payload; nothing was appended"
        )

    def _fields(self) -> Mapping[str, object]:
        return {"event_id": self.event_id, "stream": self.stream}


class UnknownEventType(LogError):
    """An event type or schema that this version of Headrace cannot read."""

    code = "HR403"

    def __init__(self, *, type_: str, schema: int, detail: str = "", where: str = "") -> None:
        self.type_, self.schema, self.detail, self.where = type_, schema, detail, where
        super().__init__(
            f"{where + ': ' if where else ''}cannot read event type {type_!r} (schema {schema})"
            f"{': ' + detail if detail else ''}; upgrade Headrace to the version that wrote it"
        )

    def at(self, where: str) -> UnknownEventType:
        """The same error, saying where the event is stored."""
        return UnknownEventType(type_=self.type_, schema=self.schema, detail=self.detail, where=where)

    def _fields(self) -> Mapping[str, object]:
        return {"type_": self.type_, "schema": self.schema, "detail": self.detail, "where": self.where}


class LogLocked(LogError):
    """Another process writes this log."""

    code = "HR404"
    exit_code = 3

    def __init__(self, *, path: str, holder: str) -> None:
        self.path, self.holder = path, holder
        super().__init__(f"{path} is being written by {holder}; wait for it, stop it, or use another --store")

    def _fields(self) -> Mapping[str, object]:
        return {"path": self.path, "holder": self.holder}


class LogUnavailable(LogError):
    """The log cannot be written or read now: full disk, missing permission, store away."""

    code = "HR405"
    exit_code = 3


class LogCorrupt(LogError):
    """What is stored is not what was written."""

    code = "HR406"

    def __init__(self, *, where: str, detail: str) -> None:
        self.where, self.detail = where, detail
        super().__init__(f"{where} is damaged: {detail}; restore it from a copy, nothing was changed")

    def _fields(self) -> Mapping[str, object]:
        return {"where": self.where, "detail": self.detail}


class LogTooNew(LogError):
    """The log's schema is newer than this program."""

    code = "HR407"
    exit_code = 2

    def __init__(self, *, where: str, found: int, known: int) -> None:
        self.where, self.found, self.known = where, found, known
        super().__init__(
            f"{where} has schema {found}, this program knows up to {known}; upgrade Headrace, nothing was changed"
        )

    def _fields(self) -> Mapping[str, object]:
        return {"where": self.where, "found": self.found, "known": self.known}


class InfraError(HeadraceError):
    """The engine, the disk, a registry or the network failed: never the fault of a context or a pull request."""

    code = "HR500"
