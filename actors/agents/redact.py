"""Secrets leave every text before it is stored: the values that are known, and the shapes of well-known keys.

A known value is also found in the forms it takes in JSON, in a URL and in base64. What cannot be promised: a secret
that an agent writes in another encoding, or in pieces, is not recognised; an account's key should therefore be one that
can be revoked. Values shorter than :data:`MIN_SECRET_CHARS` are not looked for, they would shred ordinary words.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, urlsplit

__all__ = ["MASK", "MIN_SECRET_CHARS", "Redactor", "secrets_of"]

MASK = "[redacted]"
MIN_SECRET_CHARS = 8

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|AUTH", re.IGNORECASE)

SHAPES = (
    r"\bsk-[A-Za-z0-9_-]{16,}",  # Anthropic, OpenAI, DashScope
    r"\bAIza[A-Za-z0-9_-]{30,}",  # Google API keys
    r"\bya29\.[A-Za-z0-9_-]{20,}",  # Google access tokens
    r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    r"\bglpat-[A-Za-z0-9_-]{20,}",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    r"\b(?:hf|npm)_[A-Za-z0-9]{30,}",
    r"\bpypi-[A-Za-z0-9_-]{50,}",
    r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # JSON web tokens
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    r"(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}",
    r"(?<=://)[^\s/@:\"'\\]+:[^\s/@\"'\\]+(?=@)",  # user and password in a URL
)
SHAPE = re.compile("|".join(SHAPES), re.DOTALL)
HINT = re.compile(r"sk-|AIza|ya29|gh[pousr]_|github_pat|glpat|AKIA|ASIA|xox|hf_|npm_|pypi-|eyJ|PRIVATE KEY|earer |@")
"""Every shape contains one of these; most lines contain none and are spared the search for shapes."""


class Redactor:
    """Replaces secrets by :data:`MASK`. Never fails; a text without secrets comes back as it is."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets if len(secret) >= MIN_SECRET_CHARS for form in _forms(secret)}
        # The longest first: one secret may begin with another.
        ordered = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self.longest_chars = max(map(len, ordered), default=0)

    def knows(self, text: str) -> bool:
        """Whether one of the known values is in the text."""
        return self._known is not None and self._known.search(text) is not None

    def text(self, text: str) -> str:
        """The text with every secret masked."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        return SHAPE.sub(MASK, text) if HINT.search(text) else text


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The secret values of an environment: of variables named like one, and passwords in URLs (proxies)."""
    found = []
    for name, value in environment.items():
        if SECRET_NAME.search(name):
            found.append(value)
        elif "://" in value:
            try:
                found.append(urlsplit(value).password or "")
            except ValueError:  # not a URL after all
                continue
    return tuple(value for value in found if len(value) >= MIN_SECRET_CHARS)


def _forms(secret: str) -> set[str]:
    escaped = json.dumps(secret)[1:-1]
    encoded = base64.b64encode(secret.encode()).decode()
    # The last characters depend on what follows in the encoded text.
    return {secret, escaped, json.dumps(escaped)[1:-1], quote(secret, safe=""), encoded.rstrip("=")[:-1]}
