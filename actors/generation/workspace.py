"""The folder of one session: what the agent finds there, and what is read back.

Everything of a session lies below the attempt's spool, in ``session/``: ``workspace/``, in which the agent works, and
``home/``, its configuration and temporary files. So whatever a crash leaves is found by the attempt's id, and goes with
the spool. Nothing is written there from outside once the agent runs: it could have put a link in the place.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from actors.agents.redact import Redactor
from actors.generation import client
from actors.generation.client import SOCKET
from actors.generation.scripts import ScriptsUnusable, read_scripts
from actors.verifier.checks.template import EDITABLE
from events.errors import InfraError
from store.docker_context import DockerContext
from store.sources import Mirror, git_environment

__all__ = ["INTERPRETER", "SESSION_FOLDER", "Workspace", "checkout", "remove_tree"]

SESSION_FOLDER = "session"
GATE_SOCKET = "gate.sock"
INTERPRETER = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
"""Runs ``verify``: not a virtual environment's link, which leads out of a sandbox."""


class Workspace:
    """One session's folders. ``close`` removes them; until then the workspace is held open, so that what is read back
    is from the folder that was made here, whatever stands under its path by then."""

    def __init__(self, spool: Path, *, secrets: Sequence[str] = ()) -> None:
        """``secrets``: values that no script may hold, because scripts are kept and built."""
        self._redactor = Redactor(secrets)
        self.root = spool / SESSION_FOLDER
        self.folder, self.home = self.root / "workspace", self.root / "home"
        self._fd = -1

    def __enter__(self) -> Self:
        self.root.mkdir(mode=0o700)
        self.folder.mkdir(mode=0o700)
        self._fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def fill(self, base: DockerContext, *, briefings: Mapping[str, str], payload: str) -> None:
        """Writes the context, the ``verify`` command and the briefing.

        Args:
            base: what the session starts from.
            briefings: name to text of the files in which the CLI looks for instructions.
            payload: the pull request's requirements.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        for name, text in base.files.items():
            if name in EDITABLE:
                self.write(name, text, mode=0o755)
            else:
                self.write(f"context/{name}", text, mode=0o444)
        program = Path(client.__file__).read_text(encoding="utf-8")
        self.write("verify", f"#!{INTERPRETER} -ISB\n{program}", mode=0o755)
        self.write("env_payload.json", payload, mode=0o444)
        for name, text in briefings.items():
            self.write(name, text, mode=0o444)

    def add_prior(self, number: int, tried: DockerContext) -> None:
        """Writes the scripts of an earlier attempt.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        for name in EDITABLE:
            self.write(f"prior/{number}/{name}", tried.files[name], mode=0o444)

    def write(self, name: str, text: str, *, mode: int) -> None:
        """Writes a file, before the agent runs."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)

    @property
    def socket_address(self) -> str:
        """Where ``verify`` knocks: short enough for a socket however deep the folder lies."""
        return f"/proc/self/fd/{self._fd}/{SOCKET}"

    @property
    def gate(self) -> tuple[Path, str]:
        """The path of the gate's socket, out of the agent's reach, and its address as a socket's."""
        return self.root / GATE_SOCKET, f"/proc/self/fd/{self._fd}/../{GATE_SOCKET}"

    def scripts(self) -> dict[str, str]:
        """The three scripts as they stand now.

        Raises:
            ScriptsUnusable: see :func:`read_scripts`; or one holds a secret of the account.
        """
        scripts = read_scripts(self._fd)
        for name, text in scripts.items():
            if self._redactor.knows(text):
                raise ScriptsUnusable(f"{name} holds a key of the account; take it out")
        return scripts

    def close(self) -> None:
        """Removes everything. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        remove_tree(self.root)


def checkout(mirror: Mirror, commit: str, folder: Path) -> None:
    """Writes the files of a commit into a new folder, without history.

    Raises:
        InfraError: git failed, for example because the disk is full.
    """
    folder.mkdir()
    index = folder.with_name(f".{folder.name}.index")
    try:
        for words in (
            ["read-tree", commit],
            [f"--work-tree={folder}", "checkout-index", "--all", "--force", "--quiet"],
        ):
            done = subprocess.run(
                ["git", f"--git-dir={mirror.path}", *words],
                env=git_environment({"GIT_INDEX_FILE": str(index)}),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            if done.returncode:
                said = done.stderr.decode("utf-8", "replace").strip().splitlines()
                raise InfraError(f"git cannot check out {commit} of {mirror.clone_url}: {' '.join(said[-2:])}")
    finally:
        index.unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """Removes a folder that an agent has had, in which modes may forbid it; what cannot be removed stays."""
    with suppress(OSError):
        shutil.rmtree(folder)
    for parent, names, _ in os.walk(folder):
        for path in (Path(parent) / name for name in names):
            if not path.is_symlink():
                with suppress(OSError):
                    path.chmod(stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)
