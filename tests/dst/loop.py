"""An event loop with a virtual clock and a seeded scheduler, in which "processes" can be killed.

Time stands still while anything can run and then jumps to the next timer. Every callback belongs to the process in
whose context it was scheduled. Which process goes on next is drawn from the seed; within a process callbacks keep
their order, as asyncio promises it to the code. What belongs to a killed process is never run again: no ``finally``, no
message, as after SIGKILL.

Blocking code runs in threads that take strict turns with the loop (:class:`LockstepThread`): at any time one thread
runs, so a seed replays exactly. Only :class:`SimEvent`, :func:`sleep` and :func:`wait_for` may block.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = [
    "Killed",
    "LockstepThread",
    "Process",
    "SimEvent",
    "Stuck",
    "VirtualLoop",
    "current_process",
    "sleep",
    "wait_for",
]


class Killed(BaseException):
    """Unwinds code whose process has been killed while it ran; nothing it does meanwhile has an effect."""


class Stuck(AssertionError):
    """Nothing can run and no timer is set, or virtual time ran out."""


class Process:
    """One incarnation of an actor, or the network and the driver (``ROOT``)."""

    def __init__(self, name: str) -> None:
        self.name, self.alive = name, True
        self.threads: list[LockstepThread] = []
        self._context = contextvars.Context()
        self._context.run(_process.set, self)

    def context(self) -> contextvars.Context:
        """A context in which what is scheduled belongs to this process."""
        return self._context.copy()

    def die(self) -> None:
        """Ends the process: its callbacks are dropped, its other threads unwound."""
        self.alive = False
        for thread in self.threads:
            thread.unwind()
        self.threads.clear()


_process: contextvars.ContextVar[Process] = contextvars.ContextVar("process")
ROOT = Process("world")


def current_process() -> Process:
    """The process whose code is running."""
    return _process.get(ROOT)


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. ``ends_at``: virtual seconds after which the run counts as stuck."""

    def __init__(self, rng: random.Random, *, ends_at: float) -> None:
        super().__init__()
        self._rng, self._ends_at = rng, ends_at
        self._now = 0.0
        self.steps = 0
        self.failure: BaseException | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._busy: dict[int, float] = {}
        self.set_task_factory(self._new_task)  # type: ignore[arg-type]
        self.set_exception_handler(lambda _loop, _context: None)

    def time(self) -> float:
        return self._now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Runs ``func`` after a while; the jobs of one executor one after the other, in their order."""
        future = self.create_future()
        at = max(self._now, self._busy.get(id(executor), 0.0)) + self._rng.uniform(0.0005, 0.01)
        self._busy[id(executor)] = at

        def job() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as exc:
                future.set_exception(exc)

        self.call_at(at, job)
        return future

    def abandon(self) -> None:
        """Ends what dead processes left suspended. Its effects are dropped with the loop."""
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                try:
                    task.get_coro().close()
                except (RuntimeError, ValueError):
                    continue

    def _new_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=loop, **options)
        self._tasks.append(task)
        if len(self._tasks) > 2_000:
            self._tasks = [one for one in self._tasks if not one.done()]
        return task

    def _run_once(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        if not ready:
            self._jump()
            return
        self.steps += 1
        chosen = self._rng.randrange(len(ready)) if len(ready) > 1 else 0
        if chosen:
            process = _owner(ready[chosen])
            chosen = next(index for index in range(chosen + 1) if _owner(ready[index]) is process)
        handle = ready[chosen]
        del ready[chosen]
        if not handle._cancelled and _owner(handle).alive:
            handle._run()

    def _jump(self) -> None:
        """Sets the clock to the next timer and makes it ready."""
        scheduled = self._scheduled  # type: ignore[attr-defined]
        if not scheduled:
            raise Stuck(f"at {self._now:.3f} s nothing can run any more")
        handle = heapq.heappop(scheduled)
        handle._scheduled = False
        if handle._cancelled:
            return
        self._now = max(self._now, handle._when)
        if self._now > self._ends_at:
            raise Stuck(f"not at its end after {self._ends_at:.0f} virtual seconds")
        self._ready.append(handle)  # type: ignore[attr-defined]

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        return None

    def _write_to_self(self) -> None:
        return None


def _owner(handle: Any) -> Process:
    owner: Process = handle._context.get(_process, ROOT)
    return owner


class LockstepThread:
    """Blocking code of a process, run in turns with the loop. ``done`` gets its result or its exception."""

    _local = threading.local()

    def __init__(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self.process = current_process()
        self._loop = asyncio.get_running_loop()
        self._work, self._done = work, done
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._killed = self._finished = False
        self._result: Any = None
        self._error: BaseException | None = None
        self.process.threads.append(self)
        self._thread = threading.Thread(target=self.process.context().run, args=(self._main,), daemon=True)

    @classmethod
    def current(cls) -> LockstepThread:
        """The one whose code is running."""
        found: LockstepThread = cls._local.thread
        return found

    def start(self) -> None:
        """Runs it until it first blocks or ends."""
        self._thread.start()
        self._back.acquire()
        self._settle()

    def wake(self) -> None:
        """Lets it go on, soon."""
        self._loop.call_soon(self._resume, context=self.process.context())

    def block(self) -> None:
        """Called in the thread: gives the turn away until :meth:`wake`."""
        if self._killed:
            raise Killed
        self._back.release()
        self._go.acquire()
        if self._killed:
            raise Killed

    def unwind(self) -> None:
        """Ends it where it blocks; not called for the thread that is running."""
        if self._finished or getattr(self._local, "thread", None) is self:
            return
        self._killed = True
        self._go.release()
        self._back.acquire()

    def _resume(self) -> None:
        if not self._finished:
            self._go.release()
            self._back.acquire()
            self._settle()

    def _settle(self) -> None:
        if self._finished and self.process.alive:
            self.process.threads.remove(self)
            self._done(self._result, self._error)

    def _main(self) -> None:
        self._local.thread = self
        try:
            self._result = self._work()
        except BaseException as exc:
            self._error = exc
        finally:
            self._finished = True
            self._back.release()


def sleep(seconds: float) -> None:
    """``time.sleep`` in virtual time, in a :class:`LockstepThread`."""
    thread = LockstepThread.current()
    thread._loop.call_later(seconds, thread._resume, context=thread.process.context())
    thread.block()


def wait_for(future: asyncio.Future[Any]) -> Any:
    """Blocks a :class:`LockstepThread` until a future is done; its result."""
    thread = LockstepThread.current()
    future.add_done_callback(lambda _: thread._resume(), context=thread.process.context())
    thread.block()
    return future.result()


class SimEvent:
    """``threading.Event`` between lockstep threads."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[LockstepThread] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        waiting, self._waiting = self._waiting, []
        for thread in waiting:
            thread.wake()

    def wait(self, timeout: float | None = None) -> bool:
        if self._set:
            return True
        thread = LockstepThread.current()
        self._waiting.append(thread)
        timer = None
        if timeout is not None:
            timer = thread._loop.call_later(timeout, self._expire, thread, context=thread.process.context())
        thread.block()
        if timer is not None:
            timer.cancel()
        return self._set

    def _expire(self, thread: LockstepThread) -> None:
        if thread in self._waiting:
            self._waiting.remove(thread)
            thread._resume()
