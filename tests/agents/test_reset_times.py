"""Reset times: the forms that CLIs print, and that no text makes the reader fail."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agents.reset_times import absolute_time, from_epoch, relative_time, reset_time

NOW = datetime(2026, 11, 22, 0, 54, 30, tzinfo=UTC)
TIMES = st.datetimes(min_value=datetime(2000, 3, 1), max_value=datetime(2099, 1, 1), timezones=st.just(UTC))
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def clock(moment: datetime) -> str:
    """As the CLIs print it: 12 hours, no seconds."""
    return f"{moment.hour % 12 or 12}:{moment.minute:02} {'AM' if moment.hour < 12 else 'PM'}"


def ordinal(day: int) -> str:
    return f"{day}{'th' if 11 <= day <= 13 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


@pytest.mark.parametrize(
    ("message", "now", "expected"),
    [
        ("try again at Nov 25th, 2026 1:57 AM.", NOW, utc(2026, 11, 25, 1, 57)),
        ("try again at Jan 1st, 2027 12:00 AM.", NOW, utc(2027, 1, 1)),
        ("try again at Dec 2nd, 2026 12:30 PM.", NOW, utc(2026, 12, 2, 12, 30)),
        ("try again at Dec 3rd, 2026 11:59\u202fPM.", NOW, utc(2026, 12, 3, 23, 59)),
        ("try again at 1:54 AM.", NOW, utc(2026, 11, 22, 1, 54)),
        ("try again at 1:54 AM.", utc(2026, 11, 22, 23, 50), utc(2026, 11, 23, 1, 54)),
        ("try again at 12:10 AM.", utc(2026, 12, 31, 23, 50), utc(2027, 1, 1, 0, 10)),
        # The minute is printed without its seconds: it has begun, but the limit may end within it.
        ("try again at 1:54 AM.", utc(2026, 11, 22, 1, 54, 40), utc(2026, 11, 22, 1, 54)),
        ("resets 1:57am (UTC)", NOW, utc(2026, 11, 22, 1, 57)),
        ("resets Nov 25, 1:57am (UTC)", NOW, utc(2026, 11, 25, 1, 57)),
        ("resets Nov 25 at 3pm (UTC)", NOW, utc(2026, 11, 25, 15)),
        ("resets 3pm", NOW, utc(2026, 11, 22, 15)),
        ("resets 9pm (America/New_York)", NOW, utc(2026, 11, 22, 2)),
        ("resets 9pm (Nowhere/At_All)", NOW, utc(2026, 11, 22, 21)),
        ("resets Jan 2, 5am", utc(2026, 12, 30, 12), utc(2027, 1, 2, 5)),
        ("resets Dec 31, 11pm", utc(2027, 1, 1, 1), utc(2026, 12, 31, 23)),
        ("resets Feb 29, 5am", utc(2027, 3, 5), utc(2028, 2, 29, 5)),
        ("try again at 1:54 AM. Later: try again at 3:00 AM.", NOW, utc(2026, 11, 22, 3)),
        ("try again at 1:54 AM.", datetime(2026, 11, 22, 0, 54), utc(2026, 11, 22, 1, 54)),
    ],
)
def test_a_wall_clock_time_is_the_next_one_to_come(message: str, now: datetime, expected: datetime) -> None:
    assert reset_time(message, now=now) == expected


@pytest.mark.parametrize(
    ("message", "wait_s"),
    [
        ("Try again in 2 days 3 hours 5 minutes.", 2 * 86400 + 3 * 3600 + 5 * 60),
        ("try again in 1 day, 2 hours and 3 minutes", 86400 + 2 * 3600 + 3 * 60),
        ("Please retry in 1h0m0s.\nSuggested retry after 3600s.", 3600),
        ("Please try again in 11.054s.", 11.054),
        ("Please try again in 250ms.", 0.25),
        ("try again in about 45 minutes", 2700),
        ("in 1 week", 7 * 86400),
    ],
)
def test_a_relative_time_counts_from_now(message: str, wait_s: float) -> None:
    assert reset_time(message, now=NOW) == NOW + timedelta(seconds=wait_s)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "try again later.",
        "try again at 13:99 AM.",
        "try again at Feb 31st, 2026 1:00 AM.",
        "try again at 0:30 PM.",
        "in 2 daystar",
        "try again in 99999999999999 days",
        "it was written in 3 parts",
    ],
)
def test_what_names_no_time_gives_none(message: str) -> None:
    assert reset_time(message, now=NOW) is None


@given(moment=TIMES, now=TIMES)
def test_a_full_date_is_read_back_whatever_the_time_is(moment: datetime, now: datetime) -> None:
    shown = f"{MONTHS[moment.month - 1]} {ordinal(moment.day)}, {moment.year} {clock(moment)}"
    expected = moment.replace(second=0, microsecond=0)
    assert absolute_time(f"You\u2019ve hit your usage limit. Try again at {shown}.", now=now) == expected


@given(now=TIMES, wait=st.timedeltas(min_value=timedelta(minutes=1), max_value=timedelta(hours=23)))
def test_a_time_without_a_date_is_the_one_within_the_next_day(now: datetime, wait: timedelta) -> None:
    expected = (now + wait).replace(second=0, microsecond=0)
    assert absolute_time(f"try again at {clock(expected)}", now=now) == expected


@given(now=TIMES, wait=st.timedeltas(min_value=timedelta(minutes=1), max_value=timedelta(days=300)))
def test_a_date_without_a_year_is_the_next_one(now: datetime, wait: timedelta) -> None:
    expected = (now + wait).replace(second=0, microsecond=0)
    shown = f"{MONTHS[expected.month - 1]} {expected.day}, {clock(expected).replace(' ', '').lower()}"
    found = absolute_time(f"resets {shown} (UTC)", now=now)
    assert found == expected


@given(now=TIMES, days=st.integers(0, 300), hours=st.integers(0, 50), minutes=st.integers(1, 100))
def test_durations_add_up(now: datetime, days: int, hours: int, minutes: int) -> None:
    expected = now + timedelta(days=days, hours=hours, minutes=minutes)
    assert relative_time(f"in {days} days {hours} hours {minutes} minutes", now=now) == expected
    assert relative_time(f"in {days}d{hours}h{minutes}m", now=now) == expected


FRAGMENTS = st.sampled_from(
    [
        "try again at ",
        "resets ",
        "in ",
        "after ",
        "Nov ",
        "Feb ",
        "29th, ",
        "31",
        "2026 ",
        "9999 ",
        "12",
        ":59",
        " PM",
        "am",
    ]
)


@given(
    text=st.lists(st.one_of(FRAGMENTS, st.text(max_size=5)), max_size=12).map("".join),
    now=st.datetimes(timezones=st.sampled_from([None, UTC])),
)
def test_no_text_makes_the_reader_fail(text: str, now: datetime) -> None:
    found = reset_time(text, now=now)
    assert found is None or found.utcoffset() == timedelta(0)


@given(seconds=st.one_of(st.none(), st.floats(allow_nan=False), st.integers().map(float)))
def test_no_number_makes_the_epoch_fail(seconds: float | None) -> None:
    found = from_epoch(seconds)
    assert found is None or abs(found.timestamp() - (seconds or 0)) < 1
