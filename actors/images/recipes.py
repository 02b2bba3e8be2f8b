"""The generated Dockerfiles of the three tiers and the tars that the engine builds them from.

What reaches a build is decided here and nowhere else: the settings of ``BuildSettings`` as build arguments, the files
of the context, and the source. The host's environment is not read.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from actors.images.engine import (
    LABEL_KEY,
    LABEL_LOG,
    LABEL_NODE,
    LABEL_PR,
    LABEL_REPOSITORY,
    LABEL_TIER,
    TIER_BASE,
    TIER_BUILDING,
    TIER_REPOSITORY,
)
from actors.images.outcomes import BuildFailed
from actors.settings import BuildSettings
from events.work import FailureClass, WorkOrder
from store.docker_context import DockerContext

__all__ = [
    "DOCKERFILE",
    "GENERATION",
    "REPO_FOLDER",
    "SOURCE_STAGE",
    "add_bytes",
    "add_tree",
    "base_dockerfile",
    "build_arguments",
    "key_of",
    "pr_dockerfile",
    "pull_request_facts",
    "repository_dockerfile",
    "tag_of",
]

GENERATION = "1"
"""Part of every key: raise it when the generated Dockerfiles change what they make."""
REPO_FOLDER = "/workspace/repo"
SOURCE_STAGE = "headrace-source"
DOCKERFILE = "headrace/Dockerfile"
"""Where the generated Dockerfile lies in the tar; the context's own one stays at the top."""
CA_FILE = "/etc/ssl/certs/ca-certificates.crt"
CA_VARIABLES = (
    *("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"),
    *("NODE_EXTRA_CA_CERTS", "CARGO_HTTP_CAINFO"),
)
BASE_ENVIRONMENT = (
    *("VIRTUAL_ENV=/opt/venv", "PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    *("PIP_DISABLE_PIP_VERSION_CHECK=1", "PIP_NO_CACHE_DIR=1", "PIP_ROOT_USER_ACTION=ignore", "PIP_NO_INPUT=1"),
)
FROM = re.compile(r"^\s*FROM\s+(?:--platform=\S+\s+)?(?P<image>\S+)(?:\s+AS\s+(?P<name>\S+))?\s*$", re.IGNORECASE)


def build_arguments(settings: BuildSettings) -> tuple[dict[str, str], dict[str, str]]:
    """What the settings hand to a build: arguments to declare, and the engine's predefined proxy arguments.

    The engine leaves the predefined ones out of its cache's keys and out of the image's history.
    """
    declared = dict(settings.build_args)
    if settings.index_url:
        declared |= dict.fromkeys(("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"), settings.index_url)
    if settings.extra_index_urls:
        extra = " ".join(settings.extra_index_urls)
        declared |= dict.fromkeys(("PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX"), extra)
    proxies = {"http_proxy": settings.http_proxy, "https_proxy": settings.https_proxy, "no_proxy": settings.no_proxy}
    given = {name: value for name, value in proxies.items() if value}
    return declared, given | {name.upper(): value for name, value in given.items()}


def base_dockerfile(
    *, root: str, key: str, node: str, python_version: str, settings: BuildSettings, with_ca: bool
) -> str:
    """The base tier: a root image, the extra certificate authorities, and the context's ``docker_build_base.sh``.

    Args:
        root: id of the image to start from.
        key: the tier's key.
        node: names the lock folder of the node that builds, see ``reap_orphans``.
        python_version: which the script must find or refuse.
        settings: for the build arguments.
        with_ca: ``headrace/ca.crt`` is in the tar.
    """
    lines = [f"FROM {root}", _labels({LABEL_TIER: TIER_BUILDING, LABEL_KEY: key, LABEL_NODE: node})]
    if with_ca:
        lines += [
            "COPY headrace/ca.crt /usr/local/share/ca-certificates/headrace.crt",
            f"RUN if command -v update-ca-certificates >/dev/null; then update-ca-certificates; "
            f"else mkdir -p /etc/ssl/certs && cat /usr/local/share/ca-certificates/headrace.crt >>{CA_FILE}; fi",
            "ENV " + " ".join(f"{name}={CA_FILE}" for name in CA_VARIABLES),
        ]
    lines += [
        "ENV " + " ".join((f"HEADRACE_PYTHON_VERSION={python_version}", *BASE_ENVIRONMENT)),
        *_arguments(settings),
        "COPY docker_build_base.sh /opt/headrace/docker_build_base.sh",
        "RUN bash /opt/headrace/docker_build_base.sh",
        f"WORKDIR {REPO_FOLDER}",
        _labels({LABEL_TIER: TIER_BASE}),
    ]
    return "\n".join(lines) + "\n"


def repository_dockerfile(*, base: str, key: str, node: str, name: str) -> str:
    """The repository tier: the base tier and ``/workspace/repo``, checked out at the anchor."""
    return "\n".join(
        [
            f"FROM {base}",
            _labels({LABEL_TIER: TIER_BUILDING, LABEL_KEY: key, LABEL_NODE: node}),
            f"COPY headrace/git/ {REPO_FOLDER}/.git/",
            f"RUN git config --system --add safe.directory {REPO_FOLDER} && git reset --hard --quiet",
            _labels({LABEL_TIER: TIER_REPOSITORY, LABEL_REPOSITORY: name}),
            "",
        ]
    )


def pr_dockerfile(
    *,
    repository: str,
    order: WorkOrder,
    context: DockerContext,
    settings: BuildSettings,
    replace_history: bool,
    labels: Mapping[str, str],
) -> str:
    """The pull request's tier: a source stage of ours, and the context's own Dockerfile after it.

    Labels that change from attempt to attempt come last: earlier they would spoil the engine's build cache. The early
    ones are the same for every attempt on one pull request in one log, and let ``reap`` find the containers of steps.

    Args:
        repository: id of the repository tier's image.
        order: the attempt.
        context: whose Dockerfile follows.
        settings: for the build arguments, declared after every ``FROM``.
        replace_history: the anchor is no ancestor of the commit, so its history must go.
        labels: of the finished image.

    Raises:
        BuildFailed: the context's Dockerfile starts from anything but the source stage.
    """
    early = {LABEL_TIER: TIER_BUILDING, LABEL_LOG: order.log_id, LABEL_PR: order.pull_request.name}
    early |= {name: value for name, value in labels.items() if name == LABEL_NODE}
    lines = [f"FROM {repository} AS {SOURCE_STAGE}", _labels(early)]
    if replace_history:
        lines.append("RUN find . -mindepth 1 -delete")
    lines += [
        f"COPY headrace/git/ {REPO_FOLDER}/.git/",
        "RUN git reset --hard --quiet && git clean -ffdqx",
        "COPY headrace/env_payload.json headrace/pull_request.json /opt/headrace/",
        *_own_dockerfile(context.dockerfile, arguments=_arguments(settings)),
        _labels(labels),
    ]
    return "\n".join(lines) + "\n"


def _own_dockerfile(text: str, *, arguments: list[str]) -> list[str]:
    known = {SOURCE_STAGE}
    lines, started = [], False
    for line in text.splitlines():
        match = FROM.match(line)
        if match is None and re.match(r"\s*FROM\b", line, re.IGNORECASE):
            raise _refused(f"its line {line.strip()!r} is no FROM that Headrace understands")
        lines.append(line)
        if match is None:
            continue
        if match["image"] not in known:
            raise _refused(f"it starts FROM {match['image']}")
        started = True
        if match["name"]:
            known.add(match["name"])
        lines += arguments
    if not started:
        raise _refused("it has no FROM")
    if text.rstrip().endswith("\\"):
        raise _refused("its last line goes on into nothing")
    return lines


def _refused(problem: str) -> BuildFailed:
    return BuildFailed(
        stage="build",
        message=f"the context's Dockerfile is refused: {problem}; it must start with `FROM {SOURCE_STAGE}`",
        failure_class=FailureClass.RECIPE,
    )


def _arguments(settings: BuildSettings) -> list[str]:
    declared, _ = build_arguments(settings)
    return [f"ARG {name}" for name in sorted(declared)]


def _labels(labels: Mapping[str, str]) -> str:
    return "LABEL " + " ".join(f"{name}={_quoted(value)}" for name, value in sorted(labels.items()))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("\n", " ")
    return f'"{escaped}"'


def pull_request_facts(order: WorkOrder, *, commit: str) -> bytes:
    """What the build may know about its pull request, as JSON for ``/opt/headrace/pull_request.json``."""
    request = order.pull_request
    facts = {
        "owner": request.owner,
        "repo": request.repo,
        "issue_number": request.issue_number,
        "commit": commit,
        "python_version": request.python_version,
        "primary_root": request.primary_root or "",
    }
    return json.dumps(facts, sort_keys=True, indent=1).encode() + b"\n"


def key_of(**parts: object) -> str:
    """SHA-256 over everything that determines an image, in hexadecimal."""
    return hashlib.sha256(msgspec.json.encode({"generation": GENERATION, **parts}, order="sorted")).hexdigest()


def tag_of(tier: str, name: str, *, key: str) -> str:
    """``headrace/<tier>:<name>-<12 digits of the key>``, in the characters and length that a tag may have."""
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-")[:100]
    return f"headrace/{tier}:{clean}-{key[:12]}"


def add_bytes(tar: tarfile.TarFile, name: str, data: bytes, *, mode: int = 0o644) -> None:
    """Adds one file; equal contents give equal headers, for the engine's build cache."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))


def add_tree(tar: tarfile.TarFile, name: str, folder: Path) -> None:
    """Adds a folder with everything in it, under ``name``, in the order of the names."""
    for path in sorted([folder, *folder.rglob("*")]):
        info = tarfile.TarInfo((Path(name) / path.relative_to(folder)).as_posix())
        if path.is_dir():
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
            continue
        info.size, info.mode = path.stat().st_size, 0o644
        with path.open("rb") as file:
            tar.addfile(info, file)
