"""Finds and ends what is left of a session whose supervisor was killed.

Every process of a session has the session's name in its environment. One that has cleared its environment is not found
here; only the supervisor (:mod:`actors.agents.supervisor`), while it lives, misses none.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from actors.agents import supervisor

__all__ = ["SESSION_VARIABLE", "end_marked"]

SESSION_VARIABLE = "HEADRACE_AGENT_SESSION"
"""Holds the session's name."""


def end_marked(prefix: str) -> int:
    """Kills processes by the marker in their environment, for sessions whose supervisor is gone.

    Args:
        prefix: beginning of the sessions' names (``run_agent``'s ``session``); end it with a separator, or ``sweep-1``
            finds ``sweep-10`` too.

    Returns:
        How many processes were killed.
    """
    wanted = f"{SESSION_VARIABLE}={prefix}".encode()
    killed: set[int] = set()
    while True:
        found = {pid for pid in supervisor.parents() if pid != os.getpid() and _is_marked(pid, wanted)}
        if not found - killed:
            return len(killed)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        killed |= found


def _is_marked(pid: int, wanted: bytes) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return any(entry.startswith(wanted) for entry in environment.split(b"\0"))
