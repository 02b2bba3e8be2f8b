"""Source code by commit: one bare mirror per clone URL and node, so that no attempt clones again.

A mirror lives in ``<cache_dir>/mirrors/<hash of the URL>-<name>.git`` and is shared by all threads and processes of
the node; a lock file beside it serialises whoever changes it. It is fetched only when a wanted commit is missing. A
clone is made under another name and renamed when whole, so an interrupted one leaves nothing that looks like a mirror.

git runs in a fixed environment: no configuration of this user or machine, no prompts, English messages. Of the host's
environment only ``PATH``, proxies and the certificate bundle that the network may demand come along.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from events.errors import InfraError, UnknownCommit
from events.work import PullRequest
from store.locks import LockWaitCancelled, file_lock

__all__ = ["Mirror", "SourceCancelled", "Sources", "clone_url_of", "git_environment", "public_url"]

PASSED_ON = (
    "PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
)
TIMEOUT_S = 3600.0
POLL_S = 0.2
COMMIT = re.compile(r"[0-9a-fA-F]{4,64}")


class SourceCancelled(Exception):
    """Fetching was ended from outside; the mirror is as it was before."""


def clone_url_of(pull_request: PullRequest) -> str:
    """Where a pull request's repository is cloned from: its ``clone_url``, or else GitHub (CONTRACTS.md section 1)."""
    return pull_request.clone_url or f"https://github.com/{pull_request.owner}/{pull_request.repo}.git"


def public_url(clone_url: str) -> str:
    """A clone URL as it may be shown: without user name and password; empty for a path on this machine."""
    parts = urlsplit(clone_url)
    if parts.scheme not in {"http", "https", "git", "ssh"} or not parts.hostname:
        return ""
    host = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def git_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The fixed environment in which git runs."""
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    fixed = {
        "LC_ALL": "C",
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    return {**kept, **fixed, **(extra or {})}


class Mirror:
    """A bare repository that has the commits it was asked for. Reading takes no lock: objects are only ever added."""

    def __init__(self, *, path: Path, clone_url: str) -> None:
        self.path, self.clone_url = path, clone_url

    def git(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        """Runs git in the mirror and returns its standard output.

        Raises:
            InfraError: git failed, with its message.
        """
        return _run(["git", "-C", str(self.path), *arguments], stdin=stdin)

    def has(self, commit: str) -> bool:
        """Whether the mirror holds that commit."""
        return self._resolved(commit) is not None

    def resolve(self, commit: str) -> str:
        """The full hash of a commit that this mirror was asked for.

        Raises:
            InfraError: it has no such commit (any more).
        """
        full = self._resolved(commit)
        if full is None:
            raise InfraError(f"mirror {self.path} has no commit {commit}; remove the mirror to have it cloned anew")
        return full

    def read_file(self, commit: str, path: str) -> bytes | None:
        """A file's content at a commit, or ``None`` if there is no such file."""
        entry = self.git("ls-tree", "-z", commit, "--", path).rstrip(b"\0")
        if not entry or b"\0" in entry:
            return None
        header, _, name = entry.partition(b"\t")
        _, kind, digest = header.decode("ascii").split(" ")
        if kind != "blob" or os.fsdecode(name) != path:
            return None
        return self.git("cat-file", "blob", digest)

    def list_files(self, commit: str) -> list[str]:
        """Paths of all files at a commit, sorted."""
        return sorted(
            os.fsdecode(name) for name in self.git("ls-tree", "-r", "-z", "--name-only", commit).split(b"\0") if name
        )

    def is_ancestor(self, ancestor: str, commit: str) -> bool:
        """Whether ``ancestor`` is in the history of ``commit`` (a commit is in its own)."""
        return not self.git("rev-list", "--max-count=1", ancestor, f"^{commit}").strip()

    def _resolved(self, commit: str) -> str | None:
        if not COMMIT.fullmatch(commit):
            return None
        answer = self.git("cat-file", "--batch-check=%(objectname) %(objecttype)", stdin=commit.encode() + b"\n")
        name, _, kind = answer.decode("ascii", "replace").strip().partition(" ")
        return name if kind == "commit" else None


class Sources:
    """The mirrors of one node.

    Success: the mirror has every commit asked for. Failure: it is as it was, or holds more. A crash leaves at most a
    folder ``.clone-*`` that nothing reads and the next clone of that URL removes.
    """

    def __init__(self, cache_dir: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        """``timeout_s``: how long one clone or fetch may take."""
        self.folder = cache_dir / "mirrors"
        self.timeout_s = timeout_s

    def mirror(
        self,
        clone_url: str,
        commits: Iterable[str],
        *,
        pull_request: str,
        cancel: threading.Event | None = None,
    ) -> Mirror:
        """The mirror of a repository, with these commits in it.

        Args:
            clone_url: ``https://``, ``ssh://``, ``file://`` or a path.
            commits: hashes, full or abbreviated, that the caller is going to read.
            pull_request: ``owner/repo#1``, for messages.
            cancel: ends waiting, cloning and fetching when set.

        Raises:
            UnknownCommit: the repository answers and does not have one of them.
            InfraError: the repository cannot be reached, or the disk is full.
            SourceCancelled: ``cancel`` was set.
        """
        wanted = list(dict.fromkeys(commits))
        mirror = Mirror(path=self._path(clone_url), clone_url=clone_url)
        if mirror.path.exists() and all(mirror.has(commit) for commit in wanted):
            return mirror
        try:
            with file_lock(mirror.path.with_suffix(".lock"), cancel=cancel):
                self._fill(mirror, wanted, cancel=cancel)
        except LockWaitCancelled as exc:
            raise SourceCancelled(clone_url) from exc
        except OSError as exc:
            raise InfraError(f"{mirror.path}: cannot be written ({exc.strerror})") from exc
        for commit in wanted:
            if not mirror.has(commit):
                raise UnknownCommit(
                    pull_request=pull_request, commit=commit, clone_url=public_url(clone_url) or clone_url
                )
        return mirror

    def _fill(self, mirror: Mirror, wanted: Sequence[str], *, cancel: threading.Event | None) -> None:
        if not mirror.path.exists():
            self._clone(mirror, cancel=cancel)
        elif all(mirror.has(commit) for commit in wanted):
            return
        else:
            self._git_remote(
                ["git", "-C", str(mirror.path), "fetch", "--quiet", "--tags", "--force", "origin"], cancel=cancel
            )
        for commit in wanted:
            if COMMIT.fullmatch(commit) and len(commit) in {40, 64} and not mirror.has(commit):
                self._fetch_unadvertised(mirror, commit, cancel=cancel)

    def _clone(self, mirror: Mirror, *, cancel: threading.Event | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        prefix = f".clone-{mirror.path.name}-"
        for stale in self.folder.glob(f"{prefix}*"):
            shutil.rmtree(stale, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=self.folder))
        try:
            self._git_remote(
                ["git", "clone", "--quiet", "--mirror", "--no-hardlinks", mirror.clone_url, str(temporary)],
                cancel=cancel,
            )
            _run(["git", "-C", str(temporary), "config", "gc.auto", "0"])
            temporary.rename(mirror.path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _fetch_unadvertised(self, mirror: Mirror, commit: str, *, cancel: threading.Event | None) -> None:
        """Asks for a commit that no branch or tag reaches, as those of squashed pull requests on many hosts."""
        keep = f"+{commit}:refs/headrace/{commit}"
        try:
            self._git_remote(
                ["git", "-C", str(mirror.path), "fetch", "--quiet", "--no-tags", "origin", keep], cancel=cancel
            )
        except InfraError as exc:
            if not re.search(
                r"not our ref|couldn't find remote ref|unadvertised object|not advertised|bad object", exc.message
            ):
                raise

    def _git_remote(self, command: list[str], *, cancel: threading.Event | None) -> None:
        _run(command, cancel=cancel, timeout_s=self.timeout_s)

    def _path(self, clone_url: str) -> Path:
        digest = hashlib.sha256(clone_url.encode()).hexdigest()[:16]
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", clone_url.rstrip("/").rpartition("/")[2].removesuffix(".git"))
        return self.folder / f"{digest}-{name[:60]}.git"


def _run(
    command: Sequence[str],
    *,
    stdin: bytes | None = None,
    cancel: threading.Event | None = None,
    timeout_s: float | None = None,
) -> bytes:
    """Runs git; ends it, with what it started, on cancellation and time-out."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=git_environment(),
            start_new_session=True,
        )
    except OSError as exc:
        raise InfraError(f"cannot run git ({exc.strerror}); install it") from exc
    started_s = time.monotonic()
    try:
        output, errors = _communicate(process, stdin)
        while output is None:
            if cancel is not None and cancel.is_set():
                raise SourceCancelled(_verb(command))
            if timeout_s is not None and time.monotonic() - started_s > timeout_s:
                raise InfraError(f"git {_verb(command)} took longer than {timeout_s:.0f} s and was ended")
            output, errors = _communicate(process, None)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        raise InfraError(f"git {_verb(command)} failed: {_last_error(errors)}")
    return output


def _communicate(process: subprocess.Popen[bytes], stdin: bytes | None) -> tuple[bytes | None, bytes]:
    """Waits a moment for a process to end; ``None`` as output: it still runs."""
    try:
        return process.communicate(stdin, timeout=POLL_S)
    except subprocess.TimeoutExpired:
        return None, b""


def _verb(command: Sequence[str]) -> str:
    return next(word for word in command[3 if command[1] == "-C" else 1 :] if not word.startswith("-"))


def _last_error(errors: bytes) -> str:
    lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "ERROR:"))]
    return "; ".join(list(dict.fromkeys(telling))[:2] or lines[-1:]) or "no message"
