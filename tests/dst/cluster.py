"""A cluster in one thread: named actors, calls between them over a bad network, death and restart as Ray has them.

What Ray promises (``actors.gateway``) is what this keeps, and not more: a call that returns has happened; a call that
raised ``ActorGone`` may have happened; a dead actor comes back under its name without memory while its owner lives; an
actor whose owner died is gone for good. Arguments and results are pickled on the way.

On top of that the network delays every message, loses some (the request, or only the answer) and delivers some twice;
processes die at fault points and at any other moment; and a cut-off process may live on beside its replacement.
"""

from __future__ import annotations

import asyncio
import inspect
import pickle
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from actors.gateway import ActorFailed, ActorGone, Ref
from events.errors import HeadraceError
from tests.dst.loop import ROOT, Killed, LockstepThread, Process, VirtualLoop, current_process, wait_for

__all__ = ["Cluster", "Faults", "SimRef"]

REPEATABLE = frozenset(
    {
        *("append", "read", "contexts_of", "put_blob", "get_blob", "has_blob"),
        *("exchange", "renew", "give_back_all_but", "ended", "news", "accounts", "attempts_of"),
        *(
            "perform",
            "outcome_of",
            "knows",
            "cancel",
            "end_attempt",
            "salvage",
            "live",
            "snapshot",
            "snapshots",
            "progress",
        ),
    }
)
"""Calls that the actors' docstrings allow to be repeated: only these are delivered twice."""
CUT_OFF = ("repositories:", "governor")
"""Actors that the log fences, so that they may live on beside their replacement."""


class Faults(msgspec.Struct, kw_only=True):
    """How bad a run is.

    ``lose``, ``repeat``: part of all messages; ``die``: part of all fault points reached, at most ``deaths`` in all;
    ``every_s``: seconds between deaths at any moment, 0 for none; ``cut_off``: part of the deaths that leave the
    process alive; ``at``: fault points with the occurrences, counted over all processes, at which one dies besides.
    """

    lose: float = 0.0
    repeat: float = 0.0
    delay_s: float = 0.002
    die: float = 0.0
    deaths: int = 0
    cut_off: float = 0.0
    every_s: float = 0.0
    at: list[tuple[str, int]] = []

    @classmethod
    def drawn(cls, rng: random.Random) -> Faults:
        """What a seed decides."""
        return cls(
            lose=rng.choice([0.0, 0.0, 0.01, 0.05]),
            repeat=rng.choice([0.0, 0.0, 0.05, 0.3]),
            delay_s=rng.choice([0.002, 0.02, 0.2]),
            die=rng.choice([0.0, 0.005, 0.02, 0.1]),
            deaths=rng.randrange(1, 16),
            cut_off=rng.choice([0.0, 0.0, 0.3]),
            every_s=rng.choice([0.0, 0.0, 20.0, 5.0]),
        )


class Actor:
    """What is under a name: the living process of an actor, if there is one, and how to make the next."""

    def __init__(self, name: str, make: Callable[[], object], owner: Process) -> None:
        self.name, self.make, self.owner = name, make, owner
        self.target: object | None = None
        self.process: Process | None = None
        self.started = self.gone = False
        self.early: list[Callable[[], None]] = []
        self.calls: dict[int, asyncio.Future[Any]] = {}


class SimRef(Ref):
    """A handle on a simulated actor."""

    cluster: Cluster

    def __reduce__(self) -> tuple[object, ...]:
        return (SimRef, (self.name,))

    async def call(self, method: str, *args: object) -> Any:
        return _opened(await self.cluster.send(self.name, method, args))

    def ask(self, method: str, *args: object, timeout_s: float | None = None) -> Any:
        return _opened(wait_for(self.cluster.send(self.name, method, args)))

    def kill(self) -> None:
        self.cluster.remove(self.name)


def _opened(answer: bytes) -> Any:
    ok, value = pickle.loads(answer)  # noqa: S301 - made below
    if not ok:
        raise value
    return value


def _sealed(value: Any, error: BaseException | None, where: str) -> bytes:
    if error is None:
        return pickle.dumps((True, value))
    if not isinstance(error, HeadraceError):
        error = ActorFailed(f"{where} failed: {type(error).__name__}: {error}")
    return pickle.dumps((False, error))


class Cluster:
    """See the module. ``note`` is told of everything that happens, in words that a replay must repeat."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, faults: Faults, note: Callable[[str], None]) -> None:
        self._loop, self._rng, self.faults, self._note = loop, rng, faults, note
        self._actors: dict[str, Actor] = {}
        self._number = 0
        self._reached: Counter[str] = Counter()
        self.killed = 0
        SimRef.cluster = self

    # ------------------------------------------------------------ actors

    def spawn(self, make: Callable[[], object], name: str) -> SimRef:
        """Makes an actor under ``name``, or finds the one that is there."""
        actor = self._actors.get(name)
        if actor is None:
            actor = self._actors[name] = Actor(name, make, current_process())
            self._later(self._rng.uniform(0.05, 0.5), self._start, actor)
        return SimRef(name)

    def remove(self, name: str) -> None:
        """Ends an actor for good, at once, with all that it owns."""
        actor = self._actors.pop(name, None)
        if actor is not None:
            actor.gone = True
            self._end(actor)

    def remove_all(self) -> None:
        """The whole cluster is lost."""
        for name in list(self._actors):
            self.remove(name)

    def strike(self, point: str) -> None:
        """A fault point was reached: its process may die here."""
        self._reached[point] += 1
        planned = (point, self._reached[point]) in self.faults.at
        if planned or (self.faults.deaths > 0 and self._rng.random() < self.faults.die):
            process = current_process()
            actor = next((one for one in self._actors.values() if one.process is process), None)
            if actor is not None:
                self.kill(actor, f"at {point}")
            if not process.alive:
                raise Killed

    def strike_anyone(self) -> None:
        """A process dies at an arbitrary moment."""
        living = [one for one in self._actors.values() if one.process is not None]
        if living and self.faults.deaths > 0:
            self.kill(self._rng.choice(living), "at some moment")

    def kill(self, actor: Actor, where: str) -> None:
        """SIGKILL, or the loss of every connection to it; it is restarted after a while."""
        self.faults.deaths -= 1
        self.killed += 1
        cut_off = actor.name.startswith(CUT_OFF) and self._rng.random() < self.faults.cut_off
        self._note(f"{'cut off' if cut_off else 'killed'} {actor.name} {where}")
        self._end(actor, cut_off=cut_off)
        self._later(self._rng.uniform(0.5, 4.0), self._start, actor)

    def _end(self, actor: Actor, *, cut_off: bool = False) -> None:
        process, actor.process, actor.target = actor.process, None, None
        for deliver in actor.early if actor.gone else []:
            deliver()
        calls, actor.calls = actor.calls, {}
        for future in calls.values():
            self._later(self._delay(), self._fail, future, f"{actor.name}: its process ended")
        if process is None:
            return
        if not cut_off:
            process.alive = False
            for owned in [one for one in self._actors.values() if one.owner is process]:
                self._later(self._rng.uniform(0.0, 0.4), self._remove_orphan, owned)
            process.die()

    def _remove_orphan(self, actor: Actor) -> None:
        if self._actors.get(actor.name) is actor:
            self.remove(actor.name)

    def _start(self, actor: Actor) -> None:
        if actor.gone or actor.process is not None:
            return
        process = Process(actor.name)
        actor.process = process
        actor.target = process.context().run(actor.make)
        actor.started = True
        self._note(f"started {actor.name}")
        early, actor.early = actor.early, []
        for deliver in early:
            deliver()

    # ------------------------------------------------------------ messages

    def send(self, name: str, method: str, args: tuple[object, ...]) -> asyncio.Future[bytes]:
        """Sends a call on its way; the future is failed with ``ActorGone`` or gets the sealed answer."""
        future: asyncio.Future[bytes] = self._loop.create_future()
        data = pickle.dumps(args)
        fate = self._rng.random()
        lost_request = fate < self.faults.lose / 2
        lost_answer = not lost_request and fate < self.faults.lose
        if lost_request or lost_answer:
            self._note(f"lost {'request' if lost_request else 'answer'} of {name}.{method}")
            self._later(2 * self._delay() + 0.1, self._fail, future, f"{name}.{method}: the connection broke")
        if lost_request:
            return future
        actor = self._actors.get(name)
        process = actor.process if actor else None
        nobody: asyncio.Future[bytes] = self._loop.create_future()
        delay = self._delay()
        self._later(delay, self._deliver, process, name, method, data, nobody if lost_answer else future)
        if method in REPEATABLE and self._rng.random() < self.faults.repeat:
            self._later(delay, self._deliver, process, name, method, data, self._loop.create_future())
        return future

    def _deliver(
        self, process: Process | None, name: str, method: str, data: bytes, future: asyncio.Future[bytes]
    ) -> None:
        actor = self._actors.get(name)
        if actor is not None and not actor.started:
            actor.early.append(lambda: self._deliver(actor.process, name, method, data, future))
            return
        if actor is None or process is None or actor.process is not process:
            self._later(self._delay(), self._fail, future, f"there is no living actor {name}")
            return
        self._number += 1
        number = self._number
        self._note(f"call {number} {name}.{method}")
        actor.calls[number] = future
        where = f"{name}.{method}"

        def answer(value: Any, error: BaseException | None) -> None:
            if process.alive and number in actor.calls:
                del actor.calls[number]
                self._later(self._delay(), self._fulfil, future, _sealed(value, error, where))

        function = getattr(actor.target, method)
        process.context().run(self._begin, function, pickle.loads(data), answer)  # noqa: S301 - of our own

    def _begin(
        self,
        function: Callable[..., Any],
        args: tuple[object, ...],
        answer: Callable[[Any, BaseException | None], None],
    ) -> None:
        if not inspect.iscoroutinefunction(function):
            LockstepThread(lambda: function(*args), answer).start()
            return

        async def run() -> None:
            try:
                result = await function(*args)
            except Exception as exc:
                answer(None, exc)
            else:
                answer(result, None)

        self._loop.create_task(run())

    def _fulfil(self, future: asyncio.Future[bytes], answer: bytes) -> None:
        if not future.done():
            future.set_result(answer)

    def _fail(self, future: asyncio.Future[bytes], why: str) -> None:
        if not future.done():
            future.set_exception(ActorGone(why))

    def _delay(self) -> float:
        return self._rng.expovariate(1.0 / self.faults.delay_s)

    def _later(self, delay_s: float, work: Callable[..., object], *args: object) -> None:
        self._loop.call_later(delay_s, work, *args, context=ROOT.context())
