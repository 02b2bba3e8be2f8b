"""Actors called without Ray, in one event loop: for what they decide, not for how they die.

No process, no restart, no pickling: those are tested with real Ray processes in ``test_crashes``.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from actors.gateway import Ref


class LocalRef(Ref):
    """Calls an object in this process."""

    def __init__(self, name: str, target: object) -> None:
        super().__init__(name, target)
        self.target = target

    async def call(self, method: str, *args: object) -> Any:
        function = getattr(self.target, method)
        if inspect.iscoroutinefunction(function):
            return await function(*args)
        return await asyncio.to_thread(function, *args)


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now
