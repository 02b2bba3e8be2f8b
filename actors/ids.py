"""Ids that grow with time.

Event ids are indexed by the log; random ones would scatter over the whole index and halve the rate of appends.
"""

from __future__ import annotations

import secrets
import time

__all__ = ["new_id"]


def new_id() -> str:
    """32 hexadecimal digits: nanoseconds since the epoch, then 64 random bits."""
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"
