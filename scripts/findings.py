"""What ``headrace doctor`` finds: one check with its status, what was seen, and what mends it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

__all__ = ["GIB", "Finding", "Levels", "Status", "amount", "fail", "ok", "warn"]

GIB = 1024**3


class Status(StrEnum):
    """How content a check is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check: what was looked at, what was seen, and what to do where that is not good (``mend``)."""

    name: str
    status: Status
    seen: str
    mend: str = ""


class Levels(NamedTuple):
    """Bytes below which an amount is worth a warning, or is too little to work."""

    warn: int
    fail: int


def ok(name: str, seen: str) -> Finding:
    """A check that is content."""
    return Finding(name=name, status=Status.OK, seen=seen)


def warn(name: str, seen: str, *, mend: str) -> Finding:
    """A sweep works, but slower or in another way than expected."""
    return Finding(name=name, status=Status.WARN, seen=seen, mend=mend)


def fail(name: str, seen: str, *, mend: str) -> Finding:
    """A sweep could not work."""
    return Finding(name=name, status=Status.FAIL, seen=seen, mend=mend)


def amount(name: str, amount: int, *, levels: Levels, what: str, mend: str) -> Finding:
    """Bytes of something, judged by its levels."""
    seen = f"{amount / GIB:.1f} GiB {what}"
    if amount < levels.fail:
        return fail(name, seen, mend=f"{mend} (at least {levels.fail / GIB:g} GiB)")
    if amount < levels.warn:
        return warn(name, seen, mend=f"{mend} ({levels.warn / GIB:g} GiB is comfortable)")
    return ok(name, seen)
