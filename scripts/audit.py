"""``headrace audit``: attempts one by one: why each was made, how it ended, and what its session used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import click
import msgspec

from events.errors import InputError
from scripts.accounts import clock
from scripts.reading import open_sweep
from store.blobs import BlobStore, FileBlobs
from store.opening import open_store
from store.read_models import AttemptRow, AttemptState

__all__ = ["Audit", "Usage", "audited", "command", "moment"]

SHOWN_MESSAGE = 400


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What the sessions of one account, repository or pull request (``of``) used.

    ``usd`` leaves out the ``unpriced_sessions``, of which the CLI told no price; tokens leave out the
    ``uncounted_sessions``, of which it told no number.
    """

    of: str
    sessions: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    unpriced_sessions: int = 0
    uncounted_sessions: int = 0


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What ``audit --json`` prints: the rows of ``build_attempts``, and sums of what their sessions used."""

    attempts: list[AttemptRow]
    usage: list[Usage]


def moment(text: str) -> float:
    """A date, which is its midnight, or a time, as POSIX seconds; UTC unless the text names another zone.

    Raises:
        InputError: it is neither.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InputError(f"{text!r} is no time; write 2026-01-31, or 2026-01-31T12:00:00Z (UTC)") from exc
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _name(one: AttemptRow) -> str:
    return f"{one.owner}/{one.repo}#{one.issue_number}"


GROUPS: dict[str, Callable[[AttemptRow], str]] = {
    "account": lambda one: one.account or "",
    "repository": lambda one: f"{one.owner}/{one.repo}",
    "pr": _name,
}


@click.command()
@click.argument("sweep", required=False)
@click.option("--store", default="sqlite:///headrace.db", show_default=True, help="Where the log is.")
@click.option("--repository", metavar="OWNER/REPO", help="Only attempts on pull requests of this repository.")
@click.option("--issue-number", type=int, help="Only attempts on the pull request of this number.")
@click.option("--account", help="Only sessions on this account.")
@click.option(
    "--ended",
    multiple=True,
    type=click.Choice([one.value for one in AttemptState]),
    help="Only these; repeatable.",
)
@click.option("--since", metavar="TIME", help="Only attempts that ended then or later (or run, and started so).")
@click.option("--until", metavar="TIME", help="Only attempts that ended before that.")
@click.option("--on", "day", metavar="DATE", help="Only attempts that ended on this day (UTC).")
@click.option("--by", type=click.Choice(list(GROUPS)), default="account", help="What usage is summed up by.")
@click.option("--logs", is_flag=True, help="Also where logs and transcript of each attempt lie.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: attempts, and what their sessions used.")
def command(
    *,
    sweep: str | None,
    store: str,
    repository: str | None,
    issue_number: int | None,
    account: str | None,
    ended: tuple[str, ...],
    since: str | None,
    until: str | None,
    day: str | None,
    by: str,
    logs: bool,
    as_json: bool,
) -> int:
    """Shows the attempts of SWEEP, or of all sweeps of a store: why each was made, how it ended, what it used.

    TIME is a date or a time, in UTC unless it names a zone. Which attempts on a repository met a limit on a day, and
    what each cost: headrace audit --repository OWNER/REPO --ended rate_limited --on 2026-11-24
    """
    owner, repo = _parts(repository)
    start, end = _period(since, until, day)
    if sweep is not None:
        with open_sweep(store, sweep):
            pass
    with open_store(store, write=False) as opened:
        rows = opened.models.attempts(owner=owner, repo=repo, issue_number=issue_number, sweep=sweep)
        chosen = [
            one
            for one in rows
            if (not ended or one.state.value in ended)
            and (account is None or one.account == account)
            and start <= _at(one) < end
        ]
        found = audited(chosen, by=by)
        if as_json:
            sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        else:
            _show(found, opened.blobs if logs else None)
    return 0


def audited(attempts: Sequence[AttemptRow], *, by: str) -> Audit:
    """Attempts by their ends, and what their sessions used, summed up by ``account``, ``repository`` or ``pr``."""
    usage: dict[str, Usage] = {}
    for one in attempts:
        if one.account is not None:
            key = GROUPS[by](one)
            usage[key] = _plus(usage.get(key, Usage(of=key)), one)
    return Audit(
        attempts=sorted(attempts, key=lambda one: (_at(one), one.attempt_id)),
        usage=[usage[key] for key in sorted(usage)],
    )


def _plus(sum_: Usage, one: AttemptRow) -> Usage:
    return Usage(
        of=sum_.of,
        sessions=sum_.sessions + 1,
        input_tokens=sum_.input_tokens + (one.input_tokens or 0),
        output_tokens=sum_.output_tokens + (one.output_tokens or 0),
        usd=round(sum_.usd + (one.usd or 0.0), 6),
        unpriced_sessions=sum_.unpriced_sessions + (one.usd is None),
        uncounted_sessions=sum_.uncounted_sessions + (one.output_tokens is None),
    )


def _parts(repository: str | None) -> tuple[str | None, str | None]:
    if repository is None:
        return None, None
    owner, slash, repo = repository.partition("/")
    if not (owner and slash and repo) or "/" in repo:
        raise InputError(f"--repository {repository!r} is no repository; write OWNER/REPO")
    return owner, repo


def _period(since: str | None, until: str | None, day: str | None) -> tuple[float, float]:
    if day is not None:
        if since is not None or until is not None:
            raise InputError("--on names a whole day; leave --since and --until out, or use them alone")
        start = moment(day)
        return start, start + timedelta(days=1).total_seconds()
    return moment(since) if since else 0.0, moment(until) if until else float("inf")


def _at(one: AttemptRow) -> float:
    return one.started_at if one.finished_at is None else one.finished_at


def _show(found: Audit, blobs: BlobStore | None) -> None:
    for one in found.attempts:
        for line in _lines(one, blobs):
            click.echo(line)
    if not found.attempts:
        click.echo("no attempt matches")
    if found.usage:
        click.echo()
    for usage in found.usage:
        click.echo(_usage(usage))


def _lines(one: AttemptRow, blobs: BlobStore | None) -> list[str]:
    session = f" {_session(one)}" if one.account is not None else ""
    lines = [f"{clock(_at(one))} {_name(one)} {one.stage} {one.state}{session}", f"    why: {one.reason or 'not told'}"]
    if one.message:
        where = f" at {one.ended_stage}" if one.ended_stage else ""
        code = f", exit code {one.exit_code}" if one.exit_code is not None else ""
        cls = f" ({one.failure_class}{code})" if one.failure_class else ""
        lines.append(f"    ended{where}{cls}: {_short(one.message)}")
    if one.reset_at is not None:
        lines.append(f"    the limit ends: {clock(one.reset_at)}")
    for kind, digest in one.blobs.items() if blobs is not None else ():
        lines.append(f"    {kind}: {blobs.path_of(digest) if isinstance(blobs, FileBlobs) else digest}")
    return lines


def _session(one: AttemptRow) -> str:
    parts = [f"{one.account}{f' ({one.model})' if one.model else ''}"]
    if one.session_ended is None:
        return parts[0] if one.finished_at is None else f"{parts[0]}, use not told"
    code = f", exit code {one.agent_exit_code}" if one.agent_exit_code is not None else ""
    parts.append(f"{one.session_ended}{code}")
    if one.output_tokens is None:
        parts.append("tokens not told")
    else:
        least = "at least " if one.tokens_partial else ""
        parts.append(f"{least}{one.input_tokens or 0:,} tokens in, {one.output_tokens:,} out")
    parts.append("price not told" if one.usd is None else f"{one.usd:.4f} USD")
    if one.session_s is not None:
        parts.append(f"{one.session_s:.0f} s")
    return ", ".join(parts)


def _usage(one: Usage) -> str:
    unpriced = f" and {one.unpriced_sessions} without a price" if one.unpriced_sessions else ""
    uncounted = f" and {one.uncounted_sessions} not told" if one.uncounted_sessions else ""
    tokens = f"{one.input_tokens:,} tokens in, {one.output_tokens:,} out{uncounted}"
    return f"{one.of}: {one.sessions} session{'s' * (one.sessions != 1)}, {tokens}; {one.usd:.4f} USD{unpriced}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_MESSAGE else line[: SHOWN_MESSAGE - 1] + "…"
