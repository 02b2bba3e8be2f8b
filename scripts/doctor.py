"""``headrace doctor``: is this machine ready to sweep, and if not, what mends it?

Every check only looks: nothing is made, pulled or started, so it may run beside a sweep. A check says what it saw; one
that is not content also says how to mend it. ``fail``: a sweep could not work (exit code 3). ``warn``: it works, but
slower or in another way than expected. What is asked of the outside (engine, registry) has a deadline.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import msgspec
import requests
from docker.errors import APIError
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.images.disk import DiskBudget
from actors.images.engine import Engine, filters_system_calls, node_of
from actors.images.rootfs import apt_mirror
from actors.settings import Settings, load_settings
from events.errors import EnvironmentNotReady, HeadraceError, InfraError, SettingError
from scripts.agent_checks import agent_findings
from scripts.doctor_supabase import look_at_supabase
from scripts.findings import GIB, Finding, Levels, Status, amount, fail, ok, warn

__all__ = ["Finding", "Status", "command", "diagnose", "engine_problem"]

DEFAULT_STORE = "sqlite:///headrace.db"
ENGINE_TIMEOUT_S = 20.0
SHARED_MEMORY_FOLDER = "/dev/shm"  # noqa: S108 - looked at, nothing is written there
SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where ``debootstrap`` lies; on the PATH of root's login shell, and not of every other one."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` prints. ``ready``: no check failed."""

    ready: bool
    checks: list[Finding]


DISK = Levels(warn=20 * GIB, fail=2 * GIB)
MEMORY = Levels(warn=4 * GIB, fail=1 * GIB)
SHARED_MEMORY = Levels(warn=GIB // 4, fail=0)
OPEN_FILES = Levels(warn=1024, fail=128)


def diagnose(settings: Settings, *, store: str = DEFAULT_STORE, engine: Engine | None = None) -> list[Finding]:
    """All checks, in the order in which a user would mend them.

    Args:
        settings: those of the run that is to be made.
        store: the store URL that it would use.
        engine: the Docker engine to ask; ``None``: the one that the environment names.
    """
    engine = engine or Engine(timeout_s=ENGINE_TIMEOUT_S)
    info = _engine_info(engine)
    checks: list[Callable[[], Finding | None]] = [
        _python,
        _packages,
        _git,
        _uv,
        lambda: _docker(info),
        lambda: _limits(info),
        lambda: _seccomp(info),
        lambda: _docker_disk(info),
        lambda: _disk_budget(settings, engine=engine, info=info),
        lambda: _debootstrap(settings),
        lambda: _base_image(settings, engine=engine, info=info),
        lambda: _cache(settings),
        *(look_at_supabase() if store == "supabase" else [lambda: _store(store)]),
        _ray,
        _memory,
        _shared_memory,
        _open_files,
        lambda: _ca_bundle(settings),
    ]
    findings = [finding for check in checks if (finding := check()) is not None]
    return [*findings, *agent_findings(settings.agents)]


def engine_problem(settings: Settings) -> str | None:
    """What keeps this machine from building and verifying, as one line with its remedy; ``None``: nothing.

    The quick part of ``diagnose``, for commands that must not start on a machine that is not ready. They raise
    ``EnvironmentNotReady`` with it (exit code 3).
    """
    info = _engine_info(Engine(timeout_s=ENGINE_TIMEOUT_S))
    findings = [_docker(info), _limits(info), _git(), _debootstrap(settings)]
    problems = [f"{found.seen}; {found.mend}" for found in findings if found and found.status is Status.FAIL]
    return " · ".join(problems) + " (`headrace doctor` tells more)" if problems else None


def _python() -> Finding:
    return ok("python", f"{platform.python_version()} at {sys.executable}")


def _packages() -> Finding:
    wrong = []
    requirements = [Requirement(line) for line in metadata.requires("headrace") or []]
    for requirement in requirements:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if wrong:
        return fail("packages", ", ".join(wrong), mend="run scripts/setup.sh again")
    seen = ", ".join(f"{name} {metadata.version(name)}" for name in ("headrace", "ray", "docker"))
    return ok("packages", seen)


def _git() -> Finding:
    if shutil.which("git") is None:
        return fail("git", "git is not on PATH", mend="install the package git")
    return ok("git", _version_of("git"))


def _uv() -> Finding:
    from uv import find_uv_bin

    try:
        return ok("uv", _version_of(find_uv_bin()))
    except (FileNotFoundError, PermissionError) as exc:
        return fail("uv", f"uv cannot be run ({exc})", mend="run scripts/setup.sh again")


def _version_of(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=30)
    return (done.stdout or done.stderr).strip()


def _engine_info(engine: Engine) -> dict[str, Any] | InfraError:
    try:
        with engine.translated("ask the Docker engine about itself"):
            return dict(engine.api.info())
    except InfraError as exc:
        return exc


def _docker(info: dict[str, Any] | InfraError) -> Finding:
    where = os.environ.get("DOCKER_HOST") or "its default socket"
    if isinstance(info, InfraError):
        mend = "start Docker, run scripts/setup.sh, or set DOCKER_HOST to an engine that you may use"
        return fail("docker engine", f"no Docker on {where}: {info.message}", mend=mend)
    driver = info["Driver"]
    seen = f"{info['ServerVersion']} on {where}, storage {driver}, cgroup v{info.get('CgroupVersion', 1)}"
    if driver == "vfs":
        mend = "give Docker a data folder on a file system that overlay2 works on; vfs copies every layer in full"
        return warn("docker engine", seen, mend=mend)
    return ok("docker engine", seen)


def _limits(info: dict[str, Any] | InfraError) -> Finding | None:
    if isinstance(info, InfraError):
        return None
    limits = {"memory": "MemoryLimit", "CPU": "CpuCfsQuota", "pids": "PidsLimit"}
    absent = [name for name, key in limits.items() if not info.get(key)]
    if absent:
        seen = f"containers cannot be limited in {', '.join(absent)}"
        mend = "mount these cgroup controllers and restart Docker; without them one test run can take the machine down"
        return fail("container limits", seen, mend=mend)
    return ok("container limits", ", ".join(limits))


def _seccomp(info: dict[str, Any] | InfraError) -> Finding | None:
    if isinstance(info, InfraError):
        return None
    if not filters_system_calls(info):
        mend = "start Docker with its default seccomp profile, on a kernel that has seccomp"
        return warn("system calls", "the engine filters none: containers are less isolated", mend=mend)
    return ok("system calls", "filtered (seccomp)")


def _docker_disk(info: dict[str, Any] | InfraError) -> Finding | None:
    if isinstance(info, InfraError):
        return None
    folder = Path(info["DockerRootDir"])
    if not os.environ.get("DOCKER_HOST", "unix://").startswith("unix://") or not folder.exists():
        return ok("docker disk", f"{folder} is on another machine; not looked at")
    mend = "remove images that are no longer needed, or move Docker's data folder to a larger disk"
    return amount("docker disk", shutil.disk_usage(folder).free, levels=DISK, what=f"free in {folder}", mend=mend)


def _disk_budget(settings: Settings, *, engine: Engine, info: dict[str, Any] | InfraError) -> Finding | None:
    if isinstance(info, InfraError):
        return None
    disk, cache_dir = settings.disk, settings.cache_dir
    budget = DiskBudget(engine, settings=disk, cache_dir=cache_dir, node=node_of(cache_dir))
    try:
        use = budget.use()
    except InfraError as exc:
        return warn("disk budget", exc.message, mend="see the message")
    of = f" of a budget of {disk.budget_gb:g} GiB" if disk.budget_gb else ", no budget"
    seen = f"own images take {use.own_bytes / GIB:.1f} GiB{of}"
    seen += f", {use.reserved_bytes / GIB:.1f} GiB reserved by builds" if use.reserved_bytes else ""
    if use.free_bytes is not None:
        seen += f", {use.free_bytes / GIB:.1f} GiB free"
        needed = (disk.reserve_mb + disk.min_free_mb) << 20
        if use.free_bytes - use.reserved_bytes < needed:
            seen += f", {needed / GIB:.1f} GiB needed for a build"
            return warn(
                "disk budget", seen, mend="builds will evict; `headrace evict --dry-run --all` says what could go"
            )
    if disk.budget_gb and use.own_bytes > disk.budget_gb * GIB:
        return warn("disk budget", seen, mend="run `headrace evict`, or the next build evicts")
    return ok("disk budget", seen)


def _debootstrap(settings: Settings) -> Finding | None:
    if settings.build.provider != "debootstrap":
        return None
    found = shutil.which("debootstrap", path=f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_FOLDERS}")
    if found is None:
        mend = "run scripts/setup.sh, install the package debootstrap, or set build.provider to registry"
        return fail("debootstrap", "debootstrap is not installed", mend=mend)
    if os.geteuid() != 0:
        mend = "run as root, or set build.provider to registry"
        return fail("debootstrap", "debootstrap needs root", mend=mend)
    try:
        return ok("debootstrap", f"{found} from {settings.build.debian_mirror or apt_mirror()}")
    except SettingError as exc:
        return fail("debootstrap", exc.message, mend="set build.debian_mirror")


def _base_image(settings: Settings, *, engine: Engine, info: dict[str, Any] | InfraError) -> Finding | None:
    """One version stands for all: the engine has its image, or its registry would hand it out."""
    if isinstance(info, InfraError) or settings.build.provider != "registry":
        return None
    versions = settings.build.python_versions
    running = ".".join(platform.python_version_tuple()[:2])
    image = settings.build.base_image.format(python_version=running if running in versions else versions[-1])
    try:
        if engine.image(image) is not None:
            return ok("base image", f"{image} is on the engine")
        with engine.translated(f"find {image} in its registry"):
            engine.api.inspect_distribution(image)
    except InfraError as exc:
        mend = "set build.provider to debootstrap, or build.base_image to images that this engine has or can pull"
        if isinstance(exc.__cause__, APIError) and exc.__cause__.status_code == requests.codes.not_found:
            mend = "set build.base_image to an image that exists"
        return fail("base image", exc.message, mend=mend)
    return ok("base image", f"{image} can be pulled")


def _cache(settings: Settings) -> Finding:
    folder = settings.cache_dir
    existing = _nearest(folder)
    mend = "set sweep.cache_dir to a folder on a disk with room that you may write to"
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return fail("cache folder", f"{folder} cannot be written", mend=mend)
    free = shutil.disk_usage(existing).free
    return amount("cache folder", free, levels=DISK, what=f"free in {folder}", mend=mend)


def _store(url: str) -> Finding:
    from store.opening import open_store

    path = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
    if path is not None and not path.exists():
        existing = _nearest(path.absolute())
        if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
            return ok("store", f"{url} is not there yet and can be made")
        mend = "name a folder that you may write to with --store"
        return fail("store", f"{url}: {existing} cannot be written", mend=mend)
    try:
        open_store(url, write=False).close()
    except HeadraceError as exc:
        return fail("store", exc.message, mend="see the message, or use another --store")
    return ok("store", f"{url} opens")


def _ray() -> Finding:
    try:
        import ray
    except ImportError as exc:
        mend = "run scripts/setup.sh again, with a Python that Ray has wheels for"
        return fail("ray", f"ray cannot be imported ({exc})", mend=mend)
    return ok("ray", f"{ray.__version__}, {os.cpu_count()} CPUs here")


def _memory() -> Finding:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    mend = (
        "end other programs or lower sweep.workers; Ray alone takes 0.6 GiB, and each test run up to verify.memory_mb"
    )
    return amount("memory", available, levels=MEMORY, what="available", mend=mend)


def _shared_memory() -> Finding:
    mend = "make /dev/shm larger (in a container: --shm-size); Ray falls back to its temporary folder"
    size = shutil.disk_usage(SHARED_MEMORY_FOLDER).total
    return amount("shared memory", size, levels=SHARED_MEMORY, what=f"in {SHARED_MEMORY_FOLDER}", mend=mend)


def _open_files() -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY or limit >= OPEN_FILES.warn:
        return ok("open files", f"limit {limit if limit != resource.RLIM_INFINITY else 'unlimited'}")
    make = fail if limit < OPEN_FILES.fail else warn
    return make("open files", f"limit {limit}", mend="raise it: `ulimit -n 8192`; 100 actors take about 350")


def _ca_bundle(settings: Settings) -> Finding | None:
    bundle = settings.build.ca_bundle
    if bundle:
        try:
            ssl.create_default_context(cafile=bundle)
        except (OSError, ssl.SSLError) as exc:
            mend = "set build.ca_bundle to a readable PEM file"
            seen = f"{bundle} is no usable bundle ({exc.strerror or exc})"
            return fail("ca bundle", seen, mend=mend)
        return ok("ca bundle", f"builds trust {bundle}")
    own = os.environ.get("SSL_CERT_FILE")
    if not own:
        return None
    mend = f"set build.ca_bundle to {own} if builds have to go through the same proxy as this machine"
    return warn("ca bundle", "SSL_CERT_FILE is set, builds do not get it", mend=mend)


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _show(findings: Sequence[Finding]) -> None:
    """Prints a table fitted to a terminal; elsewhere lines that are never broken."""
    console = Console()
    if not console.is_terminal:
        for found in findings:
            click.echo(f"{found.status:<5} {found.name:<17} {found.seen}")
            if found.mend:
                click.echo(f"{'':<23} → {found.mend}")
        return
    styles = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    for found in findings:
        seen = Text(found.seen)
        if found.mend:
            seen.append(f"\n→ {found.mend}", style=styles[found.status])
        table.add_row(Text(found.status, style=styles[found.status]), Text(found.name), seen)
    console.print(table)


@click.command("doctor")
@click.option("--store", default=DEFAULT_STORE, show_default=True, metavar="URL", help="Store that would be used.")
@click.option("--config", type=click.Path(), default=None, metavar="FILE", help="Settings [default: headrace.toml].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
def command(store: str, config: str | None, as_json: bool) -> None:
    """Check whether this machine is ready, and say how to mend what is not.

    Exit code 0: ready, perhaps with warnings. 3: something needed is missing.
    """
    findings = diagnose(load_settings(config), store=store)
    failed = [found.name for found in findings if found.status is Status.FAIL]
    if as_json:
        click.echo(msgspec.json.encode(Report(ready=not failed, checks=findings)))
    else:
        _show(findings)
        if not failed:
            click.echo("Ready.")
    if failed:
        if as_json:
            click.get_current_context().exit(EnvironmentNotReady.exit_code)
        raise EnvironmentNotReady(f"not ready: {', '.join(failed)}; the lines above say how to mend it")
