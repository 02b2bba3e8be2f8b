"""What a repository does next when agents may be paid: which context is tried where, who generates, who waits.

Pure and read-only. Verified pull requests divide the time line into *gaps*; what is due is found gap by gap, from the
evidence in it, never by looking at every pull request.

- *Same context at both ends*: everything between is tried with it; it is nearly certain to fit.
- *Different ends, or an open end*: somewhere between is a boundary. Each end's context is plausible up to the nearest
  place at which it was refuted. It is tried first where it fits with a chance of ``PROBE``: each such verification
  halves the doubt or better, and is needed anyway if it succeeds. Closer to the end, where it fits with a chance of
  ``SAFE``, it is also tried while that is in flight.
- *The stretch where both are refuted* is unexplained: an agent is paid for the pull request in its middle. Further
  sessions start in parallel only as far away from it as makes one environment for both unlikely; all
  others in the stretch wait, because a wait costs time and a second session for one environment costs money. Only
  after ``RACE_AFTER`` failures there, and in slots that nobody else needs, is a second one paid for to save time.

How far an environment reaches is not known: :mod:`events.reach` guesses.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec

from events.candidates import (
    Generate,
    Step,
    Try,
    candidates,
    claims,
    last_resort,
    may_generate,
    may_try_stock,
    once_more,
    policy_of,
)
from events.pull_request import IN_ATTEMPT
from events.reach import next_pivot, reach, survival
from events.records import InFlight, Place, PrRecord
from events.repository_state import RepositoryState
from events.work import CascadePolicy, Stage

__all__ = ["Due", "Gap", "gap_of", "gaps", "plan"]

PROBE = 0.5
SAFE = 0.75
ODD_TRIES = 3
"""Contexts tried on a pull request that its surroundings' context does not fit, before an agent is paid for it."""

RACE_AFTER = 3
"""Sessions that have failed on a stretch before idle slots are used for two at once there; each further one in parallel
wants as many failures more."""

NEAR = 8
"""How far from its best place, in pull requests, a session may be made to spare one that had sessions before."""

_AGENT_OR_STOCK = frozenset({Stage.LLM_GENERATE, Stage.TRY_DEFAULT})


class Due(msgspec.Struct, frozen=True):
    """A step and its pull request; ``unlocks``: for a session, how many open pull requests it may serve."""

    pr: PrRecord
    step: Step
    unlocks: int = 1


class Gap(msgspec.Struct, frozen=True):
    """The open pull requests ``start`` to ``end`` (exclusive) of ``state.open`` between two verified ones."""

    start: int
    end: int
    left: PrRecord | None
    right: PrRecord | None
    busy: Sequence[tuple[Place, InFlight]]

    @property
    def context(self) -> str | None:
        """The context that both ends have."""
        return self.left.context if self.left and self.right and self.left.context == self.right.context else None


def gaps(state: RepositoryState) -> Iterator[Gap]:
    """All gaps with open pull requests, in the order of time."""
    busy = _busy(state)
    start = 0
    while start < len(state.open):
        gap = _gap_at(state, start, busy)
        yield gap
        start = gap.end


def gap_of(state: RepositoryState, place: Place) -> Gap | None:
    """The gap in which ``place`` lies or would lie, if it has open pull requests; a verified place is left out."""
    index = bisect_left(state.verified, place)
    low = state.verified[index - 1] if index > 0 else (float("-inf"), 0)
    after = index + (index < len(state.verified) and state.verified[index] == place)
    high = state.verified[after] if after < len(state.verified) else (float("inf"), 0)
    start, end = bisect_right(state.open, low), bisect_left(state.open, high)
    if start == end:
        return None
    left = state.prs[low[1]] if index > 0 else None
    right = state.prs[high[1]] if after < len(state.verified) else None
    return Gap(start, end, left, right, ())


def _busy(state: RepositoryState) -> list[tuple[Place, InFlight]]:
    found = []
    for one in state.inflight.values():
        if one.lost:
            continue
        pr = state.prs[one.issue_number]
        found.append(((pr.at, pr.issue_number), one))
    return sorted(found, key=lambda one: one[0])


def _gap_at(state: RepositoryState, start: int, busy: list[tuple[Place, InFlight]]) -> Gap:
    line, verified = state.open, state.verified
    index = bisect_left(verified, line[start])
    left = state.prs[verified[index - 1][1]] if index > 0 else None
    right = state.prs[verified[index][1]] if index < len(verified) else None
    end = bisect_left(line, verified[index]) if right is not None else len(line)
    low = bisect_left(busy, line[start], key=lambda one: one[0])
    high = bisect_right(busy, line[end - 1], key=lambda one: one[0])
    return Gap(start, end, left, right, busy[low:high])


def plan(state: RepositoryState, *, slots: int, now: float) -> list[Due]:
    """What is due at ``now`` (POSIX seconds), most urgent first; more than ``slots`` can take is not looked for.

    What ends pull requests needs no slot and comes first, then second tries of what flaked. Then sessions, for they
    take longest and others wait for them; then the tries that find boundaries; then those that are nearly certain to
    succeed.
    """
    planner = _Planner(state, slots, now)
    if state.again:
        planner.once_more()
    line, verified, prs, busy = state.open, state.verified, state.prs, _busy(state)
    start = 0
    while start < len(line):
        index = bisect_left(verified, line[start])
        if 0 < index < len(verified) and len(planner.likely) >= slots:
            one, other = prs[verified[index - 1][1]], prs[verified[index][1]]
            if one.context == other.context:
                start = bisect_left(line, verified[index], start)
                continue
        gap = _gap_at(state, start, busy)
        planner.look_at(gap)
        start = gap.end
    planner.sessions.sort(key=lambda one: -one[0])
    sessions = [due for _, due in planner.sessions]
    return planner.last + planner.again + sessions + planner.probes + planner.likely + planner.safe + planner.races


class _Planner:
    """Collects what is due, gap by gap."""

    def __init__(self, state: RepositoryState, slots: int, now: float) -> None:
        self.state, self.slots, self.now = state, slots, now
        self.policy: CascadePolicy = policy_of(state)
        self.sessions: list[tuple[int, Due]] = []
        self.probes: list[Due] = []
        self.last: list[Due] = []
        self.again: list[Due] = []
        self.likely: list[Due] = []
        self.safe: list[Due] = []
        self.races: list[Due] = []
        self._chosen: set[int] = set()

    def once_more(self) -> None:
        """Adds the second tries of what flaked; first of all, for one may spare a session."""
        members = self.state.members.get(self.state.sweep, ())
        for number in self.state.again:
            pr = self.state.prs[number]
            if number in members and self._is_free(pr) and pr.again:
                self.again.append(self._due(pr, once_more(pr, pr.again)))

    def look_at(self, gap: Gap) -> None:
        """Adds what is due in ``gap``."""
        inside = gap.context or self._around_an_odd_one(gap)
        if inside is not None:
            self._inside(gap, inside)
        else:
            self._between(gap)

    def _free(self, index: int) -> PrRecord | None:
        """The open pull request at ``index``, unless it is in an attempt, chosen already, or left alone for a while."""
        pr = self.state.prs[self.state.open[index][1]]
        return pr if self._is_free(pr) else None

    def _is_free(self, pr: PrRecord) -> bool:
        return pr.state not in IN_ATTEMPT and pr.issue_number not in self._chosen and self.now >= pr.not_before

    def _due(self, pr: PrRecord, step: Step, *, unlocks: int = 1) -> Due:
        self._chosen.add(pr.issue_number)
        return Due(pr, step, unlocks)

    # ------------------------------------------------------------ the same context on both sides

    def _around_an_odd_one(self, gap: Gap) -> str | None:
        """The context of both sides, if one end is a lone pull request on which that very context was refuted."""
        if gap.left is None or gap.right is None:
            return None
        verified, prs = self.state.verified, self.state.prs
        index = bisect_left(verified, (gap.right.at, gap.right.issue_number))
        one, other = gap.left.context, gap.right.context
        if one in gap.right.tried and index + 1 < len(verified) and prs[verified[index + 1][1]].context == one:
            return one
        if other in gap.left.tried and index >= 2 and prs[verified[index - 2][1]].context == other:
            return other
        return None

    def _inside(self, gap: Gap, context: str) -> None:
        source = gap.left if gap.left is not None and gap.left.context == context else gap.right
        assert source is not None  # noqa: S101 - one end has the context
        step: Try | None = None
        for index in range(gap.start, gap.end):
            if len(self.likely) >= self.slots:
                return
            pr = self._free(index)
            if pr is None:
                continue
            if context in pr.tried:
                self._odd(pr, context)
                continue
            if step is None:
                ends = [one.issue_number for one in (gap.left, gap.right) if one is not None]
                reason = (
                    f"tries PR {source.issue_number}'s context: it fits on both sides, around {ends[0]} to {ends[-1]}"
                )
                step = Try(Stage.TRY_SIMILAR, context, source.issue_number, reason)
            self.likely.append(self._due(pr, step))

    def _odd(self, pr: PrRecord, context: str) -> None:
        """A pull request that the context of its surroundings does not fit."""
        step: Step | None = next(candidates(self.state, pr, tried=pr.tried, most=ODD_TRIES), None)
        if step is not None:
            self.likely.append(self._due(pr, step))
            return
        for one in self.state.inflight.values():
            if _may_explain(one) and context in self.state.prs[one.issue_number].tried:
                return
        if any(context in due.pr.tried for due in (*self.again, *(due for _, due in self.sessions))):
            return
        if not may_generate(self.state, pr):
            self.last.append(self._due(pr, last_resort(self.state, pr)))
        else:
            reason = f"{len(pr.tried)} contexts around it do not build it"
            self.sessions.append((1, self._due(pr, self._session(pr, reason))))

    # ------------------------------------------------------------ a boundary between

    def _between(self, gap: Gap) -> None:
        start, end = gap.start, gap.end
        left_end, left_known = self._plausible_from_left(gap)
        right_start, right_known = self._plausible_from_right(gap)
        if left_end < right_start:
            self._unexplained(gap, left_end, right_start)
            split_left, split_right = left_end, right_start
        else:
            middle = (right_start + left_end + 1) // 2
            split_left = middle if gap.right is not None else left_end
            split_right = middle if gap.left is not None else right_start
        whole = float(end - start + 1)
        if gap.left is not None:
            doubt = not left_known and not right_known and gap.right is not None
            bound = float(left_end - start + 1) if left_known else (whole if doubt else float("inf"))
            self._probe(gap, range(start, min(left_end, split_left)), gap.left, bound)
        if gap.right is not None:
            doubt = not left_known and not right_known and gap.left is not None
            bound = float(end - right_start + 1) if right_known else (whole if doubt else float("inf"))
            self._probe(gap, range(end - 1, max(right_start, split_right) - 1, -1), gap.right, bound)

    def _plausible_from_left(self, gap: Gap) -> tuple[int, bool]:
        """Up to where (exclusive) the left end's context may fit, and whether a refutation tells so."""
        if gap.left is None or gap.left.context is None:
            return gap.start, False
        places = self.state.refuted.get(gap.left.context, [])
        index = bisect_right(places, (gap.left.at, gap.left.issue_number))
        if index < len(places) and (gap.right is None or places[index] < (gap.right.at, gap.right.issue_number)):
            return bisect_left(self.state.open, places[index], gap.start, gap.end), True
        return gap.end, False

    def _plausible_from_right(self, gap: Gap) -> tuple[int, bool]:
        """From where on the right end's context may fit, and whether a refutation tells so."""
        if gap.right is None or gap.right.context is None:
            return gap.end, False
        places = self.state.refuted.get(gap.right.context, [])
        index = bisect_left(places, (gap.right.at, gap.right.issue_number)) - 1
        if index >= 0 and (gap.left is None or places[index] > (gap.left.at, gap.left.issue_number)):
            return bisect_right(self.state.open, places[index], gap.start, gap.end), True
        return gap.start, False

    def _probe(self, gap: Gap, region: range, source: PrRecord, bound: float) -> None:
        """Tries ``source``'s context in ``region``, nearest first; at distance ``bound`` it is known not to fit."""
        if not region or source.context is None:
            return
        context = source.context
        tail = survival(bound) if bound != float("inf") else 0.0

        def within(chance: float) -> int:
            return max(1, min(len(region), reach(chance * (1.0 - tail) + tail)))

        if not any(one.context == context and one.stage is not Stage.LLM_GENERATE for _, one in gap.busy):
            far = within(PROBE)
            for index in (*reversed(region[:far]), *region[far:]):
                pr = self._free(index)
                if pr is not None:
                    reason = f"tries PR {source.issue_number}'s context to find how far it reaches: "
                    reason += f"{far} of {len(region)} pull requests for which it may do"
                    step = Try(Stage.TRY_SIMILAR, context, source.issue_number, reason)
                    self.probes.append(self._due(pr, step))
                    break
        if len(self.safe) > self.slots or survival(1.0) < SAFE * (1.0 - tail) + tail:
            return
        for index in region[: within(SAFE)]:
            pr = self._free(index)
            if pr is not None:
                reason = f"tries PR {source.issue_number}'s context: a close neighbour, it will most likely do"
                step = Try(Stage.TRY_SIMILAR, context, source.issue_number, reason)
                self.safe.append(self._due(pr, step))

    # ------------------------------------------------------------ unexplained stretches

    def _unexplained(self, gap: Gap, start: int, end: int) -> None:
        """Pays for pivots of the stretch ``start`` to ``end`` (exclusive), which no known context explains."""
        places = [place for place, one in gap.busy if _may_explain(one)]
        places += [(one.pr.at, one.pr.issue_number) for one in self.again if _is_made_here(one.step)]
        paid = [bisect_left(self.state.open, place) for place in places]
        while True:
            at = next_pivot(start, end, paid)
            pr = self._pivot_near(at, start, end) if at is not None else None
            if at is None or pr is None:
                break
            others = end - start - 1
            reason = f"no known context builds it; it divides a stretch of {others + 1} unexplained pull requests"
            self.sessions.append((end - start, self._due(pr, self._session(pr, reason), unlocks=end - start)))
            paid = sorted([*paid, bisect_left(self.state.open, (pr.at, pr.issue_number))])
        if not paid:
            for index in range(start, end):
                pr = self._free(index)
                if pr is not None:
                    self.last.append(self._due(pr, last_resort(self.state, pr)))
            return
        self._race(start, end, paid)

    def _race(self, start: int, end: int, paid: list[int]) -> None:
        """A second session, in a slot that nobody else needs, for a stretch on which several have failed in vain."""
        failed = sum(self.state.prs[number].generations for _, number in self.state.open[start:end])
        under_way = [index for index in paid if start <= index < end]
        if failed < RACE_AFTER * max(1, len(under_way)):
            return
        edges = [start - 1, *under_way, end]
        low, high = max(pairwise(edges), key=lambda part: part[1] - part[0])
        pr = self._pivot_near((low + high) // 2, start, end) if high - low > 1 else None
        if pr is not None:
            reason = f"{failed} sessions have failed on the {end - start} pull requests around it, and a slot is free"
            self.races.append(self._due(pr, self._session(pr, reason)))

    def _pivot_near(self, at: int, start: int, end: int) -> PrRecord | None:
        """The pull request nearest to ``at`` with the fewest sessions spent on it; none if all are spent."""
        best: PrRecord | None = None
        for step in range(end - start):
            for index in {at - step, at + step}:
                pr = self._free(index) if start <= index < end else None
                if pr is None or not may_generate(self.state, pr):
                    continue
                if best is None or pr.generations < best.generations:
                    best = pr
            if best is not None and (best.generations == 0 or step >= NEAR):
                break
        return best

    def _session(self, pr: PrRecord, reason: str) -> Step:
        known = next(claims(self.state, pr, tried=pr.tried), None)
        if known is not None:
            return known
        if may_try_stock(self.state, pr):
            stock = self.policy.stock_context
            return Try(Stage.TRY_DEFAULT, stock, None, f"{reason}; the stock template before an agent is paid")
        return Generate(reason)


def _may_explain(attempt: InFlight) -> bool:
    """Whether an attempt may show a context that no pull request has yet: a session, its second try, the template."""
    return attempt.stage in _AGENT_OR_STOCK or attempt.source is None


def _is_made_here(step: Step) -> bool:
    """Whether a second try is of a context that no other pull request has."""
    return isinstance(step, Try) and step.source is None
