"""Where the Supabase project is and with which key: from ``SUPABASE_URL`` and ``SUPABASE_KEY``, checked before use.

The key is kept in memory only. It is no part of a representation, a message or a log line; text that comes back from
the server passes :meth:`Credentials.hide` before it is shown.
"""

from __future__ import annotations

import binascii
import os
import time
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

import msgspec

from events.errors import EnvironmentNotReady

__all__ = ["KEY_VARIABLE", "URL_VARIABLE", "Credentials", "credentials_of"]

URL_VARIABLE = "SUPABASE_URL"
KEY_VARIABLE = "SUPABASE_KEY"
SERVICE_ROLE = "service_role"
_REMEDY = "set it to the project's service_role key (a secret key; in the dashboard: Project Settings, API keys)"


class Credentials:
    """A project's address and a key that may write its log."""

    def __init__(self, *, url: str, key: str) -> None:
        self.url, self.key = url, key

    def __repr__(self) -> str:
        return f"Credentials({self.url})"

    def hide(self, text: str) -> str:
        """``text`` without the key."""
        return text.replace(self.key, "[SUPABASE_KEY]")


class _Claims(msgspec.Struct):
    """What a key that is a JSON Web Token says of itself; its signature is the server's to check."""

    role: str = ""
    exp: float | None = None


def credentials_of(environment: Mapping[str, str] = os.environ) -> Credentials:
    """The credentials that the environment names; nothing is asked of the network.

    Raises:
        EnvironmentNotReady: a variable is missing or no URL, or the key is of another role or has expired.
    """
    url, key = environment.get(URL_VARIABLE, "").strip(), environment.get(KEY_VARIABLE, "").strip()
    for name, value, example in (
        (URL_VARIABLE, url, "https://PROJECT.supabase.co"),
        (KEY_VARIABLE, key, "the project's service_role key"),
    ):
        if not value:
            raise EnvironmentNotReady(f"--store supabase: {name} is not set; set it to {example}")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EnvironmentNotReady(
            f"--store supabase: {URL_VARIABLE}={url!r} is no address; set it to https://PROJECT.supabase.co"
        )
    role, expires = _said_by(key)
    if role not in ("", SERVICE_ROLE):
        raise EnvironmentNotReady(f"--store supabase: {KEY_VARIABLE} is a key of the role {role}; {_REMEDY}")
    if expires is not None and expires < time.time():
        when = datetime.fromtimestamp(expires, UTC).isoformat(timespec="seconds")
        raise EnvironmentNotReady(f"--store supabase: {KEY_VARIABLE} has expired at {when}; {_REMEDY}")
    return Credentials(url=url.rstrip("/"), key=key)


def _said_by(key: str) -> tuple[str, float | None]:
    """The role of a key and when it expires (POSIX seconds), as far as it says so itself."""
    if key.startswith("sb_publishable_"):
        return "anon", None
    if key.startswith("sb_secret_"):
        return SERVICE_ROLE, None
    try:
        _, payload, _ = key.split(".")
        claims = msgspec.json.decode(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Claims)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        return "", None
    return claims.role, claims.exp
