"""Answers an agent's ``verify`` command: builds and verifies the workspace's scripts as they stand, and tells it.

The agent gets text and an exit code. It cannot write a verdict: the ruling that counts is the object in this process,
made of scripts that were read through :mod:`actors.generation.scripts` by the same code that judges every attempt. So
when the session ends with scripts on which there is a ruling, that ruling is Headrace's own verdict on exactly these
bytes, made in this process, and is used: nothing is built and paid twice.

One verification runs at a time; whoever asks meanwhile waits for that one. Asking again with the same scripts is
answered from memory, and there are at most ``max_verifications``, so an agent cannot keep the machine busy. What engine
or network did wrong is not counted, a few times.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import msgspec

from actors.generation.briefing import plain
from actors.generation.scripts import ScriptsUnusable, with_scripts
from actors.generation.workspace import Workspace
from events.work import FailureClass, Outcome
from store.docker_context import DockerContext

__all__ = ["Judge", "Referee", "Ruling", "rulings_folder"]

MAX_UNCOUNTED = 3
"""Rulings of class ``infra`` that do not count."""

MAX_REQUEST_BYTES = 4096
MAX_LOG_BYTES = 256 * 1024
MAX_CONNECTIONS = 8
REQUEST_S = 10.0
POLL_S = 0.1
MAX_WAIT_S = 24 * 3600.0

VERIFIED, REFUSED, WRONG_USE, INFRA, NONE_LEFT, RUNNING = 0, 1, 2, 3, 4, 75


class Judge(Protocol):
    """Builds and verifies a context. May be called from any thread."""

    def __call__(self, context: DockerContext, *, spool: Path, cancel: threading.Event) -> Outcome:
        """The outcome without its blobs; logs and the tests' outcomes are in ``spool``, which exists."""


class Ruling(msgspec.Struct, frozen=True, kw_only=True):
    """One verification that the agent asked for. ``digest``: of the context that was judged; ``folder``: its logs."""

    number: int
    digest: str
    outcome: Outcome
    folder: Path
    took_s: float


class _Job:
    """A verification under way. ``ruling`` is set when ``done`` is, unless it was cancelled."""

    def __init__(self, number: int, *, context: DockerContext, folder: Path) -> None:
        self.number, self.context, self.folder = number, context, folder
        self.digest = context.digest
        self.began_s = time.monotonic()
        self.done = threading.Event()


class Referee:
    """Serves one workspace's socket from ``__enter__`` to ``__exit__``, which cancels and awaits what is under way.

    A crash leaves containers of the attempt, which carry its labels, and the logs in ``rulings_folder(spool, N)``.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        base: DockerContext,
        judge: Judge,
        spool: Path,
        max_verifications: int,
        on_ruling: Callable[[Ruling], None],
    ) -> None:
        """``base``: its six other files are those of every context that is judged; ``on_ruling``: called with every
        ruling, in the thread of its verification."""
        self.rulings: list[Ruling] = []
        self._workspace, self._base, self._judge, self._spool = workspace, base, judge, spool
        self._max, self._on_ruling = max_verifications, on_ruling
        self._cancel = threading.Event()
        self._lock = threading.Lock()
        self._job: _Job | None = None
        self._started = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._threads: list[threading.Thread] = []
        self._free = threading.Semaphore(MAX_CONNECTIONS)

    def __enter__(self) -> Self:
        self._socket.bind(self._workspace.socket_address)
        self._socket.listen(MAX_CONNECTIONS)
        self._socket.settimeout(POLL_S)
        self._thread(self._serve)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._cancel.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()

    @property
    def asked(self) -> int:
        """How many verifications the agent has had."""
        return self._started

    def ruling_on(self, digest: str) -> Ruling | None:
        """The ruling on the context of this digest, if there was one that says something about the scripts."""
        with self._lock:
            return self._known(digest)

    def settle(self, digest: str, *, cancel: threading.Event) -> None:
        """Waits for the verification under way if it is of this context, and ends it otherwise; for when the agent has
        ended."""
        with self._lock:
            job = self._job
        while job is not None and not job.done.wait(POLL_S):
            if job.digest != digest or cancel.is_set():
                self._cancel.set()

    def _known(self, digest: str) -> Ruling | None:
        return next((one for one in self.rulings if one.digest == digest and _lasts(one.outcome)), None)

    def _thread(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="session-referee", daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()] + [thread]
        thread.start()

    def _serve(self) -> None:
        while not self._cancel.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            if not self._free.acquire(blocking=False):
                connection.close()
                continue
            self._thread(self._answer, connection)

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError):
                connection.settimeout(REQUEST_S)
                code, text = self._reply(_request(connection))
                connection.sendall(json.dumps({"exit": code}).encode() + b"\n" + text.encode("utf-8", "replace"))
        finally:
            self._free.release()

    def _reply(self, request: dict[str, object]) -> tuple[int, str]:
        wait_s, log = request.get("wait_s"), request.get("log")
        if isinstance(log, str):
            return self._log(log)
        if isinstance(wait_s, bool) or not isinstance(wait_s, int | float):
            return WRONG_USE, "verify: this is not a request that Headrace knows; run ./verify --help\n"
        job = self._begin()
        if not isinstance(job, _Job):
            return job
        ends_at = time.monotonic() + min(max(float(wait_s), 0.0), MAX_WAIT_S)
        while not job.done.wait(POLL_S) and time.monotonic() < ends_at and not self._cancel.is_set():
            pass
        return self._about(job)

    def _begin(self) -> _Job | tuple[int, str]:
        """The verification that answers a request, begun or joined; or an answer at once."""
        with self._lock:
            if self._job is not None and not self._job.done.is_set():
                return self._job
            try:
                context = with_scripts(self._base, self._workspace.scripts())
            except ScriptsUnusable as exc:
                return WRONG_USE, f"verify: {exc.message}\n"
            known = self._known(context.digest)
            if known is not None:
                return self._told(known)
            uncounted = sum(not _lasts(ruling.outcome) for ruling in self.rulings)
            if self._started - min(uncounted, MAX_UNCOUNTED) >= self._max:
                return NONE_LEFT, f"verify: all {self._max} verifications of this session are used\n"
            self._started += 1
            folder = rulings_folder(self._spool, self._started)
            self._job = _Job(self._started, context=context, folder=folder)
            self._thread(self._verify, self._job)
            return self._job

    def _verify(self, job: _Job) -> None:
        try:
            job.folder.mkdir(exist_ok=True)
            outcome = self._judge(job.context, spool=job.folder, cancel=self._cancel)
            took_s = time.monotonic() - job.began_s
            ruling = Ruling(number=job.number, digest=job.digest, outcome=outcome, folder=job.folder, took_s=took_s)
            with self._lock:
                self.rulings.append(ruling)
            self._on_ruling(ruling)
        finally:
            job.done.set()

    def _about(self, job: _Job) -> tuple[int, str]:
        with self._lock:
            ruling = next((one for one in self.rulings if one.number == job.number), None)
        if ruling is not None:
            return self._told(ruling)
        if job.done.is_set() or self._cancel.is_set():
            return INFRA, "verify: the verification was ended from outside\n"
        ran_s = time.monotonic() - job.began_s
        return RUNNING, (
            f"verify: verification {job.number} of {self._max} still runs after {ran_s:.0f} s; run ./verify again to "
            "go on waiting for it (it judges the scripts as they were when it began)\n"
        )

    def _told(self, ruling: Ruling) -> tuple[int, str]:
        outcome = ruling.outcome
        lines = [f"verification {ruling.number} of {self._max}, {ruling.took_s:.0f} s"]
        if outcome.verified:
            lines += [
                "verdict: verified",
                f"reason: {outcome.message}",
                "You are done: stop here, change nothing more.",
            ]
            code = VERIFIED
        elif outcome.failure_class is FailureClass.INFRA:
            lines += ["verdict: none", f"stage: {outcome.stage}", f"reason: {outcome.message}"]
            lines += ["This is not the scripts' fault. Wait a minute and try again."]
            code = INFRA
        else:
            lines += ["verdict: refused", f"stage: {outcome.stage}", f"class: {outcome.failure_class}"]
            lines += [f"reason: {outcome.message}"]
            lines += [f"- {check.name}: {check.detail}" for check in outcome.checks if not check.ok]
            if outcome.failure_class is FailureClass.TAMPER:
                lines += ["This breaks the rules in AGENTS.md: the session ends here."]
            if outcome.log_tail:
                lines += ["", "end of the log:", outcome.log_tail]
            code = REFUSED
        try:
            now = with_scripts(self._base, self._workspace.scripts()).digest
        except ScriptsUnusable:
            now = ""
        if now != ruling.digest:
            lines += ["", "The scripts have changed since this verification began; run ./verify to verify them."]
        return code, plain("\n".join(lines)) + "\n"

    def _log(self, name: str) -> tuple[int, str]:
        """A log of the last verification; only names that exist there are opened."""
        with self._lock:
            folder = self._job.folder if self._job is not None else None
        logs = {path.stem: path for path in folder.glob("*.log")} if folder is not None else {}
        if name not in logs:
            known = ", ".join(sorted(logs)) or "none yet"
            return WRONG_USE, f"verify: no log {name[:100]!r}; there are: {known}\n"
        with logs[name].open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - MAX_LOG_BYTES))
            return VERIFIED, file.read().decode("utf-8", "replace")


def rulings_folder(spool: Path, number: int) -> Path:
    """Where the logs of a session's verification ``number`` are until they are stored."""
    return spool / f"verify_{number}"


def _lasts(outcome: Outcome) -> bool:
    """Whether an outcome says something about the scripts, so that asking again would get the same answer."""
    return outcome.failure_class is not FailureClass.INFRA and not outcome.cancelled


def _request(connection: socket.socket) -> dict[str, object]:
    data = b""
    while b"\n" not in data and len(data) < MAX_REQUEST_BYTES and (piece := connection.recv(MAX_REQUEST_BYTES)):
        data += piece
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
