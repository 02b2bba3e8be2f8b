"""How a repository's actor has work orders done and always learns how they ended.

The runner may die, the actor may die, both may: each of these methods ends in a command for the core, and none repeats
work that has an outcome. An attempt whose runner is gone is first looked up in its mailbox; only if that is empty is
what it left on the engine ended and the attempt interrupted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from loguru import logger

from actors import faults
from actors.gateway import Ref
from actors.log_client import LogClient
from events.commands import Interrupt, TakeOutcome
from events.errors import HeadraceError
from events.records import InFlight
from events.work import Outcome, WorkOrder

__all__ = ["AttemptFollower"]

CLEAN_UP_S = 60.0
RETRY_S = 0.5


class AttemptFollower:
    """Follows attempts on runners, given by name, for all repositories of one process."""

    def __init__(self, log: LogClient, runners: Mapping[str, Ref]) -> None:
        self._log, self._runners = log, runners
        self._over: dict[str, list[str]] = {}

    async def perform(self, place: tuple[str, WorkOrder]) -> TakeOutcome | Interrupt:
        """Has an order done by a runner; see the module for what happens when it dies."""
        name, order = place
        try:
            outcome: Outcome = await self._runners[name].call("perform", order, self._over.pop(name, []))
        except HeadraceError as exc:
            return await self._settled(order.attempt_id, name, exc.message, runner_died=True)
        return TakeOutcome(attempt_id=order.attempt_id, outcome=outcome)

    async def is_under_way(self, attempt: InFlight) -> bool:
        """Whether the attempt's runner is still at it, or has its outcome."""
        runner = self._runners.get(attempt.runner)
        if runner is None:
            return False
        try:
            return bool(await runner.call("knows", attempt.attempt_id))
        except HeadraceError:
            return False

    async def follow(self, attempt: InFlight) -> TakeOutcome | Interrupt:
        """Waits for an attempt that an earlier incarnation of this actor started."""
        try:
            outcome: Outcome | None = await self._runners[attempt.runner].call("outcome_of", attempt.attempt_id)
        except HeadraceError as exc:
            return await self._settled(attempt.attempt_id, attempt.runner, exc.message, runner_died=True)
        if outcome is None:
            return await self._settled(attempt.attempt_id, attempt.runner, "its runner does not know of it any more")
        return TakeOutcome(attempt_id=attempt.attempt_id, outcome=outcome)

    async def settle(self, attempt: InFlight) -> TakeOutcome | Interrupt:
        """Ends an attempt that is under way nowhere."""
        return await self._settled(attempt.attempt_id, attempt.runner, "its processes ended with an earlier run")

    async def cancel(self, runner: str, attempt_ids: list[str]) -> None:
        """Asks a runner to end attempts; a dead runner has ended them already."""
        ref = self._runners.get(runner)
        if ref is None:
            return
        try:
            await ref.call("cancel", attempt_ids)
        except HeadraceError as exc:
            logger.warning("cannot cancel on {}: {}", runner, exc)

    def forget(self, attempt: InFlight) -> None:
        """An outcome has arrived: its runner hears of it with its next order; if it never does, it only keeps it."""
        self._over.setdefault(attempt.runner, []).append(attempt.attempt_id)

    async def _settled(
        self, attempt_id: str, runner: str, why: str, *, runner_died: bool = False
    ) -> TakeOutcome | Interrupt:
        outcome = await self._log.reported_outcome(attempt_id)
        if outcome is None:
            blobs = await self._clean_up(attempt_id, runner)
            if isinstance(blobs, Outcome):
                return TakeOutcome(attempt_id=attempt_id, outcome=blobs)
            outcome = await self._log.reported_outcome(attempt_id)
            if outcome is None:
                faults.hit(faults.REPOSITORY_BEFORE_INTERRUPT)
                return Interrupt(attempt_id=attempt_id, reason=why, blobs=blobs, runner_died=runner_died)
        return TakeOutcome(attempt_id=attempt_id, outcome=outcome)

    async def _clean_up(self, attempt_id: str, runner: str) -> dict[str, str] | Outcome:
        """Ends what the attempt left on its node's engine and saves its logs, once a runner of that name is back.

        A runner that was only out of reach may be at it still: then its outcome is waited for. An engine that is away
        is asked again; what cannot be ended within ``CLEAN_UP_S`` is left to the sweep of the next run's start.
        """
        ref = self._runners.get(runner) or next(iter(self._runners.values()))
        deadline = asyncio.get_running_loop().time() + CLEAN_UP_S
        while True:
            try:
                if await ref.call("knows", attempt_id):
                    outcome: Outcome | None = await ref.call("outcome_of", attempt_id)
                    if outcome is not None:
                        return outcome
                await ref.call("end_attempt", attempt_id)
                blobs: dict[str, str] = await ref.call("salvage", attempt_id)
            except HeadraceError as exc:
                if asyncio.get_running_loop().time() > deadline:
                    logger.error("attempt {}: not everything could be cleaned up on {}: {}", attempt_id, runner, exc)
                    return {}
                await asyncio.sleep(RETRY_S)
            else:
                return blobs
