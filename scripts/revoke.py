"""``headrace revoke CONTEXT --why TEXT``: takes a context out of use and re-opens what was verified by it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

import click
import msgspec

from events.commands import Revoke
from events.errors import EnvironmentNotReady, InputError, LogLocked
from events.repository_state import RepositoryState
from events.sweep import SweepState
from events.types import ContextRevoked
from scripts.reading import read_repository, read_sweep
from scripts.writing import decide_and_record
from store.log import EventLog
from store.opening import Store, open_store

__all__ = ["command"]

SHORT = 12
SHOWN_MATCHES = 8


class _Places(msgspec.Struct, kw_only=True):
    """The context that was meant, the repositories that know it, and all sweeps of the store."""

    context: str
    repositories: list[RepositoryState]
    sweeps: list[SweepState]


@click.command()
@click.argument("context")
@click.option("--why", required=True, help="A sentence for whoever reads the log later.")
@click.option("--store", default="sqlite:///headrace.db", show_default=True, help="Where the log is.")
def command(*, context: str, why: str, store: str) -> int:
    """Takes CONTEXT (a digest, or at least its first 8 digits) out of use in every repository of the store.

    Contexts that were made from it fall with it. Pull requests that were verified by any of them are open again:
    `headrace resume` works on them without it. Nothing may write the log meanwhile; run again, it changes nothing.
    """
    prefix, why = context.lower(), why.strip()
    if not re.fullmatch(r"[0-9a-f]{8,64}", prefix):
        raise InputError(f"{context!r} is no context: give its digest, or at least the first 8 of its 64 hex digits")
    if not why:
        raise InputError("--why is empty: say in a sentence why the context is not to be trusted")
    with _opened(store) as opened:
        places = _find(opened.log, prefix, store)
        touched: dict[str, None] = {}
        for repository in places.repositories:
            before = repository.revoked.get(places.context)
            command_ = Revoke(context=places.context, why=why)
            events = decide_and_record(opened.log, repository, command_, sweeps=places.sweeps)
            revoked = next((one for one in events if isinstance(one, ContextRevoked)), None)
            if revoked is None:
                click.echo(f"{repository.repository}: {_short(places.context)} was revoked before: {before}")
                continue
            _show(repository.repository, revoked)
            touched.update((name, None) for name in _sweeps_of(repository, revoked))
    for name in touched:
        click.echo(f"go on with: headrace resume {shlex.quote(name)} --store {shlex.quote(store)}")
    return 0


def _opened(url: str) -> Store:
    with open_store(url, write=False):
        pass  # a log that is not there is not made
    try:
        return open_store(url, write=True, holder="revoke")
    except LogLocked as exc:
        raise EnvironmentNotReady(
            f"{exc.path} is being written by {exc.holder}; stop that first (Ctrl-C), revoke, then go on with "
            f"`headrace resume`"
        ) from exc


def _find(log: EventLog, prefix: str, url: str) -> _Places:
    """What the prefix means, and where.

    Raises:
        InputError: no context begins so, or several do.
    """
    matches: dict[str, list[RepositoryState]] = {}
    for info in log.streams("repository:"):
        state = read_repository(log, info.stream.removeprefix("repository:"))
        for context in state.contexts():
            if context.startswith(prefix):
                matches.setdefault(context, []).append(state)
    if not matches:
        raise InputError(f"{prefix}: no repository of {url} knows a context that begins so; see `headrace events`")
    if len(matches) > 1:
        shown = ", ".join(sorted(matches)[:SHOWN_MATCHES])
        raise InputError(f"{prefix}: {len(matches)} contexts begin so: {shown}; give more digits")
    ((context, repositories),) = matches.items()
    sweeps = [read_sweep(log, info.stream.removeprefix("sweep:")) for info in log.streams("sweep:")]
    return _Places(context=context, repositories=repositories, sweeps=sweeps)


def _sweeps_of(repository: RepositoryState, revoked: ContextRevoked) -> Iterable[str]:
    return (name for name, members in repository.members.items() if not members.isdisjoint(revoked.issue_numbers))


def _show(repository: str, revoked: ContextRevoked) -> None:
    made = [one for one in revoked.contexts if one != revoked.context]
    also = f" and {len(made)} made from it ({', '.join(map(_short, made))})" if made else ""
    click.echo(f"{repository}: revoked {_short(revoked.context)}{also}")
    numbers = ", ".join(f"#{number}" for number in revoked.issue_numbers)
    click.echo(f"{repository}: re-opened {numbers}" if numbers else f"{repository}: no pull request was verified by it")


def _short(context: str) -> str:
    return context[:SHORT]
