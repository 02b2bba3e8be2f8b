"""One session under way: the agent runs, the referee answers, the guard watches, and what comes of it is settled."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import msgspec

from actors.agent_settings import AgentSettings
from actors.agents.base import Launch
from actors.agents.session import SessionEnd, SessionLimits, SessionReason, run_session
from actors.generation.accounts import Means
from actors.generation.briefing import PROMPT
from actors.generation.cage import Cage, Limits
from actors.generation.gate import Gate
from actors.generation.guard import Guard
from actors.generation.records import (
    TRANSCRIPT_FILE,
    VERDICT_FILE,
    Notes,
    adopt,
    collect_rulings,
    report_of,
)
from actors.generation.referee import Judge, Referee, Ruling
from actors.generation.scripts import ScriptsUnusable, with_scripts
from actors.generation.workspace import Workspace
from events.work import Check, FailureClass, Outcome, SessionReport, WorkOrder
from store.docker_context import DockerContext

__all__ = ["NO_SCRIPTS", "Attempt", "session_name", "without_verdict"]

NO_SCRIPTS = "no_scripts"
"""How a session ended that went well and neither changed a script nor asked for a verdict."""

INFRA_WAITS_S = (5.0, 30.0, 120.0)
"""Before the final verification is tried again, when engine or network failed."""

NOBODYS_FAULT = frozenset({SessionReason.ACCOUNT, SessionReason.SERVER, SessionReason.NOT_STARTED})
"""Ends that say nothing about the task, nor about the agent's work on it."""

SESSION = "session"
"""Where an attempt ends that left nothing to verify."""

MIN_TOOL_IDLE_S = 900.0
"""Of silence while a tool of the CLI runs: it may compare two builds of a package, and ``verify`` itself never waits so
long."""
MAX_SAID_CHARS = 500


class Attempt:
    """One session under way."""

    def __init__(
        self,
        order: WorkOrder,
        *,
        means: Means,
        workspace: Workspace,
        base: DockerContext,
        spool: Path,
        judge: Judge,
        settings: AgentSettings,
        limits: Limits,
        notes: Notes,
        cancel: threading.Event,
    ) -> None:
        self._order, self._means, self._workspace, self._base = order, means, workspace, base
        self._spool, self._judge, self._settings, self._limits = spool, judge, settings, limits
        self._notes, self._cancel = notes, cancel
        self._tampering: Ruling | None = None
        self._safety = ""

    def run(self) -> Outcome:
        """Runs the agent and settles what it left."""
        cage = Cage(session_name(self._order), limits=self._limits)
        try:
            guard = Guard(
                [self._workspace.folder, self._workspace.home],
                cancel=self._cancel,
                disk_bytes=self._limits.disk_bytes,
                processes=cage.processes,
            )
            with guard:
                referee = Referee(
                    self._workspace,
                    base=self._base,
                    judge=self._judge,
                    spool=self._spool,
                    max_verifications=self._settings.max_verifications,
                    on_ruling=lambda ruling: self._ruled(ruling, guard),
                )
                with referee:
                    end = self._run_agent(cage, guard)
                    cage.close()
                    return self._settle(end, guard=guard, referee=referee)
        finally:
            cage.close()

    def _run_agent(self, cage: Cage, guard: Guard) -> SessionEnd:
        with ExitStack() as stack:
            launch, wrap = self._prepare(cage, stack)
            return self._started(launch, wrap, guard=guard)

    def _prepare(self, cage: Cage, stack: ExitStack) -> tuple[Launch, tuple[str, ...]]:
        """How the CLI is started, and what is put around it; its gate is open until ``stack`` is closed."""
        means, workspace, sandbox = self._means, self._workspace, self._means.sandbox
        program, search_path = means.program, means.search_path
        if sandbox is not None:
            program, search_path = program.resolve(), sandbox.search_path(search_path)
        launch = means.adapter.launch(means.access, program=program, search_path=search_path, home=workspace.home)
        kept, wrap = ["no sandbox", means.unsafe], cage.command
        if sandbox is not None:
            gate = None
            if self._settings.network == "public":
                path, address = workspace.gate
                gate = stack.enter_context(Gate(path, address=address, environment=means.access.environment))
                launch = _through_gate(launch)
            wrap += sandbox.wrap(
                workspace=workspace.folder,
                home=workspace.home,
                programs=means.programs,
                environment=launch.environment,
                account_home=Path(means.access.home) if means.access.home else None,
                configuration=means.adapter.configuration,
                gate=gate,
            )
            network = "the Internet only" if gate else "this host's network is in reach"
            kept = [f"bubblewrap {sandbox.version}, {network}", sandbox.missing]
        self._safety = "; ".join(text for text in (*kept, cage.missing) if text)
        self._notes.add(f"{means.adapter.name} {means.version} under account {means.account.name}; {self._safety}")
        return launch, wrap

    def _started(self, launch: Launch, wrap: tuple[str, ...], *, guard: Guard) -> SessionEnd:
        means, workspace = self._means, self._workspace
        if means.warning:
            self._notes.add(means.warning)
        end = run_session(
            means.adapter,
            launch,
            workspace=workspace.folder,
            home=workspace.home,
            prompt=PROMPT,
            limits=SessionLimits(
                wall_s=self._settings.wall_s,
                idle_s=self._settings.idle_s,
                tool_idle_s=max(MIN_TOOL_IDLE_S, self._settings.idle_s),
            ),
            transcript=self._spool / TRANSCRIPT_FILE,
            cancel=guard.stop,
            session=session_name(self._order),
            wrap=wrap,
        )
        process = end.process
        self._notes.add(
            f"the agent ended: {end.reason.value}, exit code {end.exit_code}, {process.duration_s:.1f} s, "
            f"processes killed: {process.killed}, left behind: {process.left_behind}. {end.message}".rstrip()
        )
        return end

    def _ruled(self, ruling: Ruling, guard: Guard) -> None:
        outcome = ruling.outcome
        verdict = "verified" if outcome.verified else f"refused at {outcome.stage} ({outcome.failure_class})"
        text = f"verification {ruling.number} of {ruling.digest[:12]}: {verdict}: {outcome.message}"
        self._notes.add(text)
        (ruling.folder / VERDICT_FILE).write_text(f"{text}\n", encoding="utf-8")
        if outcome.failure_class is FailureClass.TAMPER:
            self._tampering = self._tampering or ruling
            guard.end("tamper", f"it was refused as tampering: {outcome.message}")

    def _settle(self, end: SessionEnd, *, guard: Guard, referee: Referee) -> Outcome:
        """The outcome of a session whose agent has ended."""
        try:
            outcome = self._outcome(end, guard=guard, referee=referee)
            collect_rulings(self._spool)
        except OSError as exc:
            # What the session has used is told all the same.
            message = f"cannot write the attempt's spool {self._spool}: {exc.strerror}; see to the disk of this node"
            outcome = without_verdict(self._order, message)
        nothing = outcome.stage == SESSION and outcome.failure_class is FailureClass.AGENT
        ended = guard.kind or (NO_SCRIPTS if nothing and end.ok else end.reason.value)
        message = guard.reason or end.message
        report = report_of(self._means, end, ended=ended, message=message, verifications=referee.asked)
        if not guard.kind:
            outcome = _classed(outcome, reason=end.reason, report=report)
        checks = [Check(SESSION, True, f"{ended}: {message}".rstrip(": ")), Check("sandbox", True, self._safety)]
        return msgspec.structs.replace(outcome, session=report, checks=[*checks, *outcome.checks])

    def _outcome(self, end: SessionEnd, *, guard: Guard, referee: Referee) -> Outcome:
        if self._tampering is not None:
            return self._adopted(self._tampering)
        verified = next((one for one in reversed(referee.rulings) if one.outcome.verified), None)
        if verified is not None:
            return self._adopted(verified)
        if self._cancel.is_set() or (end.reason is SessionReason.CANCELLED and not guard.kind):
            return without_verdict(self._order, f"the session was cancelled. {end.message}", cancelled=True)
        return self._of_scripts(end, guard=guard, referee=referee)

    def _of_scripts(self, end: SessionEnd, *, guard: Guard, referee: Referee) -> Outcome:
        """The outcome by what stands in the workspace."""
        try:
            context = with_scripts(self._base, self._workspace.scripts())
        except ScriptsUnusable as exc:
            return without_verdict(self._order, exc.message, stage="scripts", failure_class=FailureClass.RECIPE)
        referee.settle(context.digest, cancel=self._cancel)
        ruling = referee.ruling_on(context.digest)
        if ruling is not None:
            return self._adopted(ruling)
        if context.digest == self._base.digest and not referee.asked:
            said = f"the agent changed none of the scripts, and said: {end.final_text[-MAX_SAID_CHARS:]}"
            why = guard.reason or end.message or said
            return without_verdict(self._order, why, failure_class=FailureClass.AGENT)
        return self._verified(context)

    def _adopted(self, ruling: Ruling) -> Outcome:
        self._notes.add(f"the verdict of verification {ruling.number} stands")
        collect_rulings(self._spool)
        adopt(ruling.folder, self._spool)
        return ruling.outcome

    def _verified(self, context: DockerContext) -> Outcome:
        """The verdict on what the agent left; engine and network have some more chances."""
        for wait_s in (*INFRA_WAITS_S, 0.0):
            outcome = self._judge(context, spool=self._spool, cancel=self._cancel)
            verdict = "verified" if outcome.verified else f"refused at {outcome.stage} ({outcome.failure_class})"
            self._notes.add(f"final verification of {context.digest[:12]}: {verdict}: {outcome.message}")
            if outcome.failure_class is not FailureClass.INFRA or outcome.cancelled or self._cancel.wait(wait_s):
                break
        return outcome


def _through_gate(launch: Launch) -> Launch:
    """The launch with the gate as its proxy, in place of whatever proxies this host has."""
    kept = {name: value for name, value in launch.environment.items() if not name.upper().endswith("_PROXY")}
    return msgspec.structs.replace(launch, environment={**kept, **Gate.variables()})


def session_name(order: WorkOrder) -> str:
    """The name of an order's session, unique on this machine; none begins with another's."""
    return f"{order.log_id}:{order.attempt_id}."


def _classed(outcome: Outcome, *, reason: SessionReason, report: SessionReport) -> Outcome:
    """The outcome by whose fault it is: a limit, or a provider that fails, cuts a session that might have done it."""
    if outcome.verified or outcome.cancelled or outcome.failure_class is FailureClass.TAMPER:
        return outcome
    if reason is SessionReason.RATE_LIMITED:
        message = f"{report.agent} ran into a limit: {report.message}"
        return msgspec.structs.replace(outcome, failure_class=FailureClass.AGENT, message=message)
    if reason in NOBODYS_FAULT and outcome.failure_class is not FailureClass.INFRA:
        message = f"{report.agent}: {report.message}"
        # Half-done work that was refused is no context to be tried again.
        return msgspec.structs.replace(outcome, failure_class=FailureClass.INFRA, message=message, context=None)
    return outcome


def without_verdict(
    order: WorkOrder,
    message: str,
    *,
    stage: str = SESSION,
    failure_class: FailureClass = FailureClass.INFRA,
    cancelled: bool = False,
) -> Outcome:
    """The outcome of a session that left nothing to verify: it speaks of no context."""
    return Outcome(
        verified=False,
        level=order.rules.level,
        stage=stage,
        failure_class=failure_class,
        message=message.strip(),
        cancelled=cancelled,
    )
