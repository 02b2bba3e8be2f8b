"""What all events have in common."""

from __future__ import annotations

import msgspec

__all__ = ["BaseEvent"]


class BaseEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of all events. Without cycles, so the garbage collector need not look at a million of them in a replay."""
