"""Settings: one configuration file, environment variables over it, everything validated before anything starts.

A setting is found in this order: the environment (``HEADRACE_<SECTION>_<NAME>``, and the ``DATASMITH_*`` knobs of
CONTRACTS.md section 1), the configuration file (``headrace.toml``, tables ``[sweep] [build] [verify] [disk]
[cascade] [agents]``), the default. Every value is checked against its range when it is read; a bad one is a
``SettingError`` naming it, its source and the range. An unknown name in the file is refused too: a typing error must
not go unnoticed.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from actors.agent_options import checked_accounts
from actors.agent_settings import AgentSettings
from events.errors import InputError, SettingError
from events.work import Level, VerificationRules

__all__ = [
    "BuildSettings",
    "CascadeSettings",
    "DiskSettings",
    "Settings",
    "SweepSettings",
    "VerifySettings",
    "load_settings",
]

DEFAULT_FILE = "headrace.toml"

Seconds = Annotated[float, Meta(gt=0, le=7 * 86400)]
Count = Annotated[int, Meta(ge=1, le=100_000)]
Fraction = Annotated[float, Meta(gt=0, le=1)]


VerificationNetwork = Annotated[
    str,
    Meta(
        pattern=r"^(?!(host|default)$)[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="`none`, `bridge` or the name of a Docker network, and never `host`",
    ),
]


class SweepSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much runs at once, and how long to wait for an environment that is away."""

    workers: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """Work orders at once; 0: one per CPU of the cluster."""
    max_active_repositories: Annotated[int, Meta(ge=1, le=1000)] = 8
    drain_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    """After the first Ctrl-C: how long running attempts may still end by themselves."""
    infra_patience_s: Seconds = 1800.0
    """A sweep in which nothing but infra failures happened for this long stops, resumable, with exit code 3."""
    cache_dir: str = ""
    """Mirrors, root file systems, spooled logs of this node; empty: ``$XDG_CACHE_HOME/headrace``."""


class BuildSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a build may see of its host: these settings and nothing else."""

    provider: Literal["registry", "debootstrap"] = "registry"
    base_image: str = "python:{python_version}-slim-bookworm"
    """With the ``registry`` provider: the image of a Python version, pulled if the engine does not have it."""
    python_versions: list[str] = msgspec.field(
        default_factory=lambda: ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"]
    )
    """Versions that ``base_image`` exists for. The ``debootstrap`` provider has its own list."""
    debian_mirror: str = ""
    """Mirror for ``debootstrap``; empty: the one that this machine's own package sources name."""
    ca_bundle: str = ""
    """PEM file of further certificate authorities that builds shall trust."""
    index_url: str = ""
    extra_index_urls: list[str] = msgspec.field(default_factory=list)
    build_args: dict[str, str] = msgspec.field(default_factory=dict)
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    network: str = "default"
    """``default``, ``none``, the name of a Docker network, or ``index``: only the configured indexes and mirrors."""
    index_hosts: list[str] = msgspec.field(default_factory=list)
    """Further hosts (``host`` or ``host:port``) that builds may reach in the network ``index``."""
    memory_mb: Annotated[int, Meta(ge=64, le=4_000_000)] = 4096
    cpus: Annotated[float, Meta(ge=0, le=1024)] = 0.0
    """Processors of a step; 0: all."""
    pids: Annotated[int, Meta(ge=16, le=1_000_000)] = 4096
    """Processes of a build's steps together, where the engine can be made to limit them."""
    timeout_s: Seconds = 3600.0


class VerifySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules of a verdict and the limits of the container in which it is found."""

    level: Level = Level.TESTS
    min_pass_ratio: Fraction = 0.9
    must_pass: list[str] = msgspec.field(default_factory=list)
    """Tests, or patterns of them, that have to pass whatever the ratio is."""
    reruns: Annotated[int, Meta(ge=0, le=20)] = 2
    """How often a failing test is run again."""
    allow_known_failures: bool = True
    """Tests that failed where a context was verified may fail where it is reused."""
    trusted_files: list[str] = msgspec.field(default_factory=list)
    """SHA-256 of files beside the three that an agent may edit, of contexts that do not use the stock ones."""
    containers: Annotated[int, Meta(ge=1, le=16)] = 2
    """Of one verification at once; the limits below are each one's."""
    cpus: Annotated[float, Meta(gt=0, le=1024)] = 1.0
    memory_mb: Annotated[int, Meta(ge=64, le=4_000_000)] = 2048
    pids: Annotated[int, Meta(ge=16, le=100_000)] = 512
    disk_mb: Annotated[int, Meta(ge=16, le=4_000_000)] = 4096
    """What a container may write."""
    network: VerificationNetwork = "none"
    """The engine's network that containers are attached to. Tests that need one are not repeatable."""
    smoke_timeout_s: Seconds = 300.0
    test_timeout_s: Seconds = 1800.0

    @property
    def rules(self) -> VerificationRules:
        """The part that belongs to the verdict."""
        return VerificationRules(
            level=self.level,
            min_pass_ratio=self.min_pass_ratio,
            must_pass=tuple(self.must_pass),
            reruns=self.reruns,
            allow_known_failures=self.allow_known_failures,
        )


class DiskSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of the engine's disk Headrace's own images may take; see ``actors/images/disk.py``."""

    budget_gb: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0
    """For this node's images and build cache together; 0: no budget."""
    reserve_mb: Annotated[int, Meta(ge=0, le=4_000_000)] = 2048
    """Set aside for every build while it runs. The engine writes a step twice, to commit it."""
    min_free_mb: Annotated[int, Meta(ge=0, le=4_000_000)] = 1024
    """What a build must leave free on the engine's disk."""


class CascadeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The cascade's knobs (CONTRACTS.md section 1)."""

    neighbor_window_days: Annotated[int, Meta(ge=0, le=36_500)] = 60
    neighbor_cap: Annotated[int, Meta(ge=0, le=100_000)] = 40
    tasks_per_repo: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Seeds per repository; 0: all."""
    try_default: bool = True
    max_candidates: Count = 6
    """Existing contexts tried on one pull request before it is given up or generated for."""
    rl_max_retries: Annotated[int, Meta(ge=0, le=1000)] = 3
    rl_default_pause_s: Annotated[float, Meta(gt=0, le=30 * 86400)] = 3600.0
    rl_pause_jitter_s: Annotated[float, Meta(ge=0, le=86400)] = 30.0


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a run."""

    sweep: SweepSettings = msgspec.field(default_factory=SweepSettings)
    build: BuildSettings = msgspec.field(default_factory=BuildSettings)
    verify: VerifySettings = msgspec.field(default_factory=VerifySettings)
    disk: DiskSettings = msgspec.field(default_factory=DiskSettings)
    cascade: CascadeSettings = msgspec.field(default_factory=CascadeSettings)
    agents: AgentSettings = msgspec.field(default_factory=AgentSettings)

    @property
    def cache_dir(self) -> Path:
        """Folder of this node's caches, made on first use."""
        if self.sweep.cache_dir:
            return Path(self.sweep.cache_dir)
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(base).expanduser() / "headrace"


SECTIONS: Mapping[str, type[msgspec.Struct]] = {
    "sweep": SweepSettings,
    "build": BuildSettings,
    "verify": VerifySettings,
    "disk": DiskSettings,
    "cascade": CascadeSettings,
    "agents": AgentSettings,
}

KNOBS: Mapping[str, tuple[str, str]] = {
    "DATASMITH_NEIGHBOR_WINDOW_DAYS": ("cascade", "neighbor_window_days"),
    "DATASMITH_NEIGHBOR_CAP": ("cascade", "neighbor_cap"),
    "DATASMITH_RL_MAX_RETRIES": ("cascade", "rl_max_retries"),
    "DATASMITH_RL_DEFAULT_PAUSE_S": ("cascade", "rl_default_pause_s"),
    "DATASMITH_RL_PAUSE_JITTER_S": ("cascade", "rl_pause_jitter_s"),
}


def load_settings(
    path: str | Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
) -> Settings:
    """Reads the settings of a run.

    Args:
        path: the configuration file; ``None``: ``headrace.toml`` in the working folder, if there is one.
        environ: the environment; ``None``: this process's.
        overrides: values by section and name that win over everything (options of a command).

    Raises:
        InputError: the file cannot be read or is no TOML.
        SettingError: a value does not parse or is out of range, or a name is unknown.
    """
    environ = os.environ if environ is None else environ
    tables, source = _read_file(path)
    values: dict[str, dict[str, Any]] = {}
    for section, cls in SECTIONS.items():
        given = tables.pop(section, {})
        if not isinstance(given, dict):
            raise SettingError(name=section, value=str(given), expected=f"a table [{section}]", source=source)
        values[section] = {}
        for name, value in given.items():
            values[section][name] = _checked(cls, name, value, label=f"{section}.{name}", source=source)
    for name in tables:
        raise SettingError(name=name, value="...", expected=f"one of the tables {', '.join(SECTIONS)}", source=source)
    for label, section, name, text in _from_environment(environ):
        values[section][name] = _checked(SECTIONS[section], name, text, label=label, source="environment", text=True)
    for section, given in (overrides or {}).items():
        for name, value in given.items():
            values[section][name] = _checked(SECTIONS[section], name, value, label=name, source="command line")
    return Settings(
        sweep=SweepSettings(**_with_absolute(values["sweep"], "cache_dir")),
        build=BuildSettings(**_with_absolute(values["build"], "ca_bundle")),
        verify=VerifySettings(**values["verify"]),
        disk=DiskSettings(**values["disk"]),
        cascade=CascadeSettings(**values["cascade"]),
        agents=AgentSettings(**values["agents"]),
    )


def _with_absolute(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The path called ``name`` made absolute: other processes have other working folders."""
    given = values.get(name)
    return {**values, name: str(Path(given).expanduser().resolve())} if given else values


def _read_file(path: str | Path | None) -> tuple[dict[str, Any], str]:
    chosen = Path(path) if path is not None else Path(DEFAULT_FILE)
    if path is None and not chosen.exists():
        return {}, DEFAULT_FILE
    try:
        return tomllib.loads(chosen.read_text(encoding="utf-8")), str(chosen)
    except OSError as exc:
        raise InputError(f"{chosen}: cannot be read ({exc.strerror}); name a readable file with --config") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InputError(f"{chosen}: is not valid TOML ({exc}); correct it") from exc


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    found = []
    for section, cls in SECTIONS.items():
        for name in cls.__struct_fields__:
            label = f"HEADRACE_{section}_{name}".upper()
            if label in environ:
                found.append((label, section, name, environ[label]))
    found += [(label, section, name, environ[label]) for label, (section, name) in KNOBS.items() if label in environ]
    return found


def _checked(
    cls: type[msgspec.Struct], name: str, value: object, *, label: str, source: str, text: bool = False
) -> object:
    if name not in cls.__struct_fields__:
        known = ", ".join(cls.__struct_fields__)
        raise SettingError(name=label, value=str(value), expected=f"one of the known names ({known})", source=source)
    hint = get_type_hints(cls, include_extras=True)[name]
    try:
        if text and isinstance(value, str) and value[:1] in "[{" and value:
            value = msgspec.json.decode(value)
        if (cls, name) == (AgentSettings, "account"):
            return checked_accounts(value, label=label, source=source)
        return msgspec.convert(value, hint, strict=not text)
    except msgspec.DecodeError as exc:
        raise SettingError(name=label, value=str(value), expected=_expectation(hint), source=source) from exc


def _expectation(hint: Any) -> str:
    """What a type hint allows, in words: ``an integer from 0 to 36500``."""
    info = msgspec.json.schema(hint)
    options = info.get("enum") or [option for part in info.get("anyOf", []) for option in part.get("enum", [])]
    if options:
        return "one of " + ", ".join(map(str, options))
    if "$ref" in info:
        (definition,) = info["$defs"].values()
        return "one of " + ", ".join(map(str, definition["enum"]))
    if "description" in info:
        return str(info["description"])
    noun = {"integer": "an integer", "number": "a number", "boolean": "true or false", "string": "a string"}.get(
        info.get("type", ""), f"JSON of type {info.get('type')}"
    )
    low, high = info.get("minimum"), info.get("maximum")
    if "exclusiveMinimum" in info:
        return f"{noun} above {info['exclusiveMinimum']} and up to {high}"
    return f"{noun} from {low} to {high}" if low is not None else noun
