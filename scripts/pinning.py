"""Pinning requirements as of a date with ``uv pip compile --exclude-newer``.

Guarantees: the result depends on the requirements, the Python, the dates and the index, and on no configuration of this
user or machine: uv runs in an empty folder, without configuration files, in an environment made from an allow-list.
Wheels are preferred, so that as a rule nothing is executed here; only when no set of wheels fits may uv build source
distributions *of requirements*, never of the project, to learn their metadata. What was resolved once is kept in the
cache under all that went into it and not resolved again.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import uv

from events.errors import EnvironmentNotReady
from store.timeline import format_moment

__all__ = ["Pinner", "Unresolvable"]

PASSED_ON = (
    "PATH",
    "HOME",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "UV_CACHE_DIR",
    "UV_HTTP_TIMEOUT",
    "UV_SYSTEM_CERTS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
)
TIMEOUT_S = 900.0
MAX_REASON_CHARS = 400
AWAY = re.compile(
    r"Failed to fetch|error sending request|Could not connect|dns error|tcp connect error"
    r"|Network connectivity is disabled|invalid peer certificate|Request failed after",
    re.IGNORECASE,
)
DECORATION = re.compile(r"[×╰─▶│├]+")
PIN = re.compile(r"^[A-Za-z0-9][^\s#]*(?: @ \S+)?(?: ?;.*)?$")


class Unresolvable(Exception):
    """No set of versions fits; the message is uv's reason, in one line."""


class Pinner:
    """Pins against one index, with a cache; safe to call from many threads."""

    def __init__(
        self,
        *,
        index_url: str,
        extra_index_urls: Sequence[str] = (),
        ca_bundle: str = "",
        cache_dir: Path,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """``timeout_s``: how long one run of uv may take."""
        self._indexes = [index_url, *extra_index_urls]
        self._ca_bundle, self._timeout_s = ca_bundle, timeout_s
        self._cache = cache_dir / "resolutions"
        self._cache.mkdir(parents=True, exist_ok=True)

    def pin(
        self,
        requirements: Sequence[str],
        *,
        python_version: str,
        at: datetime,
        wheels_only: bool,
        at_by_package: Sequence[tuple[str, datetime]] = (),
    ) -> list[str]:
        """The closure of the requirements, each ``name==version`` (or a direct reference), sorted as uv sorts.

        Args:
            at: nothing uploaded after this moment is used; what was uploaded at it still is.
            wheels_only: no source distribution is used, so nothing is executed here.
            at_by_package: another moment for these packages.

        Raises:
            Unresolvable: with uv's reason.
            EnvironmentNotReady: the index cannot be reached.
        """
        options = [
            f"--python-version={python_version}",
            f"--python-platform={platform.machine()}-unknown-linux-gnu",
            f"--exclude-newer={_after(at)}",
            *(f"--exclude-newer-package={name}={_after(moment)}" for name, moment in at_by_package),
            f"--default-index={self._indexes[0]}",
            *(f"--index={url}" for url in self._indexes[1:]),
            *(["--only-binary=:all:"] if wheels_only else []),
        ]
        text = "\n".join(sorted(set(requirements))) + "\n"
        key = hashlib.sha256(msgspec.json.encode([options, text])).hexdigest()
        kept = self._cache / f"{key}.json"
        if kept.exists():
            return msgspec.json.decode(kept.read_bytes(), type=list[str])
        pins = self._compile(options, text)
        with tempfile.NamedTemporaryFile(dir=self._cache, delete=False) as out:
            out.write(msgspec.json.encode(pins))
        Path(out.name).replace(kept)
        return pins

    def _compile(self, options: Sequence[str], text: str) -> list[str]:
        fixed = ["--no-config", "--no-header", "--no-annotate", "--no-progress", "--color=never"]
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        if self._ca_bundle:
            environment["SSL_CERT_FILE"] = self._ca_bundle
        with tempfile.TemporaryDirectory(prefix="headrace-resolve-") as folder:
            try:
                done = subprocess.run(
                    [uv.find_uv_bin(), "pip", "compile", "-", f"--python={sys.executable}", *fixed, *options],
                    input=text,
                    capture_output=True,
                    text=True,
                    env={**environment, "UV_PYTHON_DOWNLOADS": "never"},
                    cwd=folder,
                    timeout=self._timeout_s,
                    check=False,
                )
            except subprocess.TimeoutExpired as exc:
                raise Unresolvable(f"uv found no answer within {self._timeout_s:.0f} s") from exc
        if done.returncode == 0:
            return [line.strip() for line in done.stdout.splitlines() if PIN.match(line)]
        if AWAY.search(done.stderr):
            raise EnvironmentNotReady(
                f"the package index cannot be reached: {_reason(done.stderr)}; "
                f"check the network, the proxy and SSL_CERT_FILE, then run again: what was resolved is kept"
            )
        raise Unresolvable(_reason(done.stderr))


def _after(moment: datetime) -> str:
    """uv takes what was uploaded *before* a moment; the second in which the pull request was made counts too."""
    return format_moment(moment.replace(microsecond=0) + timedelta(seconds=1))


def _reason(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if not line.startswith(("warning:", "Resolved", "Using "))]
    text = " ".join(DECORATION.sub(" ", " ".join(lines)).split())
    text = text.removeprefix("error: ").removeprefix("No solution found when resolving dependencies: ")
    return text if len(text) <= MAX_REASON_CHARS else text[: MAX_REASON_CHARS - 1] + "…"
