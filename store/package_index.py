"""Reading a package index: its address from this machine's configuration, its files, its source distributions.

Guarantees: only the JSON form of the simple API is read (PEP 691 with the ``upload-time`` of PEP 700); a file
is handed out only after its hash was checked, also when it comes from the cache; a download appears in the
cache as a whole or not at all. Passwords in an index address are never shown. Proxies and certificate authorities come
from the environment (``HTTPS_PROXY``, ``SSL_CERT_FILE``, ``SSL_CERT_DIR`` and the like).
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx
import msgspec
from loguru import logger
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from events.errors import EnvironmentNotReady, InfraError, InputError
from store.timeline import parse_moment

__all__ = ["IndexFile", "PackageIndex", "Sdist", "UnknownProject", "default_index_url", "index_url_without_secrets"]

MEDIA_TYPE = "application/vnd.pypi.simple.v1+json"
SUFFIXES = (".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar.xz")
"""Formats of source distributions, the preferred one first: of two files uploaded at one moment it is taken."""
HASHES = ("sha256", "sha512", "sha384", "blake2b", "sha3_256")
TRIES = 4
FIRST_PAUSE_S = 0.5
REPOSITORY_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


class Sdist(msgspec.Struct, frozen=True, kw_only=True):
    """The source distribution of one release.

    ``number`` is the release's place, from 1, among all releases of the project that have one, by upload time: it stays
    the same when releases are added.
    """

    number: int
    project: str
    version: str
    prerelease: bool
    uploaded_at: datetime
    filename: str
    url: str
    digest: tuple[str, str]
    yanked: bool


class UnknownProject(InputError):
    """The index has no such project or file."""


class IndexFile(msgspec.Struct, rename="kebab"):
    """One file of a project, as the index lists it."""

    filename: str
    url: str
    hashes: dict[str, str] = msgspec.field(default_factory=dict)
    yanked: bool | str = False
    upload_time: str | None = None

    @property
    def digest(self) -> tuple[str, str]:
        """The best hash that the index tells, by its algorithm; empty if it tells none."""
        return next(((name, self.hashes[name].lower()) for name in HASHES if name in self.hashes), ("sha256", ""))


class _Project(msgspec.Struct):
    files: list[IndexFile]


def default_index_url(environ: Mapping[str, str] | None = None) -> str:
    """The index that this machine's installers use: uv's and pip's variables, pip's configuration, else pip's own.

    Raises:
        EnvironmentNotReady: nothing names an index and pip is not installed here.
    """
    environ = os.environ if environ is None else environ
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        if environ.get(name):
            return environ[name].rpartition("=")[2] if name == "UV_DEFAULT_INDEX" else environ[name]
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env={**environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    configured = re.search(r"(?m)^global\.index-url='(.+)'$", listed.stdout)
    if configured:
        return configured[1]
    try:
        return str(importlib.import_module("pip._internal.models.index").PyPI.simple_url)
    except (ImportError, AttributeError) as exc:
        raise EnvironmentNotReady("no package index is configured; name one with --index-url URL") from exc


def index_url_without_secrets(url: str) -> str:
    """The address as it may be shown: without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class PackageIndex:
    """One index and the cache of what was downloaded from it; a context manager that holds connections.

    Reading twice is harmless. Requests are repeated a few times with growing pauses when the index is busy or the
    connection breaks; what still fails is ``EnvironmentNotReady``, and nothing in the cache was changed.
    """

    def __init__(self, *, url: str, cache_dir: Path, timeout_s: float = 60.0) -> None:
        if urlsplit(url).scheme not in {"http", "https"}:
            raise InputError(
                f"index {index_url_without_secrets(url)!r} is no http(s) address; give one with --index-url"
            )
        self._url = url.rstrip("/") + "/"
        self._shown = index_url_without_secrets(self._url)
        self._cache = cache_dir
        self._client = httpx.Client(timeout=timeout_s, follow_redirects=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._client.close()

    def sdists(self, name: str) -> list[Sdist]:
        """All releases of a project that have a source distribution, yanked and pre-releases too, by upload time.

        Of several source distributions of one release the first uploaded is taken.

        Raises:
            InputError: no such project, no source distribution, or the index does not tell upload times.
            EnvironmentNotReady: the index cannot be reached or does not speak the JSON simple API.
        """
        if not REPOSITORY_NAME.fullmatch(name):
            raise InputError(f"{name!r} is no package name; use letters, digits, '.', '_' and '-'")
        project = canonicalize_name(name)
        first: dict[Version, tuple[datetime, int, IndexFile]] = {}
        for file in self.files(project):
            version = _version(file.filename, project)
            if version is None:
                continue
            if file.upload_time is None:
                raise InputError(
                    f"index {self._shown} does not tell when {file.filename} was uploaded (PEP 700); "
                    f"use another --index-url"
                )
            found = (parse_moment(file.upload_time), _rank(file.filename), file)
            first[version] = min(first.get(version, found), found, key=lambda entry: entry[:2])
        if not first:
            raise InputError(
                f"{project} has no source distribution on {self._shown}; take it from a clone: `ingest git`"
            )
        ordered = sorted(first.items(), key=lambda item: (item[1][0], item[0]))
        return [
            Sdist(
                number=number,
                project=project,
                version=str(version),
                prerelease=version.is_prerelease,
                uploaded_at=uploaded_at,
                filename=file.filename,
                url=file.url,
                digest=file.digest,
                yanked=file.yanked is not False,
            )
            for number, (version, (uploaded_at, _, file)) in enumerate(ordered, start=1)
        ]

    def fetch(self, file: Sdist | IndexFile) -> Path:
        """The path of a downloaded and checked file.

        Raises:
            InfraError: the file does not have the hash that the index tells, or the index tells none.
            EnvironmentNotReady: the index cannot be reached.
        """
        algorithm, expected = file.digest
        if not expected:
            raise InfraError(f"{file.filename}: the index gives no hash to check it by; it was not downloaded")
        kind = "wheels" if file.filename.endswith(".whl") else "sdists"
        path = self._cache / kind / f"{algorithm}-{expected}" / file.filename
        if path.exists():
            with path.open("rb") as kept:
                if hashlib.file_digest(kept, algorithm).hexdigest() == expected:
                    return path
            logger.warning("{}: damaged in the cache, downloaded again", file.filename)
        content = self._get(file.url, accept="*/*", what=file.filename).content
        actual = hashlib.new(algorithm, content).hexdigest()
        if actual != expected:
            raise InfraError(
                f"{file.filename}: {algorithm} is {actual}, the index promises {expected}; "
                f"it was thrown away, try again"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}.part")
        temporary.write_bytes(content)
        temporary.replace(path)
        return path

    def files(self, project: str) -> list[IndexFile]:
        """Everything that the index has of a project, by its canonical name.

        Raises:
            UnknownProject: no such project.
            EnvironmentNotReady: the index cannot be reached or does not speak the JSON simple API.
        """
        url = urljoin(self._url, f"{project}/")
        response = self._get(url, accept=MEDIA_TYPE, what=project)
        if not response.headers.get("content-type", "").startswith(MEDIA_TYPE):
            raise EnvironmentNotReady(
                f"index {self._shown} does not speak the JSON simple API (PEP 691); use another --index-url"
            )
        try:
            files = msgspec.json.decode(response.content, type=_Project).files
        except msgspec.DecodeError as exc:
            raise EnvironmentNotReady(
                f"index {self._shown}: its answer on {project} is not understood ({exc})"
            ) from exc
        for file in files:
            file.url = urljoin(str(response.url), file.url)
        return files

    def _get(self, url: str, *, accept: str, what: str) -> httpx.Response:
        for attempt in range(1, TRIES + 1):
            try:
                response = self._client.get(url, headers={"Accept": accept})
                if response.status_code == httpx.codes.NOT_FOUND:
                    raise UnknownProject(f"{what} is not on {self._shown}; correct the name or use another --index-url")
                problem = f"HTTP {response.status_code}"
                if response.is_success:
                    return response
                if response.status_code != httpx.codes.TOO_MANY_REQUESTS and not response.is_server_error:
                    break
            except httpx.HTTPError as exc:
                problem = str(exc) or type(exc).__name__
            if attempt < TRIES:
                time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
        raise EnvironmentNotReady(
            f"index {self._shown} is not usable: {problem} for {what}; "
            f"check the network, the proxy and SSL_CERT_FILE, or use another --index-url"
        )


def _version(filename: str, project: str) -> Version | None:
    """The version of a source distribution's file name; ``None``: it is another kind of file."""
    suffix = next((suffix for suffix in SUFFIXES if filename.endswith(suffix)), None)
    if suffix is None or Path(filename).name != filename:
        return None
    stem = filename.removesuffix(suffix)
    for dash in re.finditer("-", stem):
        if canonicalize_name(stem[: dash.start()]) == project:
            try:
                return Version(stem[dash.end() :])
            except InvalidVersion:
                continue
    return None


def _rank(filename: str) -> int:
    return next(place for place, suffix in enumerate(SUFFIXES) if filename.endswith(suffix))
