"""The repository machine driven at random, against a model that only counts: ``decide`` and ``evolve``, nothing else.

Commands come in any order and again: admissions (also with other inputs, of other sweeps), imported contexts, slots
with and without agents, outcomes of every class, late and repeated ones, interrupts, claims, revocations by people and
by what attempts found, retries. The model knows which pull requests there are, which attempts are under way, what was
refuted on whom, what was verified and what is revoked. Whatever happened, a machine that is fed with slots and outcomes
comes to its end.
"""

from __future__ import annotations

import copy
import random
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from events.commands import (
    Admit,
    AwaitLease,
    Claim,
    ImportContexts,
    Interrupt,
    Reopen,
    Revoke,
    TakeOutcome,
)
from events.decide import is_drained
from events.errors import IllegalTransition
from events.pull_request import FINISHED, IN_ATTEMPT, TRANSITIONS, PrState
from events.repository import evolve
from events.repository_state import RepositoryState
from events.streams import first_difference, machine_of
from events.types import (
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
    ContextRevoked,
    ImportedContext,
    LeaseAwaited,
    PullRequestReopened,
    RepositoryEvent,
)
from events.wanting import wanted
from events.work import CascadePolicy, FailureClass, Stage, VerificationRules
from tests.events.worlds import RULES, STOCK, admission, outcome
from tests.machines.budget import budget
from tests.machines.out_of_the_blue import out_of_the_blue
from tests.machines.repository_shell import RepositoryShell

NUMBERS = range(1, 9)
SWEEPS = ("s", "t")
STRICT = VerificationRules(min_pass_ratio=1.0)
STEP_S = 30.0
ENDS_AFTER = 2_000
ENDS = AttemptSucceeded | AttemptFailed | AttemptInterrupted | AttemptRateLimited

numbers, sweeps = st.sampled_from(NUMBERS), st.sampled_from(SWEEPS)
classes = st.sampled_from(
    [
        FailureClass.RECIPE,
        FailureClass.INFRA,
        FailureClass.TIMEOUT,
        FailureClass.FLAKE,
        FailureClass.TAMPER,
        FailureClass.AGENT,
    ]
)
policies = st.builds(
    CascadePolicy,
    stock_context=st.just(STOCK),
    window_days=st.sampled_from([0.0, 2.0, 60.0]),
    neighbor_cap=st.sampled_from([0, 1, 40]),
    tasks_per_repo=st.sampled_from([0, 0, 1, 3]),
    try_default=st.booleans(),
    max_candidates=st.sampled_from([1, 6]),
    generate=st.sampled_from([True, True, False]),
    max_attempts=st.integers(1, 4),
    max_aborted=st.integers(1, 2),
    rl_max_retries=st.integers(0, 2),
    race=st.integers(1, 3),
)


def trigger_of(event: RepositoryEvent) -> str:
    """The event as the transition table names it."""
    stage = getattr(event, "stage", None)
    return f"{type(event).__name__}:{stage}" if isinstance(stage, Stage) else type(event).__name__


class RepositoryMachine(RepositoryShell, RuleBasedStateMachine):
    """See the module."""

    @initialize(policy=policies, seeds=st.lists(numbers, max_size=8, unique=True), others=st.booleans())
    def begin(self, policy: CascadePolicy, seeds: list[int], others: bool) -> None:
        self.policy = policy
        self.do(Claim(incarnation="i0", sweep="s"))
        self.admit("s", [(number, True) for number in seeds], "", strict=False)
        if others:
            self.admit("s", [(number, False) for number in NUMBERS if number not in seeds], "", strict=False)

    # ------------------------------------------------------------ what a shell does

    # ------------------------------------------------------------ rules

    @rule(
        sweep=sweeps,
        rows=st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=6, unique_by=lambda row: row[0]),
        other=st.sampled_from(["", "", "", "other inputs"]),
        strict=st.sampled_from([False, False, True]),
    )
    def admit(self, sweep: str, rows: list[tuple[int, bool]], other: str, *, strict: bool) -> None:
        """As an actor does it: what is in an attempt keeps the inputs and rules of that attempt."""
        busy = {one.issue_number for one in self.running.values()}
        rules = STRICT if strict and not busy else RULES
        if any(self.admitted.get(number, ("", rules))[1] != rules for number in busy):
            rules = self.admitted[next(iter(busy))][1]
        pull_requests = []
        for number, seed in rows:
            inputs = self.admitted[number][0] if number in busy else other and f"{other} of {number}"
            if number in busy and self.admitted[number][1] != rules:
                continue
            pull_requests.append(admission(number, inputs=inputs, seed=seed))
        command = Admit(sweep=sweep, rules=rules, policy=self.policy, pull_requests=pull_requests)
        self.do(command)
        assert self.members.get(sweep, set()) >= {one.issue_number for one in pull_requests}, "none is lost"
        assert self.do(command) == [], "admitting again says nothing"

    @rule(sweep=sweeps)
    def claim(self, sweep: str) -> None:
        self.do(Claim(incarnation=f"i{next(self._ids)}", sweep=sweep))

    @rule(
        number=numbers,
        strict=st.booleans(),
        context=st.sampled_from(["c" * 64, "d" * 64]),
        parent=st.sampled_from([None, "c" * 64]),
        revoked=st.sampled_from([None, None, None, "elsewhere"]),
    )
    def import_context(self, number: int, strict: bool, context: str, parent: str | None, revoked: str | None) -> None:
        known = ImportedContext(
            context=context,
            issue_number=number,
            created_at=admission(number).created_at,
            inputs=f"inputs-{number}",
            rules=STRICT if strict else RULES,
            attempt_id="old",
            parent=parent if parent != context else None,
            revoked=revoked,
        )
        self.do(ImportContexts(contexts=[known]))
        assert self.do(ImportContexts(contexts=[known])) == []

    @rule(which=st.randoms(use_true_random=False))
    def revoke(self, which: Any) -> None:
        """Anything that the repository knows, the stock template among it."""
        context = which.choice([*sorted(self.state.contexts()), "unknown"])
        command = Revoke(context=context, why="a person says so")
        new = context != "unknown" and context not in self.revoked
        assert [type(one) for one in self.do(command)] == [ContextRevoked] * new
        assert self.do(command) == [], "revoking again says nothing"

    @rule(sweep=sweeps, wanted=st.lists(numbers, max_size=4))
    def retry(self, sweep: str, wanted: list[int]) -> None:
        failed = {number for number, pr in self.state.prs.items() if pr.state is PrState.FAILED}
        command = Reopen(sweep=sweep, issue_numbers=wanted, reason="tried again")
        opened = {one.issue_number for one in self.do(command) if isinstance(one, PullRequestReopened)}
        assert opened == failed & set(wanted) & self.members.get(sweep, set())
        assert self.do(command) == []

    @rule(count=st.integers(1, 4), agents=st.lists(st.sampled_from([None, "claude", "codex"]), min_size=4, max_size=4))
    def fill(self, count: int, agents: list[str | None]) -> None:
        self.offer([self.slot(one) for one in agents[:count]], awaits=True)

    @rule(accounts=st.lists(st.sampled_from(["claude", "claude:b", "codex"]), min_size=1, max_size=4))
    def grant_sessions(self, accounts: list[str]) -> None:
        """As a shell does that was granted some of what it wanted; what is wanted is used, unless it races in vain."""
        want = wanted(self.state, most=4, now=self.now)
        slots = [self.slot(account, one.issue_number) for account, one in zip(accounts, want.sessions, strict=False)]
        if slots:
            used = self.offer(slots, awaits=False)
            first = {one.issue_number for one in want.sessions[: len(slots)] if one.unlocks}
            assert first <= {one.issue_number for one in used}, "who was first in turn is served"

    @rule(which=st.randoms(use_true_random=False))
    def no_lease_is_granted(self, which: Any) -> None:
        numbers = [one.issue_number for one in wanted(self.state, most=4, now=self.now).sessions]
        command = AwaitLease(issue_numbers=numbers[: which.randint(0, 4)], reason="none is free", until=self.now + 60)
        for one in self.do(command):
            if isinstance(one, LeaseAwaited):
                assert one.issue_number in command.issue_numbers
        assert self.do(command) == []

    @precondition(lambda self: self.running)
    @rule(
        which=st.randoms(use_true_random=False),
        cls=st.one_of(st.none(), st.none(), classes),
        cancelled=st.booleans(),
        limited=st.booleans(),
    )
    def take_outcome(self, which: Any, cls: FailureClass | None, cancelled: bool, limited: bool) -> None:
        attempt = which.choice(list(self.running.values()))
        self.end(attempt, cls, cancelled=cancelled and cls is FailureClass.INFRA, limited=limited)
        assert attempt.attempt_id not in self.state.inflight
        assert self.do(self.given) == [], "an outcome counts once"

    @precondition(lambda self: self.running)
    @rule(which=st.randoms(use_true_random=False), died=st.booleans())
    def interrupt(self, which: Any, died: bool) -> None:
        attempt_id = which.choice(list(self.running))
        self.do(Interrupt(attempt_id=attempt_id, reason="its runner died", runner_died=died))
        assert attempt_id in self.ended

    @precondition(lambda self: self.ended)
    @rule(which=st.randoms(use_true_random=False), cls=st.one_of(st.none(), classes))
    def an_outcome_comes_late(self, which: Any, cls: FailureClass | None) -> None:
        late = TakeOutcome(attempt_id=which.choice(self.ended), outcome=outcome(verified=cls is None, cls=cls))
        assert self.do(late) == []
        assert self.do(Interrupt(attempt_id=late.attempt_id, reason="late")) == []

    @rule(seed=st.integers(0, 2**16), turns=st.integers(1, 12))
    def work_goes_on(self, seed: int, turns: int) -> None:
        """Slots become free and attempts end, in an order that the seed decides."""
        rng = random.Random(seed)  # noqa: S311 - replayable by intent
        how = [None, None, None, *FailureClass]
        for _ in range(turns):
            self.now += rng.expovariate(1.0 / STEP_S)
            if rng.random() < 0.5:
                self.fill(rng.randrange(1, 4), [rng.choice([None, "claude"]) for _ in range(4)])
            elif self.running and rng.random() < 0.9:
                self.end(rng.choice(list(self.running.values())), rng.choice(how))
            elif self.running:
                self.interrupt(rng, died=rng.random() < 0.5)

    @rule(seconds=st.sampled_from([1.0, 60.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # ------------------------------------------------------------ every pair of state and event

    @rule(numbers=st.lists(st.integers(1, 10), min_size=1, max_size=4, unique=True))
    def every_event_out_of_the_blue(self, numbers: list[int]) -> None:
        """Each does what the table says, or raises and changes nothing."""
        attempts = ["unknown", *self.running, *self.ended[-2:]]
        trial = copy.deepcopy(self.state)
        for event in (one for number in numbers for attempt in attempts for one in out_of_the_blue(number, attempt)):
            to = self.leads_to(event)
            if to is None:
                assert refusal_of(trial, event).startswith(type(event).__name__), f"{event} is allowed"
            else:
                taken = evolve(copy.deepcopy(self.state), event)
                assert (taken.prs[number_of(event)].state, taken.version) == (to, self.state.version + 1)
        assert first_difference(trial, self.state) is None, "what is refused changes nothing"

    def leads_to(self, event: Any) -> PrState | None:
        """The state that ``event`` leads its pull request to; none: it is illegal here."""
        if isinstance(event, ContextRevoked):
            known = self.state.prs.get(event.issue_numbers[0])
            return TRANSITIONS[known.state].get("ContextRevoked") if known is not None else None
        pr = self.state.prs.get(getattr(event, "issue_number", 0))
        attempt = self.running.get(getattr(event, "attempt_id", ""))
        if pr is None or (isinstance(event, AttemptStarted) and attempt is not None):
            return None
        if not isinstance(event, ENDS):
            return TRANSITIONS[pr.state].get(trigger_of(event))
        if attempt is None or attempt.issue_number != event.issue_number:
            return None
        if event.attempt_id in self.lost:
            return pr.state if isinstance(event, AttemptInterrupted) else None
        races = len(self.racing(event.issue_number)) > 1 and not isinstance(event, AttemptSucceeded)
        return TRANSITIONS[pr.state].get(trigger_of(event) + ":racing" * races)

    # ------------------------------------------------------------ what always holds

    @invariant()
    def none_is_lost_or_doubled_and_every_attempt_is_known(self) -> None:
        state = self.state
        assert set(state.prs) == set(self.admitted)
        assert {number: (pr.inputs, pr.rules) for number, pr in state.prs.items()} == self.admitted
        assert {name: set(given) for name, given in state.members.items() if given} == {
            name: given for name, given in self.members.items() if given
        }
        assert {one.attempt_id: one.issue_number for one in state.inflight.values()} == {
            one.attempt_id: one.issue_number for one in self.running.values()
        }
        busy = {one.issue_number for one in self.running.values() if one.attempt_id not in self.lost}
        assert self.lost == {one.attempt_id for one in state.inflight.values() if one.lost}
        assert busy == {number for number, pr in state.prs.items() if pr.state in IN_ATTEMPT}

    @invariant()
    def queue_and_proofs_are_what_the_records_say(self) -> None:
        state = self.state
        verified = [pr for pr in state.prs.values() if pr.state is PrState.SUCCEEDED]
        assert list(state.verified) == sorted((pr.at, pr.issue_number) for pr in verified)
        assert all(pr.context and pr.verified_by for pr in verified)
        assert not {pr.context for pr in state.prs.values()} & self.revoked, "no poison stays verified"
        assert not {one.context for one in state.imported.values()} & self.revoked
        assert set(state.revoked) == self.revoked
        assert set(state.sessions) == self.sessions, "every session that has ended is there to be told of"
        mine = state.members.get(state.sweep, set())
        assert set(state.ready) == {
            number
            for number in mine
            if state.prs[number].reached and state.prs[number].state in (PrState.QUEUED, PrState.FIND_SIMILAR)
        }
        assert not set(state.ready) & set(state.waiting)
        for number, pr in state.prs.items():
            assert pr.tried == self.refuted.get(number, set())
            assert {one: flaked.stage for one, flaked in pr.flaked.items()} == self.flaked.get(number, {})
            assert (pr.generations, pr.generation_ended) == (self.paid.get(number, 0), number in self.tampered)
            assert (pr.aborted, pr.rate_limits) == (self.aborted.get(number, 0), self.limited.get(number, 0))
            assert pr.made not in self.revoked
            if pr.state is PrState.HELD:
                assert pr.behind in self.running, f"PR {number} waits for what is not under way"

    @invariant()
    def indexes_follow_from_the_records(self) -> None:
        state = self.state
        mine = [state.prs[number] for number in state.members.get(state.sweep, ())]
        unfinished = sorted((pr.at, pr.issue_number) for pr in mine if pr.state not in FINISHED)
        assert state.open == [place for place in unfinished if state.prs[place[1]].reached]
        assert state.unreached == [place for place in unfinished if not state.prs[place[1]].reached]
        assert set(state.queued) == {number for number in state.ready if state.prs[number].state is PrState.QUEUED}
        assert set(state.again) == {
            number for number, pr in state.prs.items() if pr.again is not None and pr.state not in FINISHED
        }
        refuted: dict[str, list[tuple[float, int]]] = {}
        held: dict[str, set[int]] = {}
        for pr in state.prs.values():
            for context in pr.tried:
                refuted.setdefault(context, []).append((pr.at, pr.issue_number))
            if pr.behind is not None:
                held.setdefault(pr.behind, set()).add(pr.issue_number)
        assert {one: places for one, places in state.refuted.items() if places} == {
            one: sorted(places) for one, places in refuted.items()
        }
        assert {one: set(waiting) for one, waiting in state.held.items() if waiting} == held

    @invariant()
    def folding_all_events_gives_the_state_that_is_live(self) -> None:
        folded = RepositoryState(repository="o/r")
        for event in self.events:
            evolve(folded, event)
        assert first_difference(folded, self.state) is None
        found = machine_of("repository:o/r")
        assert found is not None
        assert first_difference(found[0].unpack(found[0].pack(self.state)), self.state) is None

    def teardown(self) -> None:
        """Fed with slots and outcomes it comes to its end: all finished, or not reached by any cascade."""
        for sweep in SWEEPS:
            self.do(Claim(incarnation=f"i{next(self._ids)}", sweep=sweep))
            for turn in range(ENDS_AFTER):
                for attempt in list(self.running.values()):
                    classes = (FailureClass.RECIPE, FailureClass.AGENT, None, FailureClass.INFRA, FailureClass.FLAKE)
                    self.end(attempt, classes[turn % 11 % 5], limited=turn % 2 == 0)
                if is_drained(self.state):
                    break
                self.now += STEP_S * 40
                if turn % 2:
                    self.grant_sessions(["claude", "codex"])
                self.fill(2, ["claude", None, None, None])
            else:
                raise AssertionError(f"sweep {sweep} does not come to its end: {self.state.counts(sweep)}")
            for number in self.members.get(sweep, ()):
                pr = self.state.prs[number]
                assert pr.state in FINISHED or not pr.reached, f"PR {number} is {pr.state}"
        self.none_is_lost_or_doubled_and_every_attempt_is_known()
        self.queue_and_proofs_are_what_the_records_say()
        self.indexes_follow_from_the_records()
        self.folding_all_events_gives_the_state_that_is_live()


def number_of(event: Any) -> int:
    """The pull request that an event is about."""
    number: int = event.issue_numbers[0] if isinstance(event, ContextRevoked) else event.issue_number
    return number


def refusal_of(state: RepositoryState, event: Any) -> str:
    """What the refusal of an event names; empty if it is not refused."""
    try:
        evolve(state, event)
    except IllegalTransition as exc:
        return exc.event
    return ""


def test_whatever_a_shell_asks_no_pull_request_is_lost_doubled_or_done_again() -> None:
    run_state_machine_as_test(RepositoryMachine, settings=budget(120, steps=50))
