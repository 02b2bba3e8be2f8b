"""Root file systems for machines without an image registry: Debian suites, made by debootstrap and imported from a tar.

The tar is cached under ``<cache_dir>/rootfs`` and made once, under another name until it is whole. Its name tells all
that went into it, so it is never refreshed in place; delete it to have the suite's newest packages.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from actors.images.outcomes import BuildCancelled
from events.errors import EnvironmentNotReady, InfraError, SettingError
from store.locks import LockWaitCancelled, file_lock

__all__ = ["SUITES", "Rootfs", "apt_mirror", "make_rootfs"]

SUITES: Mapping[str, str] = {"3.9": "bullseye", "3.11": "bookworm", "3.13": "trixie"}
"""Python version to the Debian suite whose ``python3`` it is (facts/docker.md: these are reachable)."""

PACKAGES = ("build-essential", "ca-certificates", "git", "python3", "python3-dev", "python3-venv")
APT_FOLDER = Path("/etc/apt")
DROPPED = ("dev", "proc", "sys", "var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man")
RELEASES = frozenset(SUITES.values()) | {"stable", "oldstable", "oldoldstable", "testing", "unstable", "sid", "forky"}
POLL_S = 0.2
GRACE_S = 10.0


class Rootfs:
    """A suite's root file system: ``key`` names everything that it was made of, ``path`` is the tar."""

    def __init__(self, *, suite: str, mirror: str, folder: Path) -> None:
        self.suite, self.mirror = suite, mirror
        self.key = hashlib.sha256("\n".join((suite, mirror, *PACKAGES, *DROPPED)).encode()).hexdigest()
        self.path = folder / f"{suite}-{self.key[:12]}.tar"


def make_rootfs(rootfs: Rootfs, *, log: BinaryIO, cancel: threading.Event) -> None:
    """Makes the tar of a suite unless it is there; ``log`` receives debootstrap's output.

    Raises:
        EnvironmentNotReady: debootstrap is missing, or this user may not run it.
        InfraError: debootstrap failed (mirror away, disk full), with its last words.
        BuildCancelled: ``cancel`` was set; nothing half-made is left.
    """
    try:
        with file_lock(rootfs.path.with_suffix(".lock"), cancel=cancel):
            if not rootfs.path.exists():
                _make(rootfs, log=log, cancel=cancel)
    except LockWaitCancelled as exc:
        raise BuildCancelled(stage="base") from exc
    except OSError as exc:
        raise InfraError(f"{rootfs.path}: cannot be made ({exc.strerror})") from exc


def _make(rootfs: Rootfs, *, log: BinaryIO, cancel: threading.Event) -> None:
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        raise EnvironmentNotReady(
            "the debootstrap provider needs debootstrap and root; install debootstrap and run as root, "
            "or use [build] provider = 'registry'"
        )
    prefix = f".making-{rootfs.path.stem}-"
    for stale in rootfs.path.parent.glob(f"{prefix}*"):
        _discard(stale)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=rootfs.path.parent))
    work.chmod(0o755)
    try:
        root, tar = work / "root", work / "rootfs.tar"
        packages = ",".join(PACKAGES)
        _run(
            ["debootstrap", "--variant=minbase", f"--include={packages}", rootfs.suite, str(root), rootfs.mirror],
            log=log,
            cancel=cancel,
        )
        left_out = [f"--exclude=./{folder}/*" for folder in DROPPED]
        _run(["tar", "-C", str(root), "--numeric-owner", "-cf", str(tar), *left_out, "."], log=log, cancel=cancel)
        tar.rename(rootfs.path)
    finally:
        _discard(work)


def _run(command: list[str], *, log: BinaryIO, cancel: threading.Event) -> None:
    log.write(f"$ {' '.join(command)}\n".encode())
    log.flush()
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    proxies = ("http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
    environment |= {name: os.environ[name] for name in proxies if name in os.environ}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        try:
            copied = 0
            while _still_runs(process):
                copied = _copy(output, log, start=copied)
                if cancel.is_set():
                    raise BuildCancelled(stage="base")
            _copy(output, log, start=copied)
        finally:
            if process.poll() is None:
                _end(process)
        if process.returncode != 0:
            output.seek(0)
            lines = [line for line in output.read().decode("utf-8", "replace").splitlines() if line.strip()]
            telling = [line for line in lines if line.startswith(("E:", "tar:"))] or lines
            raise InfraError(f"{command[0]} failed: {telling[-1] if telling else f'exit {process.returncode}'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks first: debootstrap unmounts what it mounted on its way out."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _discard(folder: Path) -> None:
    """Removes a half-made root file system; first whatever a killed debootstrap left mounted in it."""
    mounts = [line.split(" ")[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), reverse=True):
        if subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True).returncode != 0:
            return
    shutil.rmtree(folder, ignore_errors=True)


def _still_runs(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _copy(output: BinaryIO, log: BinaryIO, *, start: int) -> int:
    data = os.pread(output.fileno(), 1 << 24, start)
    log.write(data)
    log.flush()
    return start + len(data)


def apt_mirror(folder: Path = APT_FOLDER) -> str:
    """The Debian mirror that this machine's own package sources name.

    Reads one-line files (``*.list``) and deb822 files (``*.sources``) and takes the first enabled ``deb`` source of
    Debian's own archive (a folder ``debian``) with a release of Debian and the component ``main``.

    Raises:
        SettingError: there is none; set ``debian_mirror``.
    """
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        entries = _deb822(text) if file.suffix == ".sources" else _one_line(text)
        for uri, suites, components in entries:
            if "main" in components and _is_debian(uri) and RELEASES.intersection(suites):
                return uri
    raise SettingError(
        name="build.debian_mirror",
        value="",
        expected="the URL of a Debian mirror, as this machine's own package sources name none",
        source="settings",
    )


def _is_debian(uri: str) -> bool:
    parts = urlsplit(uri)
    return parts.scheme in {"http", "https", "file"} and "debian" in parts.path.split("/")


def _one_line(text: str) -> list[tuple[str, list[str], list[str]]]:
    entries = []
    for line in text.splitlines():
        words = re.sub(r"\[[^\]]*\]", "", line.partition("#")[0]).split()
        if len(words) >= 4 and words[0] == "deb":
            entries.append((words[1], [words[2]], words[3:]))
    return entries


def _deb822(text: str) -> list[tuple[str, list[str], list[str]]]:
    entries = []
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        fields: dict[str, str] = {}
        name = ""
        for line in lines:
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            else:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        enabled = fields.get("enabled", "yes").lower() not in {"no", "false", "0"}
        if enabled and "deb" in fields.get("types", "").split() and fields.get("uris"):
            entries.append(
                (fields["uris"].split()[0], fields.get("suites", "").split(), fields.get("components", "").split())
            )
    return entries
