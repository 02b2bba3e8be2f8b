"""A repository's report in a sweep: prepared and finished through its own stream, so that it is made once.

- *Success*: when ``gather`` returns, what was finished in the repository since its last report is in one, in the log.
- *Failure*: an error of the log is raised; a report that cannot be made is an event that says why.
- *Crash*: between the two events the report is prepared, in a blob; the next call finishes that one and makes no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256

from actors import faults
from actors.admission import rows_by_number
from actors.gather import result_from_bytes, result_to_bytes
from actors.gather_report import drifts_told, prepare_report, report_of, reporter
from actors.ids import new_id
from actors.images.rootfs import SUITES
from actors.log_client import LogClient, StreamWriter
from actors.settings import BuildSettings
from events import codec
from events.gather_events import GatherEvent, GatherFinished
from events.gathering import GatherState, evolve, finish, prepare
from events.repository_state import RepositoryState
from events.types import RepositoryEvent
from events.waves import Processed, wave_of
from events.work import PullRequest

__all__ = ["Gatherer", "base_image_of"]


def base_image_of(settings: BuildSettings, python_version: str) -> str:
    """What the base image of a Python version is made from, as a report names it."""
    if settings.provider == "registry":
        return settings.base_image.replace("{python_version}", python_version)
    suite = SUITES.get(".".join(python_version.split(".")[:2]))
    return f"debootstrap:{suite}" if suite is not None else ""


class Gatherer:
    """See the module. One for all repositories of a sweep, which have a stream each."""

    def __init__(self, log: LogClient, *, build: BuildSettings, clock: Callable[[], float]) -> None:
        self._log, self._build, self._clock = log, build, clock

    async def gather(self, repository: str) -> None:
        """Makes the report that is due for a repository that nobody works on now; does nothing if none is.

        Raises:
            VersionConflict: somebody else makes it.
            LogUnavailable, LogCorrupt: the log cannot be used.
        """
        stream = self._stream(f"gather:{repository}")
        state: GatherState = await stream.load()
        if state.pending is None:
            await self._prepare(stream, state)
        faults.hit(faults.GATHER_PREPARED)
        await self._finish(stream, state)

    async def _prepare(self, stream: StreamWriter, state: GatherState) -> None:
        known: RepositoryState = await self._stream(f"repository:{state.repository}").load()
        wave = wave_of(known, await self._events(state, upto=known.version))
        if not wave:
            return
        result = prepare_report(
            wave,
            records=known.prs,
            rows=await self._rows(known, wave),
            base_image=lambda version: base_image_of(self._build, version),
            synthesizer=reporter(clock=self._now, new_batch_id=lambda: _batch_id(state)),
        )
        prepared = await self._log.put_blob(result_to_bytes(result))
        numbers = [one.issue_number for one in wave]
        await self._take(
            stream,
            state,
            prepare(state, batch_id=result.batch_id, upto=known.version, issue_numbers=numbers, prepared=prepared),
        )

    async def _finish(self, stream: StreamWriter, state: GatherState) -> None:
        pending = state.pending
        if pending is None:
            return
        data = await self._log.get_blob(pending.prepared)
        result = result_from_bytes(data, source=f"the prepared report {pending.batch_id} of {state.repository}")
        reporter(clock=self._now).execute_synthesis(result)
        report = None
        if result.is_success:
            report = await self._log.put_blob(report_of(result, repository=state.repository).encode())
        finished = GatherFinished(
            batch_id=pending.batch_id,
            status=result.status,
            result=await self._log.put_blob(result_to_bytes(result)),
            report=report,
            message=result.error_message or "",
            drifts=drifts_told(result),
        )
        await self._take(stream, state, finish(state, finished))

    async def _take(self, stream: StreamWriter, state: GatherState, events: list[GatherEvent]) -> None:
        await stream.append(events)
        for event in events:
            evolve(state, event)

    async def _events(self, state: GatherState, *, upto: int) -> list[RepositoryEvent]:
        """The repository's events behind its last report."""
        found: list[RepositoryEvent] = []
        async for page in self._log.read(f"repository:{state.repository}", after=state.upto):
            found += [codec.decode(one.type, one.schema, one.data) for one in page if one.version <= upto]  # type: ignore[misc]
        return found

    async def _rows(self, known: RepositoryState, wave: list[Processed]) -> Mapping[int, PullRequest]:
        blobs = dict.fromkeys(known.prs[one.issue_number].row for one in wave)
        rows: dict[int, PullRequest] = {}
        for blob in blobs:
            given = rows_by_number(await self._log.get_blob(blob))
            rows.update((number, row) for number, row in given.items() if known.prs[number].row == blob)
        return rows

    def _stream(self, name: str) -> StreamWriter:
        return StreamWriter(self._log, name, clock=self._clock, new_id=new_id)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _batch_id(state: GatherState) -> str:
    """The id of a repository's next batch: the same again when it has to be prepared again."""
    return f"batch_{sha256(f'{state.repository} {state.waves}'.encode()).hexdigest()[:8]}"
