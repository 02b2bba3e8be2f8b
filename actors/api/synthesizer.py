"""One pull request at a time, in the calling process: the core by plain calls, no Ray."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec

from actors.agent_settings import AgentAccount
from actors.api.agents import check_agent, chosen_accounts, with_accounts
from actors.api.errors import RateLimitError
from actors.api.items import Item, checked_item
from actors.api.plain import PlainRepository
from actors.api.states import SynthesisState, trace_of
from actors.api.verifying import ContextVerifier, WorkbenchMaker, workbench_of
from actors.driver import policy_of
from actors.runner import docker_workbench
from actors.settings import Settings, load_settings
from actors.workbench import Workbench
from events.errors import EnvironmentNotReady, InputError
from events.pull_request import PrState
from events.records import PrRecord
from events.work import CascadePolicy, PullRequest, SessionReport
from store.docker_context import DockerContext
from store.opening import Store, absolute_url, open_store
from store.read_models import AttemptRow

__all__ = ["DEFAULT_STORE", "Synthesizer", "context_of"]

DEFAULT_STORE = "sqlite:///headrace.db"
READY_S = 10.0


class Synthesizer:
    """Finds, or has an agent make, a Docker context that is verified on a pull request.

    - *Success*: ``run`` returns a context that passed verification on this very pull request.
    - *Failure*: ``run`` returns ``None``. Every attempt is in ``build_attempts`` of the store, with its log, and every
      error in ``error_logs``; running it again opens the pull request again, with whole budgets.
    - *Crash*: the next run on the repository ends what was left, marks it, and goes on. Nothing finished is repeated.

    Calls of one object come one after another. ``trace`` tells the steps of the last one.

    >>> from actors.api import Synthesizer
    >>> synth = Synthesizer(store="memory:", verifier=lambda pull_request, context: True)
    >>> context = synth.run(
    ...     owner="o", repo="r", issue_number=7, sha="abc123def456",
    ...     env_payload='{"dependencies": ["numpy==1.26.0"]}', python_version="3.11",
    ... )
    >>> context.dockerfile.startswith("#")
    True
    >>> [state.value for state in synth.trace]
    ['check_cache', 'find_similar', 'try_default']
    """

    def __init__(
        self,
        max_attempts: int = 3,
        *,
        agent: str | None = None,
        force: bool = False,
        dry_run: bool = False,
        store: str | Store | None = None,
        verifier: ContextVerifier | Workbench | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Nothing is opened or started yet.

        Args:
            max_attempts: sessions of agents that may be paid for one pull request: 1 or more.
            agent: ``claude``, ``codex``, ``gemini``, ``qwen`` or ``none``; ``None``: the first that is installed.
            force: neither earlier successes nor the cache count.
            dry_run: starts and writes nothing; ``trace`` ends at the first step that would build something.
            store: URL of the store, or an open one, which stays open; ``None``: ``sqlite:///headrace.db``.
            verifier: what judges contexts instead of the Docker engine; see :mod:`actors.api.verifying`.
            settings: all others; ``None``: those of ``headrace.toml`` and the environment.

        Raises:
            InputError: ``max_attempts`` or ``agent`` cannot be used.
            SettingError: a setting does not parse or is out of range.
        """
        if max_attempts < 1:
            raise InputError(f"max_attempts={max_attempts}: it must be 1 or more; agent='none' pays no session")
        check_agent(agent)
        self.max_attempts, self.agent, self.force, self.dry_run = max_attempts, agent, force, dry_run
        self.verifier = verifier
        self.settings = settings if settings is not None else load_settings()
        self.store = store if isinstance(store, Store) else absolute_url(store or DEFAULT_STORE)
        self.trace: list[SynthesisState] = []
        self._memory: Store | None = None
        self._one_at_a_time = threading.Lock()

    def run(
        self,
        *,
        owner: str,
        repo: str,
        issue_number: int,
        sha: str,
        env_payload: str | None = None,
        python_version: str | None = None,
        pr_context: str | None = None,
        clone_url: str | None = None,
        base_sha: str | None = None,
        patch: str | None = None,
        created_at: str | datetime | None = None,
        primary_root: str | None = None,
        force: bool | None = None,
    ) -> DockerContext | None:
        """Works on one pull request until it is verified or has failed.

        Args:
            owner: of the repository, as on GitHub.
            repo: its name.
            issue_number: the pull request's number.
            sha: its commit.
            env_payload: JSON object with ``dependencies``, or a list of them: PEP 508 requirements.
            python_version: such as ``3.11``.
            pr_context: what an agent shall know of it.
            clone_url: where the repository is cloned from; default: GitHub.
            base_sha: the commit to build; default: ``sha``.
            patch: for the level ``f2p``.
            created_at: ISO 8601; default: now. Contexts of pull requests near it in time are tried.
            primary_root: folder of the package inside the repository.
            force: overrides the ``force`` of this object.

        Returns:
            A context that passed verification; ``None`` when every attempt failed.

        Raises:
            ResolutionRequired: ``env_payload`` or ``python_version`` is missing or malformed. Nothing was built.
            TimelineError: another field cannot be used.
            RateLimitError: the agent's account is exhausted.
            EnvironmentNotReady: no engine answers, it stayed away, or the agent is not installed.
            LogLocked, LogCorrupt, LogTooNew, LogUnavailable: the store cannot be used.
        """
        moment = created_at.isoformat() if isinstance(created_at, datetime) else created_at
        row = checked_item(
            {
                "owner": owner,
                "repo": repo,
                "issue_number": issue_number,
                "sha": sha,
                "env_payload": env_payload,
                "python_version": python_version,
                "pr_context": pr_context,
                "clone_url": clone_url,
                "base_sha": base_sha,
                "patch": patch,
                "created_at": moment,
                "primary_root": primary_root,
            }
        )
        return self.run_item(row, force=force)

    def run_item(self, item: Item, *, force: bool | None = None) -> DockerContext | None:
        """As :meth:`run`, for a pull request that is at hand as a row of a timeline or as a mapping."""
        row = checked_item(item)
        forced = self.force if force is None else force
        with self._one_at_a_time:
            self.trace = []
            accounts = self.accounts()
            with self.opened(write=not self.dry_run) as store:
                return self._run(store, row, accounts=accounts, forced=forced)

    def attempts(
        self, *, owner: str | None = None, repo: str | None = None, issue_number: int | None = None
    ) -> list[AttemptRow]:
        """The rows of ``build_attempts`` that match what is given, oldest first."""
        with self.opened(write=False) as store:
            return store.models.attempts(owner=owner, repo=repo, issue_number=issue_number)

    def accounts(self, *, slots: int = 1) -> list[AgentAccount]:
        """The accounts whose sessions may be paid; ``slots``: sessions at once, where nobody said how many."""
        return chosen_accounts(self.agent, settings=self.settings, verifier=self.verifier, slots=slots)

    def policy(self, accounts: list[AgentAccount]) -> tuple[Settings, CascadePolicy]:
        """The settings and the policy of runs in which sessions of ``accounts`` may be paid."""
        settings = with_accounts(self.settings, accounts)
        policy = msgspec.structs.replace(policy_of(settings), max_attempts=self.max_attempts)
        return settings, policy

    def workbenches(self) -> WorkbenchMaker:
        """What makes the workbench on which attempts are made."""
        return docker_workbench if self.verifier is None else workbench_of(self.verifier)

    @contextmanager
    def opened(self, *, write: bool) -> Iterator[Store]:
        """The store, for the length of a block; one in memory lives as long as this object."""
        if isinstance(self.store, Store):
            yield self.store
            return
        if self.store == "memory:":
            self._memory = self._memory or open_store(self.store, write=True)
            yield self._memory
            return
        try:
            store = open_store(self.store, write=write, holder="Python API")
        except InputError:
            if write or not self.dry_run:
                raise
            store = open_store("memory:", write=False)  # a dry run makes no file, and nothing is there yet
        with store:
            yield store

    def _run(
        self, store: Store, row: PullRequest, *, accounts: list[AgentAccount], forced: bool
    ) -> DockerContext | None:
        settings, policy = self.policy(accounts)
        bench = _Bench(self.workbenches(), settings, store)
        repository = PlainRepository(store, row.repository, rehearsal=self.dry_run)
        repository.settle(bench)
        try:
            repository.admit(
                row, sweep=f"run-{row.issue_number}", rules=settings.verify.rules, policy=policy, forced=forced
            )
            pr = repository.work(
                row,
                bench,
                accounts=accounts,
                patience_s=settings.sweep.infra_patience_s,
                cancel=threading.Event(),
            )
        finally:
            self.trace = trace_of(repository.events, row.issue_number)
        if pr.state is PrState.SUCCEEDED:
            self.trace = self.trace or [SynthesisState.CHECK_CACHE]
            return context_of(store, row, pr)
        if repository.limit is not None:
            raise _limited(row, repository.limit)
        return None


class _Bench:
    """Makes the workbench when it is first needed, and sees that its engine answers."""

    def __init__(self, make: WorkbenchMaker, settings: Settings, store: Store) -> None:
        self._make, self._settings, self._store = make, settings, store
        self._bench: Workbench | None = None

    def __call__(self) -> Workbench:
        if self._bench is None:
            bench = self._make(self._settings, self._store.blobs)
            problem = bench.wait_ready(timeout_s=READY_S)
            if problem is not None:
                raise EnvironmentNotReady(f"the Docker engine does not answer: {problem}")
            self._bench = bench
        return self._bench


def _limited(row: PullRequest, session: SessionReport) -> RateLimitError:
    reset_at = None if session.reset_at is None else datetime.fromtimestamp(session.reset_at, UTC)
    return RateLimitError(pull_request=row.name, account=session.account, reset_at=reset_at, reason=session.message)


def context_of(store: Store, row: PullRequest, pr: PrRecord) -> DockerContext:
    """The context that is verified on a pull request."""
    assert pr.context is not None  # noqa: S101 - it is verified
    return DockerContext.from_tar_bytes(store.blobs.get(pr.context), source=f"context {pr.context[:12]} of {row.name}")
