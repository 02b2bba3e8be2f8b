"""Runs a sweep: connects to Ray, puts the sweep into the log, starts the supervisor, and watches it to its end.

A sweep that exists already goes on where its log ends; handing it the same timeline again changes nothing, a longer
one adds pull requests. Nothing is started before the log is open and the definition is durable in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import cast

import msgspec

from actors import gateway
from actors.admission import rows_to_bytes
from actors.agent_options import account_of, budget_of
from actors.gateway import ActorGone, ClusterInfo, Placement, Ref
from actors.governor import GOVERNOR, RUNNERS, RateLimitGovernor, Terms
from actors.ids import new_id
from actors.log_client import insist, new_event
from actors.log_writer import LogWriter, OpenedLog, pack, unpack_events, unpack_snapshot
from actors.runner import RunnerConfig, WorkbenchFactory, docker_workbench
from actors.settings import Settings
from actors.supervisor import SupervisorConfig, SweepProgress, SweepSupervisor
from actors.templates import stock_context
from events.errors import UnknownSweep
from events.governor import Pauses
from events.replay import StreamFold
from events.sweep import SweepState
from events.types import Account, Event, RepositoriesAdmitted, RepositoryRows, SweepDefined
from events.work import CascadePolicy, PullRequest, VerificationRules
from store.log import Append, Appended
from store.opening import open_store
from store.snapshots import usable_state

__all__ = ["RunOptions", "StopSwitch", "policy_of", "run_sweep"]

POLL_S = 0.3
GONE_FOR_S = 60.0
REPOSITORIES_PER_EVENT = 500
REPOSITORIES_PER_HOST = 32
"""One host's event loop has room for far more; this many are lost and taken over together when it dies."""


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a sweep is run. ``address``: of a running Ray cluster; ``None`` starts a local Ray. ``policy``: instead of
    the one that the settings make."""

    store_url: str
    sweep: str
    settings: Settings
    address: str | None = None
    dashboard: bool = False
    workbench: WorkbenchFactory = docker_workbench
    policy: CascadePolicy | None = None


class StopSwitch:
    """Set by a signal handler: the first press drains, the second leaves at once."""

    def __init__(self) -> None:
        self.presses = 0


def policy_of(settings: Settings) -> CascadePolicy:
    """The part of the settings that decides what is tried, as it goes into the log."""
    cascade = settings.cascade
    return CascadePolicy(
        stock_context=stock_context().digest,
        window_days=float(cascade.neighbor_window_days),
        neighbor_cap=cascade.neighbor_cap,
        tasks_per_repo=cascade.tasks_per_repo,
        try_default=cascade.try_default,
        max_candidates=cascade.max_candidates,
        generate=bool(settings.agents.account),
        rl_max_retries=cascade.rl_max_retries,
        race=settings.agents.race,
    )


def _accounts(settings: Settings, workers: int) -> list[Account]:
    """What the governor leases: runners, and the slots of the agents' accounts."""
    return [Account(name=RUNNERS, slots=workers), *(account_of(one) for one in settings.agents.account)]


def _terms(settings: Settings, sweep: str) -> Terms:
    pauses = Pauses(default_s=settings.cascade.rl_default_pause_s, jitter_s=settings.cascade.rl_pause_jitter_s)
    return Terms(sweep=sweep, budget=budget_of(settings.agents), pauses=pauses)


def run_sweep(
    options: RunOptions,
    *,
    rows: Sequence[PullRequest] | None,
    timeline: str,
    on_progress: Callable[[SweepProgress, ClusterInfo], None],
    switch: StopSwitch,
) -> SweepProgress:
    """Runs a sweep until it is finished, interrupted or cannot go on.

    Args:
        options: where and how.
        rows: resolved rows of the timeline; ``None``: those that the log knows (``resume``).
        timeline: what people call the timeline, for the log.
        on_progress: called a few times a second, in this thread.
        switch: looked at between calls; a second press ends the cluster at once.

    Raises:
        EnvironmentNotReady: Ray is not to be had.
        LogLocked, LogTooNew, LogCorrupt, LogUnavailable: the log cannot be used.
        UnknownSweep: ``rows`` is ``None`` and the log has no such sweep.
    """
    settings = options.settings
    cluster = gateway.connect(
        address=options.address,
        namespace=f"headrace-{new_id()}",
        runner_slots=settings.sweep.workers,
        dashboard=options.dashboard,
    )
    try:
        here = Placement(node_id=cluster.node_id)
        holder = f"sweep {options.sweep}"
        writer = gateway.spawn(LogWriter, options.store_url, holder, open_store, True, name="log", placement=here)
        opened = cast(OpenedLog, writer.ask("open"))
        rules, policy = _define(writer, options, rows=rows, timeline=timeline)
        workers = min(settings.sweep.workers or cluster.runner_slots, cluster.runner_slots)
        governor = gateway.spawn(
            RateLimitGovernor,
            writer,
            _accounts(settings, workers),
            time.time,
            new_id(),
            _terms(settings, options.sweep),
            name=GOVERNOR,
            placement=here,
        )
        runner = RunnerConfig(
            log_id=opened.log_id,
            settings=settings,
            writer=writer,
            log_node=cluster.node_id,
            blob_root=opened.blob_root,
            workbench=options.workbench,
        )
        config = SupervisorConfig(
            log_id=opened.log_id,
            sweep=options.sweep,
            rules=rules,
            policy=policy,
            workers=workers,
            max_active=settings.sweep.max_active_repositories,
            hosts=-(-settings.sweep.max_active_repositories // REPOSITORIES_PER_HOST),
            infra_patience_s=settings.sweep.infra_patience_s,
            writer=writer,
            governor=governor,
            runner=runner,
            agents={one.name: one.agent for one in settings.agents.account},
        )
        supervisor = gateway.spawn(SweepSupervisor, config, name=f"sweep:{options.sweep}", placement=here)
        progress = _watch(supervisor, cluster, settings.sweep.drain_s, on_progress, switch)
        if switch.presses < 2:
            insist(writer, "close")
        return progress
    finally:
        gateway.disconnect()


def _watch(
    supervisor: Ref,
    cluster: ClusterInfo,
    drain_s: float,
    on_progress: Callable[[SweepProgress, ClusterInfo], None],
    switch: StopSwitch,
) -> SweepProgress:
    """Polls the supervisor until the run is over."""
    seen_at = time.monotonic()
    progress = SweepProgress(phase="starting", repositories={}, pending=0, active=[])
    while True:
        try:
            progress = cast(SweepProgress, supervisor.ask("progress", timeout_s=5.0))
            seen_at = time.monotonic()
            on_progress(progress, cluster)
            if progress.ended:
                return progress
            if switch.presses and progress.phase != "stopping":
                supervisor.ask("stop", drain_s, timeout_s=5.0)
        except (ActorGone, TimeoutError) as exc:
            if time.monotonic() - seen_at > GONE_FOR_S:
                message = f"the supervisor does not answer: {exc}"
                return msgspec.structs.replace(progress, phase="failed", message=message)
        if switch.presses >= 2:
            return msgspec.structs.replace(progress, phase="interrupted", message="stopped at once")
        time.sleep(POLL_S)


def _define(
    writer: Ref, options: RunOptions, *, rows: Sequence[PullRequest] | None, timeline: str
) -> tuple[VerificationRules, CascadePolicy]:
    """Puts the sweep's definition into the log, as far as it is not there; returns rules and policy in force."""
    stream = f"sweep:{options.sweep}"
    state = _load(writer, stream)
    if rows is None:
        if state.defined is None:
            raise UnknownSweep(sweep=options.sweep, store=options.store_url)
        defined = _as_agents_are_now(state.defined, options.settings)
        if defined != state.defined:
            _append(writer, stream, state.version, [defined])
        return defined.rules, defined.policy
    rules, policy = options.settings.verify.rules, options.policy or policy_of(options.settings)
    insist(writer, "put_blob", stock_context().to_tar_bytes())
    by_repository: dict[str, list[PullRequest]] = {}
    for row in rows:
        by_repository.setdefault(row.repository, []).append(row)
    packed = {name: rows_to_bytes(given) for name, given in by_repository.items()}
    digest = sha256(b"".join(packed.values())).hexdigest()
    definition = SweepDefined(
        sweep=options.sweep, timeline=timeline, timeline_digest=digest, rules=rules, policy=policy
    )
    events: list[Event] = []
    known = state.defined
    if known is None or (known.timeline_digest, known.rules, known.policy) != (digest, rules, policy):
        events.append(definition)
    redefined = known is None or (known.rules, known.policy) != (rules, policy)
    admitted = []
    for name, data in packed.items():
        given = RepositoryRows(repository=name, rows=sha256(data).hexdigest(), pull_requests=len(by_repository[name]))
        before = state.repositories.get(name)
        if redefined or before is None or before.rows != given:
            insist(writer, "put_blob", data)
            admitted.append(given)
    for start in range(0, len(admitted), REPOSITORIES_PER_EVENT):
        events.append(RepositoriesAdmitted(repositories=admitted[start : start + REPOSITORIES_PER_EVENT]))
    _append(writer, stream, state.version, events)
    return rules, policy


def _as_agents_are_now(defined: SweepDefined, settings: Settings) -> SweepDefined:
    """A definition from the log, with what this run has of agents; the rest of its policy stays."""
    now = policy_of(settings)
    policy = msgspec.structs.replace(
        defined.policy, generate=now.generate, race=now.race, rl_max_retries=now.rl_max_retries
    )
    return msgspec.structs.replace(defined, policy=policy)


def _load(writer: Ref, stream: str) -> SweepState:
    """The state of a sweep, from its snapshot where there is one: what lies before it may have been pruned."""
    fold = StreamFold(stream, state=usable_state(unpack_snapshot(insist(writer, "snapshot", stream))))
    while page := unpack_events(insist(writer, "read", stream, fold.state.version)):
        fold.take_all((one.version, one.type, one.schema, one.data) for one in page)
    state: SweepState = fold.state
    return state


def _append(writer: Ref, stream: str, version: int, events: list[Event]) -> None:
    if not events:
        return
    batch = Append(stream, version, [new_event(one, new_id()) for one in events], time.time())
    (result,) = insist(writer, "append", pack([batch]))
    if not isinstance(result, Appended):
        raise result
