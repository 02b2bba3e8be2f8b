"""What the parts of the tests' gateway share: keys, whose request it is, and answers that are none."""

from __future__ import annotations

import json
import time

import jwt
import msgspec

__all__ = ["SECRET", "CutOff", "CutShort", "Refused", "Who", "key_of", "who_of"]

SECRET = "a secret that only the tests of this repository use"  # noqa: S105


def key_of(role: str, *, expires_in_s: float = 3600.0, secret: str = SECRET) -> str:
    """A key of a project as Supabase made them: a token with a role, signed by the project."""
    return jwt.encode({"role": role, "iss": "supabase", "exp": int(time.time() + expires_in_s)}, secret, "HS256")


class Refused(Exception):
    """An answer that is an error, with its status and body."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = json.dumps({"code": code, "message": message, "details": None, "hint": None}).encode()


class CutOff(Exception):
    """The connection ends without an answer."""


class CutShort(Exception):
    """The connection ends in the middle of an answer."""

    def __init__(self, content: bytes) -> None:
        super().__init__(f"in the middle of {len(content)} bytes")
        self.content = content


class Who(msgspec.Struct, frozen=True):
    """Whose request it is: a role, and what its key says."""

    role: str
    claims: str


def who_of(authorization: str | None) -> Who:
    """Whose request has this header; raises ``Refused`` for a token that is not the project's, or not any more."""
    scheme, _, token = (authorization or "").partition(" ")
    if not token or scheme.lower() != "bearer":
        return Who("anon", "{}")
    try:
        claims = jwt.decode(token, SECRET, algorithms=["HS256"])
    except jwt.ExpiredSignatureError:
        raise Refused(401, "PGRST303", "JWT expired") from None
    except jwt.InvalidTokenError:
        raise Refused(401, "PGRST301", "No suitable key or wrong key type") from None
    return Who(str(claims.get("role", "anon")), json.dumps(claims))
