"""Many pull requests at once: a sweep, embedded in a script or in a notebook.

The sweep runs in a thread, so the caller's event loop stays free and its callbacks run in that loop. A local Ray is
started for each run and ended with it, unless the address of a cluster is given.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec
from loguru import logger

from actors.api.errors import SynthesisCancelled
from actors.api.items import SOURCE, Item, checked_item
from actors.api.states import SynthesisState
from actors.api.sweeping import by_repository, collect, open_when_free, prepare, sweep_name
from actors.api.synthesizer import Synthesizer
from actors.api.waiting import LOOK_UP_S, finish
from actors.driver import RunOptions, StopSwitch, run_sweep
from actors.settings import Settings
from actors.supervisor import SweepProgress
from events.errors import EnvironmentNotReady, InputError
from events.pull_request import IN_ATTEMPT
from events.work import PullRequest
from store.docker_context import DockerContext
from store.opening import Store, open_store

__all__ = ["RunnerProgress", "SynthesizeImagesRunner"]


class RunnerProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stands, as ``on_progress`` is told. ``phase``: that of the sweep (``starting``, ``running``, …).

    >>> RunnerProgress(phase="running", total=8, succeeded=3, failed=1, running=2).waiting
    2
    """

    phase: str
    total: int
    succeeded: int = 0
    failed: int = 0
    running: int = 0

    @property
    def waiting(self) -> int:
        """Pull requests that are neither finished nor under way."""
        return self.total - self.succeeded - self.failed - self.running


class SynthesizeImagesRunner:
    """The embedded form of a sweep: same core, same log, same cascade.

    - *Success*: ``run`` returns a context for each item that was verified, and ``None`` where synthesis failed, in the
      order of the items. ``traces`` tells the steps of each.
    - *Failure*: an error that ends the sweep is raised; what was verified by then is in the log.
    - *Crash, cancellation*: running the same items again goes on where the log ends; what had failed is tried again.

    As a context manager it sees to it that nothing runs any more when its block is left.

    >>> from actors import SynthesizeImagesRunner, Synthesizer
    >>> synth = Synthesizer(store="sqlite:///sweep.db", verifier=lambda pull_request, context: True)
    >>> with SynthesizeImagesRunner(synth, n_concurrent=1) as runner:
    ...     contexts = runner.run_sync([
    ...         {"owner": "o", "repo": "r", "issue_number": number, "sha": "abc123def456",
    ...          "created_at": f"2024-01-0{number}T00:00:00Z", "env_payload": "[]", "python_version": "3.11"}
    ...         for number in (1, 2)
    ...     ])
    >>> contexts[0] == contexts[1]
    True
    >>> [state.value for state in runner.traces[1]]
    ['check_cache', 'find_similar', 'try_similar']
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        n_concurrent: int = 8,
        *,
        name: str | None = None,
        address: str | None = None,
        on_progress: Callable[[RunnerProgress], None] | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            synthesizer: what its runs would use: store, agent, verifier, settings, ``force``, ``dry_run``.
            n_concurrent: attempts at once: 1 or more.
            name: of the sweep in the log; default: one that the same pull requests always get.
            address: of a running Ray cluster; ``None``: a local Ray.
            on_progress: called a few times a second: in the event loop of ``run``.

        Raises:
            InputError: ``n_concurrent`` cannot be used.
        """
        if n_concurrent < 1:
            raise InputError(f"n_concurrent={n_concurrent}: it must be 1 or more")
        self.synthesizer, self.n_concurrent, self.name, self.address = synthesizer, n_concurrent, name, address
        self.traces: list[list[SynthesisState]] = []
        self._on_progress = on_progress
        self._switch: StopSwitch | None = None
        self._ended: Future[list[DockerContext | None]] | None = None

    async def run(self, items: Iterable[Item], *, force: bool | None = None) -> list[DockerContext | None]:
        """Works on all pull requests until each is verified or has failed.

        Cancelling the task lets running attempts end for a few seconds, cancels the rest and waits for that; cancelling
        it once more stops at once.

        Args:
            items: rows of a timeline, or mappings with the keywords of ``Synthesizer.run``.
            force: overrides the synthesizer's.

        Returns:
            A context for each item, in their order; ``None`` where synthesis failed.

        Raises:
            InputError: an item or the store cannot be used here. Nothing was built.
            ResolutionRequired: an item has no usable ``env_payload`` or ``python_version``. Nothing was built.
            SynthesisCancelled: :meth:`cancel` was called.
            EnvironmentNotReady: no engine or no Ray, or they stayed away.
            LogLocked, LogCorrupt, LogTooNew, LogUnavailable: the store cannot be used.
            RuntimeError: this runner is running already.
        """
        loop = asyncio.get_running_loop()
        report = self._on_progress

        def tell(progress: RunnerProgress) -> None:
            with suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(_called, report, progress)

        ended = self._start(items, force=force, tell=tell)
        waiting = asyncio.wrap_future(ended)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            self.cancel()
            while not waiting.done():
                try:
                    await asyncio.shield(waiting)
                except asyncio.CancelledError:
                    self.cancel()
                except Exception as exc:
                    logger.debug("the run that was cancelled ended: {}", exc)
            raise

    def run_sync(self, items: Iterable[Item], *, force: bool | None = None) -> list[DockerContext | None]:
        """:meth:`run` for scripts; works in a notebook's cell, too. ``on_progress`` is called in a thread of the run.

        Ctrl-C lets running attempts end or cancels them, and is raised when that is done; a second one stops at once.
        """
        report = self._on_progress
        ended = self._start(items, force=force, tell=lambda progress: _called(report, progress))
        try:
            return finish(ended)
        except KeyboardInterrupt:
            self.cancel()
            _wait_for(ended, self.cancel)
            raise

    def cancel(self) -> None:
        """Ends the run that is under way, if there is one, in order; called again: at once."""
        if self._switch is not None:
            self._switch.presses += 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ended is not None and not self._ended.done():
            self.cancel()
            _wait_for(self._ended, self.cancel)

    # ------------------------------------------------------------ in the thread of the run

    def _start(
        self, items: Iterable[Item], *, force: bool | None, tell: Callable[[RunnerProgress], None]
    ) -> Future[list[DockerContext | None]]:
        """Checks the items and begins a run in a thread of its own."""
        if self._ended is not None and not self._ended.done():
            raise RuntimeError("this runner is running already; wait for it, cancel it, or make another one")
        rows = [checked_item(item) for item in items]
        by_repository(rows)
        forced = self.synthesizer.force if force is None else force
        switch = self._switch = StopSwitch()
        ended: Future[list[DockerContext | None]] = Future()
        self._ended = ended

        def work() -> None:
            try:
                ended.set_result(self._run(rows, forced=forced, switch=switch, tell=tell))
            except BaseException as exc:  # carried over to whoever waits
                ended.set_exception(exc)

        threading.Thread(target=work, name="headrace-run", daemon=True).start()
        return ended

    def _run(
        self,
        rows: Sequence[PullRequest],
        *,
        forced: bool,
        switch: StopSwitch,
        tell: Callable[[RunnerProgress], None],
    ) -> list[DockerContext | None]:
        self.traces = []
        if not rows:
            return []
        if self.synthesizer.dry_run:
            return [self._rehearse(row, forced=forced) for row in rows]
        url = self._url()
        synth, sweep, repositories = self.synthesizer, self.name or sweep_name(rows), by_repository(rows)
        settings, policy = synth.policy(synth.accounts(slots=self.n_concurrent))
        settings = _with_workers(settings, self.n_concurrent)
        with open_when_free(url) as store:
            versions = prepare(
                store, repositories, sweep=sweep, rules=settings.verify.rules, policy=policy, forced=forced
            )
        options = RunOptions(
            store_url=url,
            sweep=sweep,
            settings=settings,
            address=self.address,
            workbench=synth.workbenches(),
            policy=policy,
        )
        distinct = [row for given in repositories.values() for row in given]
        progress = run_sweep(
            options,
            rows=distinct,
            timeline=SOURCE,
            on_progress=lambda progress, _: tell(_progress(progress, len(distinct))),
            switch=switch,
        )
        _require_end(progress, sweep)
        with open_store(url, write=False) as store:
            found = collect(store, rows, versions)
        tell(_progress(progress, len(distinct)))
        self.traces = [one.trace for one in found]
        return [one.context for one in found]

    def _rehearse(self, row: PullRequest, *, forced: bool) -> DockerContext | None:
        context = self.synthesizer.run_item(row, force=forced)
        self.traces.append(self.synthesizer.trace)
        return context

    def _url(self) -> str:
        store = self.synthesizer.store
        if isinstance(store, Store) or store == "memory:":
            name = store.url if isinstance(store, Store) else store
            raise InputError(
                f"store={name!r}: a runner's processes cannot share it; give the URL of a store that is not open, such "
                f"as sqlite:///PATH"
            )
        return store


def _with_workers(settings: Settings, workers: int) -> Settings:
    return msgspec.structs.replace(settings, sweep=msgspec.structs.replace(settings.sweep, workers=workers))


def _require_end(progress: SweepProgress, sweep: str) -> None:
    """Raises what a run that did not come to its end has to say."""
    if progress.phase == "interrupted":
        raise SynthesisCancelled(f"the run of sweep {sweep} was cancelled; run the same items again to go on")
    if progress.phase != "finished":
        raise EnvironmentNotReady(
            f"the run of sweep {sweep} stopped: {progress.message}; the log is intact, run the same items again"
        )


def _progress(given: SweepProgress, total: int) -> RunnerProgress:
    counts: Counter[str] = Counter()
    for one in given.repositories.values():
        counts.update(one)
    return RunnerProgress(
        phase=given.phase,
        total=max(total, sum(counts.values())),
        succeeded=counts["succeeded"],
        failed=counts["failed"],
        running=sum(counts[str(state)] for state in IN_ATTEMPT),
    )


def _called(report: Callable[[RunnerProgress], None] | None, progress: RunnerProgress) -> None:
    """Calls somebody else's function, whose errors are its own."""
    if report is not None:
        try:
            report(progress)
        except Exception:
            logger.exception("on_progress failed; the run goes on")


def _wait_for(ended: Future[list[DockerContext | None]], again: Callable[[], None]) -> None:
    """Waits until a run is over, whatever it ends with; whoever interrupts that stops it at once."""
    while not ended.done():
        try:
            wait([ended], timeout=LOOK_UP_S)
        except KeyboardInterrupt:
            again()
