"""What holders wish for, and the order in which the governor serves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

import msgspec

from events.governor import KIND_AGENTS, GovernorState, Request
from events.wanting import SessionWanted

__all__ = ["Asked", "Wish", "in_turn"]


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a holder wants: 1..``count`` slots of ``account``. ``number`` tells it from every other wish of its desk.

    With account ``agents`` it wants 1.. of ``sessions``: for each a slot of any agent's account, and of a runner.
    """

    number: int
    holder: str
    account: str
    count: int
    sessions: tuple[SessionWanted, ...] = ()


Asked = tuple[str, int, Request]
"""A desk, the number of its wish, and one request for it."""


def in_turn(
    state: GovernorState, waiting: Sequence[tuple[str, Wish]], *, sessions_first: bool, new_id: Callable[[], str]
) -> list[Asked]:
    """The requests of all wishes (desk and wish, by arrival) in the order in which they are to be granted.

    For runners as many as there are free ones, one for each wish in turn, so that no holder starves another; for
    sessions first that which may serve most pull requests. Where there are both they take turns.
    """
    runners = _for_slots(state, [one for one in waiting if one[1].account != KIND_AGENTS], new_id)
    sessions = _for_sessions([one for one in waiting if one[1].account == KIND_AGENTS], new_id)
    pair = (sessions, runners) if sessions_first else (runners, sessions)
    return [one for both in zip_longest(*pair) for one in both if one is not None]


def _for_slots(state: GovernorState, waiting: Sequence[tuple[str, Wish]], new_id: Callable[[], str]) -> list[Asked]:
    free = {wish.account: len(state.free_slots(wish.account)) for _, wish in waiting}
    found = []
    for turn in range(max((wish.count for _, wish in waiting), default=0)):
        for name, wish in waiting:
            if turn < wish.count and free[wish.account] > 0:
                free[wish.account] -= 1
                request = Request(lease_id=new_id(), account=wish.account, holder=wish.holder)
                found.append((name, wish.number, request))
    return found


def _for_sessions(waiting: Sequence[tuple[str, Wish]], new_id: Callable[[], str]) -> list[Asked]:
    asked = [(name, wish, one) for name, wish in waiting for one in wish.sessions]
    asked.sort(key=lambda one: -one[2].unlocks)
    return [
        (
            name,
            wish.number,
            Request(
                lease_id=new_id(),
                account=KIND_AGENTS,
                holder=wish.holder,
                issue_number=one.issue_number,
                attempt_id=new_id(),
                beside=new_id(),
            ),
        )
        for name, wish, one in asked
    ]
