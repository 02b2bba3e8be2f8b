"""``headrace events``: the log, one event a line."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime

import click
import msgspec

from events.errors import InputError
from store.log import EventLog, RecordedEvent
from store.opening import open_store

__all__ = ["command", "exported"]


@click.command()
@click.option("--store", default="sqlite:///headrace.db", show_default=True, help="Where the log is.")
@click.option("--stream", help="Only this stream, such as repository:OWNER/REPO or sweep:NAME.")
@click.option("--type", "types", multiple=True, help="Only events of this type; may be given several times.")
@click.option(
    "--after", type=int, default=0, help="Only events after this seq (of the whole log), or version (--stream)."
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object a line: seq, stream, version, type, recorded_at, data, hash.",
)
def command(store: str, stream: str | None, types: tuple[str, ...], after: int, as_json: bool) -> None:
    """Prints the event log, oldest first; works while a sweep writes."""
    with open_store(store, write=False) as opened:
        log = opened.log
        _tell_what_was_pruned(log, stream, after)
        events = log.read_stream(stream, after=after) if stream else log.read_all(after=after)
        chosen = (one for one in events if not types or one.type in types)
        try:
            for one in chosen:
                sys.stdout.write((msgspec.json.encode(exported(one)).decode() if as_json else _line(one)) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # whoever reads has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell_what_was_pruned(log: EventLog, stream: str | None, after: int) -> None:
    """Says which events are missing because they were pruned; an error where just these were asked for."""
    for name, removed in log.pruned().items():
        if stream not in (None, name):
            continue
        if name == stream and 0 < after < removed.version:
            raise InputError(
                f"--after {after}: versions 1 to {removed.version} of stream {stream} were pruned; use --after "
                f"{removed.version} or later, or read a copy of the log from before"
            )
        if name != stream or after < removed.version:
            click.echo(f"headrace: versions 1 to {removed.version} of stream {name} were pruned", err=True)


def exported(event: RecordedEvent) -> dict[str, object]:
    """An event as CONTRACTS.md section 4 exports it."""
    return {
        "seq": event.seq,
        "stream": event.stream,
        "version": event.version,
        "type": event.type,
        "recorded_at": iso(event.recorded_at),
        "data": msgspec.Raw(event.data),
        "hash": event.hash,
    }


def iso(at: float) -> str:
    """POSIX seconds as ISO 8601 in UTC, to the microsecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _line(event: RecordedEvent) -> str:
    data = msgspec.json.decode(event.data)
    shown = ", ".join(f"{key}={_short(value)}" for key, value in data.items())
    return f"{event.seq:>7} {iso(event.recorded_at)} {event.stream} v{event.version} {event.type} {shown}"


def _short(value: object) -> str:
    if isinstance(value, dict) and "verified" in value and "message" in value:
        tail = f"\n{_indented(str(value['log_tail']))}" if value.get("log_tail") and not value["verified"] else ""
        return f"[{value.get('stage')}: {value['message']}]{tail}"
    if isinstance(value, list) and len(value) > 3:
        return f"[{len(value)} items]"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 160 else text[:157] + "..."


def _indented(text: str) -> str:
    return "\n".join(f"          | {line}" for line in text.splitlines())
