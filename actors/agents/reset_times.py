"""Reads from a limit's message when the limit ends. Pure; the current time is an argument.

The CLIs print wall-clock times, mostly without a zone, sometimes without a year or a date. UTC is assumed where no
zone stands (sessions run with ``TZ=UTC``). What is left out is filled in so that the time is the next one to come; a
time that has just passed stays where it is, because minutes are printed without their seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

__all__ = ["absolute_time", "from_epoch", "relative_time", "reset_time"]

JUST_PASSED = timedelta(minutes=2)
STALE_DATE = timedelta(days=2)
"""A date without a year that is at most this old is past; an older one is next year's."""
LONGEST_WAIT_S = 400 * 86400.0
"""Numbers beyond this are no reset times."""

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

ABSOLUTE = re.compile(
    r"\b(?:try again at|resets?(?: at| on)?|available (?:again )?at)\s+"
    r"(?:(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?\s+(?P<day>\d{1,2})(?:st|nd|rd|th)?"
    r"(?:,?\s+(?P<year>\d{4}))?,?\s+(?:at\s+)?)?"
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2}))?\s*(?P<half>[ap])\.?m\b\.?"
    r"(?:\s*\((?P<zone>[A-Za-z0-9_+/-]+)\)|\s+(?P<utc>UTC|GMT)\b)?",
    re.IGNORECASE,
)

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
DURATION = re.compile(
    r"(?P<number>\d+(?:\.\d+)?)\s*"
    r"(?P<unit>milliseconds?|ms|weeks?|w|days?|d|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)(?![a-z])",
    re.IGNORECASE,
)
RELATIVE = re.compile(
    rf"\b(?:in|after|retryDelayMs:)\s+(?:about\s+)?(?P<span>{re.sub('[?]P<[a-z]+>', '?:', DURATION.pattern)}"
    rf"(?:,?\s*(?:and\s+)?{re.sub('[?]P<[a-z]+>', '?:', DURATION.pattern)})*)",
    re.IGNORECASE,
)


def reset_time(message: str, *, now: datetime) -> datetime | None:
    """The time that a message names, absolutely or relatively to ``now``; ``None`` if it names none.

    Args:
        message: what the CLI said.
        now: when it said so; without a zone UTC is taken.

    Returns:
        A time in UTC.
    """
    return absolute_time(message, now=now) or relative_time(message, now=now)


def absolute_time(message: str, *, now: datetime) -> datetime | None:
    """From ``try again at Nov 25th, 2026 1:57 AM``, ``resets 1:57am (UTC)`` and the like; the last one counts."""
    for found in reversed(list(ABSOLUTE.finditer(_plain(message)))):
        zone = _zone(found["zone"])
        hour, minute = int(found["hour"]), int(found["minute"] or 0)
        if not 1 <= hour <= 12 or minute > 59:
            continue
        hour = hour % 12 + (12 if found["half"].lower() == "p" else 0)
        for day in _days(found, today=_aware(now).astimezone(zone).date()):
            moment = _moment(day, hour=hour, minute=minute, zone=zone)
            patience = STALE_DATE if found["month"] else JUST_PASSED
            if moment is not None and (found["year"] or moment >= _aware(now) - patience):
                return moment
    return None


def relative_time(message: str, *, now: datetime) -> datetime | None:
    """From ``in 2 days 3 hours 5 minutes``, ``in 1h0m0s``, ``after 3600s``; the last one counts."""
    for found in reversed(list(RELATIVE.finditer(_plain(message)))):
        wait_s = sum(float(part["number"]) * _unit_s(part["unit"]) for part in DURATION.finditer(found["span"]))
        if wait_s <= LONGEST_WAIT_S:
            try:
                return _aware(now).astimezone(UTC) + timedelta(seconds=wait_s)
            except OverflowError:
                return None
    return None


def from_epoch(seconds: float | None) -> datetime | None:
    """A time from seconds since 1970; ``None`` for what is no time."""
    if seconds is None or seconds <= 0:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _plain(message: str) -> str:
    """With ordinary spaces: locales put narrow ones before AM and PM."""
    return re.sub(r"[\u00a0\u2007\u2009\u202f]", " ", message)


def _aware(now: datetime) -> datetime:
    return now if now.tzinfo else now.replace(tzinfo=UTC)


def _zone(name: str | None) -> tzinfo:
    if not name or name.upper() in ("UTC", "GMT", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def _days(found: re.Match[str], *, today: date) -> Iterator[date]:
    """The days that may be meant, the earliest first."""
    if not found["month"]:
        for offset in (-1, 0, 1):
            try:
                yield today + timedelta(days=offset)
            except OverflowError:
                continue
        return
    month = MONTHS.index(found["month"].lower()) + 1
    # Nine years hold a 29 February in any case.
    years = [int(found["year"])] if found["year"] else range(today.year - 1, today.year + 9)
    for year in years:
        try:
            yield date(year, month, int(found["day"]))
        except ValueError:
            continue


def _moment(day: date, *, hour: int, minute: int, zone: tzinfo) -> datetime | None:
    try:
        return datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _unit_s(unit: str) -> float:
    lower = unit.lower()
    return UNITS["ms"] if lower.startswith(("ms", "milli")) else UNITS[lower[0]]
